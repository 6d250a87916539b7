"""Merging, inpaint + alpha · (style − base), against state dicts that diffusers loads; and refusals."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from inpaint import Engine, InpaintRequest
from inpaint.errors import ModelError, RequestError
from inpaint.model.load import load_model
from inpaint.weights import Checkpoint, find_entry, merge_models, resolve, verify
from tests.support.single_file import Tensors, original_tensors, with_leftovers
from tests.support.tiny_checkpoint import write_tiny_checkpoint

CPU = torch.device("cpu")
WEIGHTS = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
}
CONV_IN = "model.diffusion_model.input_blocks.0.0.weight"
TOKENS = "conditioner.embedders.1.model.token_embedding.weight"
State = dict[tuple[str, str], torch.Tensor]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write three different models in fp32: inpainting with 9 channels, a style and its base with 4."""
    home = tmp_path_factory.mktemp("three")
    seeds = {"inpaint": (9, 0), "style": (4, 1), "base": (4, 2)}
    return {
        name: write_tiny_checkpoint(home / name, channels, seed=seed)
        for name, (channels, seed) in seeds.items()
    }


def as_folder(source: Path, target: Path, dtype: torch.dtype, *, published: bool = False) -> Checkpoint:
    """Copy a model in another dtype; ``published`` uses .fp16 in names and the old prefix, as on the hub."""
    shutil.copytree(source, target)
    for component, stem in WEIGHTS.items():
        path = target / component / f"{stem}.safetensors"
        prefix = "text_model." if published and component == "text_encoder" else ""
        tensors = {prefix + name: tensor.to(dtype) for name, tensor in load_file(path).items()}
        save_file(tensors, path)
        if published:
            path.rename(path.with_name(f"{stem}.fp16.safetensors"))
    return Checkpoint(target.name, target, "folder")


def as_file(source: Path, target: Path, dtype: torch.dtype) -> Checkpoint:
    """Write a model as one file in the original names, with the extra tensors of training scripts."""
    tensors = {name: tensor.to(dtype) for name, tensor in original_tensors(source).items()}
    save_file(with_leftovers(tensors), target)
    return Checkpoint(target.stem, target, "file")


def edited(checkpoint: Checkpoint, change: Callable[[Tensors], object]) -> Checkpoint:
    """Change the tensors of a single file in place."""
    tensors = load_file(checkpoint.path)
    change(tensors)
    save_file(tensors, checkpoint.path)
    return checkpoint


def state(path: Path, configs: Path) -> State:
    """Return every parameter as diffusers and transformers load it, in fp32."""
    model = load_model(path, "test", CPU, torch.float32, configs=configs)
    modules = zip(WEIGHTS, (model.unet, model.vae, *model.text_encoders), strict=True)
    return {
        (component, name): parameter.detach()
        for component, module in modules
        for name, parameter in module.named_parameters()
    }


@pytest.fixture(scope="module")
def states(folders: dict[str, Path]) -> dict[str, State]:
    """Load the three models."""
    return {name: state(folder, folder) for name, folder in folders.items()}


def stored_as(dtype: torch.dtype, tensors: State) -> State:
    """Round weights to ``dtype`` and back to fp32, as storing them does."""
    return {place: tensor.to(dtype).float() for place, tensor in tensors.items()}


def expected(inpaint: State, style: State, base: State, alpha: float, dtype: torch.dtype) -> State:
    """Compute the formula on whole models in fp32, rounded once."""
    result = {}
    for place, own in inpaint.items():
        changed = own.clone()
        if place[0] != "vae":
            change = alpha * (style[place] - base[place])
            if place == ("unet", "conv_in.weight"):
                changed[:, :4] += change
            else:
                changed += change
        result[place] = changed.to(dtype)
    return result


