"""``write_atomically``: a file is its old self or its new one, and no draft is left behind."""

import errno
import os
import threading
from pathlib import Path

import pytest

from inpaint.files import write_atomically


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A file with content worth keeping."""
    path = tmp_path / "file"
    path.write_bytes(b"old")
    return path


def test_the_new_content_takes_the_old_ones_place(path: Path) -> None:
    """Any bytes of any length can be written."""
    write_atomically(path, b"\0\r\n" * 100_000)
    assert path.read_bytes() == b"\0\r\n" * 100_000
    write_atomically(path, b"")
    assert path.read_bytes() == b""


def test_it_has_the_permissions_of_any_new_file(path: Path) -> None:
    """Unlike tempfile's, which other users may not read."""
    plain = path.with_name("plain")
    plain.touch()
    write_atomically(path, b"new")
    assert path.stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()], ids=["full", "ctrl-c"]
)
def test_a_write_that_fails_keeps_the_old_file(
    path: Path, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk or Ctrl-C in the middle costs nothing that was there."""

    def sync(_: int) -> None:
        raise error

    monkeypatch.setattr(os, "fsync", sync)
    with pytest.raises(type(error)):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_the_bytes_are_on_the_disk_before_the_name_is(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a power cut may leave an empty file under the final name."""
    seen: list[bytes] = []
    monkeypatch.setattr(os, "fsync", lambda _: seen.append(path.read_bytes()))
    write_atomically(path, b"new")
    assert seen == [b"old"]


def test_a_name_of_the_longest_kind_can_be_written(tmp_path: Path) -> None:
    """The draft's name is not made of it."""
    path = tmp_path / ("x" * 255)
    write_atomically(path, b"new")
    assert path.read_bytes() == b"new"


def test_a_folder_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    """A model that was removed meanwhile must not come back as a folder with nothing but a stamp."""
    with pytest.raises(FileNotFoundError):
        write_atomically(tmp_path / "gone" / "file", b"new")
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        write_atomically(tmp_path / "file" / "file", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_the_draft_can_lie_elsewhere(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another program would take it for one of the folder's own files."""
    drafts = path.parent / "drafts"
    drafts.mkdir()
    seen: list[list[str]] = []
    monkeypatch.setattr(os, "fsync", lambda _: seen.append([path.name for path in drafts.iterdir()]))
    write_atomically(path, b"new", draft_folder=drafts)
    assert path.read_bytes() == b"new"
    assert len(seen[0]) == 1
    assert list(drafts.iterdir()) == []


def test_threads_may_write_the_same_file(path: Path) -> None:
    """Each reader finds one of their contents, whole."""
    contents = [bytes([n]) * 50_000 for n in range(4)]
    threads = [
        threading.Thread(target=lambda c=content: [write_atomically(path, c) for _ in range(20)])
        for content in contents
    ]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert path.read_bytes() in (b"old", *contents)
    for thread in threads:
        thread.join()
    assert path.read_bytes() in contents
    assert list(path.parent.iterdir()) == [path]
