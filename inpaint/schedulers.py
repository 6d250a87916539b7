"""The table of samplers, by their public names: first the twelve of the hosted API.

The module imports neither torch nor diffusers until a scheduler is made, so that ``--help``,
``inpaint schedulers`` and the checks of a request stay instant.
"""

import copy
import inspect
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from inpaint.errors import RequestError, shown

# The settings that SDXL was trained with. A checkpoint's own scheduler_config.json wins over these. They
# replace keys that it lacks, because the defaults of the diffusers classes (clip_sample=True, steps_offset=0,
# a linear beta schedule) would change the picture silently.
SDXL_SCHEDULE: Mapping[str, object] = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "epsilon",
    "timestep_spacing": "leading",
    "steps_offset": 1,
    "clip_sample": False,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
}

# Keys of the checkpoint's config that describe the *model*. The others describe the sampler that it happened
# to be saved with, and must not change another sampler ("Euler" is not Karras because DPM++ was).
_MODEL_KEYS = frozenset(SDXL_SCHEDULE) | {"trained_betas", "rescale_betas_zero_snr"}


@dataclass(frozen=True, slots=True)
class SchedulerSpec:
    """A row of the table: the diffusers class behind a public name, and how its ``step`` is called."""

    class_name: str
    overrides: Mapping[str, object] = field(default_factory=dict)
    step_takes_generator: bool = True  # written down here instead of inspected at run time
    order: int = 1  # UNet calls per step; the last step of an order-2 sampler takes one
    extra_calls: int = 0  # in addition to those, if there is more than one step
    adds_noise: bool = False  # its step draws new noise between calls
    near_from: int | None = 3  # the first call that the pace ``near`` may save on; None: it saves on none
    known_as: tuple[str, ...] = ()  # its names in other programs, A1111's first; the same if none


_KARRAS: Mapping[str, object] = {"use_karras_sigmas": True}
_SDE: Mapping[str, object] = {"algorithm_type": "sde-dpmsolver++"}
_SINGLE: Mapping[str, object] = {"lower_order_final": True}

SCHEDULERS: Mapping[str, SchedulerSpec] = {
    "DDIM": SchedulerSpec("DDIMScheduler"),
    "DPM Multi": SchedulerSpec("DPMSolverMultistepScheduler", near_from=6, known_as=("DPM++ 2M",)),
    "DPM Single": SchedulerSpec("DPMSolverSinglestepScheduler", _SINGLE, near_from=6, known_as=("DPM++ 2S",)),
    "Euler a": SchedulerSpec(
        "EulerAncestralDiscreteScheduler", adds_noise=True, known_as=("Euler a", "euler_ancestral")
    ),
    "Euler": SchedulerSpec("EulerDiscreteScheduler"),
    "Heun": SchedulerSpec("HeunDiscreteScheduler", step_takes_generator=False, order=2),
    "DPM2 a Karras": SchedulerSpec(
        "KDPM2AncestralDiscreteScheduler", _KARRAS, order=2, adds_noise=True, near_from=None
    ),
    "DPM2 Karras": SchedulerSpec("KDPM2DiscreteScheduler", _KARRAS, step_takes_generator=False, order=2),
    "LMS": SchedulerSpec("LMSDiscreteScheduler", step_takes_generator=False, near_from=None),
    "PNDM": SchedulerSpec(
        "PNDMScheduler", step_takes_generator=False, extra_calls=1, near_from=None, known_as=("PLMS",)
    ),
    "DDPM": SchedulerSpec("DDPMScheduler", adds_noise=True),
    "UniPC": SchedulerSpec(
        "UniPCMultistepScheduler", step_takes_generator=False, near_from=9, known_as=("UniPC", "uni_pc")
    ),
    # Not in the hosted API.
    "DPM Multi Karras": SchedulerSpec(
        "DPMSolverMultistepScheduler", _KARRAS, near_from=9, known_as=("DPM++ 2M Karras",)
    ),
    "DPM Single Karras": SchedulerSpec(
        "DPMSolverSinglestepScheduler", {**_SINGLE, **_KARRAS}, near_from=10, known_as=("DPM++ 2S Karras",)
    ),
    "DPM Multi SDE": SchedulerSpec(
        "DPMSolverMultistepScheduler", _SDE, adds_noise=True, known_as=("DPM++ 2M SDE",)
    ),
    "DPM Multi SDE Karras": SchedulerSpec(
        "DPMSolverMultistepScheduler",
        {**_SDE, **_KARRAS},
        adds_noise=True,
        known_as=("DPM++ 2M SDE Karras",),
    ),
}


