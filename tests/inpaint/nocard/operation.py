"""One operation of torch: what it reads, writes and makes, and whether the CPU waits for its result."""

from collections.abc import Iterable
from typing import Any, NamedTuple, Self

import torch

# Operations whose result the CPU needs: a number, or a shape that depends on numbers.
WAITING = (
    "_local_scalar_dense",
    "item",
    "is_nonzero",
    "nonzero",
    "masked_select",
    "equal",
    "unique",
    "_unique2",
)
RANDOM = ("rand", "normal", "bernoulli", "multinomial", "uniform", "exponential")


class Signature(NamedTuple):
    """What the schema of an operation says."""

    reads: bool  # not only its arguments' shapes
    written: tuple[tuple[int, str], ...]  # positions and names of the arguments that it writes
    waits: bool
    random: bool


_SIGNATURES: dict[Any, Signature] = {}


def signature(func: Any) -> Signature:
    """Return what the schema of an operation says."""
    known = _SIGNATURES.get(func)
    if known is None:
        schema = func._schema
        name = schema.name.removeprefix("aten::")
        written = tuple(
            (i, argument.name)
            for i, argument in enumerate(schema.arguments)
            if argument.alias_info is not None and argument.alias_info.is_write
        )
        reads = not name.startswith("new_") and not name.endswith("_like")
        known = _SIGNATURES[func] = Signature(reads, written, name in WAITING, name.startswith(RANDOM))
    return known


def tensors_in(values: Iterable[Any]) -> list[torch.Tensor]:
    """Return the tensors among arguments."""
    found: list[torch.Tensor] = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += [item for item in value if isinstance(item, torch.Tensor)]
    return found


class Operation(NamedTuple):
    """An operation that has run."""

    writes: list[torch.Tensor]
    made: list[torch.Tensor]  # results with memory of their own
    waits: bool
    reads: bool
    moves: bool  # gives a tensor other memory
    view: bool  # the result is only another way to see an input

    @classmethod
    def of(
        cls, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], inputs: list[torch.Tensor], result: Any
    ) -> Self:
        """Describe an operation."""
        known = signature(func)
        writes = tensors_in(args[i] if i < len(args) else kwargs.get(name) for i, name in known.written)
        results = tensors_in(result if isinstance(result, list | tuple) else (result,))
        held = {tensor.untyped_storage()._cdata for tensor in inputs}
        made = [tensor for tensor in results if tensor.untyped_storage()._cdata not in held]
        view = bool(results) and not writes and not made
        return cls(writes, made, known.waits, known.reads, func._schema.name == "aten::set_", view)
