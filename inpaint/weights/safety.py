"""Safety checks of a user's model folder before it is opened: safetensors only, known classes only, no code.

This module reads headers and JSON; it loads no weights and executes nothing.
"""

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from inpaint.errors import shown
from inpaint.weights.header import check_safetensors, read_json, refuse
from inpaint.weights.lock import CODE_SUFFIXES
from inpaint.weights.prediction import check_scheduler, settings_of_folder
from inpaint.weights.verify import walk

IN_CHANNELS = (4, 9)  # SDXL base and its fine-tunes; inpainting

# Pipelines whose UNet, VAE and text encoders are SDXL's, whatever they use besides.
PIPELINES = frozenset(
    f"StableDiffusionXL{kind}Pipeline"
    for kind in (
        "", "Inpaint", "Img2Img", "Adapter", "ControlNet", "ControlNetInpaint", "ControlNetImg2Img",
        "ControlNetUnion", "ControlNetUnionInpaint", "ControlNetUnionImg2Img", "PAG", "PAGInpaint",
        "PAGImg2Img", "ControlNetPAG", "ControlNetPAGImg2Img",
    )
)  # fmt: skip
# The accepted (library, class) of each component. The class of the scheduler is checked in ``prediction``.
COMPONENTS: Mapping[str, frozenset[tuple[str, str]]] = {
    "unet": frozenset({("diffusers", "UNet2DConditionModel")}),
    "vae": frozenset({("diffusers", "AutoencoderKL")}),
    "text_encoder": frozenset({("transformers", "CLIPTextModel")}),
    "text_encoder_2": frozenset({("transformers", "CLIPTextModelWithProjection")}),
    "tokenizer": frozenset({("transformers", "CLIPTokenizer"), ("transformers", "CLIPTokenizerFast")}),
    "tokenizer_2": frozenset({("transformers", "CLIPTokenizer"), ("transformers", "CLIPTokenizerFast")}),
}
# Components that are neither loaded nor copied: painting needs none of them.
LEFT_OUT = frozenset({"image_encoder", "feature_extractor", "controlnet", "adapter", "safety_checker"})
WEIGHT_STEMS: Mapping[str, str] = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
}
_NO_COMPONENT = "pag_applied_layers"  # the only other list that diffusers writes into an index
_LIBRARY_CLASS = re.compile(r"[A-Z][A-Za-z0-9_]*", re.ASCII)
_LIBRARIES = frozenset({"diffusers", "transformers", "controlnet", "stable_diffusion"})  # of what is left out
_SCHEDULER = re.compile(r"[A-Z][A-Za-z0-9]*Scheduler", re.ASCII)
# Keys of the UNet's configuration for inputs that it does not get here, which would change the picture
# silently.
_OTHER_INPUTS: Mapping[str, str] = {
    "time_cond_proj_dim": "takes the guidance scale as an input, as distilled LCM models do, and nothing "
    "here gives it; use the model that it was distilled from, with --few-step-lora",
    "encoder_hid_dim_type": "takes pictures as prompts (IP-Adapter), and nothing here gives it any",
    "class_embed_type": "takes a class as an input, which SDXL does not",
}


def check_folder(folder: Path, *, allow_pickles: bool = True, predicts: str | None = None) -> None:
    """Check that a folder is a diffusers SDXL model that may be opened and can be painted with.

    Args:
        folder: the folder with model_index.json.
        allow_pickles: whether pickles may lie next to safetensors weights. They are never opened.
        predicts: what the caller says that its UNet predicts, see ``prediction``.

    Raises:
        ModelError: a file or class is refused; the message names the first.
    """
    components = check_index(folder)  # first, so that a home folder given by mistake is not searched
    for name, _ in walk(folder):
        suffix = PurePosixPath(name).suffix.lower()
        if suffix in {".py", ".pyc", ".so"}:
            refuse(folder / name, "a model folder must not hold code; delete it if you do not need it")
        if suffix in CODE_SUFFIXES and not allow_pickles:
            refuse(folder / name, "pickles run code when opened; keep the .safetensors files only")
    for component in components:
        _check_config(folder, component)
        if component in WEIGHT_STEMS:
            for weights in find_weights(folder, component):
                check_safetensors(weights)
    settings_of_folder(folder, predicts)


def check_index(folder: Path) -> tuple[str, ...]:
    """Read the components that ``model_index.json`` names, and check their classes.

    Returns:
        The components that are used; those of ``LEFT_OUT`` are not among them.

    Raises:
        ModelError: there is no such file, a class is unknown, or SDXL's components are incomplete.
    """
    path = folder / "model_index.json"
    if not path.is_file():
        refuse(folder, _no_index(folder))
    index = read_json(path)
    pipeline = index.get("_class_name")
    if not isinstance(pipeline, str) or pipeline not in PIPELINES:
        refuse(path, f"_class_name {shown(pipeline)} is not a pipeline of SDXL that is known here")
    present = _present(index)
    for name, pair in present.items():
        if not _is_known(name, pair):
            refuse(path, f"{name} is of the unknown class {'.'.join(map(str, pair))}")
    if missing := {*COMPONENTS, "scheduler"} - set(present):
        refuse(path, f"the component {min(missing)} is missing")
    check_scheduler(path, {}, present["scheduler"][1])
    return tuple(sorted(set(present) - LEFT_OUT))


