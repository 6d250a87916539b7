"""The two naming schemes of SDXL's tensors: Stability AI's original code (single files), diffusers (folders).

A tensor's place here is its component and its name in diffusers, for text encoders without ``text_model.``.
One tensor of a single file has one place, or three where the second text encoder holds q, k and v in one.
Source: diffusers' ``loaders/single_file_utils.py``, which the tests compare with.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from inpaint.weights.tensors import Stored

UNET, VAE, FIRST, SECOND = "unet", "vae", "text_encoder", "text_encoder_2"
# Of whole checkpoints; of ComfyUI's UNets alone; of a UNet that was cut out.
UNET_PREFIXES = ("model.diffusion_model.", "diffusion_model.", "")
_BARE_UNET = ("input_blocks.", "middle_block.", "output_blocks.", "out.", "time_embed.", "label_emb.")
PREFIXES: Mapping[str, tuple[str, ...]] = {
    UNET: (*UNET_PREFIXES[:2], *_BARE_UNET),
    VAE: ("first_stage_model.", "vae."),
    FIRST: ("conditioner.embedders.0.transformer.text_model.",),
    SECOND: ("conditioner.embedders.1.model.",),
}
PREFIX_IN_FOLDERS: Mapping[str, str] = {UNET: "", VAE: "", FIRST: "text_model.", SECOND: "text_model."}
_PROJECTION = "text_projection.weight"  # outside ``text_model`` in diffusers; transposed in single files

_UNET_ENDS: Mapping[str, str] = {
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "label_emb.0.0": "add_embedding.linear_1",
    "label_emb.0.2": "add_embedding.linear_2",
    "input_blocks.0.0": "conv_in",
    "out.0": "conv_norm_out",
    "out.2": "conv_out",
}
_UNET_RESNET: Mapping[str, str] = {
    "in_layers.0": "norm1",
    "in_layers.2": "conv1",
    "emb_layers.1": "time_emb_proj",
    "out_layers.0": "norm2",
    "out_layers.3": "conv2",
    "skip_connection": "conv_shortcut",
}
_VAE_ATTENTION: Mapping[str, str] = {
    "norm": "group_norm",
    "q": "to_q",
    "k": "to_k",
    "v": "to_v",
    "proj_out": "to_out.0",
}
_SECOND_ENDS: Mapping[str, str] = {
    "positional_embedding": "embeddings.position_embedding.weight",
    "token_embedding.weight": "embeddings.token_embedding.weight",
    "ln_final.weight": "final_layer_norm.weight",
    "ln_final.bias": "final_layer_norm.bias",
}
_SECOND_LAYER: Mapping[str, str] = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}


@dataclass(frozen=True, slots=True)
class Piece:
    """A tensor by its name in diffusers, and where it is stored."""

    component: str
    name: str
    stored: Stored

    @property
    def place(self) -> tuple[str, str]:
        """The component and name by which the same tensor is found in another checkpoint."""
        return self.component, self.name

    def __str__(self) -> str:
        return f"{self.component}: {self.name}"


def pieces_of_file(layout: Mapping[str, Stored]) -> dict[str, tuple[Piece, ...]]:
    """Return the pieces that each tensor of a single-file checkpoint holds; none for EMA and buffers."""
    per_block = _stages_per_block(layout)
    levels = 1 + max((int(found[1]) for name in layout if (found := _LEVEL.fullmatch(name))), default=0)
    found_pieces: dict[str, tuple[Piece, ...]] = {}
    for name, stored in layout.items():
        component, rest = _split(name)
        places: Iterator[tuple[str, Stored]] = iter(())
        if component == UNET:
            places = _one(_unet(rest, per_block), stored)
        elif component == VAE:
            place = _vae(rest, levels)  # single files store its attention as 1×1 convolutions
            places = _one(place, stored.squeezed() if ".attentions." in place else stored)
        elif component == FIRST:
            places = _one(_text(rest), stored)
        elif component == SECOND:
            places = _second(rest, stored)
        found_pieces[name] = tuple(Piece(component, place, part) for place, part in places)
    return found_pieces


def pieces_of_component(component: str, layout: Mapping[str, Stored]) -> dict[str, tuple[Piece, ...]]:
    """Return the piece that each tensor in a weight file of a diffusers folder holds."""
    prefix = PREFIX_IN_FOLDERS[component]
    return {
        name: tuple(
            Piece(component, place, part)
            for place, part in _one(_text(name.removeprefix(prefix)) if prefix else name, stored)
        )
        for name, stored in layout.items()
    }


def name_in_folder(piece: Piece) -> str:
    """Return the name of a piece in a diffusers folder."""
    return piece.name if piece.name == _PROJECTION else PREFIX_IN_FOLDERS[piece.component] + piece.name


# Numbers of at most three digits, since a stranger's file may hold any number.
_LEVEL = re.compile(r"(?:first_stage_model|vae)\.decoder\.up\.(\d{1,3})\..*")
_DOWNSAMPLER = re.compile(r"(?:(?:model\.)?diffusion_model\.)?input_blocks\.(\d{1,3})\.0\.op\.weight")
_STAGE = re.compile(r"(input|output)_blocks\.(\d{1,3})\.(\d{1,3})\.(.+)")
_MIDDLE = re.compile(r"middle_block\.(\d{1,3})\.(.+)")
_VAE_LEVEL = re.compile(r"(down|up)\.(\d{1,3})\.(?:block\.(\d{1,3})|(?:down|up)sample)\.(.+)")
_VAE_MIDDLE = re.compile(r"mid\.block_(\d{1,3})\.(.+)")


def _stages_per_block(layout: Mapping[str, Stored]) -> int:
    """Count the entries of ``input_blocks`` in one block: its layers and the downsampler that ends it."""
    ends = [int(found[1]) for name in layout if (found := _DOWNSAMPLER.fullmatch(name))]
    return min(ends, default=len(layout) + 1)


def _split(name: str) -> tuple[str, str]:
    for component, prefixes in PREFIXES.items():
        for prefix in prefixes:
            if name.startswith(prefix):
                return component, name if prefix in _BARE_UNET else name.removeprefix(prefix)
    return "", name


def _one(place: str, stored: Stored) -> Iterator[tuple[str, Stored]]:
    if place:
        yield place, stored


def _renamed(name: str, table: Mapping[str, str]) -> str:
    """Replace the beginning of ``name`` as the table says; return "" if the table has no such beginning."""
    for theirs, ours in table.items():
        if name.startswith(f"{theirs}."):
            return ours + name.removeprefix(theirs)
    return ""


def _unet(name: str, per_block: int) -> str:
    if end := _renamed(name, _UNET_ENDS):
        return end
    if middle := _MIDDLE.fullmatch(name):
        layer, tail = int(middle[1]) // 2, middle[2]
        if int(middle[1]) % 2:
            return f"mid_block.attentions.{layer}.{tail}"
        return f"mid_block.resnets.{layer}.{_renamed(tail, _UNET_RESNET) or tail}"
    stage = _STAGE.fullmatch(name)
    if stage is None:
        return ""
    side, index, column, tail = stage.groups()
    block, layer = divmod(int(index) - (side == "input"), per_block)
    where = f"{'down' if side == 'input' else 'up'}_blocks.{block}"
    if tail.startswith("op."):
        return f"{where}.downsamplers.0.conv.{tail.removeprefix('op.')}"
    if tail.startswith("conv."):
        return f"{where}.upsamplers.0.{tail}"
    if column == "1":
        return f"{where}.attentions.{layer}.{tail}"
    return f"{where}.resnets.{layer}.{_renamed(tail, _UNET_RESNET) or tail}"


def _vae(name: str, levels: int) -> str:
    if name.startswith(("quant_conv.", "post_quant_conv.")):
        return name
    side, _, rest = name.partition(".")
    if side not in ("encoder", "decoder"):
        return ""
    rest = rest.replace("nin_shortcut", "conv_shortcut")
    if found := _VAE_LEVEL.fullmatch(rest):
        block = int(found[2]) if found[1] == "down" else levels - 1 - int(found[2])  # counted from the end
        what = f"{found[1]}samplers.0" if found[3] is None else f"resnets.{found[3]}"
        return f"{side}.{found[1]}_blocks.{block}.{what}.{found[4]}"
    if found := _VAE_MIDDLE.fullmatch(rest):
        return f"{side}.mid_block.resnets.{int(found[1]) - 1}.{found[2]}"
    if rest.startswith("mid.attn_1."):
        tail = rest.removeprefix("mid.attn_1.")
        return f"{side}.mid_block.attentions.0.{_renamed(tail, _VAE_ATTENTION) or tail}"
    return f"{side}.{_renamed(rest, {'norm_out': 'conv_norm_out'}) or rest}"


def _text(name: str) -> str:
    return "" if name.endswith("position_ids") else name  # a buffer of older transformers


def _second(name: str, stored: Stored) -> Iterator[tuple[str, Stored]]:
    if name == "text_projection":
        yield _PROJECTION, stored.transpose()
    elif name in _SECOND_ENDS:
        yield _SECOND_ENDS[name], stored
    elif found := re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+)", name):
        layer, tail = f"encoder.layers.{found[1]}", found[2]
        if fused := re.fullmatch(r"attn\.in_proj_(weight|bias)", tail):
            for index, part in enumerate("qkv"):
                yield f"{layer}.self_attn.{part}_proj.{fused[1]}", stored.third(index)
        elif inner := _renamed(tail, _SECOND_LAYER):
            yield f"{layer}.{inner}", stored
