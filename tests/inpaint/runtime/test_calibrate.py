"""Measuring before the first request: the right work, honestly timed, in bounded time and memory."""

import copy
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import inf, nan
from typing import Any

import pytest
import torch

from inpaint.batching.cost_profile import Profile
from inpaint.batching.work import Bucket
from inpaint.errors import OutOfMemoryError, PaintError
from inpaint.model.load import Model, load_model
from inpaint.model.unet import Forward, UNetBatch, plain
from inpaint.runtime import calibrate
from inpaint.runtime.calibrate import device_name, made_for, measure

Models = Callable[[int], Model]
TINY = Bucket(16, 16)  # the tiny model's native size


@dataclass
class Gpu:
    """A device with a simulated clock: its UNet sets the clock forward and returns noise."""

    call_s: Callable[[int, int], float]  # slots, latent pixels → seconds
    first_call_s: float = 0.0  # on top, for every new shape
    fits: int = 1000  # slots
    now: float = 0.0
    calls: Counter[tuple[int, ...]] = field(default_factory=Counter)

    def clock(self) -> float:
        return self.now

    def forward(self, batch: UNetBatch) -> torch.Tensor:
        slots, _, h, w = batch.sample.shape
        if slots > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        self.now += self.call_s(slots, h * w)
        if not self.calls[(slots, h, w)]:
            self.now += self.first_call_s
        self.calls[(slots, h, w)] += 1
        return torch.randn((slots, 4, h, w), generator=torch.Generator().manual_seed(slots))

    def measured(self, model: Model, *, max_slots: int = 16, **options: Any) -> Profile:
        return measure(model, self.forward, made_for(model), max_slots=max_slots, clock=self.clock, **options)


def in_proportion(slots: int, latent_pixels: int) -> float:
    return 0.01 + 0.04 * slots


def of_much_use(slots: int, latent_pixels: int) -> float:
    return 0.1 + 0.001 * slots


@pytest.mark.parametrize("in_channels", [9, 4])
def test_a_real_model_is_measured(models: Models, in_channels: int) -> None:
    """Both kinds of checkpoint, through their own UNet, VAE and text encoders."""
    model = models(in_channels)
    profile = measure(model, plain(model.unet), made_for(model), max_slots=4)
    assert set(profile.surveyed[TINY]) == {1, 2, 4}
    assert all(0 < seconds < 60 for seconds in profile.surveyed[TINY].values())
    assert 0 < profile.encode_s(TINY) < 60
    assert 0 < profile.decode_s(TINY) < 60
    assert profile.cap(TINY) == 4


def test_steps_cost_what_the_clock_says(model: Model) -> None:
    """The profile is in seconds of one call, not of a round of calls or of a slot."""
    profile = Gpu(in_proportion).measured(model)
    assert profile.surveyed[TINY] == pytest.approx({1: 0.05, 2: 0.09, 4: 0.17, 8: 0.33, 16: 0.65})


def test_the_first_call_of_a_shape_is_not_counted(model: Model) -> None:
    """It loads kernels or compiles: seconds that no request will wait for again."""
    profile = Gpu(in_proportion, first_call_s=1.0).measured(model)
    assert profile.surveyed[TINY] == pytest.approx({1: 0.05, 2: 0.09, 4: 0.17, 8: 0.33, 16: 0.65})


def test_one_disturbed_call_is_not_believed(model: Model) -> None:
    """Another program's burst during start-up must not slow down the forecasts of a day."""
    gpu = Gpu(
        lambda slots, latent_pixels: (
            in_proportion(slots, latent_pixels) + (9.0 if gpu.calls[(2, 16, 16)] == 2 else 0)
        )
    )
    assert gpu.measured(model, budget_s=1000).surveyed[TINY][2] == pytest.approx(0.09)


def test_a_small_batch_that_seems_slower_than_a_larger_one_was_disturbed(model: Model) -> None:
    """Otherwise one slow stretch at two slots looks like the end of all gain, and the cap stays low."""
    profile = Gpu(
        lambda slots, latent_pixels: 0.5 if slots == 2 else of_much_use(slots, latent_pixels)
    ).measured(model)
    assert profile.surveyed[TINY][2] == pytest.approx(of_much_use(4, 0))
    assert profile.cap(TINY) == 16


