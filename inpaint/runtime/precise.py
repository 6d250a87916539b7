"""The UNet's forward pass in fp32, for rows that half precision spoiled.

An fp32 copy of SDXL's UNet has 10 GB, which few GPUs have free. So each layer's weights are cast when the
layer is called, and freed after it: at most 118 MB. The weights may lie anywhere, in 16 bit or 8, since the
copies of the layers have none of the hooks by which a memory plan moves and casts them.
"""

from collections import OrderedDict
from functools import partial
from typing import Any

import torch
from torch import nn

from inpaint.fast.shared_copy import shared_copy
from inpaint.model.unet import Forward, plain


def in_fp32(unet: Any, device: torch.device) -> Forward:
    """Return the forward pass of ``unet`` in fp32 on ``device``; it shares the weights and holds no memory.

    The LoRAs that are in use now are part of it; after another switch of LoRAs make a new one.
    """
    copied = shared_copy(unet)
    for module in copied.modules():
        # What diffusers puts around a module to move it or to cast it; it would run the original's forward.
        module.__dict__.pop("_diffusers_hook", None)
        module.__dict__.pop("forward", None)
        tensors = [*module._parameters.values(), *module._buffers.values()]  # noqa: SLF001 - not its children's
        if any(tensor is not None for tensor in tensors):
            module.forward = partial(_forward, module, device)
    return plain(copied)


def _forward(layer: nn.Module, device: torch.device, *args: Any, **kwargs: Any) -> Any:
    """Run one layer with its weights in fp32 on the device; what is stored in 8 bit with scales stays so."""
    stored, buffers = layer._parameters, layer._buffers  # noqa: SLF001 - replaced for the length of the call
    try:
        layer._parameters = OrderedDict((name, _cast(p, device)) for name, p in stored.items())  # noqa: SLF001
        layer._buffers = {name: None if b is None else b.to(device) for name, b in buffers.items()}  # noqa: SLF001
        return type(layer).forward(layer, *args, **kwargs)
    finally:
        layer._parameters, layer._buffers = stored, buffers  # noqa: SLF001


def _cast(parameter: nn.Parameter | None, device: torch.device) -> Any:
    return None if parameter is None else parameter.to(device, torch.float32)
