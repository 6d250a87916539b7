"""What is compiled of a UNet, and in which order.

Calls of the first number of slots, 2 for one guided picture, come first: the repeated blocks for every size,
which takes seconds each, then the whole UNet for the frequent sizes, which takes minutes. The other numbers
of slots wait until the engine is idle: whole for the frequent sizes, the blocks alone for the rest. Of calls
that keep the deepest level or bring it only the blocks are compiled, which other calls have, too.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from inpaint.batching.work import Bucket
from inpaint.fast.shapes import Shape, native, usual
from inpaint.model.load import Model

STAGES = ("regional", "whole")


@dataclass(frozen=True, slots=True, eq=False)
class Round:
    """Shapes that are compiled one after the other in one way."""

    stage: str  # of STAGES
    shapes: tuple[Shape, ...]
    idle: bool = False  # only while no calls come


def rounds_of(
    model: Model,
    buckets: Sequence[Bucket],
    often: int,
    slots: Sequence[int],
    text_width: int | None,
    stages: Sequence[str],
    levels: Sequence[str] = (),
) -> list[Round]:
    """Return the rounds of a model, in order; none is empty.

    Args:
        model: the model whose UNet is compiled.
        buckets: latent sizes, the most frequent first; the native square if empty.
        often: how many of them are frequent.
        slots: numbers of slots, the most urgent first.
        text_width: width of the calls' text embeddings; 0 under ``text-kv``, the model's own if None.
        stages: the stages to use, of ``STAGES``.
        levels: the kinds of calls that keep the deepest level or bring it, of ``LEVELS``.
    """
    sizes = list(buckets) or [native(model)]
    frequent = sizes[:often] if "whole" in stages else []
    others = [bucket for bucket in sizes if bucket not in frequent]

    def made(
        stage: str,
        buckets: Sequence[Bucket],
        slots: Sequence[int],
        levels: Sequence[str] = ("",),
        *,
        idle: bool = False,
    ) -> Round:
        shapes = tuple(
            usual(model, bucket, n, text_width, level)
            for level in levels
            for bucket in buckets
            for n in slots
        )
        return Round(stage, shapes if stage in stages else (), idle)

    first, later = slots[:1], slots[1:]
    rounds = (
        made("regional", sizes, first, ("", *levels)),
        made("whole", frequent, first),
        made("whole", frequent, later, idle=True),
        made("regional", others, later, idle=True),
        made("regional", sizes, later, levels, idle=True),
    )
    return [each for each in rounds if each.shapes]
