"""The picture store: files are whole or absent, and inside their folder; in a local folder and in memory."""

import sys
import threading
from pathlib import Path

import pytest
from fsspec.registry import _registry

from inpaint.errors import OutputError, RequestError
from server.errors import NotFoundError
from server.storage.blobs import Blobs


@pytest.fixture(params=["folder", "memory"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> Blobs:
    """Return an empty store of each kind; the folder has a name that a URL has to quote."""
    if request.param == "folder":
        return Blobs((tmp_path / "my pictures %20é").as_uri())
    return Blobs(f"memory://{tmp_path}")


def test_a_picture_comes_back_as_it_was(blobs: Blobs) -> None:
    """The bytes are the same, and a second put replaces the first."""
    blobs.put("r1", "0.png", b"old")
    blobs.put("r1", "0.png", b"\0\xff" * 1000)
    assert blobs.get("r1", "0.png") == b"\0\xff" * 1000


def test_a_request_is_deleted_with_all_its_files(blobs: Blobs) -> None:
    """The sweeper leaves no file of an expired request, touches no other, and may delete twice."""
    for request_id in ("r1", "r10"):
        blobs.put(request_id, "image.png", b"i")
        blobs.put(request_id, "0.png", b"p")
    blobs.delete("r1")
    blobs.delete("r1")
    for name in ("image.png", "0.png"):
        with pytest.raises(NotFoundError, match="there is no such picture"):
            blobs.get("r1", name)
        assert blobs.get("r10", name)


@pytest.mark.parametrize(
    ("request_id", "name"),
    [
        ("r1", "missing.png"),
        ("r2", "0.png"),
        ("..", "secret"),
        ("r1", "../../secret"),
        ("r1", "..%2fsecret"),
        ("r1", ""),
        ("", "secret"),
        ("r1/..", "secret"),
        ("r1", "."),
        ("r1", "a\0b"),
        ("r1", "\ud800"),
        ("/etc", "passwd"),
        ("r1", "0.png\n"),
    ],
)
def test_nothing_outside_the_store_can_be_read(blobs: Blobs, request_id: str, name: str) -> None:
    """Any names in a URL that lead out of the store are answered with 404."""
    blobs.put("r1", "0.png", b"p")
    with pytest.raises(NotFoundError):
        blobs.get(request_id, name)


def test_names_in_urls_lead_out_of_no_folder(tmp_path: Path) -> None:
    """The same holds for a file that exists."""
    (tmp_path / "secret").write_bytes(b"s")
    blobs = Blobs((tmp_path / "pictures").as_uri())
    blobs.put("r1", "0.png", b"p")
    for request_id, name in (("..", "secret"), ("r1", "../../secret"), ("r1/../..", "secret")):
        with pytest.raises(NotFoundError):
            blobs.get(request_id, name)


def test_the_folder_is_the_one_that_the_setting_names(tmp_path: Path) -> None:
    """A space in --data is a space on the disk, not %20."""
    folder = tmp_path / "my pictures"
    Blobs(folder.as_uri()).put("r1", "0.png", b"p")
    assert [str(p.relative_to(folder)) for p in folder.rglob("*")] == ["r1", "r1/0.png"]


def test_a_reader_never_gets_half_a_picture(tmp_path: Path) -> None:
    """A client that polls while the picture is written gets the old one or the new one."""
    blobs, sizes = Blobs(tmp_path.as_uri()), (100_000, 300_000)
    blobs.put("r1", "0.png", b"x" * sizes[0])
    done = threading.Event()

    def write() -> None:
        for number in range(60):
            blobs.put("r1", "0.png", b"x" * sizes[number % 2])
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        assert len(blobs.get("r1", "0.png")) in sizes
    writer.join()
    assert [p.name for p in (tmp_path / "r1").iterdir()] == ["0.png"]


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    """A store that is full, or in the wrong place, fails the request with a reason and no traceback."""
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="the picture store does not take files: Not a directory"):
        Blobs((tmp_path / "file" / "pictures").as_uri()).put("r1", "0.png", b"p")


@pytest.mark.parametrize("url", ["nowhere://bucket", "s3://bucket/folder"])
def test_a_store_that_cannot_be_used_is_named_at_the_start(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A typo, or a driver that is not installed, is reported before the first request."""
    monkeypatch.setitem(sys.modules, "s3fs", None)
    monkeypatch.delitem(_registry, "s3", raising=False)  # another test may have imported it
    with pytest.raises(RequestError, match=f"INPAINT_BLOBS_URL: '{url}' cannot be used"):
        Blobs(url)
