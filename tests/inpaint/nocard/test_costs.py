"""The seconds of a UNet call are booked on that call, though the CPU is one call ahead of the GPU.

From them admission promises and refuses, and buckets share the GPU.
"""

import random
from collections.abc import Callable, Iterator
from functools import partial

import pytest

from inpaint import Engine, InpaintRequest, cuda
from inpaint.batching.cost_profile import Profile
from inpaint.batching.cost_record import MadeFor
from inpaint.batching.work import Bucket
from inpaint.fast.optimizations import Fast
from inpaint.model.load import Model
from inpaint.runtime import step_loop
from inpaint.runtime.streams import DeviceStream
from tests.inpaint.nocard.costs_clock import GPU, LAUNCH_S, TRUE_S, Clock, TimedUnet

NATIVE = Bucket(16, 16)
TOLERANCE = 0.05


class BooksTheWait(DeviceStream):
    """Negative control: a call's seconds are the CPU's in it, most of them a wait for the call before."""

    clock: Clock

    def begin(self) -> float:
        """The CPU's time."""
        return self.clock.now

    def pace(self, began: float, book: Callable[[float], None]) -> None:
        """As before there were two events for a call."""
        super().pace(self.mark(), lambda seconds: None)
        book(self.clock.now - began)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(cuda, "runtime", clock)
    monkeypatch.setattr(BooksTheWait, "clock", clock, raising=False)
    return clock


def surveyed() -> Profile:
    """A profile that knows the costs from before the first request."""
    profile = Profile(MadeFor("g", "t", "d", "m", "float16"), max_slots=16)
    profile.survey(NATIVE, TRUE_S, encode_s=0.1, decode_s=0.08)
    return profile


def error(profile: Profile) -> float:
    """How far the worst of the learnt costs of 2 and 4 slots is off, as a fraction."""
    return max(abs(profile.step_s(NATIVE, slots) / TRUE_S[slots] - 1) for slots in (2, 4))


def in_turn() -> Iterator[int]:
    """Yield the slots of calls: 2 and 4 in turn, as of two requests of different sizes."""
    for _ in range(200):
        yield from (2, 4)


def short_jobs() -> Iterator[int]:
    """Yield the slots of jobs of four calls each, as of a few-step LoRA, with an idle gap (0) after each."""
    for job in range(60):
        yield from [2 + 2 * (job % 2)] * 4
        yield 0


def at_random() -> Iterator[int]:
    """Yield the slots of calls of a busy server, with gaps."""
    draws = random.Random(5)
    for _ in range(600):
        yield draws.choice((2, 2, 4, 4, 8, 0))


PATTERNS = (in_turn, short_jobs, at_random)


def learnt(clock: Clock, stream: DeviceStream, calls: Iterator[int]) -> Profile:
    """What a profile knows after these calls."""
    profile = surveyed()
    for slots in calls:
        if not slots:
            clock.synchronize()
            clock.now += 0.2  # a decode, and nobody asks for anything
            continue
        began = stream.begin()
        clock.launch(TRUE_S[slots])
        stream.pace(began, partial(profile.observe_step, NATIVE, slots))
    return profile


@pytest.mark.parametrize("pattern", PATTERNS)
def test_learnt_costs_are_the_devices(pattern: Callable[[], Iterator[int]], clock: Clock) -> None:
    """A promise made from another call's seconds is broken, or a request refused that there was time for."""
    profile = learnt(clock, DeviceStream(GPU, urgent=True), pattern())
    assert error(profile) < TOLERANCE


@pytest.mark.parametrize("pattern", PATTERNS)
def test_the_wait_for_the_call_before_is_another_calls_time(
    pattern: Callable[[], Iterator[int]], clock: Clock
) -> None:
    """The harness sees the fault: 2 and 4 slots in turn exchange their costs, short jobs are too cheap."""
    profile = learnt(clock, BooksTheWait(GPU, urgent=True), pattern())
    assert error(profile) > 2 * TOLERANCE


def test_the_cpu_stays_one_call_ahead(clock: Clock) -> None:
    """To know a call's seconds nobody may wait for that call, or the GPU idles while the next is prepared."""
    stream = DeviceStream(GPU, urgent=True)
    for _ in range(50):
        began = stream.begin()
        clock.launch(TRUE_S[2])
        stream.pace(began, lambda seconds: None)
    assert clock.free == pytest.approx(LAUNCH_S + 50 * TRUE_S[2])


@pytest.mark.parametrize(("stream", "within"), [(DeviceStream, True), (BooksTheWait, False)])
def test_the_step_loop_learns_the_devices_costs(
    stream: type[DeviceStream],
    within: bool,
    clock: Clock,
    model: Model,
    request_for: Callable[..., InpaintRequest],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Through the engine: jobs of one and of two samples; the last call of each has its own slots too."""
    monkeypatch.setattr(step_loop, "DeviceStream", lambda device, urgent: stream(GPU, urgent=urgent))
    profile, fast = surveyed(), Fast((), TimedUnet(clock), None, None)
    with Engine(model, fast=fast, profile=profile) as engine:
        for job in range(16):
            engine.paint(request_for(samples=1 + job % 2, num_inference_steps=4, strength=1.0))
            clock.synchronize()
            clock.now += 0.2
        calls = engine.stats().step_us
    assert (max(error(profile), abs(profile.step_s(NATIVE, 1) / TRUE_S[1] - 1)) < TOLERANCE) == within
    if within:
        for rows, (count, micros) in calls.items():
            assert micros / count == pytest.approx(1e6 * TRUE_S[2 * int(rows)], rel=TOLERANCE)
