"""A second tree of module objects over the same weights."""

import copy
from typing import Any

from torch import nn


def shared_copy(module: Any) -> Any:
    """``module`` anew, down to its last part, sharing every parameter and buffer: no memory to speak of.

    What is done to its modules (their ``forward`` replaced) does not show in the original, nor the other way
    round; what is written into a tensor does. A tensor put in place of another later is not shared.
    """
    return _shared_copy(module, {})


def _shared_copy(module: nn.Module, made: dict[nn.Module, nn.Module]) -> nn.Module:
    if module in made:  # the same part in two places stays one
        return made[module]
    new = made[module] = copy.copy(module)
    for name in ("_parameters", "_buffers"):
        setattr(new, name, dict(getattr(module, name)))
    new._modules = {  # noqa: SLF001 - there is no public way to rebuild a tree
        name: None if child is None else _shared_copy(child, made)
        for name, child in module._modules.items()  # noqa: SLF001
    }
    return new
