"""What a server does to a GPU's memory, from its load to its compiled UNet, in the allocator's model."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

import torch

from inpaint.memory import GIB, MemoryPlan
from tools.memory_table.allocator import Allocator, Block, OutOfMemory
from tools.memory_table.phases import FULL, HALF, Phases
from tools.memory_table.trace import Trace, of_sizes

SPARE_GIB = 0.3  # of the free memory, for what is not torch's: kernels that CUDA loads later
# Assumed, not counted: cuBLAS's and cuDNN's workspaces of one stream.
WORKSPACE = of_sizes([32 << 20, 32 << 20])
LEVEL = 10 << 20  # the deepest level's output in one slot, of which a row keeps two
_CACHING = 32  # slots with caches, see ``Batcher``
_RECORDINGS = 8  # at most; in the worst case all keep the level or bring it, in calls of 8 slots
_LOAD, _LOOP, _SIDE = "load and compile", "loop", "side"  # the streams
_CAPTURE, _GRAPHS = "capture", "graphs"
_SLOTS = (1, 2, 4, 8, 16)


@dataclass(slots=True)
class Outcome:
    """The memory of each phase."""

    cap: int = 0  # slots in one call, as the survey found
    most_gib: dict[str, float] = field(default_factory=dict)  # reserved up to the end of a phase
    flushes: dict[str, int] = field(default_factory=dict)  # in a phase: each stalls every stream
    failed: str = ""  # the phase that ran out of memory

    @property
    def fits(self) -> bool:
        """True if no phase ran out of memory."""
        return not self.failed


class _Device:
    """A GPU's memory with its long-lived tensors."""

    def __init__(self, limit_gib: float) -> None:
        self.allocator = Allocator(int(limit_gib * GIB))

    def keep(self, trace: Trace, stream: str) -> list[Block]:
        """Play a trace whose tensors stay; return them."""
        return self._play(trace.events, [], stream)

    def run(self, trace: Trace, stream: str) -> None:
        """Play a trace, and free what is left."""
        with self.during(trace, stream, at=len(trace.events)):
            pass

    @contextmanager
    def during(self, trace: Trace, stream: str, at: int | None = None) -> Iterator[None]:
        """Play a trace up to its peak, run the block, which stands for other streams, then play the rest."""
        at = trace.peak[1] if at is None else at
        blocks: list[Block | None] = []
        try:
            self._play(trace.events[:at], blocks, stream)
            yield
            self._play(trace.events[at:], blocks, stream)
        finally:  # also after an out-of-memory
            for block in blocks:
                if block is not None and not block.free:
                    self.allocator.release(block)

    def _play(self, events: list[int], blocks: "list[Block | None]", stream: str) -> list[Block]:
        for event in events:
            if event >= 0:
                blocks.append(self.allocator.allocate(event, stream))
            else:
                block = blocks[-1 - event]
                assert block is not None
                self.allocator.release(block)
                blocks[-1 - event] = None
        return [block for block in blocks if block is not None]


def play(
    plan: MemoryPlan,
    phases: Phases,
    free_gib: float,
    *,
    converted: Trace | None = None,
    room_gib: float = 2.0,
) -> Outcome:
    """Play load, survey, encodes and decodes next to full calls, recording, compiling and an fp32 repaint.

    Args:
        plan: the memory plan.
        phases: the traces.
        free_gib: the device's free memory; torch gets ``SPARE_GIB`` less.
        converted: how a resident UNet gets onto the device; converted before if None.
        room_gib: with less free memory cached blocks are given back before a graph is captured.
    """
    outcome = Outcome()
    scene = _Scene(plan, phases, free_gib - SPARE_GIB, converted or phases.converted_unet, room_gib)
    for name, phase in (
        ("load", scene.load),
        ("calibrate", lambda: scene.calibrate(outcome)),
        ("keep levels", scene.keep_levels),
        ("encode next to a call", lambda: scene.encode_next_to(outcome.cap)),
        ("decode next to a call", lambda: scene.decode_next_to(outcome.cap)),
        ("record", scene.record),
        ("compile next to both", lambda: scene.compile_next_to(outcome.cap)),
        ("repaint in fp32", scene.repaint),
        ("serve afterwards", lambda: scene.serve(outcome.cap)),
    ):
        before = scene.device.allocator.flushes
        try:
            phase()
        except OutOfMemory:
            outcome.failed = name
            return outcome
        outcome.most_gib[name] = scene.device.allocator.most / GIB
        outcome.flushes[name] = scene.device.allocator.flushes - before
    return outcome


