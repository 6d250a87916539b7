"""Linear layers in fp32 through oneDNN, for large models on AMD's CPUs, where torch's own choice is slow.

torch sends them to MKL, which takes twice as long there (512 × 1280 × 1280: 16.4 against 7.9 ms on one thread
of an EPYC); on Intel's CPUs the two are equal. 16-bit layers go through oneDNN anyway. Small models keep MKL:
they gain little, and their pictures would change by a rounding.

The layers' weights stay as they are, unpacked: a LoRA that is merged into them counts with the next call.
"""

import torch
from torch import nn
from torch.nn import functional

from inpaint.cpu import maker
from inpaint.gpu_errors import first_line
from inpaint.model.load import Model

_SLOW_MKL = ("AuthenticAMD", "HygonGenuine")  # as /proc/cpuinfo calls the makers
_TOLERANCE = 1e-5  # of the product that is tried, relative; measured: 1e-6


class OneDnnLinear(nn.Linear):
    """A linear layer whose product in fp32 on a CPU is oneDNN's."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (…, out) for (…, in)."""
        if x.dtype != torch.float32 or x.device.type != "cpu":
            return super().forward(x)
        return _product(x, self.weight, self.bias)


def _product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    # torch has no public name for it; inductor's code for CPUs calls it, too.
    out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")  # noqa: SLF001
    return out


def can(model: Model) -> str:
    """Return why ``model`` gains nothing from it; empty if it gains."""
    if model.device.type != "cpu" or model.dtype != torch.float32:
        return "it is for fp32 on a CPU"
    if not model.is_large:
        return "a model of this size gains too little"
    if maker() not in _SLOW_MKL:
        return "MKL is as fast on this CPU"
    return _refused()


def _refused() -> str:
    """Return why this build of torch has no such product; empty if it has."""
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(64, 64, generator=generator) for _ in range(2))
    try:
        wrong = (_product(x, weight, None) - functional.linear(x, weight)).abs().max()
    except (RuntimeError, AttributeError) as error:
        return f"this build of torch has no oneDNN ({first_line(error)})"
    return "" if wrong <= _TOLERANCE * 64 else "oneDNN's products are wrong here"


def convert(unet: nn.Module) -> None:
    """Have every linear layer of a UNet use it, in place; their weights stay where they are."""
    for module in unet.modules():
        if type(module) is nn.Linear:
            module.__class__ = OneDnnLinear
