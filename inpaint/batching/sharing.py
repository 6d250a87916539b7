"""The rows of one bucket that share the next UNet call.

Their calls are of two kinds: one computes the UNet's deepest level, the other takes it from the rows' caches
(:mod:`inpaint.model.deep_level`), and a call is of one kind. Which kind each of a row's calls is, is known
from the start.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from inpaint.batching.work import Bucket, Work


@dataclass(slots=True, eq=False)
class QueuedWork:
    """A request in the batcher."""

    work: Work
    submitted_at: float  # on the batcher's clock
    state: Literal["waiting", "encoding", "running"] = "waiting"
    left: list[int] = field(init=False)  # UNet calls left, by sample

    def __post_init__(self) -> None:
        self.left = [self.work.calls] * self.work.samples


Batch = list[tuple[QueuedWork, int]]  # entries, each with the number of one of its samples


def slots_left(entry: QueuedWork) -> int:
    """Return the slots of a call that an entry's unfinished rows would take."""
    return entry.work.slots * sum(left > 0 for left in entry.left)


def ready_rows(begun: Sequence[QueuedWork]) -> Batch:
    """Return the rows that could be in a call, in the order of their entries."""
    return [
        (entry, sample)
        for entry in begun
        if entry.state == "running"
        for sample, left in enumerate(entry.left)
        if left > 0
    ]


def bucket_of(batch: Batch) -> Bucket:
    """Return the bucket of a call, with its kind."""
    return batch[0][0].work.bucket._replace(cached=_is_cached(batch[0]))


class Choice(NamedTuple):
    """The rows of a call, and whether rows of the other kind are as old and have to wait for it."""

    batch: Batch
    others_wait: bool


class Sharing:
    """The turns that the two kinds of calls take in each bucket."""

    def __init__(self) -> None:
        self._due: dict[Bucket, bool] = {}  # the kind, True for cached, that had to wait for the last call

    def choose(self, bucket: Bucket, rows: Batch, cap: int) -> Choice:
        """Return the rows of a bucket's next call.

        Of the oldest rows that fit into one call, those of one kind are in it, and younger ones of that kind
        fill it. So a row that has just begun takes no call of its own away from the older ones. Cached calls
        come first: they are short, and after them their rows can share a call with the others. But a kind
        that had to wait for the last call is next, so that no row waits for more than one.

        Args:
            bucket: the bucket of the rows.
            rows: all that could be in a call, oldest first; at least one.
            cap: the most slots of one call. The first row is always in it.
        """
        oldest = _fitting(rows, cap)
        kinds = {_is_cached(row) for row in oldest}
        due = self._due.get(bucket)
        kind = due if due is not None and due in kinds else True in kinds
        alike = [row for row in rows if _is_cached(row) == kind]
        return Choice(_fitting(alike, cap), others_wait=len(kinds) > 1)

    def made(self, bucket: Bucket, choices: Mapping[Bucket, Choice]) -> None:
        """Note that the call of this bucket was made, of those that were chosen."""
        self._due = {other: kind for other, kind in self._due.items() if other in choices and other != bucket}
        if choices[bucket].others_wait:
            self._due[bucket] = not _is_cached(choices[bucket].batch[0])


def _is_cached(row: tuple[QueuedWork, int]) -> bool:
    """Return whether a row's next call takes the deepest level from its cache."""
    entry, sample = row
    return entry.work.is_cached(entry.left[sample])


def _fitting(rows: Batch, cap: int) -> Batch:
    """Return the first rows that fit into one call together; the first always does."""
    batch: Batch = []
    for row in rows:
        if not batch or row[0].work.slots <= cap:
            batch.append(row)
            cap -= row[0].work.slots
    return batch
