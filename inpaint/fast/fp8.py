"""The UNet's large matrices in 8 bit: weights and activations as float8, products by the GPU's fp8 units.

Lossy: both factors keep 3 bits of mantissa, with a scale for each output channel and each token.
``bench/lossy.py`` measures the loss of quality. It pays only in compiled code, where quantising is fused into
the operation before it; run eagerly, it is several small kernels a layer.

Not converted, and why:

- attention itself: torch has no fp8 backend for it.
- the matrices into and out of each stack of transformer blocks: 2 % of SDXL's work, and on the demo model a
  fifth of the error.
- keys and values of the prompts: tiny, and the text encoders' embeddings have the largest outliers.
- time and size embeddings: one row a sample, nothing to gain.
- convolutions: torch has no fp8 kernel. As a product of matrices (im2col), a 3×3 one writes and reads nine
  times its input, which takes as long as what fp8 would save: 320 channels at 128² latent pixels and batch 2
  are 60 GFLOP, 38 µs less at twice 790 TFLOP/s, for 94 MB written and read again, 39 µs at 4.8 TB/s (data
  sheets, an H200). The 1×1 ones are 1 % of the UNet.

The original matrices are kept in the machine's main memory, 4 GB for SDXL, for LoRAs: most of what these add
is smaller than a step of 8 bit, and would be lost if added to a weight that is rounded already.
"""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import nn

from inpaint.gpu_errors import explained, first_line
from inpaint.memory import MemoryPlan

_FLOAT8 = torch.float8_e4m3fn
_LARGEST = torch.finfo(_FLOAT8).max  # 448
_MULTIPLE = 16  # both sides of a weight must be multiples of it, for the kernels
_TRIED, _TILE = 64, 256  # of the product that :func:`can` tries: its sides, its tokens
_CAPABILITY = (8, 9)  # Ada, the first with fp8 units
_EXACT = (".proj_in", ".proj_out", ".attn2.to_k", ".attn2.to_v")  # the last two also fused, as .attn2.to_kv


class Fp8Linear(nn.Module):
    """A linear layer whose product is taken in float8; input and output have the model's dtype."""

    weight: torch.Tensor  # (out, in), float8
    scale: torch.Tensor  # (1, out), fp32: weight × scale is the original weight
    bias: torch.Tensor | None  # (out,), bf16 as the kernel adds it
    one: torch.Tensor | None  # (), fp32: the kernel's scale where it takes only one for each matrix

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, *, by_row: bool = True) -> None:
        """Quantise ``weight`` (out, in); ``by_row``: the kernel takes a scale for each row and column."""
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self._original = _Kept(weight.detach().cpu())
        quantised, scale = quantise(weight)
        self.register_buffer("weight", quantised)
        self.register_buffer("scale", scale.t())
        self.register_buffer("bias", None if bias is None else bias.detach().to(torch.bfloat16))
        self.register_buffer("one", None if by_row else torch.ones((), device=weight.device))

    @property
    def original(self) -> torch.Tensor:
        """The weight (out, in) before quantising, in main memory."""
        return self._original.tensor

    def rewrite(self, weight: torch.Tensor) -> None:
        """Quantise ``weight`` (out, in), on the device, in place of the present one; no buffer moves."""
        quantised, scale = quantise(weight)
        self.weight.copy_(quantised)
        self.scale.copy_(scale.t())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (…, out) for (…, in). A token that is not finite becomes NaN; the other tokens do not."""
        tokens, scale = quantise(x.reshape(-1, self.in_features))
        if self.one is None:
            out = _product(tokens, self.weight, scale, self.scale, self.bias)
        else:
            # Scaled after the product, not by one scale for all tokens: that would make a picture depend on
            # its neighbours in the batch. bf16 holds the unscaled sums, at most 448² × 10240 = 2e9.
            out = _product(tokens, self.weight, self.one, self.one, None) * (scale * self.scale)
            out = out if self.bias is None else out + self.bias
        return out.to(x.dtype).reshape(*x.shape[:-1], self.out_features)

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Self:
        # A cast of the whole UNet (to fp32, for a row that gave NaN) must not cast these.
        kept = {name: buffer for name, buffer in self._buffers.items() if buffer is not None}
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, before in kept.items():
            after = self._buffers[name]
            assert after is not None
            if after.dtype != before.dtype:
                self._buffers[name] = before.to(after.device)
        return self

    def extra_repr(self) -> str:
        """Return the layer's sizes, for ``print(unet)``."""
        return f"in_features={self.in_features}, out_features={self.out_features}"


