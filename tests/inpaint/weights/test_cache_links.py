"""Snapshots of a Hugging Face cache, which are folders of links: those inside it are followed, no others."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from inpaint.errors import ModelError
from inpaint.weights import import_model, name_for, resolve
from tests.support.checkpoint_files import single_file, write_folder

VOCAB = "tokenizer/vocab.json"


def as_snapshot(folder: Path, hub: Path) -> Path:
    """Move a folder into a cache, laid out as huggingface_hub does: relative links to blobs."""
    snapshot = hub / "models--owner--My-Style" / "snapshots" / ("0" * 40)
    blobs = snapshot.parents[1] / "blobs"
    blobs.mkdir(parents=True)
    for number, file in enumerate(sorted(path for path in folder.rglob("*") if path.is_file())):
        shutil.move(file, blobs / f"{number:064x}")
        link = snapshot / file.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blobs / f"{number:064x}", link.parent))
    return snapshot


@pytest.fixture
def snapshot(tmp_path: Path) -> Path:
    return as_snapshot(write_folder(tmp_path / "given"), tmp_path / "hub")


def test_a_snapshot_is_imported_as_plain_files(snapshot: Path, tmp_path: Path) -> None:
    """What another program downloaded need not be downloaded again."""
    assert name_for(snapshot) == "my-style"
    target = import_model(snapshot, "mine", tmp_path / "models")
    files = [path for path in target.rglob("*") if not path.is_dir()]
    assert len(files) > 10
    assert not any(path.is_symlink() for path in files)
    assert resolve("mine", tmp_path / "models").kind == "folder"


def test_a_single_file_of_a_cache_is_imported(tmp_path: Path) -> None:
    """Many repositories hold one file and a page of text."""
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "x.safetensors").write_bytes(single_file(4))
    snapshot = as_snapshot(tmp_path / "given", tmp_path / "hub")
    import_model(snapshot / "x.safetensors", "mine", tmp_path / "models")
    assert resolve("mine", tmp_path / "models").kind == "file"


def test_a_cache_that_is_reached_through_a_link_is_a_cache(snapshot: Path, tmp_path: Path) -> None:
    """A user's cache may lie on another disk."""
    (tmp_path / "elsewhere").symlink_to(tmp_path / "hub")
    path = tmp_path / "elsewhere" / snapshot.relative_to(tmp_path / "hub")
    import_model(path, "mine", tmp_path / "models")


def relink(snapshot: Path, target: str | Path) -> None:
    (snapshot / VOCAB).unlink()
    (snapshot / VOCAB).symlink_to(target)


def blob(snapshot: Path) -> Path:
    return snapshot.parents[1] / "blobs" / "secret"


def chained(snapshot: Path) -> None:
    blob(snapshot).symlink_to("/etc/passwd")
    relink(snapshot, "../../../blobs/secret")


def linked_blobs(snapshot: Path) -> None:
    (blob(snapshot).parent).rename(snapshot.parents[3] / "moved")
    blob(snapshot).parent.symlink_to(snapshot.parents[3] / "moved")


def linked_folder(snapshot: Path) -> None:
    shutil.move(snapshot / "tokenizer", blob(snapshot))
    (snapshot / "tokenizer").symlink_to("../../blobs/secret")


BAD_LINKS: dict[str, Callable[[Path], None]] = {
    "absolute": lambda s: relink(s, "/etc/passwd"),
    "absolute, into the blobs": lambda s: relink(s, next((s.parents[1] / "blobs").iterdir())),
    "up and out": lambda s: relink(s, "../../../../../given.txt"),
    "to another model's blobs": lambda s: relink(s, "../../../../models--other--x/blobs/secret"),
    "a blob that is a link": chained,
    "blobs that are a link": linked_blobs,
    "a folder": linked_folder,
    "dangling": lambda s: relink(s, "../../../blobs/nothing"),
    "to itself": lambda s: relink(s, "vocab.json"),
}


@pytest.mark.parametrize("spoil", BAD_LINKS.values(), ids=BAD_LINKS)
def test_a_link_that_leaves_the_cache_is_refused(
    spoil: Callable[[Path], None], snapshot: Path, tmp_path: Path
) -> None:
    """An import cannot be made to copy a file from elsewhere on the disk."""
    (tmp_path / "given.txt").write_text("x")
    other = tmp_path / "hub" / "models--other--x" / "blobs"
    other.mkdir(parents=True)
    (other / "secret").write_text("x")
    spoil(snapshot)
    with pytest.raises(
        ModelError, match="it is a link; import plain files, or a snapshot of a Hugging Face cache"
    ):
        import_model(snapshot, "mine", tmp_path / "models")
    assert not (tmp_path / "models").exists()


def test_a_cache_is_answered_with_the_folder_to_name(snapshot: Path, tmp_path: Path) -> None:
    """The folder that a file manager shows is two levels above the one that is meant."""
    with pytest.raises(
        ModelError, match=r"cache of several versions of a model; name one, such as .*/snapshots/0"
    ):
        import_model(snapshot.parents[1], "mine", tmp_path / "models")
