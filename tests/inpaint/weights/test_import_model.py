"""Import of checkpoints, and finding them by name or path: only safe and complete ones."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from inpaint.errors import ModelError
from inpaint.weights import (
    check_safetensors,
    config_folder,
    find_entry,
    import_model,
    listings,
    load_lock,
    models_dir,
    resolve,
    verify,
)
from inpaint.weights.verify import STAMP_NAME, write_stamp
from tests.support.checkpoint_files import INDEX, single_file, write_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "given")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "models"


def edit_index(folder: Path, **changes: object) -> None:
    (folder / "model_index.json").write_text(json.dumps({**INDEX, **changes}))


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


# Changes that make a diffusers folder unsafe or unusable, and the words of the error.
BAD_FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "code": (lambda f: (f / "unet" / "model.py").write_text("x"), "model.py: a model folder must not hold"),
    "hidden code": (lambda f: (f / ".x.py").write_text("x"), "must not hold code"),
    "no index": (lambda f: (f / "model_index.json").unlink(), "there is no model_index.json"),
    "index that is no JSON": (lambda f: (f / "model_index.json").write_text("{"), "is not valid JSON"),
    "index that is a list": (lambda f: (f / "model_index.json").write_text("[]"), "is not a JSON object"),
    "another pipeline": (lambda f: edit_index(f, _class_name="FluxPipeline"), "_class_name 'FluxPipeline'"),
    "a custom pipeline": (lambda f: edit_index(f, _class_name=["pipe", "P"]), "_class_name"),
    "a custom class": (lambda f: edit_index(f, unet=["my_unet", "MyUNet"]), "unknown class my_unet.MyUNet"),
    "another unet": (lambda f: edit_index(f, unet=["diffusers", "UNet2DModel"]), "unknown class"),
    "a scheduler from elsewhere": (
        lambda f: edit_index(f, scheduler=["evil", "EulerDiscreteScheduler"]),
        "unknown class evil.EulerDiscreteScheduler",
    ),
    "a library class under another name": (
        lambda f: edit_index(f, helper=["transformers", "CLIPVisionModelWithProjection"]),
        "unknown class transformers.CLIPVisionModelWithProjection",
    ),
    "an image encoder from elsewhere": (
        lambda f: edit_index(f, image_encoder=["my_code", "CLIPVisionModelWithProjection"]),
        "image_encoder is of the unknown class my_code.CLIPVisionModelWithProjection",
    ),
    "a ControlNet with a path": (
        lambda f: edit_index(f, controlnet=["diffusers", "../x"]),
        "unknown class diffusers",
    ),
    "a variant that is not read": (
        lambda f: (f / "vae" / "diffusion_pytorch_model.safetensors").rename(
            f / "vae" / "diffusion_pytorch_model.non_ema.safetensors"
        ),
        "diffusion_pytorch_model.non_ema.safetensors has a name that is not read here",
    ),
    "no scheduler at all": (
        lambda f: edit_index(f, scheduler=["diffusers", "UNet2DConditionModel"]),
        "scheduler is of the unknown class",
    ),
    "an unknown component": (lambda f: edit_index(f, helper=["os", "system"]), "unknown class os.system"),
    "a triple": (lambda f: edit_index(f, vae=["diffusers", "AutoencoderKL", 1]), "unknown class"),
    "a missing component": (lambda f: edit_index(f, vae=[None, None]), "the component vae is missing"),
    "other channels": (
        lambda f: (f / "unet" / "config.json").write_text('{"in_channels": 8}'),
        "its UNet has 8 input channels; 9 (inpainting) or 4 (SDXL base) would do",
    ),
    "no channels": (lambda f: (f / "unet" / "config.json").write_text("{}"), "its UNet has None input"),
    "no unet config": (lambda f: (f / "unet" / "config.json").unlink(), "cannot be read"),
    "code on the hub": (
        lambda f: (f / "text_encoder" / "config.json").write_text('{"auto_map": {"AutoModel": "x.Y"}}'),
        "auto_map",
    ),
    "no weights": (
        lambda f: (f / "vae" / "diffusion_pytorch_model.safetensors").unlink(),
        "there is no diffusion_pytorch_model.safetensors",
    ),
    "pickled weights only": (
        lambda f: (f / "vae" / "diffusion_pytorch_model.safetensors").rename(
            f / "vae" / "diffusion_pytorch_model.bin"
        ),
        "pickle",
    ),
    "a pickle under another name": (
        lambda f: (f / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(pickle.dumps([0] * 99)),
        "it is a pickle under a safetensors name",
    ),
}


@pytest.mark.parametrize(("spoil", "words"), BAD_FOLDERS.values(), ids=BAD_FOLDERS)
def test_an_unsafe_or_unusable_folder_is_refused(
    folder: Path, root: Path, spoil: Callable[[Path], object], words: str
) -> None:
    """A model from a stranger never runs its code, by import or by path."""
    spoil(folder)
    for attempt in (lambda: import_model(folder, "mine", root), lambda: resolve(folder, root)):
        with pytest.raises(ModelError) as caught:
            attempt()
        assert words in str(caught.value)
    assert not root.exists()


BAD_FILES: dict[str, tuple[str, bytes, str]] = {
    "checkpoint": ("x.ckpt", single_file(), "convert it to .safetensors"),
    "torch": ("x.pt", single_file(), "convert it to .safetensors"),
    "bin": ("x.bin", single_file(), "convert it to .safetensors"),
    "upper-case pickle": ("x.PTH", single_file(), "convert it to .safetensors"),
    "pkl": ("x.pkl", single_file(), "convert it to .safetensors"),
    "no suffix": ("x", single_file(), "only .safetensors is"),
    "gguf": ("x.gguf", single_file(), "only .safetensors is"),
    "zip magic": ("x.safetensors", b"PK\x03\x04" + bytes(range(99)), "it is a pickle under"),
    "pickle magic": ("x.safetensors", pickle.dumps(list(range(99))), "it is a pickle under"),
    "empty": ("x.safetensors", b"", "it is not a safetensors file, or it is truncated"),
    "cut header": ("x.safetensors", single_file()[:40], "it is not a safetensors file, or it is truncated"),
    "a header longer than the file": (
        "x.safetensors",
        (10_000_001).to_bytes(8, "little") + b"{",
        "truncated",
    ),
    "no JSON": ("x.safetensors", (4).to_bytes(8, "little") + b"nope", "header is not valid JSON"),
    "no text": ("x.safetensors", (4).to_bytes(8, "little") + b"\xff\xfe\xfd\xfc", "header is not valid"),
    "deep JSON": ("x.safetensors", (100_000).to_bytes(8, "little") + b"[" * 100_000, "not valid JSON"),
    "a list": ("x.safetensors", (2).to_bytes(8, "little") + b"[]", "header is not a JSON object"),
    "no tensor": ("x.safetensors", (7).to_bytes(8, "little") + b'{"a":1}', "describes 'a' wrongly"),
    "truncated": ("x.safetensors", single_file()[:-1], "truncated?"),
    "padded": ("x.safetensors", single_file() + b"x", "truncated?"),
    "8 channels": ("x.safetensors", single_file(8), "its UNet has 8 input channels"),
}


@pytest.mark.parametrize(("name", "body", "words"), BAD_FILES.values(), ids=BAD_FILES)
def test_an_unsafe_or_unusable_file_is_refused(
    tmp_path: Path, root: Path, name: str, body: bytes, words: str
) -> None:
    """A pickle is never opened under any name, and a damaged file is named before it is loaded."""
    (tmp_path / name).write_bytes(body)
    with pytest.raises(ModelError) as caught:
        import_model(tmp_path / name, "mine", root)
    assert words in str(caught.value)
    with pytest.raises(ModelError):
        resolve(tmp_path / name, root)
    assert not root.exists()


def test_a_short_header_that_looks_like_a_pickle_is_no_pickle(tmp_path: Path) -> None:
    """A header of 0x380 bytes begins with a pickle's first two; it must still be accepted."""
    text = json.dumps({"w": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}}).encode().ljust(0x380)
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"x")
    assert path.read_bytes()[:2] == b"\x80\x03"
    assert set(check_safetensors(path)) == {"w"}


