"""The plan of a merge, inpaint + alpha · (style − base), checked against the three checkpoints' headers."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from inpaint.errors import ModelError
from inpaint.weights.import_model import needed
from inpaint.weights.key_names import FIRST, SECOND, UNET, VAE, Piece, pieces_of_component, pieces_of_file
from inpaint.weights.prediction import settings_of_file, settings_of_folder
from inpaint.weights.safety import IN_CHANNELS
from inpaint.weights.store import Checkpoint
from inpaint.weights.tensors import FLOATS, read_layout

MERGED = (UNET, FIRST, SECOND)
_CONV_IN = (UNET, "conv_in.weight")

Pieces = Mapping[tuple[str, str], Piece]
VaeOf = Literal["inpaint", "style"]


@dataclass(frozen=True, slots=True)
class MergePlan:
    """The three checkpoints of a merge, and what is done with each component."""

    inpaint: Checkpoint
    style: Checkpoint
    base: Checkpoint
    styled: Pieces  # of ``style``
    based: Pieces  # of ``base``
    merged: frozenset[str]  # components that the formula applies to
    vae: VaeOf
    alpha: float

    @property
    def changed(self) -> frozenset[str]:
        """The components that differ from the inpainting model's own."""
        return self.merged | ({VAE} if self.vae == "style" else frozenset())


def merge_plan_for(
    inpaint: Checkpoint,
    style: Checkpoint,
    base: Checkpoint,
    *,
    alpha: float,
    vae: VaeOf,
    predicts: str | None = None,
) -> MergePlan:
    """Check that three models can be merged, and return the plan.

    Args:
        inpaint: the inpainting model, with 9 input channels.
        style: the model tuned from ``base``.
        base: the model that ``style`` was tuned from.
        alpha: how much of the style is added; 1 is all of it.
        vae: the model whose VAE the result gets.
        predicts: what all three predict, if the caller says so, see ``prediction``.

    Raises:
        ModelError: they do not go together; the message names the tensor.
    """
    if style.path.resolve() == base.path.resolve():
        raise ModelError(f"{style.name} is both the style and the base, so nothing would change")
    own, styled, based = _pieces(inpaint), _pieces(style), _pieces(base)
    _check_channels((inpaint, own), (style, styled), (base, based))
    if predicts is None:
        _check_prediction(inpaint, style, base)
    merged = frozenset(part for part in MERGED if any(component == part for component, _ in styled))
    plan = MergePlan(inpaint, style, base, styled, based, merged, vae, alpha)
    for piece in own.values():
        if piece.component in plan.changed:
            _check_fits(piece, inpaint, style, styled)
        if piece.component in merged:
            _check_fits(piece, inpaint, base, based)
    if extra := [p for p in styled.values() if p.component in merged and p.place not in own]:
        raise ModelError(f"{style.name} cannot be merged: it has {extra[0]}, and {inpaint.name} has not")
    return plan


def weight_files(checkpoint: Checkpoint) -> list[Path]:
    """List the files that hold a checkpoint's tensors."""
    if checkpoint.kind == "file":
        return [checkpoint.path]
    return [path for path in needed(checkpoint.path) if path.suffix == ".safetensors"]


def pieces_in(file: Path, component: str) -> dict[str, tuple[Piece, ...]]:
    """Return the pieces of each tensor in a file; ``component`` is "" for a single-file checkpoint."""
    layout = read_layout(file)
    return pieces_of_component(component, layout) if component else pieces_of_file(layout)


def _pieces(checkpoint: Checkpoint) -> Pieces:
    found: dict[tuple[str, str], Piece] = {}
    for file in weight_files(checkpoint):
        component = file.parent.name if checkpoint.kind == "folder" else ""
        found |= {piece.place: piece for pieces in pieces_in(file, component).values() for piece in pieces}
    return found


def _check_channels(*three: tuple[Checkpoint, Pieces]) -> None:
    channels = []
    for checkpoint, pieces in three:
        if _CONV_IN not in pieces:
            raise ModelError(f"{checkpoint.name} cannot be merged: it has no {_CONV_IN[0]}: {_CONV_IN[1]}")
        shape = pieces[_CONV_IN].stored.shape
        channels.append(shape[1] if len(shape) == 4 else 0)
    inpaint, style, base = (checkpoint.name for checkpoint, _ in three)
    if channels[0] != 9:
        raise ModelError(
            f"{inpaint} is no inpainting model: its UNet has {channels[0]} input channels instead of 9; the "
            "inpainting model comes first, then the style"
        )
    if channels[1] != channels[2] or channels[1] not in IN_CHANNELS:
        raise ModelError(
            f"the UNet of {style} has {channels[1]} input channels and that of {base} has {channels[2]}; "
            "--base must be the model that the style was tuned from"
        )


def settings_of(checkpoint: Checkpoint, predicts: str | None = None) -> Mapping[str, object]:
    """Return what a checkpoint tells the samplers: a folder's configuration, or a file's changes to SDXL's.

    Raises:
        ModelError: no sampler here can paint with it, or it contradicts itself.
    """
    if checkpoint.kind == "folder":
        return settings_of_folder(checkpoint.path, predicts)
    return settings_of_file(checkpoint.path, told=predicts)


def _check_prediction(*three: Checkpoint) -> None:
    kinds = [str(settings_of(checkpoint).get("prediction_type", "epsilon")) for checkpoint in three]
    if len(set(kinds)) > 1:
        pairs = ", ".join(f"{c.name} {kind}" for c, kind in zip(three, kinds, strict=True))
        raise ModelError(
            f"these models predict different things and cannot be merged: {pairs}; if one is marked wrongly "
            "or not at all, say what all three predict with --predicts"
        )


def _check_fits(piece: Piece, inpaint: Checkpoint, other: Checkpoint, pieces: Pieces) -> None:
    found = pieces.get(piece.place)
    if found is None:
        raise ModelError(f"{other.name} cannot be merged: it has no {piece}")
    ours, theirs = piece.stored.shape, found.stored.shape
    if piece.place == _CONV_IN:  # its channels were compared already
        ours, theirs = (ours[0], *ours[2:]), (theirs[0], *theirs[2:])
    if ours != theirs:
        raise ModelError(
            f"{other.name} cannot be merged: {piece} has the shape {found.stored.shape}, and in "
            f"{inpaint.name} {piece.stored.shape}"
        )
    for checkpoint, stored in ((inpaint, piece.stored), (other, found.stored)):
        if stored.dtype not in FLOATS:
            raise ModelError(
                f"{checkpoint.name} cannot be merged: {piece} is stored as {stored.dtype}, too coarse for a "
                "difference; bring the fp16 file of the same model"
            )
