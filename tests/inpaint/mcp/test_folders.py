"""What agents may read and write: only below the folders that were given, and never over a file."""

from pathlib import Path

import pytest

from inpaint.errors import OutputError, RequestError
from inpaint.mcp.folders import Folders, check_writable, write_new


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with a picture, next to a secret one."""
    (tmp_path / "pictures" / "below").mkdir(parents=True)
    (tmp_path / "secret").mkdir()
    (tmp_path / "pictures" / "a.png").touch()
    (tmp_path / "secret" / "key.png").touch()
    return tmp_path / "pictures"


def test_paths_below_the_folders_are_taken(home: Path, tmp_path: Path) -> None:
    """Relative, absolute, and by a link that stays inside; the second folder counts as well."""
    (home / "link.png").symlink_to(home / "a.png")
    folders = Folders.of([home, tmp_path / "secret"])
    for text in ("a.png", str(home / "a.png"), "below/../a.png", "link.png"):
        assert folders.path(text, "image_path") == (home / "a.png").resolve()
    assert folders.path("../secret/key.png", "image_path") == (tmp_path / "secret" / "key.png").resolve()
    assert folders.path("none.png", "image_path") == home.resolve() / "none.png"


def test_all_other_paths_are_refused(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent may be led by a web page; whether a file exists elsewhere is not said either."""
    monkeypatch.setenv("HOME", str(tmp_path / "secret"))
    (home / "out.png").symlink_to(tmp_path / "secret" / "key.png")
    (home / "out").symlink_to(tmp_path / "secret")
    (tmp_path / "pictures2").mkdir()
    folders = Folders.of([home])
    for text in (
        "../secret/key.png",
        "../secret/none.png",
        "below/../../secret/key.png",
        str(tmp_path / "secret" / "key.png"),
        "out.png",
        "out/key.png",
        "../pictures2/x.png",
        "~/key.png",
        "/etc/passwd",
        "/proc/self/environ",
    ):
        with pytest.raises(
            RequestError, match=r"^image_path: .* is not in .*; only files there can be used$"
        ):
            folders.path(text, "image_path")


def test_what_is_no_path_is_an_error_too(home: Path) -> None:
    """And never a traceback."""
    for text in ("a\0.png", "~nobody-of-this-name/a.png"):
        with pytest.raises(RequestError, match=r"^image_path: "):
            Folders.of([home]).path(text, "image_path")


def test_a_folder_must_exist(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mistyped one would be the first that an agent asks for; hosts pass ``~`` on as it is."""
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Folders.of([Path("~/pictures")]).roots == (home.resolve(),)
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(RequestError, match=r"^folder: there is no folder \.$"):
        Folders.of([Path()])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RequestError, match=r"^folder: there is no folder .*a\.png$"):
        Folders.of([home / "a.png"])
    with pytest.raises(RequestError, match=r"^folder: there is no folder .*none$"):
        Folders.of([home, home / "none"])


def test_results_get_names_of_their_own(home: Path) -> None:
    """The picture and earlier results stay, a link to nowhere included."""
    picture = home / "a.png"
    (home / "a_inpainted_3.png").symlink_to(home / "nowhere.png")
    assert write_new(picture, b"1") == home / "a_inpainted.png"
    assert write_new(picture, b"2") == home / "a_inpainted_2.png"
    assert write_new(home / "a_inpainted.png", b"3") == home / "a_inpainted_4.png"
    assert [(home / f"a_inpainted{n}.png").read_bytes() for n in ("", "_2", "_4")] == [b"1", b"2", b"3"]
    assert picture.read_bytes() == b""
    assert not (home / "nowhere.png").exists()
    assert write_new(home / "b.JPG", b"4").name == "b_inpainted.JPG"
    assert write_new(home / "c.heic", b"5").name == "c_inpainted.png"


def test_nothing_is_left_behind_by_a_failure(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk must not leave an empty file that looks like a result."""

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("inpaint.mcp.folders.write_atomically", full)
    before = sorted(home.iterdir())
    with pytest.raises(OutputError, match="could not be written: No space left on device"):
        write_new(home / "a.png", b"1")
    assert sorted(home.iterdir()) == before


def test_a_folder_that_cannot_be_written_is_said_first(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not after a minute of painting."""
    check_writable(home)
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(OutputError, match=r"^output: the folder .* is not writable$"):
        check_writable(home)
