"""Check of a single file's tensors and shapes against SDXL's configurations.

Without it the loaders fail half-way, with an error about meta tensors. torch and diffusers are imported
inside functions.
"""

from pathlib import Path
from typing import Any

from inpaint.weights.header import read_json, refuse
from inpaint.weights.key_names import FIRST, PREFIX_IN_FOLDERS, SECOND, UNET, VAE, Piece, pieces_of_file
from inpaint.weights.tensors import read_layout


def check_fits(path: Path, configs: Path) -> None:
    """Check that a single file has every tensor of the models that ``configs`` describe, in its shape.

    Args:
        path: a ``.safetensors`` file that :func:`~inpaint.weights.detect.check_single_file` accepts.
        configs: a diffusers folder with the configurations; its weights are not read.

    Raises:
        ModelError: a tensor is missing or has another shape; the message names the first.
    """
    pieces = [piece for pieces in pieces_of_file(read_layout(path)).values() for piece in pieces]
    for component in (UNET, VAE, FIRST, SECOND):
        own = {piece.name: piece for piece in pieces if piece.component == component}
        if own:
            _check(path, own, _shapes(configs, component, own))


def _check(path: Path, own: dict[str, Piece], expected: dict[str, tuple[int, ...]]) -> None:
    component = next(iter(own.values())).component
    if missing := [name for name in expected if name not in own]:
        refuse(
            path,
            f"it lacks {len(missing)} of the {len(expected)} tensors of SDXL's {component}, first "
            f"{missing[0]}: a damaged file, or a smaller relative of SDXL that does not work here",
        )
    for name, shape in expected.items():
        if (found := own[name].stored.shape) != shape:
            refuse(path, f"{component}: {name} has the shape {found} where SDXL has {shape}")


def _shapes(configs: Path, component: str, own: dict[str, Piece]) -> dict[str, tuple[int, ...]]:
    import torch

    with torch.device("meta"):
        module = _build(read_json(configs / component / "config.json"), component, own)
    prefix = PREFIX_IN_FOLDERS[component]
    return {name.removeprefix(prefix): tuple(p.shape) for name, p in module.named_parameters()}


def _build(config: Any, component: str, own: dict[str, Piece]) -> Any:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

    if component == UNET:
        channels = own["conv_in.weight"].stored.shape[1]
        return UNet2DConditionModel.from_config({**config, "in_channels": channels})
    if component == VAE:
        return AutoencoderKL.from_config(config)
    cls = CLIPTextModel if component == FIRST else CLIPTextModelWithProjection
    return cls(CLIPTextConfig(**config))
