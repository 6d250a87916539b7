"""The costs of UNet calls, encodes and decodes on this device, measured before the first request.

Everything is timed on the path that requests take, with a picture and prompts of their size. The device is
synchronised after every call, because a GPU's calls return long before it has computed. The first call of
each kind is not counted, since it loads kernels and fills caches. The model must not be in use meanwhile.
"""

import logging
import platform
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TypeVar

import numpy as np
import torch
from PIL import Image

from inpaint import cuda
from inpaint.batching.cost_curve import knee
from inpaint.batching.cost_profile import MIN_SLOTS, Profile
from inpaint.batching.cost_record import MadeFor
from inpaint.batching.work import Bucket
from inpaint.errors import OutOfMemoryError, OutputError, PaintError
from inpaint.gpu_errors import is_out_of_memory
from inpaint.memory import GIB, empty_cache
from inpaint.model.denoise import step
from inpaint.model.load import Model
from inpaint.model.prompt import PromptEncoder
from inpaint.model.row import Conditioning, Row, start_row
from inpaint.model.unet import Forward, UNetBatch
from inpaint.model.vae import pictures
from inpaint.model.vae_cache import PictureEncoder

_log = logging.getLogger(__name__)
BUDGET_S = 20.0

_ROUNDS = 5  # timed calls of each kind, after the first
_SURVEY_CALLS = (
    20  # the cost of the shortest survey, in UNet calls of one slot: encodes, decodes, 1 and 2 slots
)
_LATENT_STEP = 8  # working sizes are multiples of 64 pixels

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Stopwatch:
    """A stopwatch for calls on one device, with an end by its clock in seconds."""

    device: torch.device
    clock: Callable[[], float]
    ends_at: float

    @property
    def left_s(self) -> float:
        return self.ends_at - self.clock()

    def median_s(self, work: Callable[[], T]) -> tuple[float, T]:
        """Return the median seconds of a few calls (one if time is short), and the last one's result."""
        self._once(work)
        times: list[float] = []
        while not times or (len(times) < _ROUNDS and times[-1] <= self.left_s):
            seconds, result = self._once(work)
            times.append(seconds)
        return median(times), result

    def _once(self, work: Callable[[], T]) -> tuple[float, T]:
        self._synchronise()
        started = self.clock()
        result = work()
        self._synchronise()
        return self.clock() - started, result

    def _synchronise(self) -> None:
        cuda.runtime.synchronize(self.device)


def measure(
    model: Model,
    forward: Forward,
    made_for: MadeFor,
    *,
    max_slots: int,
    buckets: Iterable[Bucket] | None = None,
    budget_s: float = BUDGET_S,
    clock: Callable[[], float] = time.perf_counter,
) -> Profile:
    """Measure a model's costs.

    The number of slots is doubled, from one, until two doublings gained too little throughput, ``max_slots``
    is reached, the memory is full (which becomes the cap), or the time is up. One slot is always measured.

    Args:
        model: the model to measure.
        forward: the forward pass of its UNet that requests will use.
        made_for: the identity of the profile.
        max_slots: most slots in one UNet call.
        buckets: buckets to measure, none of them precise; by default the native size, or on a slow CPU half
            or a quarter of its side.
        budget_s: seconds after which only the measurements that a profile needs are still started.
        clock: returns seconds.

    Raises:
        OutOfMemoryError: not even one slot fits.
        PaintError: the model computes NaN, or the same number everywhere; its speed would mean nothing.
    """
    stopwatch = _Stopwatch(model.device, clock, clock() + budget_s)
    profile = Profile(made_for, max_slots=max_slots)
    try:
        for bucket in buckets or [_affordable(model, forward, stopwatch)]:
            assert not bucket.precise, "precise rows are too rare to be measured for"
            _survey(model, forward, bucket, profile, stopwatch)
        return profile
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
    # Outside the except block, where the failed attempt's tensors are freed.
    empty_cache(model.device)
    raise OutOfMemoryError(
        f"not enough memory on {device_name(model.device)} for one picture with the memory plan "
        f"{model.plan.name}; try --memory tiled or --memory streamed"
    )


def survey(model: Model, forward: Forward, identity: MadeFor, folder: Path, *, max_slots: int) -> Profile:
    """Load this model's profile from ``folder``; if there is none, measure it and save it there.

    If that fails, log a warning and return an empty profile, which learns from the first requests.
    """
    path = folder / identity.file_name
    profile = Profile.load(path, identity, max_slots=max_slots)
    try:
        if profile is None:
            profile = measure(model, forward, identity, max_slots=max_slots)
            profile.save(path)
    except (OutOfMemoryError, PaintError, OutputError) as error:
        _log.warning("the costs of this model could not be measured or saved: %s", error)
    empty_cache(model.device)  # of this thread's stream; no other stream may use it
    return profile or Profile(identity, max_slots=max_slots)


def made_for(model: Model, optimizations: Iterable[str] = ()) -> MadeFor:
    """Return the identity of a profile of ``model`` with these optimizations in use."""
    import diffusers

    return MadeFor(
        device=device_name(model.device),
        torch=str(torch.__version__),
        diffusers=diffusers.__version__,
        model=model.name,
        dtype=str(model.dtype).removeprefix("torch."),
        optimizations=tuple(optimizations),
        plan=model.plan.name,
        overlapped=cuda.runtime.on(model.device) and model.plan.overlapped,
    )


