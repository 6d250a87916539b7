"""The engine's public interface: events, cancel, drain, isolation, faults."""

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from inpaint import Engine, InpaintRequest, RequestError
from inpaint.batching.admission import alone_s
from inpaint.batching.cost_profile import Profile
from inpaint.batching.work import work_of
from inpaint.canvas.crop import cut
from inpaint.engine import EngineStats
from inpaint.errors import (
    BusyError,
    CancelledError,
    ClosedError,
    DeadlineError,
    DeviceError,
    OutOfMemoryError,
    PaintError,
)
from inpaint.job import Job
from inpaint.model.denoise import step
from inpaint.model.load import Model
from inpaint.runtime.side_thread import SideThread
from inpaint.runtime.stages import RunningRequest, Stages

Make = Callable[..., InpaintRequest]
WAIT_S = 60


@contextmanager
def intercepted(module: torch.nn.Module, hook: Callable[[Any], object]) -> Iterator[None]:
    """Call ``hook`` with the first argument before each forward of a real module; it may raise."""
    handle = module.register_forward_pre_hook(lambda _, args: hook(args[0]))
    try:
        yield
    finally:
        handle.remove()


def test_a_job_reports_every_step_and_then_its_pictures(engine: Engine, request_for: Make) -> None:
    """A progress bar needs step k of n, in order, and an end."""
    job = engine.submit(request_for(num_inference_steps=5, strength=0.9))
    events = list(job.events())
    assert [e.state for e in events] == ["queued", "encoding", "step", "step", "step", "step", "done"]
    assert [(e.step, e.steps) for e in events if e.state == "step"] == [(i, 4) for i in (1, 2, 3, 4)]
    assert [e.state for e in job.events()] == [e.state for e in events], "a late listener gets them all"
    result = job.result()
    assert result.images[0].size == (128, 128)
    assert set(result.timings) == {"queue_s", "encode_s", "denoise_s", "decode_s"}


@pytest.mark.parametrize("scheduler", ["Heun", "PNDM", "DPM2 Karras"])
def test_steps_count_to_n_also_where_a_step_calls_the_model_twice(
    scheduler: str, engine: Engine, request_for: Make
) -> None:
    """A progress bar must not show step 9 of 5."""
    job = engine.submit(request_for(scheduler=scheduler, num_inference_steps=5, strength=1.0))
    steps = [event.step for event in job.events() if event.state == "step"]
    assert steps == sorted(set(steps))
    assert steps[-1] == 5


def test_previews_come_to_those_who_ask_and_cost_nothing_else(engine: Engine, request_for: Make) -> None:
    """The page shows the picture appear; an API client does not pay for it."""
    unwatched = engine.submit(request_for(num_inference_steps=6))
    assert all(event.preview is None for event in unwatched.events())
    watched = engine.submit(request_for(num_inference_steps=6))
    previews = [event.preview for event in watched.events(preview=True) if event.preview]
    assert previews
    assert all(p.size == (16, 16) and p.mode == "RGB" for p in previews)
    assert not watched.wants_preview, "no listener is left"


def test_a_watched_picture_is_the_same_picture(engine: Engine, request_for: Make) -> None:
    """Looking must not change the result."""
    watched = engine.submit(request_for())
    list(watched.events(preview=True))
    assert np.array_equal(watched.result().images[0], engine.paint(request_for()).images[0])


def test_cancel_takes_effect_within_a_step(engine: Engine, request_for: Make) -> None:
    """Esc on the page frees the GPU now, not after a hundred steps."""
    job = engine.submit(request_for(num_inference_steps=150, strength=1.0))
    seen = []
    for event in job.events():
        seen.append(event)
        if event.state == "step" and not job.cancelled:
            job.cancel()
            before = engine.stats().unet_calls
    assert seen[-1].state == "cancelled"
    assert engine.stats().unet_calls <= before + 1
    with pytest.raises(CancelledError):
        job.result()


