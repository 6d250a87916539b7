"""Every memory plan fits the cards that get it: counted on SDXL's shapes and a model of torch's allocator."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from inpaint import Engine, InpaintRequest
from inpaint.fast.optimizations import choose
from inpaint.memory import GIB, PLANS, MemoryPlan, choose_plan
from inpaint.model.load import Model
from tests.support.paths import ROOT
from tools.memory_table.__main__ import FREE_GIB, rows
from tools.memory_table.allocator import Allocator, OutOfMemory
from tools.memory_table.phases import FULL, Phases
from tools.memory_table.schedule import SPARE_GIB, play
from tools.memory_table.trace import META, of_sizes, record

MIB = 1 << 20
TOO_SMALL = {  # GiB: the plans and thresholds as they were, and half a GiB less than ours
    14.0: MemoryPlan("resident", 14),
    11.3: MemoryPlan("offload-text", 9, text_encoders_resident=False),
    9.0: MemoryPlan("offload-text", 9, text_encoders_resident=False),
    6.7: choose_plan(None, "tiled"),
    4.3: choose_plan(None, "fp8"),
}


@pytest.fixture(scope="module")
def phases() -> Phases:
    """SDXL's phases in fp16."""
    return Phases()


@pytest.mark.parametrize("free_gib", FREE_GIB)
def test_a_card_has_room_for_its_plan(free_gib: float, phases: Phases) -> None:
    """From the load to the last compiled call nothing runs out, so no cap is halved for good."""
    plan = choose_plan(int(free_gib * GIB))
    outcome = play(plan, phases, free_gib)
    assert outcome.fits, outcome.failed
    assert max(outcome.most_gib.values()) <= free_gib - SPARE_GIB
    assert outcome.cap == plan.max_slots, "what the plan promises is what the survey finds"


def test_the_documentation_shows_the_table(phases: Phases) -> None:
    """An operator plans with these figures; they are counted anew here."""
    page = (ROOT / "docs" / "operations.md").read_text("utf-8")
    assert "counted, not measured" in page
    for row in rows(phases):
        assert row in page


@pytest.mark.parametrize("plan", [plan for plan in PLANS if plan.needs_gib], ids=lambda plan: plan.name)
def test_a_plan_fits_from_its_threshold_on(plan: MemoryPlan, phases: Phases) -> None:
    """A card with just as much memory as a plan asks for gets that plan."""
    assert play(plan, phases, plan.needs_gib).fits


@pytest.mark.parametrize(("free_gib", "plan"), TOO_SMALL.items())
def test_a_plan_on_a_smaller_card_runs_out(free_gib: float, plan: MemoryPlan, phases: Phases) -> None:
    """Or the check above would let anything pass."""
    assert not play(plan, phases, free_gib).fits


def test_without_room_made_for_it_recording_runs_out(phases: Phases) -> None:
    """A 12 GB card has what a graph needs only once cached blocks are given back."""
    plan = choose_plan(None, "offload-text")
    assert play(plan, phases, 11.3, room_gib=0).failed == "record"


def test_a_unet_converted_on_the_device_takes_a_gib_more(phases: Phases) -> None:
    """The old matrices leave gaps; that is why the UNet is rewritten before it is moved."""
    plan = choose_plan(None)
    before, now = (play(plan, phases, 79.0, converted=how) for how in (phases.converted_on_device, None))
    assert before.most_gib["load"] > now.most_gib["load"] + 1


@pytest.mark.parametrize("free_gib", [8.5, 11.3, 15.3])
def test_a_vae_in_fp32_fits_too(free_gib: float, phases: Phases) -> None:
    """Single files have one, and it takes twice the memory of a picture."""
    plan = choose_plan(int(free_gib * GIB), vae_in_fp32=True)
    assert play(plan, phases.with_vae_in_fp32(), free_gib).fits


