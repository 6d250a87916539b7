"""Vector clocks of streams, the memory that operations use, and the rules that their order must keep.

An operation happens before another if it is earlier on the same stream, if an event was waited for between
them, or if the CPU has waited for it. Everything else may overlap on a GPU, in whatever order a CPU ran it.

R1  Memory is read only after its last write happened.
R2  Memory is written only after all earlier reads happened.
R3  Memory that dies goes back to the stream that allocated it: other streams' reads must have happened
    before, or ``keep`` must have named those streams.
R4  The default stream is a stream like the others; torch's own streams do not wait for it.
R5  The host does not rewrite, and does not read, the host side of a copy that has not happened.
"""

import sys
import threading
import weakref
from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from types import CodeType
from typing import Any, NamedTuple

import torch

DEFAULT = "default"
Stream = str  # a stream's name
Clock = dict[Stream, int]  # stream → the number of its operations that happened before


class Report(NamedTuple):
    """One breach of a rule."""

    rule: str
    what: str
    where: str  # functions of the product, the innermost first
    memory: str  # where the memory was made


@dataclass(eq=False)
class Memory:
    """A storage: who made it, wrote it and reads it."""

    made: Stream | None  # None: of a graph's own pool, which is never given to anything else
    site: str
    writer: tuple[Stream, int]
    readers: Clock = field(default_factory=dict)
    kept: set[Stream] = field(default_factory=set)
    dies: Any = None  # the reference that notices the storage's death
    host: bool = False  # memory of the CPU that a copy is reading or writing


class Death(weakref.ref[Any]):
    """A reference that notices a storage's death."""

    key: int
    memory: Memory