def test_the_climb_ends_where_doubling_no_longer_pays(model: Model) -> None:
    """Larger batches would only be measured to be ruled out, at a cold start."""
    gpu = Gpu(in_proportion)
    assert gpu.measured(model, max_slots=64).cap(TINY) == 4
    assert max(slots for slots, *_ in gpu.calls) == 16, "two doublings past it: it was no flat spot"
    gpu = Gpu(of_much_use)
    assert gpu.measured(model, max_slots=12).cap(TINY) == 8
    assert max(slots for slots, *_ in gpu.calls) == 8


def test_a_flat_spot_is_not_the_end(model: Model) -> None:
    """As on two CPU cores: a cap of two rows made requests wait for places that cost next to nothing."""
    seconds = {1: 0.0125, 2: 0.0168, 4: 0.023, 8: 0.0428, 16: 0.059}
    assert Gpu(lambda slots, _: seconds[slots]).measured(model).cap(TINY) == 16


def test_memory_that_runs_out_is_the_cap(model: Model) -> None:
    """An 8 GB card learns at its start what it cannot do, not in the middle of a picture."""
    profile = Gpu(of_much_use, fits=2).measured(model)
    assert set(profile.surveyed[TINY]) == {1, 2}
    assert profile.cap(TINY) == 2
    assert profile.cap(Bucket(32, 16)) == 1


def test_a_model_that_does_not_fit_at_all_is_an_error(model: Model) -> None:
    """The error names what to try; it is not a traceback of torch."""
    with pytest.raises(OutOfMemoryError, match=r"plan resident; try --memory tiled"):
        Gpu(of_much_use, fits=0).measured(model, buckets=[TINY])


def test_a_slow_device_is_not_climbed_past_its_time(model: Model) -> None:
    """A start-up takes two calls longer, not a batch of 16 longer."""
    gpu = Gpu(lambda slots, latent_pixels: 3.0 + 0.1 * slots)
    profile = gpu.measured(model, buckets=[TINY], budget_s=20)
    assert set(profile.surveyed[TINY]) == {1}
    assert gpu.now < 30
    assert profile.cap(TINY) == 4


def test_with_no_time_at_all_the_least_is_measured(model: Model) -> None:
    """A profile that knows one call is worth far more than none."""
    gpu = Gpu(lambda slots, latent_pixels: 60.0)
    profile = gpu.measured(model, buckets=[TINY], budget_s=0)
    assert profile.surveyed == {TINY: {1: 60.0}}
    assert gpu.calls == {(1, 16, 16): 2}


@pytest.mark.parametrize(("call_s", "side"), [(0.5, 16), (2.0, 8), (500.0, 8)])
def test_on_a_slow_cpu_a_smaller_picture_is_measured(model: Model, call_s: float, side: int) -> None:
    """Full-size SDXL on a CPU would take minutes to measure; a part of it says nearly as much."""
    gpu = Gpu(lambda slots, latent_pixels: call_s * slots * latent_pixels / TINY.latent_pixels)
    profile = gpu.measured(model, budget_s=20)
    assert list(profile.surveyed) == [Bucket(side, side)]
    assert profile.step_s(TINY, 1) == pytest.approx(call_s)


def test_the_buckets_asked_for_are_measured(model: Model) -> None:
    """A server of one size needs only that one measured."""
    wanted = [Bucket(16, 24), Bucket(8, 8)]
    assert list(Gpu(in_proportion).measured(model, buckets=wanted, max_slots=2).surveyed) == wanted


def test_the_calls_are_those_of_real_requests(model: Model) -> None:
    """Guided rows in pairs, at one slot a row without guidance, with the prompts' real length."""
    batches: list[UNetBatch] = []

    def forward(batch: UNetBatch) -> torch.Tensor:
        batches.append(batch)
        return plain(model.unet)(batch)

    measure(model, forward, made_for(model), max_slots=4, buckets=[TINY])
    assert [len(batch.sample) for batch in batches] == [1] * 6 + [2] * 6 + [4] * 6
    assert all(batch.hidden.shape[1] == 77 and batch.keep is None for batch in batches)
    assert all(batch.prompts[0] is not batch.prompts[1] for batch in batches if len(batch.prompts) > 1)
    assert all(torch.isfinite(batch.sample).all() and batch.sample.std() > 0.1 for batch in batches)


