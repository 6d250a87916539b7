"""LoRAs as forward hooks: a layer's output plus that of scale · ΔW, as in training.

They serve modules whose weights cannot be written to (memory plans move or cast them) or that run too rarely
for merging to pay (text encoders). The weights do not change, so removing a LoRA is exact. Every layer that a
LoRA can change is linear in its weight and its bias, so that a change of either is an output of its own.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.hooks import RemovableHandle

from inpaint.lora.changes import Change, LowRank, by_slot

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
        for (module, tensor), parts in by_slot(scaled).items():
            whole = slice(0, len(getattr(module, tensor)))
            assert all(change.layer.rows == whole for _, change in parts), (
                "no optimization joined these layers"
            )
            self._hooks.append(module.register_forward_hook(self._adds(tensor, parts)))

    @contextmanager
    def using(self, scaled: Scaled) -> Iterator[None]:
        """Use these LoRAs for the length of the block."""
        try:
            self.use(scaled)
            yield
        finally:
            self.use(())

    def _adds(self, tensor: str, parts: Sequence[tuple[float, Change]]) -> "_Adds":
        products, others = [], []
        for scale, change in parts:
            if isinstance(change, LowRank):
                up, down = (matrix.to(self._device, self._dtype) for matrix in (change.up, change.down))
                products.append((scale * change.factor, up, down))
            else:
                others.append((scale, change.to(self._device)))
        return _Adds(tensor, products, others)


def adapted(module: Any) -> bool:
    """Return whether a LoRA is in use on ``module`` or a module in it."""
    hooks = (hook for part in module.modules() for hook in part._forward_hooks.values())  # noqa: SLF001
    return any(isinstance(hook, _Adds) for hook in hooks)


_Product = tuple[float, torch.Tensor, torch.Tensor]  # scale, up (out, rank), down (rank, in · kh · kw)


class _Adds:
    """A forward hook that adds the outputs of one tensor's changes."""

    def __init__(
        self, tensor: str, products: Sequence[_Product], others: Sequence[tuple[float, Change]]
    ) -> None:
        self._tensor = tensor
        self._products = products
        self._others = others

    def __call__(self, module: Any, given: tuple[torch.Tensor, ...], out: torch.Tensor) -> torch.Tensor:
        for scale, up, down in self._products:
            # Cast, since a copy of the module in fp32 has the same hook.
            out = out + scale * _through(module, given[0], up.to(out.dtype), down.to(out.dtype))
        if not self._others:
            return out
        change = self._sum(module, out.device).to(out.dtype)
        if self._tensor == "bias":
            channels_first = isinstance(module, nn.Conv2d | nn.GroupNorm)
            return out + (change.reshape(-1, *[1] * (out.ndim - 2)) if channels_first else change)
        return out + _with_weight(module, given[0], change)

    def _sum(self, module: Any, device: torch.device) -> torch.Tensor:
        """Return Σ scale · ΔW in fp32; not kept, since for a whole UNet it is as large as the UNet."""
        # Where a memory plan keeps the tensor: the plan has taken it from the device again.
        original = getattr(module, self._tensor).detach().to(device, torch.float32)
        total = torch.zeros_like(original)
        for scale, change in self._others:
            change.add_to(total, original, scale)
        return total


def _through(module: Any, x: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    if isinstance(module, nn.Linear):
        return F.linear(F.linear(x, down), up)
    kernel = down.reshape(len(down), *module.weight.shape[1:])
    hidden = F.conv2d(x, kernel, stride=module.stride, padding=module.padding, dilation=module.dilation)
    return F.conv2d(hidden, up[:, :, None, None])


def _with_weight(module: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Return what a layer without a bias would give with another weight."""
    if isinstance(module, nn.GroupNorm):
        return F.group_norm(x, module.num_groups, weight, None, module.eps)
    if isinstance(module, nn.LayerNorm):
        return F.layer_norm(x, module.normalized_shape, weight, None, module.eps)
    if isinstance(module, nn.Conv2d):
        return F.conv2d(x, weight, None, module.stride, module.padding, module.dilation, module.groups)
    return F.linear(x, weight)