class _Scene:
    """One engine on a device."""

    def __init__(
        self, plan: MemoryPlan, phases: Phases, limit_gib: float, converted: Trace, room_gib: float
    ) -> None:
        self._plan, self._phases, self._converted, self._room_gib = plan, phases, converted, room_gib
        self.device = _Device(limit_gib)
        alone = plan.vae_tiled or phases.vae_dtype == FULL
        self._together = 1 if alone else 2

    def load(self) -> None:
        """Load the model and convert it; what the conversion leaves cached is given back."""
        plan, phases, device = self._plan, self._phases, self.device
        for part in ("text_encoder", "text_encoder_2"):
            if plan.text_encoders_resident:
                device.keep(phases.weights(part), _LOAD)
        if plan.vae_resident:
            device.keep(phases.weights("vae"), _LOAD)
        if plan.unet == "resident":
            device.keep(self._converted, _LOAD)
            device.keep(phases.text_kv(plan.max_slots), _LOAD)
        elif plan.unet == "fp8":
            device.keep(phases.stored_unet, _LOAD)

    def calibrate(self, outcome: Outcome) -> None:
        """Measure as ``runtime.calibrate`` does: the cap is the last size that fitted."""
        self._encode(_LOAD)
        self._decode(1, _LOAD)
        for slots in (n for n in _SLOTS if n <= self._plan.max_slots):
            try:
                with self._call(slots, _LOAD):
                    pass
            except OutOfMemory:
                if slots == 1:
                    raise
                self.device.allocator.flush()
                break
            outcome.cap = slots
        self.device.allocator.flush()

    def keep_levels(self) -> None:
        """Keep the deepest level of all rows that may have a cache."""
        if self._plan.deep_caches:
            self.device.keep(of_sizes([LEVEL] * 2 * _CACHING), _LOOP)

    def encode_next_to(self, slots: int) -> None:
        with self._beginning(self._call(slots)):
            self._encode(_SIDE)

    def decode_next_to(self, slots: int) -> None:
        with self._beginning(self._call(slots)):
            self._decode(self._together, _SIDE)

    def record(self) -> None:
        """Record graphs, one after the other in one pool; nothing is given back while one is captured."""
        for slots in (n for n in (2, 1, 4, 8) if n <= self._plan.prepared_slots):
            call = self._phases.unet(slots)
            self.device.run(call, _CAPTURE)
            allocator = self.device.allocator
            if allocator.limit - allocator.reserved < self._room_gib * GIB:
                allocator.flush()
            allocator.capturing = True
            try:
                self.device.run(call, _GRAPHS)
            finally:
                allocator.capturing = False
        if self._plan.deep_caches:
            slots = self._plan.prepared_slots
            self.device.keep(of_sizes([slots * LEVEL] * _RECORDINGS), _GRAPHS)

    def compile_next_to(self, slots: int) -> None:
        """Compare compiled and plain code in the compile thread, while requests are painted."""
        for size in (n for n in (2, 1, 4, 8) if n <= self._plan.prepared_slots):
            during = self.device.during
            with during(self._phases.text_kv(size), _LOAD), during(self._phases.unet(size), _LOAD):
                self.encode_next_to(slots)
                self.decode_next_to(slots)

    def repaint(self) -> None:
        """Paint one guided row in fp32 while two others are decoded."""
        with self._beginning(self._call(2, dtype=FULL)):
            self._decode(self._together, _SIDE)

    def serve(self, slots: int) -> None:
        for _ in range(2):
            self.encode_next_to(slots)
            self.decode_next_to(slots)

    @contextmanager
    def _beginning(self, call: AbstractContextManager[None]) -> Iterator[None]:
        """Run the block next to a call, or after it if the plan has no memory for both."""
        if self._plan.overlapped:
            with call:
                yield
        else:
            with call:
                pass
            yield

    @contextmanager
    def _call(self, slots: int, stream: str = _LOOP, dtype: torch.dtype = HALF) -> Iterator[None]:
        during, call = self.device.during, self._phases.unet(slots, dtype)
        weights = self._moved() if dtype == HALF else of_sizes([])
        level = of_sizes([slots * LEVEL] if self._plan.deep_caches else [])  # brought from the rows' caches
        with (
            during(WORKSPACE, stream),
            during(weights, "copies"),
            during(level, stream),
            during(call, stream),
        ):
            yield

    def _moved(self) -> Trace:
        """Return the trace of weights that are on the device for a call only."""
        if self._plan.unet == "streamed":
            return self._phases.streamed_unet
        return of_sizes(
            [118 << 20] if self._plan.unet == "fp8" else []
        )  # the largest layer, cast for its call

    def _encode(self, stream: str) -> None:
        for part in ("text_encoder", "text_encoder_2"):
            with self._visit(part, stream, resident=self._plan.text_encoders_resident):
                self.device.run(self._phases.prompts(part), stream)
        with self._visit("vae", stream, resident=self._plan.vae_resident):
            for _ in range(2 // self._together):
                self.device.run(self._phases.encode(self._together), stream)

    def _decode(self, pictures: int, stream: str) -> None:
        with self._visit("vae", stream, resident=self._plan.vae_resident):
            self.device.run(self._phases.decode(pictures, in_tiles=self._plan.vae_tiled), stream)

    @contextmanager
    def _visit(self, part: str, stream: str, *, resident: bool) -> Iterator[None]:
        workspace = self.device.during(WORKSPACE, stream)
        weights = self.device.during(of_sizes([]) if resident else self._phases.weights(part), stream)
        with workspace, weights:
            yield
