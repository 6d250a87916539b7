"""A fair queue between API keys; within a key it is first come, first served.

It is start-time fair queueing (after Goyal, Vin and Cheng, 1996) in predicted seconds: each key's next item
has a virtual start, the earliest is popped, and its cost delays the key's next start by as much. A key that
floods the queue only delays itself, and a key that returns after a pause has gained no credit.
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
    """An item in the queue."""

    item: T
    cost_s: float
    arrival: int


@dataclass(slots=True, eq=False)
class _KeyQueue(Generic[T]):
    """The items of one key."""

    start: float  # virtual start of its first item
    items: deque[_Item[T]] = field(default_factory=deque)

    @property
    def turn(self) -> tuple[float, int]:
        """The sort key by which keys are served: virtual start, then arrival."""
        return self.start, self.items[0].arrival


class FairQueue(Generic[T]):
    """A fair queue between API keys, in predicted seconds. Not thread-safe."""

    def __init__(self) -> None:
        self._queues: dict[str, _KeyQueue[T]] = {}  # of keys with items, or ahead of their share
        self._now = 0.0  # virtual start of a key that joins now
        self._arrivals = count()
        self._length = 0

    def push(self, item: T, work: Work, cost_s: float) -> None:
        """Add an item behind those of its key.

        Args:
            item: what :meth:`pop` returns.
            work: the item's work, which has its key.
            cost_s: predicted seconds of the device, charged to its key's share.
        """
        queue = self._queues.setdefault(work.key, _KeyQueue(self._now))
        queue.items.append(_Item(item, cost_s, next(self._arrivals)))
        self._length += 1

    def peek(self) -> T:
        """Return the item that :meth:`pop` would remove.

        Raises:
            IndexError: the queue is empty.
        """
        return self._first().items[0].item

    def pop(self) -> T:
        """Remove and return the item whose turn it is.

        Raises:
            IndexError: the queue is empty.
        """
        queue = self._first()
        keys = sum(bool(other.items) for other in self._queues.values())
        entry = queue.items.popleft()
        # By the mean over the keys: with the plain start, a stream of new keys would always be first.
        self._now = max(self._now, queue.start) + entry.cost_s / keys
        queue.start += entry.cost_s
        self._shrink()
        return entry.item

    def remove(self, item: T) -> bool:
        """Remove an item at no charge to its key; return False if it is not in the queue."""
        for queue in self._queues.values():
            for entry in queue.items:
                if entry.item == item:
                    queue.items.remove(entry)
                    self._shrink()
                    return True
        return False

    def ahead(self, work: Work) -> list[T]:
        """Return the items that would be popped before one that is pushed now for ``work``, in that order."""
        queue = self._queues.get(work.key, _KeyQueue(self._now))
        start = queue.start
        for entry in queue.items:  # added one by one, as pop does: the same sum to the last bit
            start += entry.cost_s
        return [item for item_start, item in self._in_turn() if item_start <= start]

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[T]:
        """Yield the items in the order in which they would be popped if no more were added."""
        return (item for _, item in self._in_turn())

    def _first(self) -> _KeyQueue[T]:
        if not self._length:
            raise IndexError("the queue is empty")
        return min((queue for queue in self._queues.values() if queue.items), key=lambda queue: queue.turn)

    def _shrink(self) -> None:
        """After a removal, forget keys that neither have items nor are ahead of their share."""
        self._length -= 1
        kept = {key: queue for key, queue in self._queues.items() if queue.items or queue.start > self._now}
        self._queues = kept if self._length else {}  # an empty queue: no key is delayed

    def _in_turn(self) -> Iterator[tuple[float, T]]:
        """Yield (virtual start, item) in the order in which they would be popped."""
        heads = []
        for queue in self._queues.values():
            if queue.items:
                items = list(queue.items)
                heads.append((queue.start, items[0].arrival, 0, items))
        heapify(heads)
        while heads:
            start, _, at, items = heads[0]
            yield start, items[at].item
            if at + 1 < len(items):
                heapreplace(heads, (start + items[at].cost_s, items[at + 1].arrival, at + 1, items))
            else:
                heappop(heads)
