"""The waits of a step, by sampler: counted on a device without numbers, where a GPU would stall."""

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import lru_cache
from typing import Any

import pytest
import torch

from inpaint import SCHEDULERS
from inpaint.fast import cross_attention_cache
from inpaint.model import deep_level, denoise, samplers
from inpaint.model.denoise import step
from inpaint.model.load import Model
from inpaint.model.row import Row, start_row
from inpaint.model.unet import UNetBatch, plain
from inpaint.schedulers import make_scheduler
from tests.inpaint.nocard.meta_device import META, Traffic, conditioning, on_meta, watched

# Samplers that draw noise → draws in the nine steps of ``begin``; each is one copy that does not wait.
DRAWS: Mapping[str, int] = {
    "Euler a": 9,
    "DPM2 a Karras": 8,
    "DDPM": 9,
    "DPM Multi SDE": 9,
    "DPM Multi SDE Karras": 9,
}

# What one call of one row asks for outside of the UNet, guided and with 9 channels, on average: operations on
# the device, each a launch of some microseconds, and on small tensors of the host. Counted, not measured.
# These may only be lowered.
BUDGET: Mapping[str, tuple[int, int]] = {
    "DDIM": (20, 38),
    "DPM Multi": (24, 57),
    "DPM Single": (22, 49),
    "Euler a": (26, 38),
    "Euler": (23, 29),
    "Heun": (24, 25),
    "DPM2 a Karras": (25, 28),
    "DPM2 Karras": (23, 26),
    "LMS": (29, 33),
    "PNDM": (24, 27),
    "DDPM": (23, 60),
    "UniPC": (19, 24),
    "DPM Multi Karras": (24, 57),
    "DPM Single Karras": (22, 49),
    "DPM Multi SDE": (27, 66),
    "DPM Multi SDE Karras": (27, 66),
}


@pytest.fixture(scope="module")
def metas(models: Callable[[int], Model]) -> Callable[[int], Model]:
    """in_channels → the tiny model on the meta device."""
    return lru_cache(lambda in_channels: on_meta(models(9), in_channels))


def begin(model: Model, scheduler: str, **how: Any) -> Row:
    """A row on the meta device: 10 steps at strength 0.9 unless ``how`` has others."""
    settings = {"soft": how.pop("soft", False), "tokens": how.pop("tokens", (77, 77))}
    how = {"num_inference_steps": 10, "strength": 0.9, "guidance_scale": 7.5, "seed": 1, **how}
    return start_row(model, conditioning(model, **settings), scheduler=scheduler, **how)


def answer(batch: UNetBatch) -> torch.Tensor:
    """Stand for the UNet's result."""
    return torch.empty_like(batch.sample[:, :4])


def run(model: Model, rows: list[Row], forward: Any = answer) -> tuple[Traffic, int]:
    """Step rows to their end: what that asked of the device, and the number of calls."""
    traffic, calls = Traffic(), 0
    with watched(traffic):
        while waiting := [row for row in rows if not row.done]:
            for row in waiting:
                row.watched = True  # the estimate for previews is computed too
            step(model, waiting, forward)
            calls += 1
    return traffic, calls


@pytest.mark.parametrize("in_channels", [9, 4])
@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_no_step_waits_for_the_device(
    scheduler: str, soft: bool, in_channels: int, metas: Callable[[int], Model]
) -> None:
    """A wait lets the GPU idle while the CPU prepares the next call; in each step, that is felt."""
    model = metas(in_channels)
    traffic, _ = run(model, [begin(model, scheduler, soft=soft)])
    assert traffic.stalls() == {}
    assert traffic.uploads == DRAWS.get(scheduler, 0)


@pytest.mark.parametrize("in_channels", [9, 4])
@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_row_begins_without_a_wait(scheduler: str, in_channels: int, metas: Callable[[int], Model]) -> None:
    """Rows begin on the thread that encodes and decodes, for 64 samples one after the other."""
    traffic, model = Traffic(), metas(in_channels)
    with watched(traffic):
        begin(model, scheduler, soft=True)
    assert traffic.stalls() == {}


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_a_step_launches_no_more_than_its_budget(scheduler: str, metas: Callable[[int], Model]) -> None:
    """At small sizes the launches for several rows take longer than the UNet call that hides them."""
    model = metas(9)
    traffic, calls = run(model, [begin(model, scheduler)])
    launches, host_ops = BUDGET[scheduler]
    assert traffic.launches <= launches * calls
    assert traffic.host_ops <= host_ops * calls