def device_name(device: torch.device) -> str:
    """Return the device's name with its memory or its threads, which its speed depends on as well."""
    if device.type == "cuda":
        memory = torch.cuda.get_device_properties(device).total_memory / GIB
        return f"{torch.cuda.get_device_name(device)}, {memory:.0f} GiB"
    return f"{_cpu_name()}, {torch.get_num_threads()} threads"


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():  # on Linux the platform module only knows the architecture
        for line in cpuinfo.read_text("utf-8", "replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()


def _affordable(model: Model, forward: Forward, stopwatch: _Stopwatch) -> Bucket:
    """Return the native bucket; on a CPU the largest of full, half and quarter side that is in time."""
    native = int(model.unet.config.sample_size)
    if model.device.type != "cpu":
        return Bucket(native, native)
    sides = [native, *(max(native // parts // _LATENT_STEP, 1) * _LATENT_STEP for parts in (2, 4))]
    probe = Bucket(sides[-1], sides[-1])
    call_s = _step_s(model, forward, _encoded(model, probe), 1, stopwatch) / probe.latent_pixels
    in_time = [side for side in sides if call_s * side * side * _SURVEY_CALLS <= stopwatch.left_s]
    return Bucket(in_time[0], in_time[0]) if in_time else probe


def _survey(model: Model, forward: Forward, bucket: Bucket, profile: Profile, stopwatch: _Stopwatch) -> None:
    encode_s, conditioning = stopwatch.median_s(lambda: _encoded(model, bucket))
    latents = torch.randn((1, 4, bucket.h, bucket.w), generator=torch.Generator().manual_seed(0))
    decode_s, painted = stopwatch.median_s(lambda: pictures(model, latents.to(model.device)))
    _check(model, good=painted[0] is not None)
    steps, limit = _climb(
        lambda slots: _step_s(model, forward, conditioning, slots, stopwatch), profile.max_slots, stopwatch
    )
    if limit is not None:
        empty_cache(model.device)
    profile.survey(bucket, steps, encode_s=encode_s, decode_s=decode_s, limit=limit)


def _climb(
    step_s: Callable[[int], float], max_slots: int, stopwatch: _Stopwatch
) -> tuple[Mapping[int, float], int | None]:
    """Return seconds by slots (1, 2, 4 …), and the most slots that fit if memory ran out."""
    steps: dict[int, float] = {}
    slots = 1
    while slots <= max_slots:
        try:
            steps[slots] = step_s(slots)
        except RuntimeError as error:
            if not steps or not is_out_of_memory(error):
                raise
            return steps, slots // 2
        # A smaller call takes no longer than a larger one; if it seems to, something disturbed it.
        steps = {smaller: min(seconds, steps[slots]) for smaller, seconds in steps.items()}
        flat = slots >= 2 * MIN_SLOTS and knee(steps) <= slots // 4  # two doublings that gained too little
        if flat or 2 * steps[slots] > stopwatch.left_s:
            break
        slots *= 2
    return steps, None


def _encoded(model: Model, bucket: Bucket) -> Conditioning:
    """Encode a picture of noise and two prompts with empty caches, as for a first request."""
    size = bucket.h * model.vae_factor, bucket.w * model.vae_factor
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    hole = np.zeros(size, np.uint8)
    hole[:, : size[1] // 2] = 255
    image, masked = PictureEncoder(model).pair(Image.fromarray(pixels), Image.fromarray(hole))
    prompt, negative = PromptEncoder(model).pair("a photo of a red fox in the snow", "blurry, low quality")
    mask = torch.zeros((1, 1, bucket.h, bucket.w), device=model.device)
    mask[..., : bucket.w // 2] = 1.0
    return Conditioning(prompt=prompt, negative=negative, image=image, masked_image=masked, mask=mask)


def _rows(model: Model, conditioning: Conditioning, slots: int) -> list[Row]:
    """Start rows that fill ``slots``: guided ones, or one without guidance for a single slot."""
    return [
        start_row(
            model,
            conditioning,
            scheduler="DDIM",  # one call per step; next to the UNet the arithmetic of a sampler is negligible
            num_inference_steps=1 + _ROUNDS,
            strength=1.0,
            guidance_scale=1.0 if slots == 1 else 7.5,
            seed=seed,
        )
        for seed in range(max(slots // 2, 1))
    ]


def _step_s(
    model: Model, forward: Forward, conditioning: Conditioning, slots: int, stopwatch: _Stopwatch
) -> float:
    """Return the seconds of one UNet call with its schedulers' steps."""
    rows = _rows(model, conditioning, slots)

    def call() -> torch.Tensor:
        predictions: list[torch.Tensor] = []

        def recorded(batch: UNetBatch) -> torch.Tensor:
            predictions.append(forward(batch))
            return predictions[-1]

        step(model, rows, recorded)
        return predictions[-1]

    seconds, prediction = stopwatch.median_s(call)
    # Not only NaN: zeros are multiplied faster than other numbers.
    finite = bool(torch.isfinite(prediction).all())
    _check(model, good=finite and bool(prediction.amin() < prediction.amax()))
    return seconds


def _check(model: Model, *, good: bool) -> None:
    if not good:
        raise PaintError(
            f"the model {model.name} computes no pictures in {str(model.dtype).removeprefix('torch.')}, "
            "so its speed cannot be measured; try --dtype float32, or run inpaint models verify"
        )