class Races:
    """The state of every stream and storage of one device, and the reports about them."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.clocks: defaultdict[Stream, defaultdict[Stream, int]] = defaultdict(lambda: defaultdict(int))
        self.happened: defaultdict[Stream, int] = defaultdict(int)  # what the CPU has waited for
        self._memories: dict[int, Memory] = {}
        self._reports: Counter[Report] = Counter()
        self.operations = 0
        # Python drops an exception, such as the one that ends a compilation, inside a finaliser. So that of a
        # storage is a function in C, and what it means is found out before anything else happens.
        self._dead: deque[Death] = deque()

    @property
    def memories(self) -> dict[int, Memory]:
        """The storages that are alive, by their address."""
        self._bury()
        return self._memories

    @property
    def reports(self) -> Counter[Report]:
        """The breaches so far."""
        self._bury()
        return self._reports

    def _bury(self) -> None:
        while self._dead:
            with self.lock:
                if self._dead:
                    death = self._dead[0]
                    self._freed(death.key, death.memory)
                    self._dead.popleft()

    def report(self, rule: str, what: str, memory: str = "") -> None:
        """Note a breach of a rule."""
        self.reports[Report(rule, what, site(), memory)] += 1

    def before(self, stream: Stream, other: Stream, number: int) -> bool:
        """Return whether the operation ``number`` of ``other`` happens before the next one of ``stream``."""
        return (
            stream == other or self.happened[other] >= number or self.clocks[stream].get(other, 0) >= number
        )

    def mark(self, stream: Stream) -> Clock:
        """Return the present point of a stream."""
        self._bury()
        with self.lock:
            return dict(self.clocks[stream])

    def wait(self, stream: Stream, clock: Clock) -> None:
        """Have later operations of ``stream`` happen after a point of another."""
        self._bury()
        with self.lock:
            own = self.clocks[stream]
            for other, number in clock.items():
                own[other] = max(own[other], number)

    def synchronize(self, clock: Clock) -> None:
        """Have the CPU wait for a point."""
        self._bury()
        with self.lock:
            for other, number in clock.items():
                self.happened[other] = max(self.happened[other], number)

    def known(self, tensor: torch.Tensor) -> Memory | None:
        """Return the memory of a tensor that lies on the device; None for one of the CPU."""
        memory = self.memories.get(tensor.untyped_storage()._cdata)
        return None if memory is None or memory.host else memory

    def operate(
        self,
        stream: Stream,
        reads: Iterable[torch.Tensor],
        writes: Iterable[torch.Tensor] = (),
        made: Iterable[torch.Tensor] = (),
    ) -> int:
        """Check and note one operation of ``stream``; return its number on that stream."""
        self._bury()
        with self.lock:
            self.operations += 1
            clock = self.clocks[stream]
            clock[stream] += 1
            number = clock[stream]
            for tensor in reads:
                self._read(stream, number, self.memories.get(tensor.untyped_storage()._cdata))
            for tensor in writes:
                self._write(stream, number, self.memories.get(tensor.untyped_storage()._cdata))
            for tensor in made:
                self.add(tensor, stream, (stream, number))
            return number

    def _read(self, stream: Stream, number: int, memory: Memory | None) -> None:
        if memory is None or memory.host:
            return
        if not self.before(stream, *memory.writer):
            self.report("R1", f"{stream} reads what {memory.writer[0]} has not written", memory.site)
        memory.readers[stream] = number
        if DEBUG:
            memory.at = site()

    def _write(self, stream: Stream, number: int, memory: Memory | None) -> None:
        if memory is None or memory.host:
            return
        for reader, at in memory.readers.items():
            if not self.before(stream, reader, at):
                self.report("R2", f"{stream} writes what {reader} still reads", memory.site)
        if not self.before(stream, *memory.writer):
            self.report("R2", f"{stream} writes what {memory.writer[0]} still writes", memory.site)
        memory.writer = (stream, number)
        memory.readers[stream] = number

    def add(self, tensor: torch.Tensor, made: Stream | None, writer: tuple[Stream, int]) -> Memory:
        """Begin to watch a tensor's memory; of one that is watched, change only that it is the device's."""
        with self.lock:
            storage = tensor.untyped_storage()
            memory = self.memories.get(storage._cdata)
            if memory is None:
                memory = self.memories[storage._cdata] = Memory(made, site(_NEAR), writer)
                memory.dies = death = Death(storage, self._dead.append)
                death.key, death.memory = storage._cdata, memory
            memory.host = False
            return memory

    def _freed(self, key: int, memory: Memory) -> None:
        memory.dies = None
        if self._memories.get(key) is memory:
            del self._memories[key]
        if memory.made is None or memory.host:
            return
        for reader, at in memory.readers.items():
            if reader not in memory.kept and not self.before(memory.made, reader, at):
                what = f"memory goes back to {memory.made} while {reader} reads it"
                self._reports[Report("R3", what, getattr(memory, "at", ""), memory.site)] += 1

    def keep(self, tensor: torch.Tensor, stream: Stream) -> None:
        """Keep a tensor's memory until ``stream`` has done what it was given."""
        with self.lock:
            memory = self.memories.get(tensor.untyped_storage()._cdata)
            if memory is not None:
                memory.kept.add(stream)

    def copying(self, host: torch.Tensor, stream: Stream, number: int, *, to_host: bool) -> None:
        """Note that a copy, which the CPU does not wait for, reads or writes host memory."""
        with self.lock:
            memory = self.add(host, stream, (stream, number if to_host else 0))
            memory.host = True
            memory.readers[stream] = number

    def touched(self, reads: Iterable[torch.Tensor], writes: Iterable[torch.Tensor]) -> None:
        """Check an operation of the CPU on host memory."""
        with self.lock:
            if not self.memories:
                return
            for tensor in reads:
                self._on_host(tensor, rewritten=False)
            for tensor in writes:
                self._on_host(tensor, rewritten=True)

    def _on_host(self, tensor: torch.Tensor, *, rewritten: bool) -> None:
        memory = self.memories.get(tensor.untyped_storage()._cdata)
        if memory is None or not memory.host:
            return
        stream, number = memory.writer
        if number > self.happened[stream]:
            self.report("R5", f"the CPU reads what {stream} is still copying", memory.site)
        if rewritten:
            for reader, at in memory.readers.items():
                if at > self.happened[reader]:
                    self.report("R5", f"the CPU rewrites what {reader} is still copying", memory.site)


DEBUG = False
_DEPTH = 4  # functions that a report names
_NEAR = 8  # frames that are searched for where memory was made; within a UNet the product is far off
_OURS: dict[CodeType, str | None] = {}


def site(frames: int = 1000) -> str:
    """Return the innermost functions of the product that are running, with their files and lines."""
    found: list[str] = []
    frame: Any = sys._getframe(1)
    while frame is not None and len(found) < _DEPTH and frames:
        code = frame.f_code
        name = _OURS.get(code, "")
        if name == "":
            at = code.co_filename.rfind("/inpaint/")
            ours = at >= 0 and "/tests/" not in code.co_filename
            name = _OURS[code] = code.co_filename[at + 9 :] if ours else None
        if name is not None:
            found.append(f"{name}:{code.co_name}:{frame.f_lineno}")
        frame = frame.f_back
        frames -= 1
    return " < ".join(found)
