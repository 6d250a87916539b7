"""Parts of full-size SDXL as our optimizations leave them, and three pieces of code that are wrong."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, UNet2DConditionModel

from inpaint.fast import channels_last, cross_attention_cache, fp8, fused_qkv
from inpaint.model.unet import UNetBatch, plain
from tests.inpaint.nocard.lowering.card import CUDA
from tests.inpaint.nocard.lowering.lower import Lowering
from tools.full_size.make import UNET, VAE

HALF = torch.float16
SLOTS = 2  # one guided row
Part = Callable[[Lowering], dict[str, Any]]


def flash_attention(q: Any, k: Any, v: Any, attn_mask: Any = None, *_: Any, **__: Any) -> Any:
    """Compute attention by the kernel that a card would choose; torch asks the card itself otherwise."""
    if attn_mask is not None:
        return torch.ops.aten._scaled_dot_product_efficient_attention(q, k, v, attn_mask, False)[0]
    return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, 0.0, False, False)[0]


def half(*size: int) -> torch.Tensor:
    return torch.empty(*size, device=CUDA, dtype=HALF)


def nhwc(*size: int) -> torch.Tensor:
    return half(*size).contiguous(memory_format=torch.channels_last)


def _on_card(module: Any) -> Any:
    """Replace a module's meta tensors by fake ones on the card, with their layout."""
    for part in module.modules():
        for tensors in (part._parameters, part._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    made = torch.empty_strided(tensor.shape, tensor.stride(), device=CUDA, dtype=tensor.dtype)
                    tensors[name] = torch.nn.Parameter(made, False) if tensors is part._parameters else made
    return module.eval().requires_grad_(False)


def _built(cls: Any, settings: Any) -> Any:
    with torch._subclasses.fake_tensor.unset_fake_temporarily(), torch.device("meta"):
        # NHWC while on meta: torch cannot exchange the tensors of fake modules.
        module = torch.nn.Module.to(cls(**settings), HALF)
        channels_last.convert(module)
    return _on_card(module)


@cache
def unet(*, eight_bit: str = "", whole: bool = False) -> tuple[Any, Any]:
    """Return SDXL's UNet as ``fast.optimizations`` converts it, and its forward pass.

    Unless it is compiled as a whole, each stack of transformer blocks has one: those after it are alike.
    """
    F.scaled_dot_product_attention = flash_attention
    depth = {} if whole else {"transformer_layers_per_block": (1, 1, 1)}
    made = _built(UNet2DConditionModel, {"in_channels": 9, **UNET, **depth})
    fused_qkv.convert(made)
    if eight_bit:
        fp8.convert(made, by_row=eight_bit == "by row")
    return made, cross_attention_cache.wrap(made, HALF, channels_last.wrap(plain(made)), slots=16)


@cache
def vae() -> Any:
    F.scaled_dot_product_attention = flash_attention
    return _built(AutoencoderKL, VAE)


def transformer(lower: Lowering) -> dict[str, Any]:
    """A transformer block with its norm and projections; the text's keys and values are in buffers."""
    module = unet()[0].down_blocks[1].attentions[0]
    return lower(module, nhwc(SLOTS, 640, 64, 64), half(SLOTS, 77, 0), return_dict=False)


def resnet(lower: Lowering) -> dict[str, Any]:
    """A ResNet block: GroupNorm, SiLU, convolution, twice, and a shortcut."""
    return lower(unet()[0].down_blocks[1].resnets[0], nhwc(SLOTS, 320, 64, 64), half(SLOTS, 1280))


def down(lower: Lowering) -> dict[str, Any]:
    return lower(unet()[0].down_blocks[0].downsamplers[0], nhwc(SLOTS, 320, 128, 128))


def up(lower: Lowering) -> dict[str, Any]:
    return lower(unet()[0].up_blocks[0].upsamplers[0], nhwc(SLOTS, 1280, 32, 32))


def fp8_block(lower: Lowering, scales: str = "by row") -> dict[str, Any]:
    """A transformer block whose large matrices are in 8 bit, with a scale for each row."""
    block = unet(eight_bit=scales)[0].down_blocks[1].attentions[0].transformer_blocks[0]
    return lower(block, half(SLOTS, 4096, 640), encoder_hidden_states=half(SLOTS, 77, 0))


def fp8_block_one_scale(lower: Lowering) -> dict[str, Any]:
    """The same with one scale for each matrix, as for cards that refuse one for each row."""
    return fp8_block(lower, "by matrix")


def vae_mid(lower: Lowering) -> dict[str, Any]:
    return lower(vae().decoder.mid_block, nhwc(1, 512, 128, 128))


def vae_up(lower: Lowering) -> dict[str, Any]:
    return lower(vae().decoder.up_blocks[2], nhwc(1, 512, 512, 512))


def whole_unet(lower: Lowering) -> dict[str, Any]:
    """The UNet of one guided row at 1024², as the compile thread compiles it."""
    made, forward = unet(whole=True)
    batch = UNetBatch(
        sample=half(SLOTS, 9, 128, 128),
        timesteps=torch.empty(SLOTS, device=CUDA),
        hidden=half(SLOTS, 77, 2048),
        keep=None,
        pooled=half(SLOTS, 1280),
        time_ids=half(SLOTS, 6),
        prompts=(object(), object()),
    )
    inner, found = made.forward, {}

    def compiled(*args: Any, **kwargs: Any) -> Any:
        found.update(lower(inner, *args, **kwargs))
        return (half(SLOTS, 4, 128, 128),)

    made.forward = compiled
    forward(batch)
    return found


def fp32_product(lower: Lowering) -> dict[str, Any]:
    """A matrix product in fp32, to be reported."""
    return lower(lambda x, w: (x.float() @ w.float()).half(), half(64, 64), half(64, 64))


def transposed(lower: Lowering) -> dict[str, Any]:
    """A picture that leaves NHWC, to be reported."""
    return lower(lambda x: x.contiguous() + 1, nhwc(2, 64, 64, 64))


def greedy(lower: Lowering) -> dict[str, Any]:
    """A kernel that asks for more shared memory than RTX cards have, to be reported."""
    from tests.inpaint.nocard.lowering.greedy_kernel import SIDE, product

    return lower(product, *torch.empty(2, SIDE, SIDE, device=CUDA))


_BLOCKS = (transformer, resnet, down, up, fp8_block, fp8_block_one_scale, vae_mid, vae_up)
_WRONG = (fp32_product, transposed, greedy)
PARTS: dict[str, Part] = {part.__name__: part for part in (*_BLOCKS, whole_unet, *_WRONG)}
