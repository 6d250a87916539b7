"""A compilation that failed, and its second attempt."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from inpaint import cuda
from inpaint.fast import compiled as compiled_module
from inpaint.fast.compiled import Compiled, wrap
from inpaint.fast.shapes import example, native, usual
from inpaint.model.load import Model
from inpaint.model.unet import UNetBatch, plain

# inductor imports what torch itself has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")

WAIT_S = 240.0
Compile = Callable[[torch.fx.GraphModule, list[Any]], Callable[..., Any]]


@pytest.fixture
def start(model: Model, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Compile], Compiled]]:
    """A backend → what it compiled at its first attempt; the second is due immediately."""
    monkeypatch.setattr(compiled_module, "_AGAIN_AFTER_S", 0.0)
    torch._dynamo.reset()
    counters.clear()
    made: list[Compiled] = []

    def starting(backend: Compile) -> Compiled:
        made.append(wrap(model, plain(model.unet), slots=(2, 1), stages=("regional",), backend=backend))
        made[-1].start()
        made[-1].wait(WAIT_S)
        return made[-1]

    yield starting
    for one in made:
        one.close()
    torch._dynamo.reset()


def call(model: Model, slots: int = 2) -> UNetBatch:
    return example(model, usual(model, native(model), slots))


class Flaky:
    """A backend whose first compilations fail."""

    def __init__(self, error: Exception, failures: int = 1) -> None:
        self.calls = 0
        self._error = error
        self._failures = failures

    def __call__(self, graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        self.calls += 1
        if self.calls <= self._failures:
            raise self._error
        return graph


@pytest.mark.parametrize("error", [OSError("no space left"), torch.OutOfMemoryError("full")])
def test_a_compilation_that_failed_is_tried_once_more(
    model: Model, start: Callable[[Compile], Compiled], error: Exception
) -> None:
    """Pictures that filled the memory at the wrong moment used to make every later one slow."""
    quick = start(Flaky(error))
    assert not quick.ready or len(quick.ready) == 1
    quick(call(model))
    assert quick.wait(WAIT_S) == "regional"
    assert sorted(shape.slots for shape in quick.ready) == [1, 2]


def test_it_is_not_tried_for_ever(model: Model, start: Callable[[Compile], Compiled]) -> None:
    """A machine without a compiler must not look for one with every call."""
    backend = Flaky(OSError("no compiler here"), failures=1000)
    quick = start(backend)
    for _ in range(3):
        quick(call(model))
        quick.wait(WAIT_S)
    assert backend.calls == 2
    assert quick.state.startswith("failed: ")


def test_wrong_code_is_not_made_again(model: Model, start: Callable[[Compile], Compiled]) -> None:
    """The compiler would make the same."""
    calls: list[int] = []

    def off(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        calls.append(1)
        return lambda *args: tuple(out * 1.5 for out in graph(*args))

    quick = start(off)
    made = len(calls)
    quick(call(model))
    quick.wait(WAIT_S)
    assert len(calls) == made


def test_no_graph_is_recorded_while_it_compiles(model: Model, start: Callable[[Compile], Compiled]) -> None:
    """A compiler that times its kernels waits for the whole device, which CUDA refuses during a recording."""
    free: list[bool] = []

    def noting(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        with cuda.runtime.recording() as recordable:
            free.append(recordable)
        return graph

    start(noting)
    with cuda.runtime.recording() as recordable:
        assert recordable
    assert free
    assert not any(free)


def test_a_shape_s_code_changes_with_that_shape_alone(
    model: Model, start: Callable[[Compile], Compiled]
) -> None:
    """What is recorded of other shapes stays in use."""
    codes: list[tuple[Any, Any]] = []
    one, two = (usual(model, native(model), slots) for slots in (1, 2))

    def noting(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        if quick:
            codes.append((quick[0].code(two), quick[0].code(one)))
        return graph

    quick: list[Compiled] = []
    quick.append(wrap(model, plain(model.unet), slots=(2, 1), stages=("regional",), backend=noting))
    quick[0].start()
    try:
        assert quick[0].wait(WAIT_S) == "regional"
        assert codes[0] == (None, None)
        second, first = codes[-1]
        assert second is not None, "two slots are compiled first"
        assert first is None
        assert quick[0].code(two) == second
        assert quick[0].code(one) is not None
    finally:
        quick[0].close()
