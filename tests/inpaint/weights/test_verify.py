"""Verification of a folder: exact, cheap when the stamp vouches for it, thorough with ``deep``."""

import hashlib
import os
from pathlib import Path

import pytest

from inpaint.errors import ModelError
from inpaint.weights import Entry, LockedFile, Source, verify
from inpaint.weights.verify import STAMP_NAME

FILES = {"model_index.json": b"{}", "unet/x.safetensors": b"0123456789"}


@pytest.fixture
def entry() -> Entry:
    rows = tuple(
        LockedFile(path, len(body), f"sha256:{hashlib.sha256(body).hexdigest()}")
        for path, body in FILES.items()
    )
    size = sum(row.size for row in rows)
    return Entry("tiny", "tiny", Source("hf://a/b", "commit:" + "0" * 40), "MIT", "https://x", size, rows)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for path, body in FILES.items():
        (tmp_path / "tiny" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tiny" / path).write_bytes(body)
    return tmp_path / "tiny"


def alter_unseen(path: Path) -> None:
    """Change one byte and set the file's time back, as only an attacker does."""
    before = path.stat()
    path.write_bytes(b"?" + path.read_bytes()[1:])
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_copied_folder_without_a_stamp_is_hashed_and_stamped(entry: Entry, folder: Path) -> None:
    """An air-gapped operator copies the folder over; the first start hashes it, later ones need not."""
    verify(entry, folder)
    assert (folder / STAMP_NAME).is_file()
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]
    verify(entry, folder)


@pytest.mark.parametrize("deep", [True, False])
def test_one_changed_byte_stops_the_start(entry: Entry, folder: Path, *, deep: bool) -> None:
    """Promise 8 of the security page: damage on disk never reaches a picture."""
    verify(entry, folder)
    before = (folder / "unet/x.safetensors").stat().st_mtime_ns
    (folder / "unet/x.safetensors").write_bytes(b"0123456780")
    os.utime(folder / "unet/x.safetensors", ns=(before + 1, before + 1))
    with pytest.raises(ModelError, match=r"tiny is damaged: unet/x\.safetensors differs from its recorded"):
        verify(entry, folder, deep=deep)


def test_only_deep_finds_a_change_that_hides_its_time(entry: Entry, folder: Path) -> None:
    """A daily start is cheap because it trusts times; --deep is for users who do not."""
    verify(entry, folder)
    alter_unseen(folder / "unet/x.safetensors")
    verify(entry, folder)
    with pytest.raises(ModelError, match=r"differs.*run: inpaint models fetch tiny"):
        verify(entry, folder, deep=True)


def test_a_touched_file_is_hashed_once_more_and_stamped(entry: Entry, folder: Path) -> None:
    """A restored backup with new times is hashed once and then starts as usual."""
    verify(entry, folder)
    os.utime(folder / "unet/x.safetensors", ns=(1, 1))
    stamp = (folder / STAMP_NAME).read_bytes()
    verify(entry, folder)
    assert (folder / STAMP_NAME).read_bytes() != stamp


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"files": [1], "imported": false}', "[" * 100_000])
def test_a_stamp_that_makes_no_sense_is_ignored(entry: Entry, folder: Path, text: str) -> None:
    """A damaged stamp costs one hashing and vouches for nothing."""
    (folder / "unet/x.safetensors").write_bytes(b"0123456780")
    (folder / STAMP_NAME).write_text(text)
    with pytest.raises(ModelError, match="differs"):
        verify(entry, folder)


def test_a_stamp_of_other_digests_vouches_for_nothing(entry: Entry, folder: Path) -> None:
    """After an update of the lock, the old version's stamp does not let the old weights pass."""
    verify(entry, folder)
    rows = tuple(LockedFile(row.path, row.size, "sha256:" + "0" * 64) for row in entry.files)
    newer = Entry("tiny", "tiny", entry.source, "MIT", "https://x", entry.size, rows)
    with pytest.raises(ModelError, match=r"model_index\.json differs"):
        verify(newer, folder)


@pytest.mark.parametrize("extra", ["README.md", "unet/evil.py", ".hidden", "other/deep/x.bin"])
def test_an_extra_file_is_an_error(entry: Entry, folder: Path, extra: str) -> None:
    """No file can be added to verified weights unnoticed, not even a hidden one."""
    (folder / extra).parent.mkdir(parents=True, exist_ok=True)
    (folder / extra).write_text("x")
    with pytest.raises(
        ModelError, match=rf"{extra} does not belong to it; delete that file, or run: inpaint"
    ):
        verify(entry, folder)


def test_a_missing_file_is_named(entry: Entry, folder: Path) -> None:
    """The error says which file is gone and how to get it back."""
    (folder / "unet/x.safetensors").unlink()
    with pytest.raises(ModelError, match=r"unet/x\.safetensors is missing; run: inpaint models fetch tiny"):
        verify(entry, folder)


def test_a_file_of_another_size_is_named_with_both_sizes(entry: Entry, folder: Path) -> None:
    """A truncated copy is found without hashing."""
    (folder / "unet/x.safetensors").write_bytes(b"012345678")
    with pytest.raises(ModelError, match="has 9 bytes instead of 10"):
        verify(entry, folder)


def test_a_link_in_place_of_a_file_is_an_error(entry: Entry, folder: Path, tmp_path: Path) -> None:
    """A link could point to other bytes a moment after they were checked."""
    (folder / "unet/x.safetensors").rename(tmp_path / "elsewhere")
    (folder / "unet/x.safetensors").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match="is a link or a special file"):
        verify(entry, folder)


def test_a_link_in_place_of_a_folder_is_an_error(entry: Entry, folder: Path, tmp_path: Path) -> None:
    """The folder that holds the weights could be redirected in the same way."""
    (folder / "unet").rename(tmp_path / "elsewhere")
    (folder / "unet").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match=r"unet/x\.safetensors is missing"):
        verify(entry, folder)


def test_a_pipe_in_place_of_a_file_is_an_error(entry: Entry, folder: Path) -> None:
    """Verification never waits for a pipe."""
    (folder / "unet/x.safetensors").unlink()
    os.mkfifo(folder / "unet/x.safetensors")
    with pytest.raises(ModelError, match="is a link or a special file"):
        verify(entry, folder)


def test_a_model_that_is_not_there_names_the_command(entry: Entry, tmp_path: Path) -> None:
    """A newcomer who paints before fetching learns what to type."""
    with pytest.raises(ModelError, match="tiny is not installed; run: inpaint models fetch tiny"):
        verify(entry, tmp_path / "tiny")


def test_a_store_that_takes_no_stamp_still_verifies(entry: Entry, folder: Path) -> None:
    """Containers mount the models read-only; every start hashes again, which is slower but no error."""
    (
        folder / STAMP_NAME
    ).mkdir()  # takes the place of a read-only disk, which a test that runs as root cannot make
    verify(entry, folder)
    assert [path.name for path in folder.parent.iterdir()] == ["tiny"]
