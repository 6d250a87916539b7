"""Formulas of what LoRA files hold: the change ΔW that their tensors make to a weight W, at a scale of 1.

All tensors are fp32. W is (out, in) of a linear layer, or (out, in, kh, kw) of a convolution; r is the rank.
A formula returns ΔW in the shape of W, or flattened to (out, in · kh · kw). :mod:`inpaint.lora.formats` says
which of them alpha scales.
"""

import torch

Tensor = torch.Tensor


def lora(up: Tensor, down: Tensor) -> Tensor:
    """Return up · down, of LoRA and of LoCon.

    Source: Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models", 2021. For convolutions, as in
    LyCORIS (Yeh et al., 2023), ``down`` has the kernel.

    Args:
        up: (out, r) or (out, r, 1, 1).
        down: (r, in) or (r, in, kh, kw).
    """
    return up.flatten(1) @ down.flatten(1)


def tucker(core: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return a Tucker-2 product, the low-rank form of a kernel.

    Source: Kim et al., "Compression of Deep Convolutional Neural Networks for Fast and Low Power Mobile
    Applications", 2016; LyCORIS' ``use_tucker``.

    Args:
        core: (r, r, kh, kw).
        a: (r, out).
        b: (r, in).
    """
    return torch.einsum("mn...,mo,ni->oi...", core, a, b)


def loha(first: Tensor, second: Tensor) -> Tensor:
    """Return the Hadamard product of two low-rank matrices or kernels.

    Source: Hyeon-Woo et al., "FedPara: Low-Rank Hadamard Product for Communication-Efficient Federated
    Learning", 2022.
    """
    return first * second


def lokr(first: Tensor, second: Tensor) -> Tensor:
    """Return the Kronecker product of a small matrix and a matrix or kernel.

    Source: Edalati et al., "KronA: Parameter Efficient Tuning with Kronecker Adapter", 2022; LyCORIS.

    Args:
        first: (out₁, in₁).
        second: (out₂, in₂) or (out₂, in₂, kh, kw), where out = out₁ · out₂ and in = in₁ · in₂.
    """
    # torch.kron refuses the strides that a Tucker product has.
    return torch.kron(first.reshape(*first.shape, *[1] * (second.ndim - 2)), second.contiguous())


def glora(weight: Tensor, a1: Tensor, a2: Tensor, b: Tensor) -> Tensor:
    """Return W · a₁ · a₂ + b, a change of the layer's input and one of its output.

    Source: Chavan et al., "One-for-All: Generalized LoRA for Parameter-Efficient Fine-tuning", 2023.

    Args:
        weight: W.
        a1: (in, r).
        a2: (r, in).
        b: (out, in · kh · kw), a low-rank product of its own.
    """
    through = torch.einsum("oi...,ir,rj->oj...", weight, a1, a2)
    return through + b.reshape(weight.shape)


def ia3(weight: Tensor, vector: Tensor, *, on_input: bool) -> Tensor:
    """Return W with each input or output channel scaled by ``vector``, which is 0 where nothing changes.

    Source: Liu et al., "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context
    Learning", 2022; LyCORIS stores the factor less 1.
    """
    axis = int(on_input)
    assert_length(vector, weight.shape[axis])
    return weight * vector.reshape(*[1] * axis, -1, *[1] * (weight.ndim - 1 - axis))


def oft(weight: Tensor, blocks: Tensor, limit: float, rescale: Tensor | None = None) -> Tensor:
    """Return what orthogonal matrices, one for each block of output channels, change.

    Source: Qiu et al., "Controlling Text-to-Image Diffusion by Orthogonal Finetuning", 2023; LyCORIS'
    diag-OFT, kohya's OFT.

    Args:
        weight: W.
        blocks: (n, b, b), where out = n · b.
        limit: the largest norm of the skew matrices; 0 for none.
        rescale: (out, 1, …), a factor for each output channel.
    """
    turned = weight.reshape(*blocks.shape[:2], *weight.shape[1:])
    turned = torch.einsum("knm,kn...->km...", _cayley(blocks, limit), turned).flatten(0, 1)
    return (turned if rescale is None else turned * rescale) - weight


def boft(weight: Tensor, blocks: Tensor, limit: float, rescale: Tensor | None = None) -> Tensor:
    """Return what a butterfly of orthogonal matrices changes: m sparse rotations of the output channels.

    Source: Liu et al., "Parameter-Efficient Orthogonal Finetuning via Butterfly Factorization", 2024; the
    order of the channels is LyCORIS'.

    Args:
        weight: W.
        blocks: (m, n, b, b), where out = n · b.
        limit: the largest norm of the skew matrices; 0 for none.
        rescale: (out, 1, …), a factor for each output channel.
    """
    turned, block, rest = weight, blocks.shape[-1], weight.shape[1:]
    for i, rotation in enumerate(_cayley(blocks, limit)):
        stride = 2**i * (block // 2)
        turned = turned.reshape(-1, 2, stride, *rest).transpose(1, 2).reshape(-1, block, *rest)
        turned = torch.einsum("kij,kj...->ki...", rotation, turned)
        turned = turned.reshape(-1, stride, 2, *rest).transpose(1, 2).reshape(weight.shape)
    return (turned if rescale is None else turned * rescale) - weight


def _cayley(blocks: Tensor, limit: float) -> Tensor:
    """Return orthogonal matrices (…, b, b) by the Cayley transform of skew ones, (I + Q) (I − Q)⁻¹."""
    skew = blocks - blocks.transpose(-1, -2)
    if limit > 0:
        skew = skew * (limit / skew.norm().clamp_min(limit))
    eye = torch.eye(blocks.shape[-1], device=blocks.device)
    inverse: Tensor = torch.linalg.inv(eye - skew)
    return (eye + skew) @ inverse


def dora(weight: Tensor, delta: Tensor, magnitude: Tensor) -> Tensor:
    """Return the change from W to W + ΔW with each channel's norm set to ``magnitude``.

    Source: Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation", 2024.

    Args:
        weight: W.
        delta: ΔW, of any other formula.
        magnitude: (out, 1, …), as PEFT has it, or (1, in, 1, …), as OneTrainer and LyCORIS without
            ``wd_on_output`` have it.
    """
    channel = 0 if magnitude.shape[0] == weight.shape[0] else 1
    assert_length(magnitude, weight.shape[channel])
    others = [axis for axis in range(weight.ndim) if axis != channel]
    turned = weight + delta
    norm: Tensor = torch.linalg.vector_norm(turned, dim=others, keepdim=True)
    # LyCORIS adds the same, for channels of zeros; others feel it less than fp32's rounding.
    return turned * (magnitude / (norm + torch.finfo(torch.float32).eps)) - weight


def assert_length(vector: Tensor, length: int) -> None:
    """Raise a ``ValueError`` if a vector has not one entry for each channel; it would be broadcast."""
    if vector.numel() != length:
        raise ValueError(f"{vector.numel()} entries for {length} channels")
