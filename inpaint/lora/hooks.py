"""LoRAs as forward hooks: a layer's output plus scale · up(down(input)), as in training.

They serve modules whose weights cannot be written to (memory plans move or cast them) or that run too rarely
for merging to pay (text encoders). The weights do not change, so removing a LoRA is exact.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.hooks import RemovableHandle

from inpaint.lora.match import Change

Scaled = Sequence[tuple[float, Sequence[Change]]]  # scales, and the changes at a scale of 1


class LoraHooks:
    """The forward hooks of the LoRAs that are in use."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        """Start with no LoRA in use.

        Args:
            device: the device that the layers compute on.
            dtype: the type that they compute in.
        """
        self._device = device
        self._dtype = dtype
        self._hooks: list[RemovableHandle] = []

    def use(self, scaled: Scaled) -> None:
        """Use these LoRAs in place of the previous ones; an empty sequence leaves the plain layers."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        parts = self._by_module(scaled)
        self._hooks = [module.register_forward_hook(_Adds(added)) for module, added in parts.items()]

    @contextmanager
    def using(self, scaled: Scaled) -> Iterator[None]:
        """Use these LoRAs for the length of the block."""
        try:
            self.use(scaled)
            yield
        finally:
            self.use(())

    def _by_module(self, scaled: Scaled) -> dict[Any, list["_Part"]]:
        parts: dict[Any, list[_Part]] = {}
        for scale, changes in scaled:
            for change in changes:
                module = change.layer.module
                assert change.layer.rows.stop == module.weight.shape[0], "no optimization joined these layers"
                up, down = (matrix.to(self._device, self._dtype) for matrix in (change.up, change.down))
                parts.setdefault(module, []).append((scale * change.factor, up, down))
        return parts


_Part = tuple[float, torch.Tensor, torch.Tensor]  # scale, up (out, rank), down (rank, in · kh · kw)


def adapted(module: Any) -> bool:
    """Return whether a LoRA is in use on ``module`` or a module in it."""
    hooks = (hook for part in module.modules() for hook in part._forward_hooks.values())  # noqa: SLF001
    return any(isinstance(hook, _Adds) for hook in hooks)


class _Adds:
    """A forward hook that adds the outputs of one layer's LoRAs."""

    def __init__(self, parts: Sequence[_Part]) -> None:
        self._parts = parts

    def __call__(self, module: Any, given: tuple[torch.Tensor, ...], out: torch.Tensor) -> torch.Tensor:
        for scale, up, down in self._parts:
            # Cast, since a copy of the module in fp32 has the same hook.
            out = out + scale * _hooked(module, given[0], up.to(out.dtype), down.to(out.dtype))
        return out


def _hooked(module: Any, x: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    if isinstance(module, nn.Linear):
        return F.linear(F.linear(x, down), up)
    kernel = down.reshape(len(down), *module.weight.shape[1:])
    hidden = F.conv2d(x, kernel, stride=module.stride, padding=module.padding, dilation=module.dilation)
    return F.conv2d(hidden, up[:, :, None, None])