@pytest.mark.parametrize("suffix", [".bin", ".pt", ".ckpt", ".pth", ".pkl"])
def test_a_pickle_next_to_safetensors_is_not_imported_but_may_lie_there(
    folder: Path, root: Path, suffix: str
) -> None:
    """The store holds no pickle; a user's own folder may, since it is never opened."""
    (folder / "vae" / f"old{suffix}").write_bytes(b"x")
    with pytest.raises(ModelError, match=r"keep the \.safetensors files only"):
        import_model(folder, "mine", root)
    assert resolve(folder, root).kind == "folder"


def test_links_are_not_imported(folder: Path, root: Path, tmp_path: Path) -> None:
    """An import cannot be made to copy a file from elsewhere on the disk."""
    (folder / "tokenizer" / "vocab.json").unlink()
    (folder / "tokenizer" / "vocab.json").symlink_to("/etc/passwd")
    with pytest.raises(ModelError, match=r"vocab\.json: it is a link"):
        import_model(folder, "mine", root)
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(ModelError, match="link: it is a link"):
        import_model(tmp_path / "link", "mine", root)


@pytest.mark.parametrize("in_channels", [4, 9])
@pytest.mark.parametrize("variant", ["", ".fp16"])
def test_a_folder_is_imported_with_the_files_that_loading_needs(
    tmp_path: Path, root: Path, in_channels: int, variant: str
) -> None:
    """A user's checkpoint is imported without the samples and duplicates that came with it."""
    given = write_folder(tmp_path / "given", in_channels, variant)
    needed = files_in(given)
    (given / "sample.png").write_bytes(b"x")
    (given / "unet" / "model.onnx").write_bytes(b"x")
    seen: list[tuple[str, int, int]] = []
    target = import_model(given, "mine", root, lambda *step: seen.append(step))
    assert target == root / "mine"
    assert files_in(target) == needed | {STAMP_NAME}
    assert seen[-1][1] == seen[-1][2] == sum((given / path).stat().st_size for path in needed)
    assert resolve("mine", root).path == target
    assert {path.name for path in root.iterdir()} == {"mine", ".mine.lock"}