def spoiled(change: Callable[[torch.Tensor], torch.Tensor]) -> Forward:
    gpu = Gpu(in_proportion)
    return lambda batch: change(gpu.forward(batch))


@pytest.mark.parametrize(
    "change",
    [
        torch.zeros_like,
        lambda out: out * nan,
        lambda out: out.index_fill(0, torch.tensor([0]), nan),
        lambda out: out.index_fill(3, torch.tensor([0]), inf),
    ],
    ids=["zeros", "NaN", "one NaN row", "infinities"],
)
def test_a_model_that_computes_nothing_is_not_timed(
    model: Model, change: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    """Zeros and NaN are computed faster, so the forecasts would be too short."""
    with pytest.raises(PaintError, match=r"tiny-9 computes no pictures in float32.*--dtype float32"):
        measure(model, spoiled(change), made_for(model), max_slots=2)


def test_a_vae_that_decodes_nothing_is_not_timed(model: Model) -> None:
    """The same for the other half of the work."""
    broken = replace(model, vae=copy.deepcopy(model.vae))
    broken.vae.decoder.conv_out.bias.data.fill_(nan)
    with pytest.raises(PaintError, match="computes no pictures"):
        Gpu(in_proportion).measured(broken)


def test_the_callers_random_numbers_are_not_drawn(model: Model) -> None:
    """Starting a library must not change the results of its caller's own seeds."""
    torch.manual_seed(3)
    before = torch.get_rng_state()
    Gpu(in_proportion).measured(model)
    assert torch.equal(before, torch.get_rng_state())


def test_the_identity_differs_for_what_runs_at_another_speed(model: Model) -> None:
    """A profile of another machine would give wrong forecasts."""
    import diffusers

    ours = made_for(model, ["qkv"])
    assert (ours.torch, ours.diffusers) == (torch.__version__, diffusers.__version__)
    assert (ours.model, ours.dtype, ours.plan) == ("tiny-9", "float32", "resident")
    others = [
        made_for(model),
        made_for(replace(model, dtype=torch.bfloat16), ["qkv"]),
        made_for(replace(model, name="other"), ["qkv"]),
        made_for(replace(model, plan=replace(model.plan, name="fp8")), ["qkv"]),
    ]
    assert len({each.file_name for each in [ours, *others]}) == 5
    assert made_for(model, ["qkv"]) == ours


def test_a_cpu_is_called_by_its_name_and_threads() -> None:
    """The same machine with half its threads is another device."""
    name = device_name(torch.device("cpu"))
    assert name.endswith(f", {torch.get_num_threads()} threads")
    assert len(name) > len(", 1 threads")


def test_a_gpu_is_waited_for_before_and_after_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU's calls return long before it has computed; an unfinished one must not count for the next."""
    # Only the wait is replaced: a CPU can only show the order of the clock and the waits.
    order: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: order.append(f"wait {device}"))

    def clock() -> float:
        order.append("clock")
        return 0.0

    calibrate._Stopwatch(torch.device("cuda"), clock, 0.0)._once(lambda: order.append("work"))
    assert order == ["wait cuda", "clock", "work", "wait cuda", "clock"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_what_a_gpu_is_still_computing_is_counted(checkpoint: Callable[[int], Any]) -> None:
    """The same on a real GPU, which is kept busy for a known time after each call."""
    device = torch.device("cuda")
    model = load_model(checkpoint(9), "tiny-9", device, torch.float16)
    busy = 50_000_000  # clock cycles: 20 ms or more below 2.5 GHz

    def forward(batch: UNetBatch) -> torch.Tensor:
        out = plain(model.unet)(batch)
        torch.cuda._sleep(busy)
        return out

    profile = measure(model, forward, made_for(model), max_slots=4)
    assert all(seconds > 0.02 for seconds in profile.surveyed[TINY].values())
    assert torch.cuda.get_device_name(device) in profile.made_for.device
