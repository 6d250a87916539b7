"""The threads of a small model: all on an idle CPU, one on a busy one, and the caller's own choice first."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from inpaint import Engine, InpaintRequest
from inpaint.model.load import Model
from inpaint.runtime import cpu_threads
from inpaint.runtime.cpu_threads import CpuThreads

Make = Callable[..., InpaintRequest]
CALL_S = 0.1


@pytest.fixture(autouse=True)
def two_cores(model: Model, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine of two cores, on which the user has set nothing; the model is loaded with one thread."""
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cpu_threads, "cores", lambda: 2)
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(1)


def note(threads: CpuThreads, share: float, calls: int) -> list[int]:
    """Note calls of ``CALL_S`` with this share of a core; the threads after each."""
    after = []
    for _ in range(calls):
        threads.note(CALL_S, share * CALL_S)
        after.append(threads.now)
    return after


def test_a_busy_cpu_gets_one_thread_and_an_idle_one_all(model: Model) -> None:
    """Two threads that wait for each other are slower among other programs than one, and faster alone."""
    threads = CpuThreads(model)
    threads.begin()
    assert note(threads, 0.97, 5) == [2] * 5
    assert note(threads, 0.4, 3) == [2, 2, 1]
    assert torch.get_num_threads() == 1
    assert note(threads, 0.5, 50) == [1] * 50, "still busy"
    assert note(threads, 0.99, 20)[-1] == 2
    assert torch.get_num_threads() == 2


def test_one_slow_call_means_nothing(model: Model) -> None:
    """A page fault or a backup must not cost a fifth of the speed for a second."""
    threads = CpuThreads(model)
    for _ in range(5):
        note(threads, 0.3, 2)
        assert note(threads, 1.0, 1) == [2]


def test_attempts_that_fail_become_rare(model: Model) -> None:
    """With one other program on two cores, one thread always looks idle: each attempt costs slow calls."""
    threads = CpuThreads(model)
    waits = []
    for _ in range(6):
        note(threads, 0.4, 3)
        waited = 0
        while threads.now == 1:
            note(threads, 1.0, 1)
            waited += 1
        waits.append(waited * CALL_S)
    assert waits == sorted(waits)
    assert waits[0] == pytest.approx(1, abs=2 * CALL_S)
    assert waits[-1] == pytest.approx(30, abs=4)


def test_an_engine_among_other_programs_steps_with_one_thread(
    model: Model, request_for: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole path: the loop watches its calls, and gives the threads back when it ends."""
    busy = SimpleNamespace(perf_counter=cpu_threads.time.perf_counter, thread_time=lambda: 0.0)
    monkeypatch.setattr(cpu_threads, "time", busy)
    with Engine(model) as engine:
        threads = engine._loop._threads
        assert threads.now == 2
        engine.paint(request_for(num_inference_steps=5))
        assert threads.now == 1
    assert threads.now == 2


def test_threads_that_the_caller_chose_stay(
    model: Model, request_for: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OMP_NUM_THREADS=2 means two, whatever else runs."""
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setattr(cpu_threads, "cores", lambda: 1)
    busy = SimpleNamespace(perf_counter=cpu_threads.time.perf_counter, thread_time=lambda: 0.0)
    monkeypatch.setattr(cpu_threads, "time", busy)
    with Engine(model) as engine:
        engine.paint(request_for(num_inference_steps=5))
        assert engine._loop._threads.now == 2


def test_a_large_model_keeps_its_threads(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its operations take milliseconds, so that every core counts more than a moment of waiting."""
    monkeypatch.setattr("inpaint.model.load.FULL_SIZE", 1)
    threads = CpuThreads(model)
    threads.begin()
    monkeypatch.setattr(cpu_threads, "time", SimpleNamespace(perf_counter=lambda: 0, thread_time=lambda: 0))
    for _ in range(5):
        with threads.watched():
            pass
    assert threads.now == 2


def test_no_more_threads_than_the_quota_allows(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch counts the machine's cores; a container that may use one of them is throttled with two."""
    monkeypatch.setattr(cpu_threads, "cores", lambda: 1)
    threads = CpuThreads(model)
    threads.begin()
    assert (threads.now, torch.get_num_threads()) == (1, 1)


def test_a_gpu_is_not_watched(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """There a call returns long before it has computed, so that its share of a core means nothing."""
    monkeypatch.setattr(cpu_threads, "cores", lambda: 1)
    threads = CpuThreads(replace(model, device=torch.device("cuda", 0)))
    threads.begin()
    for _ in range(5):
        with threads.watched():
            pass
    assert threads.now == 2