@pytest.mark.parametrize("end", ["cancel", "close"])
def test_the_rows_of_many_samples_need_not_all_be_started(
    model: Model, request_for: Make, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """Ctrl-C while 64 samples begin takes effect at the next of them."""
    started: list[int] = []
    submitted, stopping = threading.Event(), threading.Event()
    start, stop = Stages._start, Stages.stop

    def first_of_many(stages: Stages, *args: Any, **settings: Any) -> Any:
        started.append(args[2])
        assert submitted.wait(WAIT_S)
        if end == "cancel":
            job.cancel()
        else:
            closing.start()
            assert stopping.wait(WAIT_S)
        return start(stages, *args, **settings)

    monkeypatch.setattr(Stages, "_start", first_of_many)
    monkeypatch.setattr(Stages, "stop", lambda stages: (stop(stages), stopping.set()))
    with Engine(model) as engine:
        closing = threading.Thread(target=engine.close)
        job = engine.submit(request_for(samples=64))
        submitted.set()
        with pytest.raises(CancelledError, match=end):
            job.result(WAIT_S)
    if end == "close":
        closing.join()
    assert len(started) == 1


def test_a_waiting_job_can_be_cancelled(model: Model, request_for: Make) -> None:
    """A request further back in the queue that is cancelled is not painted."""
    with Engine(model, max_rows=1) as engine:
        first = engine.submit(request_for(num_inference_steps=40))
        second = engine.submit(request_for())
        second.cancel()
        with pytest.raises(CancelledError):
            second.result(WAIT_S)
        assert not first.finished
        first.cancel()


def test_requests_of_different_kinds_share_unet_calls(engine: Engine, request_for: Make) -> None:
    """Four callers, each with another scheduler and step count, are one running batch."""
    calls = []
    with intercepted(engine.model.unet, lambda sample: calls.append(len(sample))):
        requests = [
            request_for(scheduler=name, num_inference_steps=n, strength=1.0)
            for name, n in (("DDIM", 12), ("Euler a", 9), ("UniPC", 7), ("Heun", 8))
        ]
        for job in [engine.submit(request) for request in requests]:
            job.result(WAIT_S)
    stats = engine.stats()
    assert max(calls) == 8, "four guided rows are eight slots"
    assert stats.unet_calls == len(calls) < stats.row_steps == 12 + 9 + 7 + 15
    assert stats.images == 4


def test_no_more_rows_than_the_cap_share_a_call(model: Model, request_for: Make) -> None:
    """The cap is what keeps a busy server inside its memory."""
    calls = []
    with (
        Engine(model, max_rows=2) as engine,
        intercepted(model.unet, lambda sample: calls.append(len(sample))),
    ):
        result = engine.paint(request_for(samples=5))
    assert len(result.images) == 5
    assert max(calls) == 4


def test_sizes_take_turns(engine: Engine, request_for: Make) -> None:
    """A long job of one size does not hold up a short one of another."""
    wide = Image.new("RGB", (192, 64)), Image.new("L", (192, 64), 255)
    long = engine.submit(request_for(num_inference_steps=100))
    short = engine.submit(request_for(image=wide[0], mask=wide[1], area="whole", num_inference_steps=3))
    short.result(WAIT_S)
    assert not long.finished
    long.cancel()


def test_a_random_seed_is_reported_and_repeats(engine: Engine, request_for: Make) -> None:
    """-1 draws a seed; with it the picture can be had again."""
    result = engine.paint(request_for(seed=-1))
    again = engine.paint(request_for(seed=result.seeds[0]))
    assert np.array_equal(result.images[0], again.images[0])
    assert engine.paint(request_for(seed=-1)).seeds != result.seeds


def test_an_empty_mask_is_refused_by_submit(engine: Engine, request_for: Make) -> None:
    """The caller learns it from submit, not from a job that fails later."""
    with pytest.raises(RequestError, match="nothing to repaint"):
        engine.submit(request_for(mask=Image.new("L", (128, 128))))
    assert engine.stats().waiting == 0


def test_a_soft_mask_too_dark_to_repaint_is_refused_at_the_door(engine: Engine, request_for: Make) -> None:
    """Greys below 8 repaint nothing; 8 does."""
    for grey in (1, 7):
        with pytest.raises(RequestError, match="greys from 8 up count"):
            engine.submit(request_for(mask=Image.new("L", (128, 128), grey), soft=True))
    engine.submit(request_for(mask=Image.new("L", (128, 128), 8), soft=True)).cancel()


def test_drain_finishes_what_was_accepted_and_takes_no_more(model: Model, request_for: Make) -> None:
    """A server that restarts finishes its accepted requests first."""
    with Engine(model, max_rows=1) as engine:
        jobs = [engine.submit(request_for()) for _ in range(3)]
        assert engine.drain(WAIT_S)
        assert all(job.finished and job.result().images for job in jobs)
        with pytest.raises(ClosedError):
            engine.submit(request_for())


def test_drain_says_when_its_time_ran_out(engine: Engine, request_for: Make) -> None:
    """A supervisor must know whether it may kill the process."""
    job = engine.submit(request_for(num_inference_steps=150, strength=1.0))
    assert not engine.drain(0)
    with pytest.raises(TimeoutError):
        job.result(0)
    job.cancel()


def test_close_ends_every_job(model: Model, request_for: Make) -> None:
    """No caller waits for ever for an engine that is gone."""
    engine = Engine(model, max_rows=1)
    jobs = [engine.submit(request_for(num_inference_steps=100)) for _ in range(2)]
    engine.close()
    for job in jobs:
        with pytest.raises(CancelledError):
            job.result(0)
    assert engine.stats().waiting == engine.stats().running == 0
    assert not any(thread.name == "inpaint-tiny-9" for thread in threading.enumerate())


def test_out_of_memory_halves_the_batch_and_all_get_a_picture(model: Model, request_for: Make) -> None:
    """A card that fits two rows serves four requests in pairs instead of failing them."""

    def cap(sample: torch.Tensor) -> None:
        if len(sample) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    calm = [np.asarray(image) for image in paint_all(model, request_for)]
    with intercepted(model.unet, cap), Engine(model) as engine:
        jobs = [engine.submit(request_for(seed=i, scheduler="Euler a")) for i in range(4)]
        pressed = [np.asarray(job.result(WAIT_S).images[0]) for job in jobs]
        stats = engine.stats()
    assert stats.out_of_memory > 0
    assert stats.max_rows == 2
    assert all(np.abs(a.astype(int) - b).max() <= 1 for a, b in zip(calm, pressed, strict=True))


def paint_all(model: Model, request_for: Make) -> list[Image.Image]:
    with Engine(model) as engine:
        return [engine.paint(request_for(seed=i, scheduler="Euler a")).images[0] for i in range(4)]


def test_one_that_does_not_fit_alone_fails_alone(engine: Engine, request_for: Make) -> None:
    """Its error is an out-of-memory that says what to try."""

    def never(sample: torch.Tensor) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with intercepted(engine.model.unet, never), pytest.raises(OutOfMemoryError, match="--memory"):
        engine.paint(request_for())
    assert engine.paint(request_for()).images, "the engine lives on"


def test_a_decode_that_does_not_fit_is_tried_in_tiles(engine: Engine, request_for: Make) -> None:
    """The VAE's decode is the peak of memory: it gets a second, smaller try."""
    sizes = []

    def small_only(latents: torch.Tensor) -> None:
        sizes.append(latents.shape[-1])
        if latents.shape[-1] > 8:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    with intercepted(engine.model.vae.decoder, small_only):
        image = engine.paint(request_for()).images[0]
    assert image.size == (128, 128)
    assert sizes[0] == 16
    assert set(sizes[1:]) <= set(range(1, 9))
    assert not engine.model.vae.use_tiling, "the next picture is decoded whole again"


def test_a_request_that_breaks_the_model_fails_alone(engine: Engine, request_for: Make) -> None:
    """One poisonous request must not take its neighbours with it."""

    def bite(sample: torch.Tensor) -> None:
        if torch.isnan(sample).any():
            raise ValueError("poison")

    with intercepted(engine.model.unet, bite):
        good = [engine.submit(request_for(num_inference_steps=12, seed=i)) for i in range(2)]
        bad = engine.submit(request_for(num_inference_steps=12, seed=9, guidance_scale=float("1e-3")))
        for event in bad.events():
            if event.state == "step":
                poison(engine, bad)
        assert all(job.result(WAIT_S).images for job in good)
        with pytest.raises(PaintError, match="internal error, please report it: ValueError: poison"):
            bad.result(WAIT_S)
    assert engine.stats().failures == 1


def poison(engine: Engine, job: object) -> None:
    """Put NaN into a running job's latents, as an overflow in the model would."""
    for task in list(engine._loop._in_flight.tasks.values()):
        if task.job is job:
            for row in task.rows:
                row.latents = torch.full_like(row.latents, torch.nan)


def test_nan_is_never_returned_as_a_picture(engine: Engine, request_for: Make) -> None:
    """A black square with status 200 is the worst answer of all."""
    handle = engine.model.unet.register_forward_hook(lambda *_: (torch.full((2, 4, 16, 16), torch.nan),))
    try:
        with pytest.raises(PaintError, match="NaN"):
            engine.paint(request_for())
    finally:
        handle.remove()
    assert engine.paint(request_for()).images


def test_a_failed_gpu_ends_all_jobs_with_an_error(model: Model, request_for: Make) -> None:
    """After a device assert no result of this process can be trusted; a supervisor must restart it."""

    def assert_triggered(sample: torch.Tensor) -> None:
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    with Engine(model) as engine:
        with intercepted(model.unet, assert_triggered):
            jobs = [engine.submit(request_for(seed=i)) for i in range(2)]
            for job in jobs:
                with pytest.raises(DeviceError, match="must be restarted"):
                    job.result(WAIT_S)
        with pytest.raises(DeviceError):
            engine.submit(request_for())


def test_an_idle_engine_counts_nothing(engine: Engine) -> None:
    """Numbers that move by themselves would mislead an operator."""
    assert engine.stats() == EngineStats(0, 0, 0, 0, 0, 0, 0, 8, {})


def test_samples_that_fail_one_by_one_fail_their_job_once(engine: Engine, request_for: Make) -> None:
    """Three variations that do not fit are one failure, and the engine lives on."""

    def never(sample: torch.Tensor) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    with intercepted(engine.model.unet, never), pytest.raises(OutOfMemoryError):
        engine.paint(request_for(samples=3))
    assert engine.stats().failures == 1
    assert engine.paint(request_for()).images


def test_a_preview_that_fails_is_left_out(
    engine: Engine, request_for: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A picture is worth more than its preview."""

    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(engine._loop._stages, "preview", fail)
    job = engine.submit(request_for())
    assert all(event.preview is None for event in job.events(preview=True))
    assert job.result().images


def test_no_job_waits_for_a_thread_that_is_gone(
    model: Model, request_for: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the loop itself has a bug, its jobs end, and no new ones are accepted."""
    monkeypatch.setattr(threading, "excepthook", lambda *_: None)
    engine = Engine(model)

    def broken() -> None:
        raise RuntimeError("a bug in the loop")

    monkeypatch.setattr(engine._loop, "_drop", broken)
    with pytest.raises(CancelledError):
        engine.submit(request_for()).result(WAIT_S)
    engine._loop._thread.join(WAIT_S)
    with pytest.raises(ClosedError):
        engine.submit(request_for())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_same_seed_paints_the_same_on_a_gpu(checkpoint: Callable[[int], Any], request_for: Make) -> None:
    """Seeds are drawn on the CPU, so that they travel between machines."""
    pictures = []
    for device in ("cpu", "cuda"):
        with Engine.load(checkpoint(9), device=device, dtype="float32") as engine:
            pictures.append(np.asarray(engine.paint(request_for()).images[0], dtype=int))
    assert np.abs(pictures[0] - pictures[1]).max() <= 2


def test_a_request_that_cannot_be_in_time_is_refused_immediately(
    engine: Engine, request_for: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A 503 now is worth more than a picture that is too late."""
    engine.paint(request_for())  # from which it knows what a step costs
    for observe in ("observe_step", "observe_encode", "observe_decode"):  # and which stays so below
        monkeypatch.setattr(Profile, observe, lambda *_: None)
    with pytest.raises(BusyError, match="even alone"):
        engine.submit(request_for(num_inference_steps=150, strength=1.0), deadline_s=1e-6)
    long = [engine.submit(request_for(num_inference_steps=150, strength=1.0)) for _ in range(9)]
    alone_s = alone_of(engine, request_for(num_inference_steps=150, strength=1.0))
    with pytest.raises(BusyError, match="too much is ahead") as refused:
        engine.submit(request_for(num_inference_steps=150, strength=1.0), deadline_s=alone_s * 1.01)
    assert refused.value.retry_after_s > 0
    for job in long:
        job.cancel()


def alone_of(engine: Engine, request: InpaintRequest) -> float:
    work = work_of(request, [(128, 128)], engine.vae_factor)
    return alone_s(work, engine.profile)


def test_what_is_too_late_leaves_between_two_steps(engine: Engine, request_for: Make) -> None:
    """Its steps belong to the requests that can still be in time."""
    endless = request_for(num_inference_steps=150, strength=1.0)
    job = engine.submit(endless, deadline_s=0.05, promised=True)
    with pytest.raises(DeadlineError, match="fewer steps"):
        job.result(WAIT_S)
    assert engine.stats().running == 0
    assert [event.state for event in job.events()][-1] == "failed"


def test_one_that_does_not_fit_with_another_is_tried_alone(engine: Engine, request_for: Make) -> None:
    """Decoding takes memory, too: a row that fails meanwhile may fit when it is done."""
    tries = []

    def first_time(sample: torch.Tensor) -> None:
        tries.append(len(sample))
        if len(tries) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    with intercepted(engine.model.unet, first_time):
        assert engine.paint(request_for()).images
    assert engine.stats().out_of_memory == 1
    assert engine.stats().failures == 0


def test_a_row_of_nan_is_painted_once_more_in_fp32(
    checkpoint: Callable[[int], Any], request_for: Make
) -> None:
    """Half precision overflows now and then; the caller gets a picture, the one that fp32 paints."""
    dtypes = []

    def overflow(unet: torch.nn.Module, args: tuple[Any, ...], out: Any) -> Any:
        dtypes.append(args[0].dtype)
        return (torch.full_like(out[0], torch.nan),) if args[0].dtype == torch.bfloat16 else out

    request = request_for(samples=2, num_inference_steps=4)
    with Engine.load(checkpoint(9), device="cpu", dtype="bfloat16") as engine:
        handle = engine.model.unet.register_forward_hook(overflow)
        painted = engine.paint(request).images
        handle.remove()
        assert engine.model.unet.dtype == torch.bfloat16
        assert engine.stats().failures == 0
    assert set(dtypes) == {torch.bfloat16, torch.float32}
    with Engine.load(checkpoint(9), device="cpu", dtype="float32") as engine:
        exact = engine.paint(request).images
    # The VAE and the text are still in 16 bit.
    differences = [
        np.abs(np.asarray(a, int) - np.asarray(b, int)).mean() for a, b in zip(painted, exact, strict=True)
    ]
    assert max(differences) < 3


def test_no_step_waits_for_more_than_one_decode(engine: Engine, request_for: Make) -> None:
    """Six requests that are done together do not delay the one that is not."""
    long = engine.submit(request_for(num_inference_steps=150, strength=1.0))
    next(event for event in long.events() if event.state == "step")
    order: list[str] = []
    with (
        intercepted(engine.model.unet, lambda _: order.append("step")),
        intercepted(engine.model.vae.decoder, lambda latents: order.append(f"decode {len(latents)}")),
    ):
        short = [engine.submit(request_for(num_inference_steps=9, strength=1.0, seed=i)) for i in range(6)]
        assert all(job.result(WAIT_S).images for job in short)
    assert not long.finished
    long.cancel()
    calls = " ".join(order)
    assert calls.count("decode") <= 6
    assert "decode 2 decode" not in calls
    assert "decode 1 decode" not in calls


def test_on_a_thread_of_its_own_a_decode_delays_no_step(model: Model, request_for: Make) -> None:
    """On a GPU both run in streams; here the thread is tested without the GPU."""
    posted: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
    side = SideThread(Stages(model), posted.put, "test", overlapped=True)
    request = request_for(samples=2)
    task = RunningRequest(Job(request, [5, 6]), cut(request, 128))
    done: list[object] = []
    side.encode(task, 0, lambda _, error: done.append(error))
    posted.get(timeout=WAIT_S)()
    assert done == [None]
    while not task.rows[0].done:
        step(model, task.rows)
    go_on = threading.Event()

    def wait(_: torch.Tensor) -> None:
        assert go_on.wait(WAIT_S)

    with intercepted(model.vae.decoder, wait):
        side.decode([(task, 0), (task, 1)], None, lambda *of: done.append(of[1:]))
        assert posted.empty()
        go_on.set()
        for _ in range(2):
            posted.get(timeout=WAIT_S)()
    assert sorted(done[1:]) == [(0, None), (1, None)]
    assert task.images.keys() == {0, 1}
    assert task.timings.keys() == {"encode_s", "decode_s"}
    side.settle()
    side.close()


def test_a_long_request_delays_a_short_one_by_a_step_a_step(engine: Engine, request_for: Make) -> None:
    """Twenty steps next to a hundred are twenty calls, in any order; of another size, twice that."""
    for settings, most in (({}, 20), ({"area": "whole", **wide()}, 41)):
        long = engine.submit(request_for(num_inference_steps=100, strength=1.0))
        next(event for event in long.events() if event.state == "step")
        job = engine.submit(request_for(num_inference_steps=20, strength=1.0, **settings))
        for event in job.events():
            if event.state == "step" and event.step == 1:
                begun = engine.stats().unet_calls
            if event.state == "step" and event.step == 20:
                assert engine.stats().unet_calls - begun <= most
        assert not long.finished
        long.cancel()


def wide() -> dict[str, Any]:
    return {"image": Image.new("RGB", (192, 64)), "mask": Image.new("L", (192, 64), 255)}
