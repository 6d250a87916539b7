"""Merging of another model's style into an inpainting model, for ``inpaint models merge``.

result = inpaint + alpha · (style − base), where ``base`` is the model that the style was tuned from: the
changes of the tuning are added to a UNet that understands masks. AUTOMATIC1111's checkpoint merger calls it
"add difference". Tensors are read, added in fp32, rounded once and written in blocks, so that 7 GB need
little memory.
"""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from inpaint.errors import ModelError, RequestError
from inpaint.weights.complete import config
from inpaint.weights.import_model import choose, written
from inpaint.weights.install import Chunk, Content, check_name, copy_of, install
from inpaint.weights.key_names import VAE, Piece
from inpaint.weights.merge_plan import (
    MERGED,
    MergePlan,
    VaeOf,
    merge_plan_for,
    pieces_in,
    settings_of,
    weight_files,
)
from inpaint.weights.prediction import SCHEDULER_FILE, SINGLE_FILE, kept
from inpaint.weights.store import Checkpoint
from inpaint.weights.tensors import FLOATS, bytes_of, header_of, read_layout
from inpaint.weights.verify import Progress

if TYPE_CHECKING:
    import torch

_EMA = "model_ema."  # a second copy of the UNet, which would no longer belong to the first


@dataclass(frozen=True, slots=True)
class Merged:
    """The result of a merge."""

    folder: Path
    kept: tuple[str, ...]  # components that the style lacks, taken unchanged from the inpainting model


def merge_models(
    inpaint: Checkpoint,
    style: Checkpoint,
    base: Checkpoint,
    name: str,
    root: Path,
    *,
    alpha: float = 1.0,
    vae: VaeOf = "inpaint",
    predicts: str | None = None,
    progress: Progress | None = None,
) -> Merged:
    """Write inpaint + alpha · (style − base) to ``root/name``, in the layout and the dtypes of ``inpaint``.

    The UNet and the text encoders are merged. Of the UNet's first convolution, only the channels of the
    latents change, since the style has no mask channels.

    Args:
        inpaint: the inpainting model, with 9 input channels.
        style: the model tuned from ``base``; a single file may lack the text encoders, which are then kept.
        base: the model that ``style`` was tuned from.
        name: the new model's name: lower-case letters, digits and ``. _ -``.
        root: the models folder.
        alpha: how much of the style is added; 1 is all of it.
        vae: the model whose VAE the result gets; VAEs are never mixed.
        predicts: what all three predict, one of ``PREDICTIONS``; None: as they say themselves.
        progress: called with the file's path, bytes written and bytes in all.

    Raises:
        ModelError: the three do not go together (the message names the tensor), or the name is taken.
        RequestError: alpha is not finite, or 0.
        FetchError: the disk could not be written.
    """
    if not math.isfinite(alpha) or alpha == 0:
        raise RequestError("alpha", f"must be a number such as 1 or 0.7, not {alpha!r}")
    check_name(name, root)
    contents = choose(inpaint.path, predicts)
    if inpaint.kind == "file":  # the marks in its metadata are not kept
        contents |= written(SCHEDULER_FILE, kept(settings_of(inpaint, predicts)))
    plan = merge_plan_for(inpaint, style, base, alpha=alpha, vae=vae, predicts=predicts)
    for file in weight_files(inpaint):
        component = file.parent.name if inpaint.kind == "folder" else ""
        if not component or component in plan.changed:
            path = file.relative_to(inpaint.path).as_posix() if component else SINGLE_FILE
            contents[path] = _merged_file(file, component, plan)
    if vae == "style" and inpaint.kind == "folder":
        contents["vae/config.json"] = _vae_config(inpaint, style)
    with _one_thread():
        folder = install(contents, name, root, progress)
    return Merged(folder, tuple(part for part in MERGED if part not in plan.merged))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Limit torch to one thread: a merge waits for the disk, and torch's threads spin while they wait."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _vae_config(inpaint: Checkpoint, style: Checkpoint) -> Content:
    if style.kind == "folder":
        return copy_of(style.path / "vae" / "config.json")
    return config(inpaint.path, VAE, force_upcast=True)  # a single file does not say if it can do without


def _merged_file(file: Path, component: str, plan: MergePlan) -> Content:
    """Return one weight file of the result: the tensors of ``file``, changed in merged components."""
    pieces = {name: found for name, found in pieces_in(file, component).items() if not name.startswith(_EMA)}
    layout = read_layout(file)
    # Wide elements first, as safetensors writes them: a reader may insist on aligned tensors.
    tensors = {name: layout[name] for name in sorted(pieces, key=lambda name: -layout[name].element_bytes)}
    header = header_of(tensors, {"format": "pt", "inpaint.merge": _provenance(plan)})

    def chunks() -> Iterator[Chunk]:
        yield header
        for name, stored in tensors.items():
            if any(piece.component in plan.changed for piece in pieces[name]):
                for piece in pieces[name]:
                    yield from _changed(piece, plan)
            else:
                yield from stored.data()

    return Content(len(header) + sum(stored.size_bytes for stored in tensors.values()), chunks)


def _provenance(plan: MergePlan) -> str:
    names = {"inpaint": plan.inpaint.name, "style": plan.style.name, "base": plan.base.name}
    return json.dumps({**names, "alpha": plan.alpha, "vae": plan.vae})


def _changed(piece: Piece, plan: MergePlan) -> Iterator[Chunk]:
    """Yield the bytes of a piece of the result, in the file's order."""
    import torch

    own = piece.stored
    dtype = getattr(torch, FLOATS[own.dtype])
    for start, stop in own.blocks():
        exact = _exact(piece, plan, start, stop)
        rounded = exact.to(dtype)
        low, high = exact.aminmax()  # 25 times as quick as isfinite; NaN is in no range
        if not torch.finfo(dtype).min <= low <= high <= torch.finfo(dtype).max:
            _check_finite(piece, plan, exact, rounded)
        yield bytes_of(rounded.T if own.transposed else rounded)


def _exact(piece: Piece, plan: MergePlan, start: int, stop: int) -> "torch.Tensor":
    """Compute rows of a piece of the result, in fp32."""
    change = plan.styled[piece.place].stored.read(start, stop).float()
    if piece.component not in plan.merged:
        return change
    # In place: the tensors were just read for this, and new memory costs more than the arithmetic.
    change -= plan.based[piece.place].stored.read(start, stop).float()
    change *= plan.alpha
    exact = piece.stored.read(start, stop).float()
    # The first convolution has 9 input channels here and 4 in a style without mask channels.
    common = exact[:, : change.shape[1]] if change.ndim > 1 else exact
    common += change
    return exact


def _check_finite(piece: Piece, plan: MergePlan, exact: "torch.Tensor", rounded: "torch.Tensor") -> None:
    if rounded.isfinite().all():
        return
    if exact.isfinite().all():
        raise ModelError(
            f"{plan.style.name} is too strong: {piece} leaves the range of {piece.stored.dtype}; choose a "
            "smaller --alpha"
        )
    raise ModelError(f"one of the three models is damaged: {piece} would hold NaN or infinite values")