FOLDER, FILE = "folder", "file"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("forms", "dtype", "style_dtype", "alpha"),
    [
        ((FOLDER, FILE, FILE), torch.float16, torch.float16, 1.0),
        ((FOLDER, FOLDER, FOLDER), torch.float16, torch.float16, 0.7),
        ((FILE, FILE, FILE), torch.float16, torch.float32, -0.3),
        ((FILE, FOLDER, FILE), torch.float32, torch.float16, 1.0),
        ((FILE, FILE, FOLDER), torch.bfloat16, torch.bfloat16, 0.5),
        ((FOLDER, FILE, FOLDER), torch.float32, torch.float32, 1.0),
    ],
)
def test_a_merge_equals_the_formula_on_what_diffusers_loads(
    forms: tuple[str, str, str],
    dtype: torch.dtype,
    style_dtype: torch.dtype,
    alpha: float,
    folders: dict[str, Path],
    states: dict[str, State],
    tmp_path: Path,
    root: Path,
) -> None:
    """Folders and files, in half or full precision, merge bit for bit as three loaded models would."""
    three = {}
    for (name, folder), form in zip(folders.items(), forms, strict=True):
        kind = dtype if name == "inpaint" else style_dtype
        if form == FILE:
            three[name] = as_file(folder, tmp_path / f"{name}.safetensors", kind)
        else:
            three[name] = as_folder(folder, tmp_path / name, kind, published=kind == torch.float16)
    merge_models(*three.values(), "mine", root, alpha=alpha)
    before = stored_as(dtype, states["inpaint"])
    style, base = (stored_as(style_dtype, states[name]) for name in ("style", "base"))
    wanted = expected(before, style, base, alpha, dtype)
    merged = resolve("mine", root)
    assert merged.kind == forms[0]
    found = state(merged.path, folders["inpaint"])
    assert set(found) == set(wanted)
    different = [place for place, tensor in wanted.items() if not torch.equal(found[place], tensor.float())]
    assert not different
    assert stored_dtypes(merged.path) == {dtype}
    assert not torch.equal(found["unet", "conv_out.weight"], before["unet", "conv_out.weight"])


def stored_dtypes(path: Path) -> set[torch.dtype]:
    """Return the dtypes of the weights; a single file also holds buffers."""
    files = [path] if path.is_file() else path.rglob("*.safetensors")
    return {
        tensor.dtype
        for file in files
        for name, tensor in load_file(file).items()
        if not name.endswith(("position_ids", "logit_scale", "denoiser.sigmas"))
    }


def test_the_mask_and_the_vae_stay_the_inpainting_models(
    folders: dict[str, Path], tmp_path: Path, root: Path
) -> None:
    """The style never learnt the five mask channels, and the inpainting VAE is the one that works in fp16."""
    three = [
        as_file(folder, tmp_path / f"{name}.safetensors", torch.float16) for name, folder in folders.items()
    ]
    merge_models(*three, "mine", root)
    before, after = load_file(three[0].path), load_file(root / "mine" / "model.safetensors")
    assert torch.equal(before[CONV_IN][:, 4:], after[CONV_IN][:, 4:])
    assert not torch.equal(before[CONV_IN][:, :4], after[CONV_IN][:, :4])
    kept = [name for name in before if name.startswith(("first_stage_model.", "denoiser."))]
    assert all(torch.equal(before[name], after[name]) for name in kept)
    assert set(before) - set(after) == {name for name in before if name.startswith("model_ema.")}


def test_a_merged_file_names_its_three_models(folders: dict[str, Path], tmp_path: Path, root: Path) -> None:
    """A user with forty files cannot remember which was which."""
    three = [
        as_file(folder, tmp_path / f"{name}.safetensors", torch.float16) for name, folder in folders.items()
    ]
    merge_models(*three, "mine", root, alpha=0.5)
    with safe_open(root / "mine" / "model.safetensors", framework="pt") as file:
        said = json.loads(file.metadata()["inpaint.merge"])
    assert said == {"inpaint": "inpaint", "style": "style", "base": "base", "alpha": 0.5, "vae": "inpaint"}


