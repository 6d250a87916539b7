"""A device in virtual time around the real ``Batcher``: the step loop, encoding and decoding.

If the costs are not ``overlapped``, as on a CPU, the loop itself encodes or decodes once between two calls.

This is a discrete-event simulation: only the clock and the work are made up; the class that schedules rows in
production schedules them here.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf
from typing import Literal

from inpaint.batching.batcher import Batch, Batcher, QueuedWork, bucket_of
from inpaint.batching.work import Costs, Work
from inpaint.errors import BusyError

DECODED_TOGETHER = 2  # rows of one bucket


@dataclass(slots=True, eq=False)
class Sent:
    """A request of a trace and its fate."""

    at: float  # seconds since the trace began
    work: Work  # good until its deadline, which not every policy knows
    fate: Literal["under way", "refused", "expired", "finished"] = "under way"
    finished_at: float = inf

    @property
    def good(self) -> bool:
        """True if it was finished in time."""
        return self.finished_at <= self.work.expires_at


@dataclass(frozen=True, slots=True)
class Policy:
    """A rule for the requests that a device accepts."""

    name: str
    admits: bool  # by predicted finish; otherwise all wait in one first-in, first-out queue
    room: int | None = None  # of that queue


@dataclass(slots=True)
class Tally:
    """The counts of a device's work."""

    calls: int = 0
    row_steps: int = 0
    busy_s: float = 0.0  # the step loop
    side_s: float = 0.0  # encoding and decoding
    stalls: int = 0  # times that the loop found nothing to do although a row could run
    longest_queue: int = 0
    ended_at: float = 0.0


@dataclass(frozen=True, slots=True)
class _Job:
    """Work outside the step loop: encoding an entry, or decoding one of its samples."""

    entry: QueuedWork
    sample: int | None


class Device:
    """A simulated device with its batcher."""

    def __init__(self, costs: Costs, policy: Policy) -> None:
        self.now = 0.0
        self.tally = Tally()
        self.batcher = Batcher(costs, clock=lambda: self.now)
        self._costs = costs
        self._policy = policy
        self._queue: deque[Sent] = deque()
        self._sent: dict[QueuedWork, Sent] = {}
        self._undecoded: dict[QueuedWork, int] = {}  # samples
        self._call: Batch = []
        self._call_ends = inf
        self._jobs: deque[_Job] = deque()
        self._doing: list[_Job] = []
        self._doing_ends = inf
        self._job_was_last = False

    def run(self, trace: Sequence[Sent]) -> None:
        """Send all requests, in order, and go on until none is under way."""
        coming = deque(trace)
        while coming or self.next_at < inf:
            if coming and coming[0].at < self.next_at:
                self.send(coming.popleft())
            else:
                self.advance()

    @property
    def next_at(self) -> float:
        """The time at which the current call or job ends; inf if there is none."""
        return min(self._call_ends, self._doing_ends)

    @property
    def under_way(self) -> int:
        """The number of accepted requests that have not ended."""
        return len(self._sent) + len(self._queue)

    def advance(self) -> None:
        """Go on to :attr:`next_at`."""
        self.now = self.tally.ended_at = self.next_at
        if self.now == self._call_ends:
            self._end_call()
        else:
            self._end_doing()
        self._dispatch()

    def send(self, sent: Sent) -> None:
        """Send a request, no later than :attr:`next_at`."""
        self.now = self.tally.ended_at = sent.at
        self._arrive(sent)
        self._dispatch()

    def _arrive(self, sent: Sent) -> None:
        room = self._policy.room
        if not self._policy.admits and (room is None or len(self._queue) < room):
            self._queue.append(sent)
            return
        try:
            if not self._policy.admits:
                raise BusyError("the queue is full")
            entry = self.batcher.submit(sent.work)
        except BusyError:
            sent.fate = "refused"
        else:
            self._take(entry, sent)

    def _take(self, entry: QueuedWork, sent: Sent) -> None:
        self._sent[entry] = sent
        self._undecoded[entry] = entry.work.samples

    def _dispatch(self) -> None:
        """Do what the engine does between two calls, and its side thread between two jobs."""
        for entry in self.batcher.expired():
            self._end(entry, "expired")
        self._begin()
        if self._costs.overlapped:
            self._step()
            self._do_job()
        elif not self._call and not self._doing:
            first, second = (self._step, self._do_job) if self._job_was_last else (self._do_job, self._step)
            first()
            if not self._call and not self._doing:
                second()
            self._job_was_last = bool(self._doing)
        self.tally.longest_queue = max(self.tally.longest_queue, len(self._queue) + self.batcher.waiting)

    def _begin(self) -> None:
        """Begin the entries that the batcher names; the queue's head waits until the one before has begun."""
        while True:
            self._jobs.extend(_Job(entry, None) for entry in self.batcher.to_begin())
            if not self._queue or self.batcher.waiting:
                return
            sent = self._queue.popleft()
            self._take(self.batcher.enter(_without_deadline(sent.work)), sent)

    def _step(self) -> None:
        if self._call:
            return
        self._call = self.batcher.next_batch()
        self.tally.stalls += not self._call and self.batcher.running > 0
        if self._call:
            slots = sum(entry.work.slots for entry, _ in self._call)
            self._call_ends = self.now + self._costs.step_s(bucket_of(self._call), slots)
            self.tally.busy_s += self._call_ends - self.now

    def _do_job(self) -> None:
        if self._doing or not self._jobs:
            return
        job = self._jobs.popleft()
        self._doing = [job]
        bucket = job.entry.work.bucket
        seconds = self._costs.encode_s(bucket)
        if job.sample is not None:
            like = [j for j in self._jobs if j.sample is not None and j.entry.work.bucket == bucket]
            self._doing += like[: DECODED_TOGETHER - 1]
            seconds = self._costs.decode_s(bucket) * len(self._doing)
            for other in self._doing[1:]:
                self._jobs.remove(other)
        self._doing_ends = self.now + seconds
        self.tally.side_s += seconds

    def _end_call(self) -> None:
        batch, self._call, self._call_ends = self._call, [], inf
        self.batcher.stepped(batch)
        self.tally.calls += 1
        self.tally.row_steps += len(batch)
        done = [_Job(entry, i) for entry, i in batch if not entry.left[i] and entry in self._sent]
        self._jobs.extend(done)

    def _end_doing(self) -> None:
        jobs, self._doing, self._doing_ends = self._doing, [], inf
        for job in jobs:
            if job.entry not in self._sent:
                continue  # it expired meanwhile
            if job.sample is None:
                self.batcher.begun(job.entry)
                continue
            self._undecoded[job.entry] -= 1
            if not self._undecoded[job.entry]:
                self.batcher.remove(job.entry)
                self._end(job.entry, "finished")

    def _end(self, entry: QueuedWork, fate: Literal["expired", "finished"]) -> None:
        sent = self._sent.pop(entry)
        sent.fate = fate
        if fate == "finished":
            sent.finished_at = self.now
        # A row of it may be in the running call; that work is lost.
        del self._undecoded[entry]
        for job in [job for job in self._jobs if job.entry is entry]:
            self._jobs.remove(job)


def _without_deadline(work: Work) -> Work:
    return replace(work, expires_at=inf)
