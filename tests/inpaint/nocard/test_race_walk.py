"""The order of all that the engine does on a GPU, over random requests, and with each guard taken out."""

import gc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import inpaint.engine
from inpaint.errors import CancelledError
from inpaint.runtime import calibrate
from inpaint.runtime.faults import Faults
from inpaint.runtime.streams import DeviceStream
from tests.inpaint.nocard.race_rules import Report
from tests.inpaint.nocard.race_walk import FAULTS, WAIT_S, Engines, Walk, engines, write_models
from tests.inpaint.nocard.simulated_cuda import SimulatedCuda

FEW = 8  # requests, enough for a guard that is missing to show


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a checkpoint and LoRAs."""
    return write_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def gpu(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engines]:
    """Engines on a simulated GPU that knows the order of everything."""
    monkeypatch.setattr(calibrate, "_ROUNDS", 1)
    with engines(folder) as made:
        yield made


def walk(gpu: Engines, requests: int, *, sessions: int, seed: int = 0) -> Walk:
    """Walk through several engines, one after the other, the first of which measures its costs."""
    walked = Walk(seed)
    for session in range(sessions):
        profiles = gpu.folder / f"profiles-{seed}" if session == 0 else None
        engine = gpu.load(profiles=profiles, faults=Faults.parse(FAULTS))
        walked.run(engine, requests // sessions)
    del engine
    gc.collect()  # memory that nobody holds any more was freed, too
    return walked


def reports(gpu: Engines) -> str:
    """Return what the checker found, the most frequent first."""
    return "\n".join(f"{n} × {report}" for report, n in gpu.device.races.reports.most_common(20))


def assert_varied(walked: Walk, gpu: Engines) -> None:
    """Check that the walk came by all that it promises."""
    # A second NaN may hit a row while it is painted again in fp32, which ends it.
    usual = [error for error in walked.errors if isinstance(error, CancelledError) or "NaN" in str(error)]
    assert walked.errors == usual
    assert walked.ended["CancelledError"] > 0
    assert walked.ended["done"] > walked.ended.total() / 2
    assert walked.stats["out_of_memory"] > 0
    assert walked.stats["lora_switches"] > 0
    assert gpu.device.recorded > 0
    assert walked.repainted > 0
    assert walked.compiled > 0
    assert walked.parts == {"compiled"}


def test_near_pictures_keep_the_order_of_their_caches(gpu: Engines, monkeypatch: pytest.MonkeyPatch) -> None:
    """Levels are kept from replays, whose memory the next replay writes, and read many calls later."""
    names = ("channels-last", "qkv", "text-kv", "graphs", "deep-level")
    how = {"scheduler": "Euler a", "num_inference_steps": 15, "strength": 1.0, "loras": "", "samples": 1}
    # Undone here: after the fixture, which has replaced the same function, it would bring that one back.
    with monkeypatch.context() as patch:
        patch.setattr(inpaint.engine, "choose", lambda *_, **__: names)
        engine = gpu.load()
    with engine:
        requests = [replace(Walk(seed).request(), pace="near", **how) for seed in range(3)]
        assert all(request.call_plan.cached for request in requests)
        jobs = [engine.submit(request) for request in requests]
        assert all(job.result(WAIT_S).images for job in jobs)
        assert engine._fast is not None
    assert gpu.device.recorded >= 2
    assert not gpu.device.races.reports, reports(gpu)


def test_sixty_requests_keep_the_order_that_a_gpu_needs(gpu: Engines) -> None:
    """A picture of half-copied weights, or of another request's memory, shows only now and then."""
    walked = walk(gpu, 60, sessions=1)
    assert not gpu.device.races.reports, reports(gpu)
    assert_varied(walked, gpu)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_five_hundred_requests_keep_the_order_that_a_gpu_needs(gpu: Engines) -> None:
    """A server is not started again after sixty requests; engines follow each other in one process."""
    walked = walk(gpu, 500, sessions=5, seed=1)
    assert not gpu.device.races.reports, reports(gpu)
    assert walked.ended.total() == 500
    assert_varied(walked, gpu)


def without_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DeviceStream, "keep", lambda *_: None)


def without_after(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DeviceStream, "after", lambda *_: None)


def without_settled_load(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SimulatedCuda, "_synchronize", lambda *_: None)


@pytest.mark.parametrize(
    ("without", "rule", "what"),
    [
        (
            without_keep,
            "R3",
            "memory goes back to stream 0 of priority 0 while stream 0 of priority -1 reads",
        ),
        (without_after, "R1", "stream 0 of priority 0 reads what stream 0 of priority -1 has not written"),
        (without_settled_load, "R1", "reads what default has not written"),
    ],
)
def test_a_guard_that_is_missing_is_reported(
    gpu: Engines,
    monkeypatch: pytest.MonkeyPatch,
    without: Callable[[pytest.MonkeyPatch], None],
    rule: str,
    what: str,
) -> None:
    """Else the walks would prove nothing."""
    without(monkeypatch)
    walked = Walk(2)
    walked.run(gpu.load(without=()), FEW)
    gc.collect()
    found: list[Report] = [*gpu.device.races.reports]
    assert [report for report in found if report.rule == rule and what in report.what], reports(gpu)