def test_half_precision_is_imported_when_all_components_have_it(folder: Path, root: Path) -> None:
    """One copy of 7 GB is enough."""
    for path in list(folder.rglob("*.safetensors")):
        shutil.copy(path, path.with_suffix(".fp16.safetensors"))
    stored = files_in(import_model(folder, "half", root))
    assert {path for path in stored if path.endswith(".safetensors")} == {
        "text_encoder/model.fp16.safetensors",
        "text_encoder_2/model.fp16.safetensors",
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.fp16.safetensors",
    }
    (folder / "vae" / "diffusion_pytorch_model.fp16.safetensors").unlink()
    assert not any(".fp16" in path for path in files_in(import_model(folder, "full", root)))
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    mixed = files_in(import_model(folder, "mixed", root))
    assert {
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    } <= mixed
    assert sum(path.endswith(".safetensors") for path in mixed) == 4


def test_shards_come_with_their_index(folder: Path, root: Path) -> None:
    """A sharded UNet is imported whole, or refused when its index is missing."""
    whole = folder / "unet" / "diffusion_pytorch_model.safetensors"
    for i in (1, 2):
        shutil.copy(whole, whole.with_name(f"diffusion_pytorch_model-0000{i}-of-00002.safetensors"))
    whole.unlink()
    with pytest.raises(ModelError, match="is missing, so its shards"):
        import_model(folder, "mine", root)
    (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text("{}")
    stored = files_in(import_model(folder, "mine", root))
    assert sum(path.startswith("unet/") for path in stored) == 4


def test_a_single_file_is_imported_and_found_by_name(tmp_path: Path, root: Path) -> None:
    """The usual download of a fine-tune is one file."""
    (tmp_path / "tune.safetensors").write_bytes(single_file(4))
    import_model(tmp_path / "tune.safetensors", "tune", root)
    found = resolve("tune", root)
    assert (found.name, found.kind, found.path) == ("tune", "file", root / "tune" / "model.safetensors")


def test_an_imported_model_is_verified_like_a_fetched_one(folder: Path, root: Path) -> None:
    """Damage to an imported model is found too, and the error names the remedy."""
    target = import_model(folder, "mine", root)
    entry = find_entry("mine", root)
    assert entry is not None
    verify(entry, target, deep=True)
    os.utime(target / "unet" / "config.json", ns=(1, 1))
    resolve("mine", root)  # hashed and stamped anew
    entry = find_entry("mine", root)
    assert entry is not None  # still known to be imported
    weights = target / "unet" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(ModelError, match=r"differs .*; run: inpaint models remove mine, then import"):
        verify(entry, target, deep=True)
    (target / "extra.py").write_text("x")
    with pytest.raises(ModelError, match=r"extra\.py does not belong"):
        resolve("mine", root)


@pytest.mark.parametrize("name", ["", "../mine", "Mine", ".mine", "a/b", "a b", "ä", "x" * 65])
def test_a_name_that_is_no_name_is_refused(folder: Path, root: Path, name: str) -> None:
    """A model's name becomes a folder's name, so it must be nothing else."""
    with pytest.raises(ModelError, match="cannot name a model"):
        import_model(folder, name, root)


@pytest.mark.parametrize("name", ["demo", "sdxl-inpainting"])
def test_a_built_in_name_cannot_be_taken(folder: Path, root: Path, name: str) -> None:
    """`--model demo` always means the model that ships."""
    with pytest.raises(ModelError, match="comes with inpaint"):
        import_model(folder, name, root)


def test_a_taken_name_is_not_overwritten(folder: Path, root: Path) -> None:
    """An import never replaces another model."""
    import_model(folder, "mine", root)
    with pytest.raises(ModelError, match="mine is already in"):
        import_model(folder, "mine", root)


def test_a_killed_import_leaves_nothing_in_the_way(folder: Path, root: Path) -> None:
    """The next import replaces the files that a killed one left."""
    (root / ".mine.import" / "unet").mkdir(parents=True)
    (root / ".mine.import" / "unet" / "evil.py").write_text("x")
    assert "unet/evil.py" not in files_in(import_model(folder, "mine", root))


def test_an_original_that_changes_while_it_is_copied_is_refused(folder: Path, root: Path) -> None:
    """The copy is checked, so swapping a file after its check gains an attacker nothing."""

    def swap(path: str, _done: int, _total: int) -> None:
        if path == "model_index.json":
            (folder / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(pickle.dumps([0] * 99))

    with pytest.raises(ModelError, match="it is a pickle under a safetensors name"):
        import_model(folder, "mine", root, swap)
    assert {path.name for path in root.iterdir()} == {".mine.lock"}


def test_a_name_does_not_reach_out_of_the_models_folder(folder: Path, root: Path, tmp_path: Path) -> None:
    """A name with dots and slashes is a path, and is checked as one, stamp or no stamp."""
    import_model(folder, "mine", root)
    assert find_entry("mine", root) is not None
    (tmp_path / "other").mkdir()
    assert find_entry("../models/mine", tmp_path / "other") is None
    assert find_entry(".mine", root) is None


def test_a_path_is_resolved_to_its_kind(folder: Path, tmp_path: Path, root: Path) -> None:
    """A folder or a file works without importing it."""
    assert resolve(str(folder), root).kind == "folder"
    assert resolve(folder, root).name == "given"
    (tmp_path / "tune.safetensors").write_bytes(single_file())
    found = resolve(str(tmp_path / "tune.safetensors"), root)
    assert (found.name, found.kind) == ("tune", "file")


def test_a_model_of_the_lock_that_is_not_fetched_names_the_command(root: Path) -> None:
    """The newcomer's first error says what to type."""
    with pytest.raises(ModelError, match=r"^sdxl-inpainting is not installed; run: inpaint models fetch"):
        resolve("sdxl-inpainting", root)


@pytest.mark.parametrize("name", ["sdxl-inpaintin", "", "tiny\0"])
def test_an_unknown_name_lists_the_known_ones(
    folder: Path, root: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A typo is answered with the names that would work, imported ones too."""
    import_model(folder, "mine", root)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError) as caught:
        resolve(name, root)
    assert "nown are demo, sdxl-inpainting, " in str(caught.value)  # it begins a sentence after a suggestion
    assert "mine" in str(caught.value)


def test_any_other_folder_is_no_model_and_is_not_searched(root: Path, tmp_path: Path) -> None:
    """`--model .` says what is missing, and does not search the user's own scripts."""
    (tmp_path / "script.py").write_text("x")
    with pytest.raises(ModelError, match=r"there is no model_index\.json"):
        resolve(tmp_path, root)


@pytest.mark.parametrize("path", ["./nothing", "no/where", "nothing.safetensors", "~/nothing-at-all"])
def test_a_missing_path_is_called_a_path(root: Path, path: str) -> None:
    """A text that looks like a path is not answered with a list of names."""
    with pytest.raises(ModelError, match="there is no such file or folder"):
        resolve(path, root)


def test_a_name_wins_over_a_folder_here(
    folder: Path, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder called sdxl-inpainting in the working folder does not replace the pinned model."""
    folder.rename(tmp_path / "sdxl-inpainting")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="is not installed"):
        resolve("sdxl-inpainting", root)
    assert resolve("./sdxl-inpainting", root).kind == "folder"


def test_a_companion_is_no_checkpoint(root: Path) -> None:
    """Configurations alone cannot paint; the user reads that instead of a loader's stack trace."""
    root.mkdir()
    make_installed("sdxl-configs", root)
    with pytest.raises(ModelError, match="sdxl-configs is no model that can paint"):
        resolve("sdxl-configs", root)


def test_the_config_folder_is_found_or_its_command_named(root: Path) -> None:
    """A single-file checkpoint loads offline once the small files are there."""
    with pytest.raises(ModelError, match="run: inpaint models fetch sdxl-configs"):
        config_folder(root)
    make_installed("sdxl-configs", root)
    assert config_folder(root) == root / "sdxl-configs"


def make_installed(name: str, root: Path) -> None:
    """Write files of the right sizes and a stamp that vouches for them, which a cheap check accepts."""
    entry = load_lock().get(name)
    assert entry is not None
    for file in entry.files:
        path = root / entry.target / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(file.size))
    found = {file.path: (root / entry.target / file.path).stat() for file in entry.files}
    write_stamp(entry, root / entry.target, found, imported=False)


def test_the_list_shows_each_models_state(folder: Path, root: Path) -> None:
    """installed, unverified, partial and not installed are distinguished without hashing."""
    make_installed("sdxl-configs", root)
    import_model(folder, "mine", root)
    (root / ".sdxl-base.partial").mkdir()
    (root / ".sdxl-base.partial" / "x.part").write_bytes(b"123")
    states = {row.entry.name: (row.state, row.present_bytes) for row in listings(root)}
    assert states["sdxl-configs"][0] == "installed"
    assert states["mine"][0] == "installed"
    assert states["sdxl-base"] == ("partial", 3)
    assert states["sdxl-inpainting"] == ("not installed", 0)
    (root / "sdxl-configs" / "model_index.json").write_text("{}")
    assert {row.entry.name: row.state for row in listings(root)}["sdxl-configs"] == "unverified"


def test_the_models_folder_is_a_setting_read_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator moves the models to another disk with one variable."""
    monkeypatch.setenv("INPAINT_MODELS", str(tmp_path / "disk"))
    assert models_dir() == tmp_path / "disk"
    monkeypatch.delenv("INPAINT_MODELS")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert models_dir().parts[-2:] == ("inpaint", "models")


def test_what_diffusers_writes_is_accepted(checkpoint: Callable[[int], Path], root: Path) -> None:
    """The checks agree with the layout of a real diffusers folder, not only with our idea of it."""
    import_model(checkpoint(9), "tiny", root)
    assert resolve("tiny", root).kind == "folder"
