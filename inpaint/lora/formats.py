"""Formats of LoRA files: a layer's tensors in each, its rank, and the formula that turns them into ΔW."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch

from inpaint.lora import formulas

Tensors = Mapping[str, torch.Tensor]  # of one layer, by role: see ``inpaint.lora.names``
COMMON = frozenset(
    {"alpha", "scalar", "dora_scale", "magnitude", "diff_b", "up_bias"}
)  # any format may have them


@dataclass(frozen=True, slots=True)
class Format:
    """One way to store the change of a weight."""

    name: str
    roles: frozenset[str]
    delta: Callable[[Tensors, torch.Tensor], torch.Tensor]  # of the tensors in fp32, and W
    rank: Callable[[Tensors], int | None] = lambda tensors: None  # None: the shapes do not say
    scaled: bool = True  # by alpha / rank


def format_of(roles: Iterable[str]) -> Format | None:
    """Return the format of a layer with tensors of these roles; None if it has none of a weight's change.

    Raises:
        ValueError: there are tensors of two formats; the message names them.
    """
    found = [each for each in FORMATS if each.roles.intersection(roles)]
    if len(found) > 1:
        raise ValueError(f"tensors of {found[0].name} and of {found[1].name}")
    return found[0] if found else None


def _lora(t: Tensors, weight: torch.Tensor) -> torch.Tensor:
    if "mid" in t:
        return formulas.tucker(t["mid"], t["up"].flatten(1).t(), t["down"].flatten(1))
    return formulas.lora(t["up"], t["down"])


def _loha(t: Tensors, weight: torch.Tensor) -> torch.Tensor:
    if "hada_t1" in t or "hada_t2" in t:
        first = formulas.tucker(t["hada_t1"], t["hada_w1_a"], t["hada_w1_b"])
        return formulas.loha(first, formulas.tucker(t["hada_t2"], t["hada_w2_a"], t["hada_w2_b"]))
    return formulas.loha(t["hada_w1_a"] @ t["hada_w1_b"], t["hada_w2_a"] @ t["hada_w2_b"])


def _lokr(t: Tensors, weight: torch.Tensor) -> torch.Tensor:
    first = t["lokr_w1"] if "lokr_w1" in t else t["lokr_w1_a"] @ t["lokr_w1_b"]
    if "lokr_w2" in t:
        return formulas.lokr(first, t["lokr_w2"])
    a, b = t["lokr_w2_a"], t["lokr_w2_b"]
    if "lokr_t2" in t:
        return formulas.lokr(first, formulas.tucker(t["lokr_t2"], a, b))
    # b is (r, in₂) or (r, in₂ · kh · kw): a kernel is flat here, and is given its shape again.
    return formulas.lokr(first, (a @ b.flatten(1)).reshape(len(a), -1, *weight.shape[2:]))


def _lokr_rank(t: Tensors) -> int | None:
    return next((len(t[role]) for role in ("lokr_w1_b", "lokr_w2_b") if role in t), None)


def _glora(t: Tensors, weight: torch.Tensor) -> torch.Tensor:
    if "bm" in t:
        b = formulas.tucker(t["bm"], t["b1"].flatten(1).t(), t["b2"].flatten(1))
    else:
        b = formulas.lora(t["b1"], t["b2"])
    return formulas.glora(weight, t["a1"].flatten(1), t["a2"].flatten(1), b)


def _ia3(t: Tensors, weight: torch.Tensor) -> torch.Tensor:
    return formulas.ia3(weight, t["weight"], on_input=t["on_input"].item() != 0)


def _oft(t: Tensors, weight: torch.Tensor) -> torch.Tensor:
    blocks = t["oft_blocks"]
    # LyCORIS and kohya store the limit in place of an alpha, for each output channel.
    limit = t["alpha"].item() * len(weight) if "alpha" in t else 0.0
    formula = formulas.boft if blocks.ndim == 4 else formulas.oft
    return formula(weight, blocks, limit, t.get("rescale"))


def _full(t: Tensors, weight: torch.Tensor) -> torch.Tensor:
    return t["diff"]


LORA = Format("LoRA", frozenset({"up", "down", "mid"}), _lora, lambda t: len(t["down"]))
FORMATS = (
    LORA,
    Format(
        "LoHa",
        frozenset({"hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2"}),
        _loha,
        lambda t: len(t["hada_w1_b"]),
    ),
    Format(
        "LoKr",
        frozenset({"lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2"}),
        _lokr,
        _lokr_rank,
    ),
    Format("GLoRA", frozenset({"a1", "a2", "b1", "b2", "bm"}), _glora, lambda t: len(t["a2"])),
    Format("IA3", frozenset({"weight", "on_input"}), _ia3, scaled=False),
    Format("OFT", frozenset({"oft_blocks", "rescale"}), _oft, scaled=False),
    Format("full difference", frozenset({"diff"}), _full, scaled=False),
)
