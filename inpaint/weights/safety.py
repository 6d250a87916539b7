"""Safety checks of a user's checkpoint before it is opened: safetensors only, known classes only, no code.

This module reads headers and JSON; it loads no weights and executes nothing.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from inpaint.errors import ModelError
from inpaint.weights.lock import CODE_SUFFIXES
from inpaint.weights.verify import walk

MAX_HEADER_BYTES = 10_000_000  # SDXL's is 0.4 MB; more is an attempt to exhaust the JSON parser
IN_CHANNELS = (4, 9)  # SDXL base and its fine-tunes; inpainting

PIPELINES = frozenset(
    {"StableDiffusionXLInpaintPipeline", "StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline"}
)
# The accepted (library, class) of each component. Of schedulers, every one of diffusers is accepted.
COMPONENTS: Mapping[str, frozenset[tuple[str, str]]] = {
    "unet": frozenset({("diffusers", "UNet2DConditionModel")}),
    "vae": frozenset({("diffusers", "AutoencoderKL")}),
    "text_encoder": frozenset({("transformers", "CLIPTextModel")}),
    "text_encoder_2": frozenset({("transformers", "CLIPTextModelWithProjection")}),
    "tokenizer": frozenset({("transformers", "CLIPTokenizer"), ("transformers", "CLIPTokenizerFast")}),
    "tokenizer_2": frozenset({("transformers", "CLIPTokenizer"), ("transformers", "CLIPTokenizerFast")}),
}
WEIGHT_STEMS: Mapping[str, str] = {
    "unet": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
    "text_encoder_2": "model",
}
_SCHEDULER = re.compile(r"[A-Z][A-Za-z0-9]*Scheduler", re.ASCII)
# torch.save's zip, and bare pickles of protocol 2 to 5. A safetensors header of 0x380 bytes also starts with
# 80 03, so the length decides as well: a pickle's first eight bytes, read as one, are above 10^16.
_PICKLE_MAGIC = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")


def check_safetensors(path: Path) -> Mapping[str, Any]:
    """Read the header of a ``.safetensors`` file: tensor name → dtype, shape, data_offsets.

    Raises:
        ModelError: it is no safetensors file (for example a renamed pickle), or it is truncated.
    """
    if path.suffix.lower() != ".safetensors":
        refuse(path, f"{path.suffix or 'a file without a suffix'} is not accepted, only .safetensors is")
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if start.startswith(_PICKLE_MAGIC) and length > MAX_HEADER_BYTES:
                refuse(path, "it is a pickle under a safetensors name; pickles run code when opened")
            if len(start) < 8 or not 2 <= length <= min(MAX_HEADER_BYTES, size - 8):
                refuse(path, "it is not a safetensors file, or it is truncated")
            header = json.loads(file.read(length))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: its safetensors header is not valid JSON") from error
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from error
    if not isinstance(header, dict):
        refuse(path, "its safetensors header is not a JSON object")
    _check_length(path, header, size - 8 - length)
    return header


def check_folder(folder: Path, *, allow_pickles: bool = True) -> None:
    """Check that a folder is a diffusers SDXL model that may be opened.

    Args:
        folder: the folder with model_index.json.
        allow_pickles: whether pickles may lie next to safetensors weights. They are never opened.

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


def check_index(folder: Path) -> tuple[str, ...]:
    """Read the components that ``model_index.json`` names, and check their classes.

    Raises:
        ModelError: there is no such file, a class is unknown, or SDXL's components are incomplete.
    """
    path = folder / "model_index.json"
    if not path.is_file():
        refuse(folder, "there is no model_index.json, so it is not a diffusers model folder")
    index = read_json(path)
    pipeline = index.get("_class_name")
    if not isinstance(pipeline, str) or pipeline not in PIPELINES:
        refuse(path, f"_class_name {pipeline!r} is none of {', '.join(sorted(PIPELINES))}")
    components = {name: pair for name, pair in index.items() if isinstance(pair, list)}
    present = {name: pair for name, pair in components.items() if any(part is not None for part in pair)}
    for name, pair in present.items():
        if not _is_known(name, pair):
            refuse(path, f"{name} is of the unknown class {'.'.join(map(str, pair))}")
    if missing := {*COMPONENTS, "scheduler"} - set(present):
        refuse(path, f"the component {min(missing)} is missing")
    return tuple(sorted(present))


def find_weights(folder: Path, component: str) -> tuple[Path, ...]:
    """List the safetensors files of ``component``: fp16 and full, whole and sharded.

    Raises:
        ModelError: there are none.
    """
    stem = WEIGHT_STEMS[component]
    pattern = re.compile(rf"{stem}(\.fp16)?(-\d{{5}}-of-\d{{5}})?(\.fp16)?\.safetensors", re.ASCII)
    found = [path for path in sorted((folder / component).glob("*")) if pattern.fullmatch(path.name)]
    if not found:
        refuse(folder / component, f"there is no {stem}.safetensors; pickled weights are not accepted")
    return tuple(found)


def check_in_channels(path: Path, in_channels: object) -> None:
    """Raise a ``ModelError`` naming ``path`` unless a UNet has 4 or 9 input channels."""
    if type(in_channels) is not int or in_channels not in IN_CHANNELS:
        refuse(path, f"its UNet has {in_channels} input channels; 9 (inpainting) or 4 (SDXL base) would do")


def read_json(path: Path) -> Mapping[str, Any]:
    """Read a JSON object from a model's folder.

    Raises:
        ModelError: it cannot be read or is no object.
    """
    try:
        document = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path}: is not valid JSON") from error
    if not isinstance(document, dict):
        refuse(path, "is not a JSON object")
    return document


def refuse(path: Path, why: str) -> NoReturn:
    """Raise the ModelError that says why ``path`` is not accepted."""
    raise ModelError(f"{path}: {why}")


def _check_length(path: Path, header: Mapping[str, Any], data_bytes: int) -> None:
    """Check that the last tensor ends where the file ends; this finds a truncated file without reading it."""
    end = 0
    for name, tensor in header.items():
        if name == "__metadata__":
            continue
        offsets = tensor.get("data_offsets") if isinstance(tensor, dict) else None
        if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(o) is int for o in offsets):
            refuse(path, f"its safetensors header describes {name!r} wrongly")
        end = max(end, offsets[1])
    if end != data_bytes:
        refuse(path, f"it holds {data_bytes} bytes of tensors where its header says {end}: truncated?")


def _is_known(name: str, pair: list[Any]) -> bool:
    if len(pair) != 2 or not all(isinstance(part, str) for part in pair):
        return False
    if name == "scheduler":
        return pair[0] == "diffusers" and _SCHEDULER.fullmatch(pair[1]) is not None
    return (pair[0], pair[1]) in COMPONENTS.get(name, frozenset())


def _check_config(folder: Path, component: str) -> None:
    """Check a component's configuration: it asks for no custom code, and the UNet's channels are right."""
    for path in sorted((folder / component).glob("*config.json")):
        if "auto_map" in read_json(path):
            refuse(path, "auto_map asks for code of its own, which is not run")
    if component == "unet":
        path = folder / "unet" / "config.json"
        check_in_channels(path, read_json(path).get("in_channels"))
