"""Waiting work: first come first served within a key, and the keys share fairly.

Start-time fair queueing (after Goyal, Vin and Cheng, 1996) in predicted seconds: each key's next item has a
virtual start, the earliest is popped, and its cost moves that key's next start back by as much. A key that
floods the line only delays itself, and one that comes back after a pause has saved nothing up.
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import heapify, heappop, heapreplace
from itertools import count
from typing import Generic, TypeVar

from inpaint.batching.work import Work

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class _Item(Generic[T]):
    """One item in the line."""

    item: T
    cost_s: float
    arrival: int


@dataclass(slots=True, eq=False)
class _KeyQueue(Generic[T]):
    """One key's items."""

    start: float  # virtual start of its first item
    places: deque[_Item[T]] = field(default_factory=deque)

    @property
    def turn(self) -> tuple[float, int]:
        """Sorts before the turns of keys that are served later; equal starts go by arrival."""
        return self.start, self.places[0].arrival


class FairQueue(Generic[T]):
    """Items that wait, each for the work it stands for. Not thread-safe."""

    def __init__(self) -> None:
        self._queues: dict[str, _KeyQueue[T]] = {}  # of keys that wait, or are ahead of their share
        self._now = 0.0  # virtual start of a key that comes now
        self._arrivals = count()
        self._length = 0

    def push(self, item: T, work: Work, cost_s: float) -> None:
        """Put an item behind those of its key.

        Args:
            item: what :meth:`pop` gives back.
            work: says whose it is.
            cost_s: what it takes from its key's share, predicted seconds of the device.
        """
        queue = self._queues.setdefault(work.key, _KeyQueue(self._now))
        queue.places.append(_Item(item, cost_s, next(self._arrivals)))
        self._length += 1

    def peek(self) -> T:
        """What :meth:`pop` would give.

        Raises:
            IndexError: the line is empty.
        """
        return self._first().places[0].item

    def pop(self) -> T:
        """Take out the item whose turn it is.

        Raises:
            IndexError: the line is empty.
        """
        queue = self._first()
        keys = sum(bool(other.places) for other in self._queues.values())
        place = queue.places.popleft()
        # The mean of what the keys had. With the plain start, ever new keys would be first for ever.
        self._now = max(self._now, queue.start) + place.cost_s / keys
        queue.start += place.cost_s
        self._shrink()
        return place.item

    def remove(self, item: T) -> bool:
        """Take out an item wherever it stands, at no charge to its key; False if it is not in the line."""
        for queue in self._queues.values():
            for place in queue.places:
                if place.item == item:
                    queue.places.remove(place)
                    self._shrink()
                    return True
        return False

    def ahead(self, work: Work) -> list[T]:
        """The items that would be popped before one pushed now for ``work``, in that order."""
        queue = self._queues.get(work.key, _KeyQueue(self._now))
        start = queue.start
        for place in queue.places:  # added one by one, as they are popped: the same sums to the last bit
            start += place.cost_s
        return [item for item_start, item in self._in_turn() if item_start <= start]

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[T]:
        """In the order in which they would be popped if no more came."""
        return (item for _, item in self._in_turn())

    def _first(self) -> _KeyQueue[T]:
        if not self._length:
            raise IndexError("the line is empty")
        return min((queue for queue in self._queues.values() if queue.places), key=lambda queue: queue.turn)

    def _shrink(self) -> None:
        """After an item left: forget keys that neither wait nor are ahead of their share."""
        self._length -= 1
        kept = {key: queue for key, queue in self._queues.items() if queue.places or queue.start > self._now}
        self._queues = kept if self._length else {}  # nobody waits, so nobody is kept from anything

    def _in_turn(self) -> Iterator[tuple[float, T]]:
        """(Virtual start, item) in the order in which they would be popped."""
        heads = []
        for queue in self._queues.values():
            if queue.places:
                places = list(queue.places)
                heads.append((queue.start, places[0].arrival, 0, places))
        heapify(heads)
        while heads:
            start, _, at, places = heads[0]
            yield start, places[at].item
            if at + 1 < len(places):
                heapreplace(heads, (start + places[at].cost_s, places[at + 1].arrival, at + 1, places))
            else:
                heappop(heads)
