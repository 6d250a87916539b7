"""A network of seven layers with the names of an SDXL UNet's, small enough that files for it can be kept."""

import torch
from diffusers.configuration_utils import FrozenDict
from torch import nn


class SmallUNet(nn.Module):
    """A resnet and the beginning of a transformer: each kind of layer that a LoRA can change."""

    def __init__(self) -> None:
        super().__init__()
        self.config = FrozenDict({"layers_per_block": 1})
        self.mid_block = nn.Module()
        self.mid_block.resnets = nn.ModuleList([nn.Module()])
        resnet = self.mid_block.resnets[0]
        resnet.norm1 = nn.GroupNorm(2, 8)
        resnet.conv1 = nn.Conv2d(8, 16, 3, padding=1)
        resnet.conv_shortcut = nn.Conv2d(8, 16, 1)
        self.mid_block.attentions = nn.ModuleList([nn.Module()])
        attention = self.mid_block.attentions[0]
        attention.proj_in = nn.Linear(16, 12)
        attention.transformer_blocks = nn.ModuleList([nn.Module()])
        block = attention.transformer_blocks[0]
        block.norm1 = nn.LayerNorm(12)
        block.attn1 = nn.Module()
        block.attn1.to_q = nn.Linear(12, 12, bias=False)
        block.attn1.to_k = nn.Linear(12, 24)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return (n, h · w, 24) for (n, 8, h, w); it goes through every layer."""
        resnet, attention = self.mid_block.resnets[0], self.mid_block.attentions[0]
        block = attention.transformer_blocks[0]
        hidden = resnet.conv_shortcut(x) + resnet.conv1(resnet.norm1(x))
        hidden = block.norm1(attention.proj_in(hidden.flatten(2).transpose(1, 2)))
        return block.attn1.to_k(block.attn1.to_q(hidden) + hidden)


def small_unet() -> SmallUNet:
    """Return one with random weights, always the same."""
    generator = torch.Generator().manual_seed(16)
    unet = SmallUNet().requires_grad_(False)
    for name, parameter in unet.named_parameters():
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3 + ("norm" in name))
    return unet


def small_input() -> torch.Tensor:
    """Return an input (2, 8, 3, 3) of :class:`SmallUNet`, always the same."""
    return torch.randn(2, 8, 3, 3, generator=torch.Generator().manual_seed(17))