class _Kept:
    """A tensor that all copies of its module share, so that a copy in fp32 does not double it."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor

    def __deepcopy__(self, memo: object) -> Self:
        return self


def _product(
    tokens: torch.Tensor, weight: torch.Tensor, a: torch.Tensor, b: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """Return (n, out) in bf16 for float8 tokens (n, in) × ``a`` and a float8 weight (out, in) × ``b``."""
    # bf16 for every model dtype: the one that every torch and GPU takes with scales per row.
    return torch._scaled_mm(  # noqa: SLF001 - torch has no public name for it
        tokens, weight.t(), scale_a=a, scale_b=b, bias=bias, out_dtype=torch.bfloat16, use_fast_accum=True
    )


def quantise(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantise each row of ``x`` to float8 with a scale, so that ``quantised * scale`` is about ``x``.

    The error is at most 1/16 of each value, or 2e-6 of its row's largest if that is more.

    Args:
        x: (n, k) of any floating dtype.

    Returns:
        (n, k) float8 and (n, 1) fp32; the scale of a row of zeros is not zero.
    """
    scale = (x.abs().amax(dim=-1, keepdim=True).float() / _LARGEST).clamp_min(torch.finfo(torch.float32).tiny)
    return (x.float() / scale).to(_FLOAT8).contiguous(), scale


def convert(unet: nn.Module, *, by_row: bool = True) -> int:
    """Replace the large matrices of a UNet's transformer blocks, one by one, so that none is held twice.

    Args:
        unet: on the device of its memory plan; its weights must not be wrapped or hooked (see :func:`can`).
            Matrices that other optimizations fuse (query, key and value) must be fused before.
        by_row: see :func:`by_row`.

    Returns:
        The number of matrices replaced; 0 if none fits or all are converted already.
    """
    chosen = [name for name, module in unet.named_modules() if _fits(name, module)]
    for name in chosen:
        parent, _, attribute = name.rpartition(".")
        owner = unet.get_submodule(parent)
        linear = getattr(owner, attribute)
        # By key, because ModuleList and Sequential have no attribute "0" to set.
        made = Fp8Linear(linear.weight.detach(), linear.bias, by_row=by_row)
        owner._modules[attribute] = made  # noqa: SLF001
    return len(chosen)


def _fits(name: str, module: nn.Module) -> bool:
    if not isinstance(module, nn.Linear) or ".attentions." not in f".{name}":
        return False
    sides = (module.in_features, module.out_features)
    return not any(part in name for part in _EXACT) and all(side % _MULTIPLE == 0 for side in sides)


def can(device: torch.device, plan: MemoryPlan | None = None) -> str:
    """Return why this device or memory plan cannot use fp8, as part of a sentence; empty if it can."""
    if plan is not None and plan.unet != "resident":
        return f"fp8 products need the whole UNet on the device, and the memory plan is {plan.name}"
    if device.type == "cuda" and torch.version.hip is not None:
        return "fp8 products are untested on AMD's GPUs"
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < _CAPABILITY:
        return "fp8 products need a GPU of the RTX 40 series, L4, H100 or later"
    return _refused(device, by_row=True) and _refused(device, by_row=False)


def by_row(device: torch.device) -> bool:
    """Return whether the device's products take a scale for each row and column, or else one in all."""
    return not _refused(device, by_row=True)


def _refused(device: torch.device, *, by_row: bool) -> str:
    """Return why the device takes no fp8 products with these scales, as :func:`can`; empty if it takes them.

    Tried on the device itself: no table says which build has the kernel for which GPU. cuBLAS for the RTX 50
    series, for example, has refused scales by row.

    Raises:
        DeviceError: the attempt broke the device.
        OutOfMemoryError: there was no memory for the attempt.
    """
    weight = torch.eye(_TRIED, device=device)
    try:
        with explained("not enough memory for an fp8 product ({})"):
            layer = Fp8Linear(weight, None, by_row=by_row)
            # A kernel that reads beyond its input does so where the tokens are no multiple of its tile, 256.
            for tokens in (_TILE, _TILE - 102):
                x = torch.arange(tokens * _TRIED, device=device).reshape(tokens, _TRIED) % 97 - 48.0
                if not bool(((layer(x) - x).abs() <= x.abs() / 8).all()):  # waits, so that a failure is seen
                    return "its fp8 products are wrong"
    except (RuntimeError, ValueError) as error:
        return f"this build of torch has no fp8 product for it ({first_line(error)})"
    return ""
