"""Compiled ways through the UNet: when they are used, that they change nothing, what happens without."""

import gc
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from inpaint import InpaintRequest
from inpaint.canvas.crop import cut
from inpaint.fast import torch_compile
from inpaint.fast.compiled import Compiled, wrap
from inpaint.fast.shapes import example, native, pad, padded_slots, shape_of, usual
from inpaint.fast.shared_copy import shared_copy
from inpaint.job import Job
from inpaint.model.denoise import step
from inpaint.model.load import Model
from inpaint.model.unet import Forward, UNetBatch, plain
from inpaint.runtime.stages import RunningRequest, Stages
from inpaint.schedulers import SCHEDULERS

pytest_plugins = ["tests.support.compiler_fixtures"]

# inductor imports what torch itself has deprecated.
pytestmark = [
    pytest.mark.usefixtures("fresh_compiler"),
    pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning"),
]

WAIT_S = 240.0
BLOCKS = 11  # of the tiny UNet, each a compiled graph of its own
Make = Callable[..., InpaintRequest]


def as_it_is(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
    """A backend that compiles nothing: what torch traced, run as it is. Quick, and all else is real."""
    return graph


def slots(model: Model, n: int) -> UNetBatch:
    return example(model, usual(model, native(model), n))


@pytest.fixture
def compiled(model: Model) -> Iterator[Callable[..., Compiled]]:
    """Options → a started and settled :class:`Compiled` of the tiny model."""
    made: list[Compiled] = []

    def make(forward: Forward | None = None, **options: Any) -> Compiled:
        settings = {"slots": (2,), "stages": ("regional",), "backend": as_it_is, **options}
        made.append(wrap(model, forward or plain(model.unet), **settings))
        made[-1].start()
        made[-1].wait(WAIT_S)
        return made[-1]

    yield make
    for one in made:
        one.close()


def assert_close(out: torch.Tensor, expected: torch.Tensor) -> None:
    assert float((out - expected).norm() / expected.norm()) < 1e-3


@pytest.mark.slow
@torch.inference_mode()
def test_inductor_s_code_paints_the_same(model: Model, compiled: Callable[..., Compiled]) -> None:
    """An exact optimization may not show; here with the real compiler, on the blocks alone to save time."""
    quick = compiled(stages=("regional",), backend=torch_compile.inductor)
    assert quick.state == "regional"
    batch = replace(slots(model, 2), sample=slots(model, 2).sample * 0.7)
    graphs = quick._ran.graphs
    assert_close(quick(batch), plain(model.unet)(batch))
    assert quick._ran.graphs > graphs
    # A server that is started again finds its code: whatever torch forgot here is on the disk.
    torch._dynamo.reset()
    counters.clear()
    assert compiled(stages=("regional",), backend=torch_compile.inductor).state == "regional"
    found, missed = counters["aot_autograd"]["autograd_cache_hit"], counters["inductor"]["fxgraph_cache_miss"]
    assert found > 0
    assert missed == 0


def rows_of(model: Model, request: InpaintRequest) -> list[Any]:
    task = RunningRequest(Job(request, request.seeds), cut(request, model.native_size))
    Stages(model).begin(task)
    return task.rows


@pytest.mark.slow
def test_no_scheduler_has_anything_compiled_again(
    model: Model, compiled: Callable[..., Compiled], request_for: Make
) -> None:
    """Euler's timesteps are floats and DPM++'s are not; a batch of both must not wait for a compiler."""
    quick = compiled(stages=("whole",))
    assert counters["stats"]["unique_graphs"] == 1  # no graph breaks
    traced = counters["stats"]["unique_graphs"]
    for name in SCHEDULERS:
        (row,) = rows_of(model, request_for(scheduler=name, num_inference_steps=4, strength=0.9))
        while not row.done:
            before = quick._ran.graphs
            step(model, [row], quick)
            assert quick._ran.graphs == before + 1, name
    assert counters["stats"]["unique_graphs"] == traced
    assert not counters["graph_break"]
    assert quick.state == "whole"


@pytest.mark.slow
def test_pictures_are_the_same_through_compiled_code(
    model: Model, compiled: Callable[..., Compiled], request_for: Make
) -> None:
    """Rows of five slots, then of three and of two: uncompiled, padded and as they are."""
    quick = compiled(slots=(2, 4))
    finished = []
    for forward in (None, quick):
        rows = rows_of(model, request_for(samples=2)) + rows_of(model, request_for(guidance_scale=1.0))
        step(model, rows, forward)  # 5 slots: no compiled shape is near
        while not rows[0].done:
            step(model, [rows[0], rows[2]], forward) if not rows[2].done else step(model, rows[:1], forward)
        finished.append(torch.cat([row.latents for row in rows]))
    assert_close(finished[1], finished[0])


def test_other_shapes_are_never_compiled_in_the_caller_s_thread(
    model: Model, compiled: Callable[..., Compiled]
) -> None:
    """A rare size must not stop the step loop for a minute."""
    quick = compiled()
    traced, ran = counters["stats"]["unique_graphs"], quick._ran.graphs
    usual_shape = usual(model, native(model), 2)
    others = [
        usual_shape._replace(h=24),
        usual_shape._replace(slots=5),
        usual_shape._replace(tokens=154),
        usual_shape._replace(masked=True),
        usual_shape._replace(slots=1),
    ]
    for shape in others:
        batch = example(model, shape)
        with torch.inference_mode():
            assert torch.equal(quick(batch), plain(model.unet)(batch))
    assert counters["stats"]["unique_graphs"] == traced
    assert quick._ran.graphs == ran


def test_the_caller_goes_on_uncompiled_until_the_code_is_ready(model: Model) -> None:
    """A server answers immediately after its start, and compiles in the background."""
    compiling, may_go_on = threading.Event(), threading.Event()

    def slow(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        compiling.set()
        assert may_go_on.wait(WAIT_S)
        return graph

    quick = wrap(model, plain(model.unet), slots=(2,), stages=("regional",), backend=slow)
    batch = slots(model, 2)
    assert quick.state == "eager"
    quick.start()
    quick.start()  # once is enough
    try:
        assert compiling.wait(WAIT_S)
        shape = shape_of(batch)
        assert quick.code(shape) is None
        with torch.inference_mode():
            assert_close(quick(batch), plain(model.unet)(batch))
        assert (quick.state, quick._ran.graphs) == ("eager", 0)
        may_go_on.set()
        assert quick.wait(WAIT_S) == "regional"
        assert quick.code(shape) is not None
        with torch.inference_mode():
            assert_close(quick(batch), plain(model.unet)(batch))
        assert quick._ran.graphs > 0
    finally:
        may_go_on.set()
        quick.close()


@pytest.mark.slow
def test_blocks_come_first_and_the_whole_unet_takes_over(
    model: Model, compiled: Callable[..., Compiled]
) -> None:
    """Blocks are compiled in a tenth of the time; an operator sees in the state how far it is."""
    states: list[str] = []

    def noting(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        states.append(quick.state)
        return graph

    quick = wrap(model, plain(model.unet), slots=(2,), backend=noting)
    quick.start()
    assert quick.wait(WAIT_S) == "whole"
    quick.close()
    assert states == ["eager", "eager", "regional"]  # blocks of two widths, then the UNet
    assert list(quick.ready.values()) == ["whole"]


def test_code_outlives_what_it_was_compiled_from(model: Model, compiled: Callable[..., Compiled]) -> None:
    """torch forgets code whose objects are gone; ours must not be among it."""
    quick = compiled()
    gc.collect()
    with torch.inference_mode():
        quick(slots(model, 2))
    assert quick._ran.graphs == BLOCKS


def test_inputs_laid_out_in_another_way_run_compiled(model: Model, compiled: Callable[..., Compiled]) -> None:
    """After a step through an NHWC UNet the latents are laid out as its output was."""
    quick = compiled()
    batch = slots(model, 2)
    other = replace(
        batch,
        sample=batch.sample.contiguous(memory_format=torch.channels_last),
        hidden=batch.hidden.transpose(0, 1).contiguous().transpose(0, 1),
    )
    assert_close(quick(other), quick(batch))
    outside = torch.ones(2, 9, 16, 16)  # not made in inference mode
    quick(replace(batch, sample=outside))
    assert quick._ran.graphs == 3 * BLOCKS


def broken(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
    raise OSError("no compiler here\nand more of it")


def test_a_failed_compilation_is_one_warning_and_the_same_pictures(
    model: Model, compiled: Callable[..., Compiled], caplog: pytest.LogCaptureFixture
) -> None:
    """On a machine without a compiler the server works, only slower, and says so once."""
    with caplog.at_level(logging.WARNING):
        quick = compiled(slots=(2, 1), backend=broken)
        batch = slots(model, 2)
        with torch.inference_mode():
            for _ in range(3):
                assert torch.equal(quick(batch), plain(model.unet)(batch))
    assert [record.name for record in caplog.records] == ["inpaint.fast.compiled"]
    assert "no compiler here" in caplog.text
    assert quick.state.startswith("failed: ")
    assert "no compiler here" in quick.state


def test_wrong_code_is_not_used(model: Model, compiled: Callable[..., Compiled]) -> None:
    """A miscompilation must show in the log, not in pictures."""

    def off(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        return lambda *args: tuple(out * 1.5 for out in graph(*args))

    quick = compiled(backend=off)
    assert "off by" in quick.state
    assert not quick.ready


def test_code_that_gives_nan_is_not_used(model: Model, compiled: Callable[..., Compiled]) -> None:
    """NaN compares with nothing; it must not pass for that."""

    def nan(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        return lambda *args: tuple(out * float("nan") for out in graph(*args))

    assert "off by nan" in compiled(backend=nan).state


def failing_later(error: Exception) -> tuple[Any, threading.Event]:
    """A backend whose code raises once the event is set."""
    due = threading.Event()

    def backend(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            if due.is_set():
                raise error
            return graph(*args)

        return run

    return backend, due


def test_code_that_fails_in_service_is_left(
    model: Model, compiled: Callable[..., Compiled], caplog: pytest.LogCaptureFixture
) -> None:
    """The request whose call met it is painted all the same."""
    backend, due = failing_later(RuntimeError("misaligned"))
    quick = compiled(backend=backend)
    due.set()
    batch = slots(model, 2)
    with torch.inference_mode():
        for _ in range(2):
            assert torch.equal(quick(batch), plain(model.unet)(batch))
    assert "misaligned" in quick.state
    assert len([r for r in caplog.records if r.name == "inpaint.fast.compiled"]) == 1


def test_out_of_memory_is_the_engine_s_to_handle(model: Model, compiled: Callable[..., Compiled]) -> None:
    """It halves the batch; the compiled code is not at fault and stays."""
    backend, due = failing_later(torch.OutOfMemoryError("full"))
    quick = compiled(backend=backend)
    due.set()
    with pytest.raises(torch.OutOfMemoryError):
        quick(slots(model, 2))
    assert quick.state == "regional"


def test_a_shape_that_does_not_fit_is_left_out(model: Model, compiled: Callable[..., Compiled]) -> None:
    """A small GPU compiles for one picture at a time and not for four."""

    def small(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        return full if any(tensor.shape[:1] == (4,) for tensor in inputs) else graph

    def full(*args: Any) -> Any:
        raise torch.OutOfMemoryError("full")

    quick = compiled(slots=(4, 2), backend=small)
    assert [shape.slots for shape in quick.ready] == [2]


def test_code_that_torch_does_not_compile_is_reported(
    model: Model, compiled: Callable[..., Compiled], caplog: pytest.LogCaptureFixture
) -> None:
    """A maintainer who changes torch's settings later would otherwise not learn why it is slow."""
    quick = compiled()
    torch.set_num_threads(2)  # one of the things that code is special to
    try:
        quick(slots(model, 2))
    finally:
        torch.set_num_threads(1)
    assert "does not fit the calls" in quick.state
    assert len([r for r in caplog.records if r.name == "inpaint.fast.compiled"]) == 1


@pytest.mark.parametrize("swallowed", [0, 1])
def test_close_ends_a_compilation_under_way(
    model: Model, caplog: pytest.LogCaptureFixture, swallowed: int
) -> None:
    """Ctrl-C must not wait for minutes of compiling, and that is no failure to warn of.

    Python drops the interruption where it reaches the thread inside a finaliser, and would print a traceback.
    """
    compiling = threading.Event()

    class Finalised:
        def __del__(self) -> None:
            while True:
                time.sleep(0.001)

    def endless(graph: torch.fx.GraphModule, inputs: list[Any]) -> Callable[..., Any]:
        compiling.set()
        for _ in range(swallowed):
            Finalised()
        while True:
            time.sleep(0.001)

    quick = wrap(model, plain(model.unet), backend=endless)
    quick.start()
    assert compiling.wait(WAIT_S)
    quick.close(WAIT_S)
    assert quick._thread is not None
    assert not quick._thread.is_alive()
    assert quick.wait(0.0) == "eager"
    assert not [r for r in caplog.records if r.name == "inpaint.fast.compiled"]
    quick.close()
    wrap(model, plain(model.unet)).close()  # one that was never started


def test_the_engine_s_unet_is_left_as_it_is(model: Model, compiled: Callable[..., Compiled]) -> None:
    """The uncompiled way goes through it meanwhile, and diffusers may save it."""
    before = [vars(module).get("forward") for module in model.unet.modules()]
    compiled()
    assert [vars(module).get("forward") for module in model.unet.modules()] == before


def test_a_shared_copy_shares_weights_and_no_modules(model: Model) -> None:
    """SDXL's UNet is 5 GB, and there is room for one."""
    other = shared_copy(model.unet)
    pairs = list(zip(model.unet.modules(), other.modules(), strict=True))
    assert all(a is not b and type(a) is type(b) for a, b in pairs)
    weights = list(zip(model.unet.state_dict().values(), other.state_dict().values(), strict=True))
    assert all(a.data_ptr() == b.data_ptr() for a, b in weights)
    batch = slots(model, 1)
    with torch.inference_mode():
        assert torch.equal(plain(other)(batch), plain(model.unet)(batch))


@pytest.mark.parametrize(
    ("n", "size"), [(1, 1), (2, 2), (3, 4), (4, 4), (5, None), (6, 8), (8, 8), (9, None)]
)
def test_padding_never_costs_more_than_a_third(n: int, size: int | None) -> None:
    """Padded from 5 to 8, a compiled call would take longer than an uncompiled one."""
    assert padded_slots(n, (1, 2, 4, 8)) == size


def test_padding_repeats_the_last_slot(model: Model) -> None:
    """Its result is thrown away; zeros instead might be NaN and slow, or no number the model knows."""
    shape = usual(model, native(model), 3)._replace(masked=True)
    batch = example(model, shape)
    padded = pad(batch, 4)
    assert shape_of(padded) == shape._replace(slots=4)
    for name in ("sample", "timesteps", "hidden", "keep", "pooled", "time_ids"):
        tensor, more = getattr(batch, name), getattr(padded, name)
        assert torch.equal(more[:3], tensor)
        assert torch.equal(more[3], tensor[2])
    assert padded.prompts == (*batch.prompts, batch.prompts[2])
    assert shape_of(pad(batch, 3)) == shape


def test_examples_are_neither_constant_nor_nan(model: Model) -> None:
    """Zeros and NaN run faster than pictures do, and hide wrong code."""
    batch = slots(model, 2)
    with torch.inference_mode():
        out = plain(model.unet)(batch)
    assert out.isfinite().all()
    assert out.std() > 1e-3
    assert torch.equal(batch.sample, slots(model, 2).sample)


def test_code_is_kept_where_no_other_user_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies in that folder is executed; torch's own choice is a guessable name in the shared /tmp."""
    monkeypatch.delenv(torch_compile.CACHE_VARIABLE)
    folder = tmp_path / "cache" / "compiled"
    torch_compile.keep_on_disk(folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    torch_compile.keep_on_disk(tmp_path / "other")  # the variable is set by now, as it may be by the user
    assert not (tmp_path / "other").exists()


def test_a_cache_that_cannot_be_made_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read-only home is no reason not to start."""
    monkeypatch.delenv(torch_compile.CACHE_VARIABLE)
    (tmp_path / "file").write_text("")
    torch_compile.keep_on_disk(tmp_path / "file" / "compiled")
    monkeypatch.setenv(torch_compile.CACHE_VARIABLE, str(tmp_path))  # so that teardown finds what setup set


def test_inductor_s_empty_graph_is_made_without_tracing(monkeypatch: pytest.MonkeyPatch) -> None:
    """While torch.fx traces it, module calls of the engine's other threads would raise NameError."""
    from torch._inductor.loop_body import InterpreterShim

    torch_compile.protect_other_threads()
    monkeypatch.setattr(torch.fx, "symbolic_trace", None)
    assert InterpreterShim._dummy_gm()(3) == 3


def test_a_cpu_is_not_compiled_for(model: Model) -> None:
    """On it the demo model is painted before its first graph is ready."""
    assert "CPU" in torch_compile.can(model)
