"""The levers by name, which of them a model can have, and the way through its UNet with them.

A lever is **exact** (the same picture, to the rounding of another order of the same sums), **near** or
**lossy**; a lossy one is pulled only where it was asked for.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from inpaint.errors import RequestError
from inpaint.fast import attention, channels_last, qkv, text_kv
from inpaint.models import Model
from inpaint.unet import Forward, plain

Kind = Literal["exact", "near", "lossy"]


@dataclass(frozen=True, slots=True)
class Lever:
    """One way to make a UNet call quicker."""

    name: str
    kind: Kind
    does: str
    can: Callable[[Model], str]  # why a resident model cannot have it, or has nothing of it; empty if it can
    rewrites: bool = True  # changes modules, which the hooks of a memory plan forbid

    def why_not(self, model: Model) -> str:
        """Why ``model`` goes without it; empty where it can have it."""
        if self.rewrites and model.plan.unet != "resident":
            return f"the memory plan {model.plan.name} moves or casts the UNet's modules as they are"
        return self.can(model)


LEVERS: tuple[Lever, ...] = (
    Lever("channels-last", "exact", "convolutions in NHWC", channels_last.can),
    Lever("qkv", "exact", "queries, keys and values in one matrix product", qkv.can),
    Lever("text-kv", "exact", "the text's keys and values once a request", text_kv.can),
    Lever("attention", "exact", "cuDNN's attention first", attention.can, rewrites=False),
)
NAMES = tuple(lever.name for lever in LEVERS)


def choose(
    model: Model, without: frozenset[str] = frozenset(), *, wanted: frozenset[str] = frozenset()
) -> tuple[str, ...]:
    """The names of the levers for ``model``, in the order of the table.

    Args:
        model: may be one that has them already.
        without: levers to leave out.
        wanted: lossy levers to pull as well.

    Raises:
        RequestError: there is no such lever, or the model cannot have one that is wanted.
    """
    for field, names in (("without", without), ("wanted", wanted)):
        for name in sorted(names - set(NAMES)):
            raise RequestError(field, f"must be levers of {', '.join(NAMES)}, not {name!r}")
    chosen = []
    for lever in LEVERS:
        if lever.name in without or (lever.kind == "lossy" and lever.name not in wanted):
            continue
        reason = lever.why_not(model)
        if reason and lever.name in wanted:
            raise RequestError("wanted", f"{lever.name} is not possible here: {reason}")
        if not reason:
            chosen.append(lever.name)
    return tuple(chosen)


def ready(model: Model, levers: Sequence[str], *, slots: int = 16) -> Forward:
    """The way through a model's UNet with ``levers``, each of which it must be able to have.

    Rewrites the UNet's modules in place; diffusers can still call it as before, with the same result, but not
    save it or add a LoRA to it.

    Args:
        model: whose thread this is called in.
        levers: names, as from :func:`choose`.
        slots: of a UNet call, which levers that reserve memory have it for; larger calls go without them.
    """
    if "channels-last" in levers:
        channels_last.convert(model.unet)
    if "qkv" in levers:
        qkv.convert(model.unet)
    preferred = attention.Preferred()
    forward = plain(model.unet)
    if "attention" in levers:
        forward = attention.wrap(forward, preferred)
    if "channels-last" in levers:
        forward = channels_last.wrap(forward)
    if "text-kv" in levers:
        forward = text_kv.wrap(model.unet, model.dtype, forward, slots=slots)
    return forward