def test_an_8_gb_card_paints_exactly(
    checkpoint: Callable[[int], Path], request_for: Callable[..., InpaintRequest]
) -> None:
    """Its weights were rounded to 8 bit without being asked; a smaller card is told that they are."""
    assert choose_plan(int(7.3 * GIB)).unet == "resident"
    assert choose_plan(int(5.5 * GIB)).unet == "fp8"
    with Engine.load(checkpoint(9), device="cpu", memory="fp8") as engine:
        (warning,) = engine.paint(request_for()).warnings
    assert "rounded to 8 bit" in warning
    with Engine.load(checkpoint(9), device="cpu", memory="tiled") as engine:
        assert engine.paint(request_for()).warnings == ()


def test_a_plan_says_what_is_compiled_and_how_many_share_a_call(
    model: Model, checkpoint: Callable[[int], Path]
) -> None:
    """Compiling 8 slots took 3 GiB that a 12 GB card does not have."""
    by_name = {plan.name: plan for plan in PLANS}
    small = replace(model, plan=by_name["tiled"])
    assert not {"compile", "graphs"} & set(choose(small))
    with Engine.load(checkpoint(9), device="cpu", memory="tiled") as engine:
        assert engine.stats().max_rows == 1
    with Engine.load(checkpoint(9), device="cpu", memory="offload-text") as engine:
        assert engine.stats().max_rows == 2


def test_what_is_counted_is_what_was_published(phases: Phases) -> None:
    """The UNet's 2.57 billion weights, and the activations that grow with every slot."""
    assert sum(phases.converted_unet.events) == pytest.approx(2 * 2_567_478_084, rel=1e-3)
    peaks = {slots: phases.unet(slots).peak[0] / GIB for slots in (1, 8)}
    assert peaks[8] == pytest.approx(8 * peaks[1])
    assert 0.1 < peaks[1] < 0.2


def test_a_repaint_in_fp32_holds_no_copy(phases: Phases) -> None:
    """The copy of the UNet took 10 GiB."""
    assert phases.unet(2, FULL).peak[0] < 1.0 * GIB


def test_a_trace_sees_what_lives_together() -> None:
    """Two tensors of 4 MiB together, of three."""

    def work() -> torch.Tensor:
        first = torch.empty(MIB, device=META)
        second = first + 1
        del first
        return second * 2

    trace = record(work)
    assert (trace.blocks, trace.peak[0]) == (3, 8 * MIB)


def test_blocks_are_rounded_split_joined_and_kept_as_torch_does() -> None:
    """Segments of 2 and 20 MiB and whole ones; what is freed is used again by its own stream only."""
    allocator = Allocator(100 * MIB)
    small, middle = allocator.allocate(5, "a"), allocator.allocate(3 * MIB, "a")
    assert allocator.reserved == 22 * MIB
    other = allocator.allocate(3 * MIB, "a")
    assert allocator.reserved == 22 * MIB, "from the rest of the segment"
    allocator.allocate(11 * MIB, "b")
    assert allocator.reserved == 34 * MIB, "a stream of its own, and a segment of 12"
    allocator.release(middle)
    allocator.release(other)
    allocator.release(small)
    again = allocator.allocate(9 * MIB, "a")
    assert allocator.reserved == 34 * MIB, "joined"
    allocator.release(again)
    allocator.flush()
    assert allocator.reserved == 12 * MIB


def test_a_full_device_gives_back_what_is_cached_unless_it_captures() -> None:
    """As torch does before it raises, for every stream; while a graph is captured it cannot."""
    allocator = Allocator(40 * MIB)
    allocator.release(allocator.allocate(30 * MIB, "a"))
    allocator.capturing = True
    with pytest.raises(OutOfMemory):
        allocator.allocate(30 * MIB, "b")
    allocator.capturing = False
    allocator.allocate(30 * MIB, "b")
    assert (allocator.reserved, allocator.flushes) == (30 * MIB, 1)


def test_sizes_that_stay_are_counted() -> None:
    """A trace of weights has no frees."""
    assert of_sizes([3, 4]).peak == (7, 2)