@pytest.mark.parametrize("cached", [False, True])
def test_rows_of_many_kinds_do_not_wait_together(cached: bool, model: Model) -> None:
    """Through the UNet itself: prompts of two lengths need a mask, which was made on the host and copied."""
    model = on_meta(model, 9)
    forward = plain(model.unet)
    if cached:  # the text's keys and values, with room for it
        forward = cross_attention_cache.wrap(model.unet, model.dtype, forward, slots=4 * len(SCHEDULERS))
    rows = [
        begin(model, name, soft=i % 2 == 0, tokens=(77 * (1 + i % 2), 77))
        for i, name in enumerate(SCHEDULERS)
    ]
    traffic = Traffic()
    with watched(traffic):
        for _ in range(2):
            step(model, rows, forward)
    assert traffic.stalls() == {}


def test_no_call_with_a_cache_waits(model: Model) -> None:
    """Near rows continue the deepest level in a line through their caches, all of it on the device."""
    model = on_meta(model, 9)
    forward = deep_level.wrap(model.unet, plain(model.unet))
    rows = [
        begin(model, "Euler a", num_inference_steps=18, pace="near", deep_cache=True, seed=seed)
        for seed in range(2)
    ]
    traffic, cached = Traffic(), 0
    with watched(traffic):
        for _ in range(7):
            cached += rows[0].bucket.cached
            step(model, rows, forward)
    assert cached == 3
    assert traffic.stalls() == {}


# Negative controls: the code as it was, and each kind of wait.


def test_stock_unipc_is_reported(metas: Callable[[int], Model], monkeypatch: pytest.MonkeyPatch) -> None:
    """Stock's UniPC copies every sigma to the device, and has the host wait for a linear system."""
    monkeypatch.setattr(samplers, "_OWN", {})
    traffic, calls = run(metas(9), [begin(metas(9), "UniPC")])
    assert traffic.copies.total() / calls > 5
    assert any("linalg_solve" in place for place in traffic.waits)


@pytest.mark.parametrize("scheduler", DRAWS)
def test_noise_from_pageable_memory_is_reported(
    scheduler: str, metas: Callable[[int], Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stock copies the noise that it draws with a wait: once a step."""
    monkeypatch.setattr(samplers, "_UploadedNoise", lambda device: nullcontext())
    traffic, _ = run(metas(9), [begin(metas(9), scheduler)])
    assert (traffic.copies.total(), traffic.uploads) == (DRAWS[scheduler], 0)


@pytest.mark.parametrize("scheduler", SCHEDULERS)
def test_add_noise_in_the_loop_is_reported(
    scheduler: str, metas: Callable[[int], Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stock's ``add_noise`` copies its tables and the timestep to the device, for every 4-channel row."""
    model = metas(4)
    stock = make_scheduler(scheduler, model.scheduler_config, 10)
    if hasattr(stock, "set_begin_index"):
        stock.set_begin_index(0)
    row = begin(model, scheduler)
    monkeypatch.setattr(
        denoise, "noised", lambda picture, noise, level: stock.add_noise(picture, noise, row.timesteps[:1])
    )
    traffic, calls = run(model, [row])
    assert traffic.copies.total() >= calls - 1


A, HOST, SCALAR = torch.empty(3, device=META), torch.ones(3), torch.tensor(2.0)


@pytest.mark.parametrize(
    "stall",
    [
        lambda: A[0].item(),
        lambda: bool(A[0] > 0),
        lambda: A.nonzero(),
        lambda: A.cpu(),
        lambda: torch.linalg.solve(torch.empty(3, 3, device=META), A),
        lambda: HOST.to(META),
        lambda: SCALAR.to(META),
        lambda: A.copy_(HOST),
        lambda: torch.where(A > 0, A, SCALAR.to(META)),
        lambda: A[[0, 1]],
        lambda: A[torch.tensor([0, 1])],
        lambda: torch.tensor([1.0], device=META),
        lambda: torch.as_tensor(1.0, device=META),
    ],
)
@pytest.mark.parametrize("inference", [False, True])
def test_each_kind_of_wait_is_seen(stall: Callable[[], Any], inference: bool) -> None:
    """A count of 0 means something only if the harness can count."""
    traffic = Traffic()
    with watched(traffic), torch.inference_mode(inference):
        try:
            stall()
        except (NotImplementedError, RuntimeError):  # the device has no numbers to give
            assert traffic.waits
    assert sum(traffic.stalls().values()) >= 1


@pytest.mark.parametrize(
    "free",
    [
        lambda: A * SCALAR,
        lambda: A * 2.0,
        lambda: A[:2],
        lambda: A[torch.tensor(1)],
        lambda: A.half(),
        lambda: torch.zeros(3, device=META),
        lambda: torch.arange(3, device=META),
        lambda: HOST.sum().item(),
    ],
)
def test_what_does_not_wait_is_not_reported(free: Callable[[], Any]) -> None:
    """Scalars of the host are arguments of a kernel, on CUDA as well."""
    traffic = Traffic()
    with watched(traffic), torch.inference_mode():
        free()
    assert traffic.stalls() == {}
