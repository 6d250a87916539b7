"""A Triton kernel that holds two matrices of 64 KB each in shared memory, more than RTX cards have."""

import torch
import triton
import triton.language as tl

SIDE = 128


@triton.jit
def _product(a, b, c, side: tl.constexpr):  # noqa: ANN001, ANN202 - Triton reads annotations itself
    row = tl.arange(0, side)
    places = row[:, None] * side + row[None, :]
    tl.store(c + places, tl.dot(tl.load(a + places), tl.load(b + places)))


def product(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    out = torch.empty_like(a, dtype=torch.float32)
    _product[(1,)](a, b, out, side=SIDE, num_warps=8)
    return out
