"""The batcher: admission, the queues, and the rows of each UNet call. Imports no torch.

A box of a request is a :class:`QueuedWork`: *waiting* in its bucket's queue, *encoding* outside the step
loop, then *running* step by step. Within a bucket the oldest rows run first, so that a new request takes no
step away from one that has begun. The buckets take turns by deficit round-robin (Shreedhar and Varghese,
1995) in predicted seconds; :mod:`inpaint.batching.sharing` chooses the rows of a bucket's next call. Not
thread-safe: the engine holds its own lock. The clock and the costs are the caller's, so that production,
tests and ``bench/simulate.py`` make the same decisions.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from math import inf

from inpaint.batching.admission import Load, backlog_s, demand_s, finish_s, refuse_late
from inpaint.batching.fair_queue import FairQueue
from inpaint.batching.sharing import Batch, QueuedWork, Sharing, bucket_of, ready_rows, slots_left
from inpaint.batching.work import Bucket, Costs, Work
from inpaint.errors import BusyError
from inpaint.lora.spec import LoraUse

__all__ = ["Batch", "Batcher", "QueuedWork", "bucket_of", "slots_left"]


class _Limited:
    """The costs of a device, with fewer slots after memory ran out."""

    def __init__(self, costs: Costs) -> None:
        self._costs = costs
        self.limits: dict[Bucket, int] = {}
        self.overlapped = costs.overlapped
        self.step_s = costs.step_s
        self.encode_s = costs.encode_s
        self.decode_s = costs.decode_s
        self.switch_s = costs.switch_s

    def cap(self, bucket: Bucket) -> int:
        """Return the most slots of one UNet call, at least 1."""
        cap = self._costs.cap(bucket)
        return max(min(cap, self.limits.get(bucket, cap)), 1)


class Batcher:
    """A scheduler of the requests of one device."""

    def __init__(
        self,
        costs: Costs,
        *,
        clock: Callable[[], float] = time.monotonic,
        max_waiting: int | None = None,
    ) -> None:
        """Start without requests.

        Args:
            costs: of the device.
            clock: returns seconds, on the clock of the deadlines.
            max_waiting: most entries in the queues; None for any number.
        """
        self._costs = _Limited(costs)
        self._clock = clock
        self._max_waiting = max_waiting
        self._queues: dict[Bucket, FairQueue[QueuedWork]] = {}  # no queue is empty
        self._begun: dict[Bucket, list[QueuedWork]] = {}  # oldest first; no list is empty
        self._turns: dict[
            Bucket, float
        ] = {}  # in the order of turns: predicted seconds that each may still use
        self._current: Bucket | None = None  # the bucket that has received its quantum for this turn
        self._merged: tuple[LoraUse, ...] = ()  # the LoRAs of the last call
        self._sharing = Sharing()

    def submit(self, work: Work) -> QueuedWork:
        """Queue work of one box if there is room and time for it.

        Raises:
            BusyError: as :meth:`check`.
        """
        self.check(work)
        return self.enter(work)

    def check(self, work: Work) -> None:
        """Check that there is room and time for work.

        Raises:
            BusyError: there is no room, or it would be late, or would make accepted requests late.
        """
        if self._max_waiting is not None and self.waiting >= self._max_waiting:
            mean_s = self.backlog_s() / max(len(list(self._entries())), 1)
            raise BusyError(f"{self.waiting} requests are waiting, the most allowed; try again later", mean_s)
        if work.expires_at < inf:
            ahead, behind = self._around(work)
            refuse_late(work, self._clock(), ahead, behind, self._costs)

    def enter(self, work: Work) -> QueuedWork:
        """Queue work of one box without a check: it was accepted, or is a part that must be painted again."""
        assert not work.others, "each box has an entry of its own"
        entry = QueuedWork(work, self._clock())
        queue = self._queues.setdefault(work.bucket, FairQueue())
        queue.push(entry, work, demand_s(work, self._costs))
        return entry

    def to_begin(self) -> list[QueuedWork]:
        """Take the entries to be encoded now off the queues.

        There are enough to fill the next call of each bucket, and one more row, so that a slot that becomes
        free is filled immediately. There are no more, because only waiting entries can be overtaken by those
        of another key. Of all buckets together no more entries with caches begin than there is memory for,
        but in each bucket one may.
        """
        chosen = []
        caching = sum(_caching(entry) for begun in self._begun.values() for entry in begun)
        for bucket, queue in list(self._queues.items()):
            begun = self._begun.setdefault(bucket, [])
            slots = sum(slots_left(entry) for entry in begun)
            while queue and slots < self._costs.cap(bucket) + queue.peek().work.slots:
                if begun and _caching(queue.peek()) and caching >= _MOST_CACHING:
                    break
                entry = queue.pop()
                caching += _caching(entry)
                entry.state = "encoding"
                begun.append(entry)
                chosen.append(entry)
                slots += slots_left(entry)
            if not queue:
                del self._queues[bucket]
        return chosen

    def begun(self, entry: QueuedWork) -> None:
        """Mark an entry as encoded, so that its rows may run."""
        entry.state = "running"

    def expired(self) -> list[QueuedWork]:
        """Remove and return the entries whose deadline has passed."""
        now = self._clock()
        late = [entry for entry in self._entries() if entry.work.expires_at < now]
        for entry in late:
            self.remove(entry)
        return late

    def remove(self, entry: QueuedWork) -> None:
        """Forget an entry that is finished, failed or cancelled; does nothing the second time."""
        bucket = entry.work.bucket
        begun = self._begun.get(bucket, [])
        if entry in begun:
            begun.remove(entry)
            if not begun:
                del self._begun[bucket]
        elif bucket in self._queues and self._queues[bucket].remove(entry) and not self._queues[bucket]:
            del self._queues[bucket]

    def next_batch(self) -> Batch:
        """Return the rows of the next UNet call, all of one bucket; empty if none can run.

        The bucket is charged for the call, even if it fails.
        """
        ready = {bucket: rows for bucket, begun in self._begun.items() if (rows := ready_rows(begun))}
        choices = {b: self._sharing.choose(b, rows, self._costs.cap(b)) for b, rows in ready.items()}
        batches = {bucket: choice.batch for bucket, choice in choices.items()}
        if not batches:
            self._turns.clear()
            return []
        seconds = {bucket: self._call_s(bucket, batch) for bucket, batch in batches.items()}
        quantum = max(seconds.values())
        if len({bucket.loras for bucket in batches}) > 1:
            quantum = max(quantum, _TURN_PER_SWITCH * self._costs.switch_s())
        # A bucket without rows saves nothing up; a new bucket goes behind the others.
        turns = {bucket: left for bucket, left in self._turns.items() if bucket in batches}
        self._turns = turns | {bucket: 0.0 for bucket in batches if bucket not in turns}
        bucket = self._whose_turn(seconds, quantum)
        self._turns[bucket] -= seconds[bucket]
        self._merged = bucket.loras
        self._sharing.made(bucket, choices)
        return batches[bucket]

    def stepped(self, batch: Batch) -> None:
        """Count one UNet call of these rows as done."""
        for entry, sample in batch:
            assert entry.left[sample] > 0
            entry.left[sample] -= 1

    def limit(self, bucket: Bucket, slots: int) -> None:
        """Limit the later calls of this bucket to ``slots``, because more did not fit."""
        self._costs.limits[bucket] = min(slots, self._costs.cap(bucket))

    def cap(self, bucket: Bucket) -> int:
        """Return the most slots of one UNet call of this bucket."""
        return self._costs.cap(bucket)

    def forecast_s(self, work: Work) -> float:
        """Return the seconds until ``work`` would be finished if it were submitted now."""
        ahead, _ = self._around(work)
        return finish_s(work, ahead, self._costs)

    def backlog_s(self) -> float:
        """Return the seconds until the step loop would have done all its work."""
        waiting = [Load.waiting(entry.work) for queue in self._queues.values() for entry in queue]
        return backlog_s([*self._loads(), *waiting], self._costs)

    @property
    def waiting(self) -> int:
        """The number of entries in the queues."""
        return sum(map(len, self._queues.values()))

    @property
    def running(self) -> int:
        """The number of rows that are encoded and have steps left."""
        entries = [entry for begun in self._begun.values() for entry in begun if entry.state == "running"]
        return sum(left > 0 for entry in entries for left in entry.left)

    def _entries(self) -> Iterator[QueuedWork]:
        for begun in self._begun.values():
            yield from begun
        for queue in self._queues.values():
            yield from queue

    def _around(self, work: Work) -> tuple[list[Load], list[Load]]:
        """Return the loads ahead of ``work``, other buckets included, and those behind it."""
        own = dict.fromkeys(box.bucket for box in work.boxes)
        queues = [self._queues[bucket] for bucket in own if bucket in self._queues]
        ahead = [entry for queue in queues for entry in queue.ahead(work)]
        behind = [Load.waiting(entry.work) for queue in queues for entry in queue if entry not in ahead]
        elsewhere = [entry for bucket, queue in self._queues.items() if bucket not in own for entry in queue]
        return [*self._loads(), *(Load.waiting(entry.work) for entry in [*ahead, *elsewhere])], behind

    def _loads(self) -> list[Load]:
        """Return the loads of what is begun, one for each number of steps that rows of an entry have left."""
        return [
            Load(replace(entry.work, samples=rows), left)
            for begun in self._begun.values()
            for entry in begun
            for left, rows in Counter(entry.left).items()
        ]

    def _call_s(self, bucket: Bucket, batch: Batch) -> float:
        """Return the seconds of a call, with the switch of LoRAs that it needs."""
        slots = sum(entry.work.slots for entry, _ in batch)
        switch_s = 0.0 if bucket.loras == self._merged else self._costs.switch_s()
        return max(self._costs.step_s(bucket_of(batch), slots) + switch_s, _SHORTEST_S)

    def _whose_turn(self, seconds: dict[Bucket, float], quantum: float) -> Bucket:
        """Return the first bucket with enough seconds for its call; each gets a quantum when its turn comes.

        The quantum is at least the most expensive call, so that every bucket has a call in each round. If
        LoRAs are switched between turns it is ten times the switch, so that most of a turn is spent on calls.
        """
        while True:
            bucket = next(iter(self._turns))
            if bucket != self._current:
                self._current = bucket
                self._turns[bucket] += quantum
            if self._turns[bucket] >= seconds[bucket]:
                return bucket
            self._turns[bucket] = self._turns.pop(bucket)  # to the end
            self._current = None


def _caching(entry: QueuedWork) -> int:
    """Return the slots of an entry's unfinished rows, if they take the deepest level from caches."""
    return slots_left(entry) if entry.work.cached else 0


_MOST_CACHING = 32  # slots; each takes 20 MiB at SDXL's size in 16 bit
_TURN_PER_SWITCH = 10  # a turn in units of a LoRA switch: switches take a tenth of the time at most
_SHORTEST_S = 1e-9  # with calls of no cost a bucket would keep its turn for ever
