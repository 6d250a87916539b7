"""One UNet call: the batch that goes in, and diffusers' forward pass.

``denoise`` builds the batch; ``fast`` has faster forward passes with the same result.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True, slots=True, eq=False)
class UNetBatch:
    """The inputs of one UNet call: n slots, on its device, in its dtype (``timesteps`` in fp32)."""

    sample: torch.Tensor  # (n, 9 or 4, h, w)
    timesteps: torch.Tensor  # (n,), fp32 for every scheduler, so that compiled code is not retraced
    hidden: torch.Tensor  # (n, T, width), the prompts' embeddings
    keep: torch.Tensor | None  # (n, T) bool, the real tokens; None where all are
    pooled: torch.Tensor  # (n, projection width)
    time_ids: torch.Tensor  # (n, 6 or 5)
    prompts: tuple[object, ...]  # one object per slot: equal tuples mean equal hidden, keep and pooled
    # Of the deepest level, see ``deep_level``: its output (n, C, H, W), if the call skips it; or what takes
    # its output from a call that computes it.
    deep: torch.Tensor | None = None
    take_deep: Callable[[torch.Tensor], None] | None = None


Forward = Callable[[UNetBatch], torch.Tensor]  # the noise prediction (n, 4, h, w), in the UNet's dtype


def plain(unet: Any) -> Forward:
    """Return the forward pass of ``unet`` as diffusers runs it."""

    def forward(batch: UNetBatch) -> torch.Tensor:
        out: torch.Tensor = unet(
            batch.sample,
            batch.timesteps,
            encoder_hidden_states=batch.hidden,
            encoder_attention_mask=batch.keep,
            added_cond_kwargs={"text_embeds": batch.pooled, "time_ids": batch.time_ids},
            return_dict=False,
        )[0]
        return out

    return forward
