"""A loaded model made ready to step: its levers, the way through its UNet, and what that costs."""

import torch

from inpaint.models import Model
from inpaint.profile import MadeFor


def made_for(model: Model, levers: tuple[str, ...] = ()) -> MadeFor:
    """What a profile of ``model`` with these levers would be true of."""
    import diffusers

    return MadeFor(
        device=str(model.device),
        torch=torch.__version__,
        diffusers=diffusers.__version__,
        model=model.name,
        dtype=str(model.dtype).removeprefix("torch."),
        levers=levers,
        plan=model.plan.name,
    )
