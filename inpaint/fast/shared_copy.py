"""A copy of a module that shares its weights."""

import copy
from typing import Any

from torch import nn


def shared_copy(module: Any) -> Any:
    """Return a copy of ``module`` and all its submodules that shares every parameter and buffer.

    It takes almost no memory. Changes to its modules, such as another ``forward``, do not show in the
    original, nor the other way round; writes into a tensor do. A tensor that later replaces another is not
    shared.
    """
    return _shared_copy(module, {})


def _shared_copy(module: nn.Module, made: dict[nn.Module, nn.Module]) -> nn.Module:
    if module in made:  # a module used in two places stays one
        return made[module]
    new = made[module] = copy.copy(module)
    for name in ("_parameters", "_buffers"):
        setattr(new, name, dict(getattr(module, name)))
    new._modules = {  # noqa: SLF001 - there is no public way to rebuild a tree
        name: None if child is None else _shared_copy(child, made)
        for name, child in module._modules.items()  # noqa: SLF001
    }
    return new