def _folded(name: str) -> str:
    """Return what spellings of a name have in common: ``dpmpp_2m`` is ComfyUI's "DPM++ 2M"."""
    return " ".join(name.casefold().replace("_", " ").replace("dpmpp", "dpm++").split())


_BY_FOLDED_NAME = {
    _folded(known): name for name, spec in SCHEDULERS.items() for known in (name, *spec.known_as)
}


def canonical_name(name: str) -> str:
    """Return the table's spelling of ``name``: in any letter case, or another program's name for it.

    Raises:
        RequestError: there is no such scheduler; the message lists the names.
    """
    found = _BY_FOLDED_NAME.get(_folded(name))
    if found is None:
        raise RequestError("scheduler", f"unknown name {shown(name)}; use one of {', '.join(SCHEDULERS)}")
    return found


def unet_calls(name: str, num_inference_steps: int, strength: float) -> int:
    """Return the number of UNet calls of one sample, without loading a model.

    Args:
        name: a public name in any letter case.
        num_inference_steps: steps at strength 1.
        strength: above 0, at most 1.

    Raises:
        RequestError: there is no such scheduler.
    """
    spec = SCHEDULERS[canonical_name(name)]
    skipped = num_inference_steps - min(int(num_inference_steps * strength), num_inference_steps)
    calls = (num_inference_steps - skipped - 1) * spec.order + 1
    return calls + (spec.extra_calls if num_inference_steps > 1 else 0)


def make_scheduler(
    name: str,
    base_config: Mapping[str, Any],
    num_inference_steps: int | None = None,
    *,
    cls: type | None = None,
) -> Any:
    """Make a diffusers scheduler for one row.

    Args:
        name: a public name in any letter case.
        base_config: the checkpoint's ``scheduler_config.json`` as a dict; missing keys are SDXL's.
        num_inference_steps: the steps that are set on the CPU; none if None.
        cls: a subclass of the table's class; the table's own if None.

    Returns:
        A new diffusers ``SchedulerMixin``; rows cannot share one, because ``step`` keeps state on it.

    Raises:
        RequestError: there is no such scheduler.
    """
    # A copy takes 0.3 ms; for DPM2 Karras the constructor takes 170 ms, and to set 25 steps 5 ms.
    return copy.deepcopy(
        _prototype(canonical_name(name), _model_config(base_config), num_inference_steps, cls)
    )


def _model_config(base_config: Mapping[str, Any]) -> str:
    """Return the checkpoint's keys that count as JSON, which can be hashed."""
    return json.dumps(
        {key: value for key, value in base_config.items() if key in _MODEL_KEYS}, sort_keys=True
    )


@lru_cache(maxsize=64)
def _prototype(name: str, model_config: str, num_inference_steps: int | None, cls: type | None) -> Any:
    """Return the scheduler of a canonical name that rows copy; ``model_config`` is JSON."""
    import diffusers
    import torch

    if num_inference_steps is not None:
        made = make_scheduler(name, json.loads(model_config), cls=cls)
        with torch.inference_mode(False):  # where it is copied, the first caller's mode may have ended
            made.set_timesteps(num_inference_steps, device="cpu")
        return made
    spec = SCHEDULERS[name]
    make: Any = cls or getattr(diffusers, spec.class_name)
    config = {**SDXL_SCHEDULE, **json.loads(model_config), **spec.overrides}
    accepted = inspect.signature(make.__init__).parameters
    with torch.inference_mode(False):
        return make(**{key: value for key, value in config.items() if key in accepted})


def noise_levels(
    name: str, base_config: Mapping[str, Any], num_inference_steps: int
) -> tuple[tuple[float, float], ...]:
    """Return what ``add_noise`` multiplies the picture and the noise with, before each UNet call.

    As floats, because ``add_noise`` itself copies its tables to the device, which waits for it.

    Args:
        name: a public name in any letter case.
        base_config: the checkpoint's ``scheduler_config.json`` as a dict; missing keys are SDXL's.
        num_inference_steps: steps at strength 1.

    Raises:
        RequestError: there is no such scheduler.
    """
    return _noise_levels(canonical_name(name), _model_config(base_config), num_inference_steps)


@lru_cache(maxsize=64)
def _noise_levels(name: str, model_config: str, num_inference_steps: int) -> tuple[tuple[float, float], ...]:
    import torch

    scheduler = make_scheduler(name, json.loads(model_config), num_inference_steps)
    picture, noise = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])
    levels = []
    for call, timestep in enumerate(scheduler.timesteps):
        if hasattr(scheduler, "set_begin_index"):
            scheduler.set_begin_index(call)
        of_picture, of_noise = scheduler.add_noise(picture, noise, timestep[None])[0].tolist()
        levels.append((of_picture, of_noise))
    return tuple(levels)
