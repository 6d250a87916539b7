"""Injected faults: their notation, and the effect of each on a running engine."""

from collections.abc import Callable
from typing import Any

import pytest

from inpaint import Engine, InpaintRequest, RequestError
from inpaint.errors import DeviceError, OutOfMemoryError, PaintError
from inpaint.model.load import Model
from inpaint.runtime.faults import Fault, Faults

Make = Callable[..., InpaintRequest]
WAIT_S = 120


def test_the_notation_is_read() -> None:
    """A test names its faults in one string."""
    faults = Faults.parse("oom@3, exit@6:start=2,sigkill@1+:prompt=poison", start=2).faults
    assert faults == (
        Fault("oom", 3),
        Fault("exit", 6, start=2),
        Fault("sigkill", 1, onwards=True, prompt="poison"),
    )


def test_a_fault_of_another_start_is_left_out() -> None:
    """A worker that failed once is healthy when it comes back."""
    assert Faults.parse("exit@6:start=1,hang@4", start=2).faults == (Fault("hang", 4),)


@pytest.mark.parametrize("text", ["oom", "oom@0", "boom@3", "oom@3:", "oom@3:start=x", "oom@-1", "oom 3"])
def test_other_notations_are_refused(text: str) -> None:
    """A test whose fault is misspelt would pass without it."""
    with pytest.raises(RequestError, match="must be like oom@3"):
        Faults.parse(text)


def test_calls_are_counted_where_the_prompt_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that is poison fails next to any other, and the others do not."""
    caused: list[Any] = []
    monkeypatch.setattr("inpaint.runtime.faults._cause", lambda kind, row: caused.append((kind, row)))
    faults = Faults.parse("oom@2:prompt=poison,nan@3+")
    good, bad = ("good", "row 1"), ("rat poison", "row 2")
    for rows in ([good], [good, bad], [bad, good], [good]):
        faults.before_call(rows)  # type: ignore[arg-type]
    assert caused == [("oom", "row 2"), ("nan", "row 2"), ("nan", "row 1")]


def test_one_out_of_memory_halves_the_batch_and_all_finish(model: Model, request_for: Make) -> None:
    """The engine's handling of a full card, with an injected fault."""
    with Engine(model, faults=Faults.parse("oom@2")) as engine:
        jobs = [engine.submit(request_for(seed=i)) for i in range(2)]
        assert all(job.result(WAIT_S).images for job in jobs)
        assert engine.stats().out_of_memory == 1


@pytest.mark.parametrize(("fault", "error"), [("oom@1+", OutOfMemoryError), ("nan@2", PaintError)])
def test_what_hits_one_request_fails_that_alone(
    fault: str, error: type[Exception], model: Model, request_for: Make
) -> None:
    """Its neighbour in the same UNet call gets a picture."""
    with Engine(model, faults=Faults.parse(f"{fault}:prompt=poison")) as engine:
        good, bad = engine.submit(request_for()), engine.submit(request_for(prompt="poison"))
        with pytest.raises(error):
            bad.result(WAIT_S)
        assert good.result(WAIT_S).images


def test_a_device_assert_breaks_the_engine(model: Model, request_for: Make) -> None:
    """Nothing in this process can be trusted after it."""
    with Engine(model, faults=Faults.parse("assert@1")) as engine:
        with pytest.raises(DeviceError, match="must be restarted"):
            engine.paint(request_for())
        with pytest.raises(DeviceError):
            engine.submit(request_for())