def left_out(folder: Path) -> tuple[str, ...]:
    """Return the components of a checked folder that are neither loaded nor copied."""
    return tuple(sorted(LEFT_OUT & set(_present(read_json(folder / "model_index.json")))))


def find_weights(folder: Path, component: str) -> tuple[Path, ...]:
    """List the safetensors files of ``component``: in full, fp16 or bf16, whole and sharded.

    Raises:
        ModelError: there are none.
    """
    stem = WEIGHT_STEMS[component]
    pattern = re.compile(
        rf"{stem}(\.(fp16|bf16))?(-\d{{5}}-of-\d{{5}})?(\.(fp16|bf16))?\.safetensors", re.ASCII
    )
    files = sorted((folder / component).glob("*"))
    found = [path for path in files if pattern.fullmatch(path.name)]
    if not found and (others := [path.name for path in files if path.suffix == ".safetensors"]):
        refuse(
            folder / component,
            f"there is no {stem}.safetensors; {others[0]} has a name that is not read here",
        )
    if not found:
        refuse(folder / component, f"there is no {stem}.safetensors; pickled weights are not accepted")
    return tuple(found)


def variant_of(file: Path) -> str:
    """Return the variant of a weight file: ``fp16``, ``bf16``, or "" for the file in full precision."""
    return next((variant for variant in ("fp16", "bf16") if f".{variant}" in file.name), "")


def pick_variant(files: tuple[Path, ...]) -> str:
    """Return the variant of a component to load: ``fp16``, which is half as large, else "", else ``bf16``."""
    variants = {variant_of(file) for file in files}
    return next(variant for variant in ("fp16", "", "bf16") if variant in variants)


def check_in_channels(path: Path, in_channels: object) -> None:
    """Raise a ``ModelError`` naming ``path`` unless a UNet has 4 or 9 input channels."""
    if type(in_channels) is not int or in_channels not in IN_CHANNELS:
        refuse(path, f"its UNet has {in_channels} input channels; 9 (inpainting) or 4 (SDXL base) would do")


def _no_index(folder: Path) -> str:
    """Return why a folder without model_index.json is no model, with the folder to name if it is near."""
    for found in sorted(folder.glob("snapshots/*/model_index.json")):  # of a Hugging Face cache
        return f"it is a cache of several versions of a model; name one, such as {found.parent}"
    return "there is no model_index.json, so it is not a diffusers model folder"


def _present(index: Mapping[str, Any]) -> dict[str, list[Any]]:
    components = {
        name: pair for name, pair in index.items() if isinstance(pair, list) and name != _NO_COMPONENT
    }
    return {name: pair for name, pair in components.items() if any(part is not None for part in pair)}


def _is_known(name: str, pair: list[Any]) -> bool:
    if len(pair) != 2 or not all(isinstance(part, str) for part in pair):
        return False
    if name == "scheduler":
        return pair[0] == "diffusers" and _SCHEDULER.fullmatch(pair[1]) is not None
    if name in LEFT_OUT:
        return pair[0] in _LIBRARIES and _LIBRARY_CLASS.fullmatch(pair[1]) is not None
    return (pair[0], pair[1]) in COMPONENTS.get(name, frozenset())


def _check_config(folder: Path, component: str) -> None:
    """Check a component's configuration: it asks for no custom code, and its UNet is one of SDXL's kind."""
    for path in sorted((folder / component).glob("*config.json")):
        if "auto_map" in read_json(path):
            refuse(path, "auto_map asks for code of its own, which is not run")
    if component == "unet":
        path = folder / "unet" / "config.json"
        config = read_json(path)
        check_in_channels(path, config.get("in_channels"))
        for key, what in _OTHER_INPUTS.items():
            if config.get(key) is not None:
                refuse(path, f"{key}: its UNet {what}")
        check_sample_size(path, config.get("sample_size"))


def check_sample_size(path: Path, sample_size: object) -> None:
    """Raise a ``ModelError`` naming ``path`` unless a UNet's size is one or two whole numbers, or absent."""
    sides = sample_size if isinstance(sample_size, list) and len(sample_size) == 2 else [sample_size]
    if sample_size is not None and not all(type(side) is int and 1 <= side <= 1024 for side in sides):
        refuse(path, f"sample_size must be a whole number or a height and a width, not {shown(sample_size)}")
