"""Installation of new models, whole or not at all even if the writer is killed; and their removal."""

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from inpaint.errors import FetchError, ModelError
from inpaint.weights import (
    Checkpoint,
    find_entry,
    import_model,
    listings,
    merge_models,
    name_for,
    remove_model,
    verify,
)
from inpaint.weights.install import Chunk, Content, copy_of, install
from tests.inpaint.weights.test_import_model import files_in, make_installed
from tests.support.checkpoint_files import sdxl_tensors, write_folder
from tests.support.paths import ROOT
from tests.support.tiny_checkpoint import write_tiny_checkpoint


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "given")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "models"


MERGE = """
import sys
from pathlib import Path
from inpaint.weights import Checkpoint, merge_models
*folders, root = map(Path, sys.argv[1:])

def stop(path, done, total):
    if done > total // 2:
        print("halfway", flush=True)
        sys.stdin.readline()

merge_models(*[Checkpoint(f.name, f, "folder") for f in folders], "mine", root, progress=stop)
"""


@contextmanager
def halfway(home: Path, root: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a process that has written half of a merged model and waits."""
    folders = [
        write_tiny_checkpoint(home / name, channels) for name, channels in (("i", 9), ("s", 4), ("b", 4))
    ]
    command = [sys.executable, "-c", MERGE, *map(str, folders), str(root)]
    with subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "halfway\n"
            yield process
        finally:
            process.kill()


@pytest.mark.slow
def test_a_killed_merge_leaves_no_model_and_its_half_is_swept(
    folder: Path, root: Path, tmp_path: Path
) -> None:
    """Half of 7 GB under a hidden name would never be found again; a running merge is left alone."""
    with halfway(tmp_path, root) as process:
        half = root / ".mine.import"
        assert any(half.rglob("*.safetensors"))
        assert not (root / "mine").exists()
        import_model(folder, "other", root)
        assert half.is_dir(), "its writer is alive"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert half.is_dir()
    assert [row.entry.name for row in listings(root) if row.state == "installed"] == ["other"]
    import_model(folder, "another", root)
    assert not half.exists()
    three = [Checkpoint(name, tmp_path / name, "folder") for name in ("i", "s", "b")]
    merged = merge_models(*three, "mine", root).folder  # the same merge works again
    entry = find_entry("mine", root)
    assert entry is not None
    verify(entry, merged, deep=True)


def test_a_disk_that_is_too_small_is_said_before_anything_is_written(folder: Path, root: Path) -> None:
    """The user learns it before the first six gigabytes are written."""
    contents = {"model_index.json": copy_of(folder / "model_index.json")}
    with pytest.raises(FetchError, match=r"mine needs \d+ bytes .* whose disk has 10 .* free; free some"):
        install(contents, "mine", root, free=lambda _: 10)
    assert {path.name for path in root.iterdir()} == {".mine.lock"}


def test_a_disk_that_fills_up_leaves_nothing(folder: Path, root: Path) -> None:
    """Another program may use up the space meanwhile."""

    def chunks() -> Iterator[Chunk]:
        yield b"half"
        raise OSError(errno.ENOSPC, "No space left on device")

    contents = {"a.json": copy_of(folder / "model_index.json"), "b": Content(8, chunks)}
    with pytest.raises(FetchError, match="the disk is full"):
        install(contents, "mine", root)
    assert {path.name for path in root.iterdir()} == {".mine.lock"}


def test_an_original_that_cannot_be_read_is_named(folder: Path, root: Path) -> None:
    """The error must not blame the disk that is written to."""
    content = copy_of(folder / "model_index.json")
    (folder / "model_index.json").unlink()
    with pytest.raises(ModelError, match=r"model_index\.json: cannot be read \(No such file"):
        install({"model_index.json": content}, "mine", root)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("Juggernaut XL v9 (RunDiffusion).safetensors", "juggernaut-xl-v9-rundiffusion"),
        ("dream/realvisxlV5.0_bakedVAE.SAFETENSORS", "realvisxlv5.0_bakedvae"),
        ("models/my folder", "my-folder"),
        ("ß.safetensors", "imported"),
        ("x" * 99, "x" * 64),
    ],
)
def test_a_model_is_named_after_its_file(path: str, name: str) -> None:
    """A user who gives no name gets one that can be typed."""
    assert name_for(Path(path)) == name


MEMORY = """
import json, re
from pathlib import Path
from inpaint.weights import Checkpoint, merge_models

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

def merge(folder, name):
    files = [Path(folder, stem + ".safetensors") for stem in NAMES]
    merge_models(*[Checkpoint(file.stem, file, "file") for file in files], name, Path("models"))

NAMES = "inpaint", "style", "base"
merge("small", "first")  # what a first merge imports and the allocator keeps is no part of the measure
before = peak()
merge("large", "second")
print(json.dumps(peak() - before))
"""


def write_holes(path: Path, in_channels: int, size_bytes: int) -> Path:
    """Make a checkpoint with one fp16 tensor of that size, stored as a hole in the file."""
    shapes = {
        **sdxl_tensors(in_channels),
        "conditioner.embedders.1.model.token_embedding.weight": [size_bytes // 2048, 1024],
    }
    header: dict[str, object] = {}
    end = 0
    for name, shape in shapes.items():
        begin = end
        size = 2
        for side in shape:
            size *= side
        end += size
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)
    return path


@pytest.mark.slow
def test_a_merge_holds_a_small_part_of_one_tensor(tmp_path: Path) -> None:
    """Models too large to load can be merged: three tensors of 400 MB take less than a quarter of one.

    They take 20 to 32 MB. The rest is for the kernel's counters, which each core adds to in lots, and
    for pages that an allocator gives back late.
    """
    for folder, size_bytes in (("small", 4_000_000), ("large", 400_000_000)):
        (tmp_path / folder).mkdir()
        for name, in_channels in {"inpaint": 9, "style": 4, "base": 4}.items():
            write_holes(tmp_path / folder / f"{name}.safetensors", in_channels, size_bytes)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", MEMORY]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert (tmp_path / "models" / "second" / "model.safetensors").stat().st_size > 390_000_000
    # The peak of resident pages, mapped files included.
    assert json.loads(done.stdout) < 100_000_000


def test_an_imported_model_is_removed(folder: Path, root: Path) -> None:
    """One command frees 7 GB, and the name can be used again."""
    import_model(folder, "mine", root)
    import_model(folder, "other", root)
    size = sum((root / "mine" / path).stat().st_size for path in files_in(root / "mine"))
    assert remove_model("mine", root) == size
    assert {path.name for path in root.iterdir()} == {"other", ".mine.lock", ".other.lock"}
    import_model(folder, "mine", root)


def test_a_damaged_model_is_removed(folder: Path, root: Path) -> None:
    """A damaged model is the one that a user most wants to remove."""
    import_model(folder, "mine", root)
    (root / "mine" / "unet" / "config.json").unlink()
    (root / "mine" / "extra.txt").write_text("x")
    remove_model("mine", root)
    assert not (root / "mine").exists()


def test_a_fetched_model_is_removed_with_what_its_fetches_left(root: Path) -> None:
    """An interrupted fetch may have left gigabytes, too."""
    root.mkdir()
    make_installed("sdxl-configs", root)
    for kind in ("partial", "damaged"):
        (root / f".sdxl-configs.{kind}").mkdir()
        (root / f".sdxl-configs.{kind}" / "x.part").write_bytes(b"123")
    entry = find_entry("sdxl-configs", root)
    assert entry is not None
    assert remove_model("sdxl-configs", root) > entry.size
    assert {path.name for path in root.iterdir()} == {".sdxl-configs.lock"}
    with pytest.raises(ModelError, match=r"sdxl-configs is not in .* nothing to remove"):
        remove_model("sdxl-configs", root)


def test_nothing_else_is_removed(folder: Path, root: Path, tmp_path: Path) -> None:
    """A name is no path, and a folder that the user put there is the user's."""
    import_model(folder, "mine", root)
    (root / "photos").mkdir()
    (root / "linked").symlink_to(root / "mine")
    before = sorted(path.name for path in root.iterdir())
    refusals = {
        "demo": "comes with inpaint and cannot be removed",
        "photos": "was not put there by inpaint",
        "linked": "is a link, not a folder of inpaint's",
        "../models/mine": "there is no model",
        ".mine.lock": "there is no model",
        str(folder): "there is no model",
        "": "there is no model",
        "tiny\0": "there is no model",
        "typo": r"there is no model 'typo'; known are demo, .*mine",
    }
    for name, words in refusals.items():
        with pytest.raises(ModelError, match=words):
            remove_model(name, root)
    assert sorted(path.name for path in root.iterdir()) == before
    assert folder.is_dir()
    with pytest.raises(ModelError, match="there is no model 'mine'"):
        remove_model("mine", tmp_path / "nowhere")
    assert not (tmp_path / "nowhere").exists()