@pytest.mark.slow
@pytest.mark.parametrize("kinds", [(FOLDER, FILE), (FOLDER, FOLDER), (FILE, FOLDER)])
def test_the_styles_vae_comes_whole_when_asked_for(
    kinds: tuple[str, str], folders: dict[str, Path], states: dict[str, State], tmp_path: Path, root: Path
) -> None:
    """Some styles are half VAE; two VAEs cannot be mixed, and an unknown one must not run in fp16."""
    forms = (*kinds, FILE)
    three = [
        as_file(folder, tmp_path / f"{name}.safetensors", torch.float16)
        if form == FILE
        else as_folder(folder, tmp_path / name, torch.float16)
        for (name, folder), form in zip(folders.items(), forms, strict=True)
    ]
    merge_models(*three, "mine", root, vae="style")
    found = state(resolve("mine", root).path, folders["inpaint"])
    style = stored_as(torch.float16, states["style"])
    assert all(torch.equal(found[place], style[place]) for place in found if place[0] == "vae")
    if kinds[0] == FOLDER:
        config = json.loads((root / "mine" / "vae" / "config.json").read_text())
        assert config["force_upcast"] is (kinds[1] == FILE), "a folder says so itself, a file does not"


@pytest.mark.slow
def test_a_merged_model_is_verified_and_paints(
    folders: dict[str, Path],
    tmp_path: Path,
    root: Path,
    request_for: Callable[..., InpaintRequest],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It has a name and a stamp that finds damage, and paints unlike either of its parents."""
    monkeypatch.setenv("INPAINT_MODELS", str(root))
    inpaint = as_folder(folders["inpaint"], tmp_path / "inpaint", torch.float16, published=True)
    style, base = (
        as_file(folders[n], tmp_path / f"{n}.safetensors", torch.float16) for n in ("style", "base")
    )
    seen: list[tuple[str, int, int]] = []
    merged = merge_models(inpaint, style, base, "mine", root, progress=lambda *step: seen.append(step))
    assert merged.kept == ()
    entry = find_entry("mine", root)
    assert entry is not None
    verify(entry, merged.folder, deep=True)
    assert seen[-1][1] == seen[-1][2] == entry.size
    pictures = []
    for name in ("mine", inpaint.path):
        with Engine.load(name, device="cpu") as engine:
            pictures.append(np.asarray(engine.paint(request_for()).images[0], dtype=int))
    assert np.abs(pictures[0] - pictures[1]).mean() > 2


@pytest.mark.parametrize("prefix", ["diffusion_model.", ""])
def test_a_style_in_comfyuis_form_merges_as_any_other(
    prefix: str, folders: dict[str, Path], tmp_path: Path, root: Path
) -> None:
    """A UNet alone is what such styles are shared as; the text encoders stay the inpainting model's."""
    own = as_folder(folders["inpaint"], tmp_path / "inpaint", torch.float32)
    base = as_folder(folders["base"], tmp_path / "base", torch.float32)
    unets = {}
    for name, start in (("plain", "model.diffusion_model."), ("comfy", prefix)):
        tensors = {
            start + key.removeprefix("model.diffusion_model."): tensor
            for key, tensor in original_tensors(folders["style"]).items()
            if key.startswith("model.diffusion_model.")
        }
        save_file(tensors, tmp_path / f"{name}.safetensors")
        style = resolve(tmp_path / f"{name}.safetensors", root, whole=False)
        merged = merge_models(own, style, base, name, root)
        assert merged.kept == ("text_encoder", "text_encoder_2")
        unets[name] = load_file(merged.folder / "unet" / "diffusion_pytorch_model.safetensors")
    assert unets["plain"].keys() == unets["comfy"].keys()
    assert all(torch.equal(tensor, unets["comfy"][name]) for name, tensor in unets["plain"].items())


def test_a_style_without_text_encoders_leaves_them(
    folders: dict[str, Path], tmp_path: Path, root: Path
) -> None:
    """Files of a UNet alone are shared too; the result lists the components that were kept."""
    three = [
        as_file(folder, tmp_path / f"{name}.safetensors", torch.float16) for name, folder in folders.items()
    ]
    edited(three[1], lambda t: [t.pop(name) for name in list(t) if not name.startswith("model.")])
    merged = merge_models(*three, "mine", root)
    assert merged.kept == ("text_encoder", "text_encoder_2")
    before, after = load_file(three[0].path), load_file(merged.folder / "model.safetensors")
    assert torch.equal(before[TOKENS], after[TOKENS])
    assert not torch.equal(before[CONV_IN], after[CONV_IN])


def test_an_inpainting_style_changes_all_nine_channels(
    folders: dict[str, Path], tmp_path: Path, root: Path
) -> None:
    """A style that was tuned from the inpainting model has mask channels, which are merged as well."""
    three = [
        as_file(
            write_tiny_checkpoint(tmp_path / f"{name}-9", 9, seed=seed),
            tmp_path / f"{name}.safetensors",
            torch.float32,
        )
        for seed, name in enumerate(folders)
    ]
    merge_models(*three, "mine", root)
    inpaint, style, base = (load_file(checkpoint.path)[CONV_IN] for checkpoint in three)
    merged = load_file(root / "mine" / "model.safetensors")[CONV_IN]
    assert torch.equal(merged, inpaint + (style - base))


def set_to(name: str, value: float) -> Callable[[Tensors], object]:
    return lambda tensors: tensors[name].view(-1)[:1].fill_(value)


BIAS = "model.diffusion_model.out.2.bias"
# The change to one of the three files, and the words of the error.
REFUSED: dict[str, tuple[str, Callable[[Tensors], object], str]] = {
    "a missing tensor": ("style", lambda t: t.pop(BIAS), r"^style cannot .* has no unet: conv_out\.bias$"),
    "a missing tensor of the base": ("base", lambda t: t.pop(BIAS), r"^base .* has no unet: conv_out\.bias$"),
    "another shape": (
        "style",
        lambda t: t.update({BIAS: torch.zeros(8)}),
        r"^style cannot .* conv_out\.bias has the shape \(8,\), and in inpaint \(4,\)$",
    ),
    "another text encoder": (
        "style",
        lambda t: t.update({TOKENS: t[TOKENS][:-1].clone()}),
        r"^style cannot .* text_encoder_2: embeddings\.token_embedding\.weight has the shape",
    ),
    "a layer too many": (
        "style",
        lambda t: t.update({"model.diffusion_model.input_blocks.1.0.more.weight": torch.zeros(2)}),
        r"^style cannot .*: it has unet: down_blocks\.0\.resnets\.0\.more\.weight, and inpaint has not$",
    ),
    "a base without text encoders": (
        "base",
        lambda t: [t.pop(name) for name in list(t) if not name.startswith("model.")],
        r"^base cannot be merged: it has no text_encoder: ",
    ),
    "eight bits": (
        "style",
        lambda t: t.update({BIAS: t[BIAS].to(torch.float8_e4m3fn)}),
        r"^style cannot .* conv_out\.bias is stored as F8_E4M3, too coarse for a difference; bring the fp16",
    ),
    "a NaN in the style": ("style", set_to(BIAS, torch.nan), r"is damaged: unet: conv_out\.bias"),
    "an infinity in the base": ("base", set_to(BIAS, torch.inf), r"is damaged: unet: conv_out\.bias"),
    "a NaN in the inpainting model": (
        "inpaint",
        set_to(TOKENS, torch.nan),
        r"is damaged: text_encoder_2: .*tok",
    ),
    "a style out of range": (
        "style",
        set_to(BIAS, 65504.0),
        r"^style is too strong: unet: conv_out\.bias leaves the range of F16; choose a smaller --alpha",
    ),
    "a style with the mask's channels": (
        "style",
        lambda t: t.update({CONV_IN: torch.zeros(32, 9, 3, 3)}),
        r"^the UNet of style has 9 input channels and that of base has 4; --base must be the model that",
    ),
    "an inpainting model without": (
        "inpaint",
        lambda t: t.update({CONV_IN: t[CONV_IN][:, :4].clone()}),
        r"^inpaint is no inpainting model: its UNet has 4 input .* the inpainting model comes first",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(("which", "change", "words"), REFUSED.values(), ids=REFUSED)
def test_models_that_do_not_go_together_are_refused(
    which: str,
    change: Callable[[Tensors], object],
    words: str,
    folders: dict[str, Path],
    tmp_path: Path,
    root: Path,
) -> None:
    """The user reads one sentence that names the tensor, instead of getting a silently wrong style."""
    three = {
        name: as_file(folder, tmp_path / f"{name}.safetensors", torch.float16)
        for name, folder in folders.items()
    }
    edited(three[which], change)
    alpha = 3.0 if "too strong" in words else 1.0
    with pytest.raises(ModelError, match=words):
        merge_models(*three.values(), "mine", root, alpha=alpha)
    assert not root.exists() or [path.name for path in root.iterdir()] == [".mine.lock"]


def test_a_style_with_channels_of_its_own_is_refused(
    folders: dict[str, Path], tmp_path: Path, root: Path
) -> None:
    """Style and base may agree on extra inputs, such as depth, that the inpainting model lacks."""
    inpaint = Checkpoint("inpaint", folders["inpaint"], "folder")
    odd = [
        as_file(folders[name], tmp_path / f"{name}.safetensors", torch.float16) for name in ("style", "base")
    ]
    for checkpoint in odd:
        edited(checkpoint, lambda t: t.update({CONV_IN: torch.zeros(32, 12, 3, 3)}))
    with pytest.raises(ModelError, match=r"^the UNet of style has 12 input channels"):
        merge_models(inpaint, *odd, "mine", root)


@pytest.mark.parametrize("alpha", [0.0, float("nan"), float("inf")])
def test_an_alpha_that_is_no_amount_is_refused(alpha: float, folders: dict[str, Path], root: Path) -> None:
    """A typo costs a second, not the minute that a merge takes."""
    three = [Checkpoint(name, folder, "folder") for name, folder in folders.items()]
    with pytest.raises(RequestError, match=r"^alpha: must be a number such as 1 or 0\.7"):
        merge_models(*three, "mine", root, alpha=alpha)
    assert not root.exists()


def test_a_style_is_not_its_own_base(folders: dict[str, Path], root: Path) -> None:
    """Such a merge would change nothing, so it must be a mistake."""
    inpaint, style = (Checkpoint(name, folders[name], "folder") for name in ("inpaint", "style"))
    with pytest.raises(ModelError, match="both the style and the base"):
        merge_models(inpaint, style, style, "mine", root)


def test_models_that_predict_different_things_are_refused(
    folders: dict[str, Path], tmp_path: Path, root: Path
) -> None:
    """A v-prediction style added to a noise-predicting UNet paints mud."""
    style = as_folder(folders["style"], tmp_path / "style", torch.float32)
    path = style.path / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "prediction_type": "v_prediction"}))
    inpaint, base = (Checkpoint(name, folders[name], "folder") for name in ("inpaint", "base"))
    with pytest.raises(ModelError, match=r"predict different things .* style v_prediction, base epsilon"):
        merge_models(inpaint, style, base, "mine", root)


def test_a_taken_name_is_not_overwritten(folders: dict[str, Path], root: Path) -> None:
    """A merge never replaces another model, and says so before it reads one."""
    three = [Checkpoint(name, folder, "folder") for name, folder in folders.items()]
    merge_models(*three, "mine", root)
    before = (root / "mine" / ".inpaint-stamp.json").stat().st_mtime_ns
    with pytest.raises(ModelError, match="run: inpaint models remove mine"):
        merge_models(*three, "mine", root)
    assert (root / "mine" / ".inpaint-stamp.json").stat().st_mtime_ns == before
