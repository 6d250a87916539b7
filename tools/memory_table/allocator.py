"""A model of torch's caching allocator for CUDA (CUDACachingAllocator.cpp), with its default settings.

Blocks belong to the pool and the stream that they were made for, and are never reused by another. A block of
up to 1 MiB comes from segments of 2 MiB, one of up to 10 MiB from segments of 20 MiB, a larger one has a
segment of its own. If the driver has no memory left, every segment that is wholly free is given back, of
every stream, and the driver is asked again; not while a graph is being captured.
"""

from bisect import bisect_left, insort
from collections.abc import Hashable
from dataclasses import dataclass

_ROUND, _SMALL, _LARGE = 512, 1 << 20, 10 << 20
_SMALL_SEGMENT, _MIDDLE_SEGMENT, _STEP = 2 << 20, 20 << 20, 2 << 20


class OutOfMemory(Exception):  # noqa: N818 - as torch calls it
    """The driver has no memory left, and nothing can be given back."""


@dataclass(slots=True, eq=False)
class Block:
    """A piece of a segment."""

    size: int
    key: tuple[Hashable, bool]  # pool and stream; small
    number: int
    before: "Block | None" = None  # its neighbours in the segment
    after: "Block | None" = None
    free: bool = False


class Allocator:
    """A device with ``limit`` bytes for torch."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.reserved = 0
        self.most = 0  # reserved so far
        self.allocated = 0
        self.flushes = 0
        self.capturing = False
        self._free: dict[tuple[Hashable, bool], list[tuple[int, int, Block]]] = {}
        self._made = 0

    def allocate(self, size: int, key: Hashable) -> Block:
        """Return a block of ``size`` bytes for a pool and stream.

        Raises:
            OutOfMemory: there is no room.
        """
        size = max(_ROUND, -(-size // _ROUND) * _ROUND)
        small = size <= _SMALL
        block = self._cached(size, (key, small)) or self._segment(size, (key, small))
        rest = block.size - size
        if rest >= _ROUND if small else rest > _SMALL:
            self._split(block, size, rest)
        block.free = False
        self.allocated += block.size
        return block

    def release(self, block: Block) -> None:
        """Free a block, and join it with its free neighbours."""
        assert not block.free
        self.allocated -= block.size
        block.free = True
        for near in (block.before, block.after):
            if near is not None and near.free:
                self._take(near)
                block.size += near.size
                if near is block.before:
                    block.before = near.before
                    if block.before is not None:
                        block.before.after = block
                else:
                    block.after = near.after
                    if block.after is not None:
                        block.after.before = block
        insort(self._free.setdefault(block.key, []), (block.size, block.number, block))

    def flush(self) -> None:
        """Give every segment that is wholly free back to the driver, as ``torch.cuda.empty_cache`` does."""
        for cached in self._free.values():
            for entry in [e for e in cached if e[2].before is None and e[2].after is None]:
                cached.remove(entry)
                self.reserved -= entry[0]

    def _cached(self, size: int, key: tuple[Hashable, bool]) -> Block | None:
        cached = self._free.get(key, [])
        i = bisect_left(cached, (size,))
        return cached.pop(i)[2] if i < len(cached) else None

    def _segment(self, size: int, key: tuple[Hashable, bool]) -> Block:
        middle = _MIDDLE_SEGMENT if size < _LARGE else -(-size // _STEP) * _STEP
        whole = _SMALL_SEGMENT if key[1] else middle
        if self.reserved + whole > self.limit and not self.capturing:
            self.flushes += 1
            self.flush()
        if self.reserved + whole > self.limit:
            raise OutOfMemory
        self.reserved += whole
        self.most = max(self.most, self.reserved)
        return self._new(whole, key)

    def _split(self, block: Block, size: int, rest: int) -> None:
        other = self._new(rest, block.key)
        other.before, other.after, other.free = block, block.after, True
        if other.after is not None:
            other.after.before = other
        block.after, block.size = other, size
        insort(self._free.setdefault(block.key, []), (rest, other.number, other))

    def _take(self, block: Block) -> None:
        cached = self._free[block.key]
        del cached[bisect_left(cached, (block.size, block.number))]

    def _new(self, size: int, key: tuple[Hashable, bool]) -> Block:
        self._made += 1
        return Block(size, key, self._made)
