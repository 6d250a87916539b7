"""The requests that a step loop has taken and not ended, and the lock that guards them."""

import threading
from dataclasses import replace

from inpaint.batching.batcher import Batch, Batcher, QueuedWork
from inpaint.batching.work import Bucket, Costs, Work
from inpaint.canvas.crop import Cut
from inpaint.job import Event, Job
from inpaint.runtime.stages import RunningRequest


class InFlight:
    """The requests of one step loop, each with its entries in the batcher. Safe to call from any thread."""

    def __init__(self, costs: Costs) -> None:
        self.changed = threading.Condition()  # its lock guards the batcher and the table
        self.batcher = Batcher(costs)
        self.tasks: dict[
            QueuedWork, RunningRequest
        ] = {}  # an entry for each box, and for each row that is painted again

    def add(self, job: Job, cut: Cut, work: Work, *, promised: bool) -> None:
        """Queue a job, each box for itself; with ``promised``, without asking whether there is time for it.

        Raises:
            BusyError: it could not be finished by its deadline.
        """
        with self.changed:
            if not promised:
                self.batcher.check(work)
            entries = [self.batcher.enter(box) for box in work.boxes]
            job.emit(Event("queued", steps=job.request.steps_to_run))
            first_rows = range(0, work.rows, work.samples)
            task = RunningRequest(job, cut, dict(zip(entries, first_rows, strict=True)))
            self.tasks |= dict.fromkeys(entries, task)

    def add_precise(self, task: RunningRequest, number: int) -> None:
        """Queue one row of a running request again, which is now computed in fp32."""
        with self.changed:
            bucket = task.row(number).bucket
            # In fp32 every call computes all levels.
            work = replace(task.entry.work, bucket=bucket, samples=1, cached=frozenset())
            entry = self.batcher.enter(work)
            task.entries[entry] = number
            self.tasks[entry] = task

    def remove(self, task: RunningRequest) -> None:
        """Forget a request and all its entries."""
        with self.changed:
            for entry in task.entries:
                del self.tasks[entry]
                self.batcher.remove(entry)

    def cancelled_and_late(self) -> tuple[set[RunningRequest], set[RunningRequest]]:
        """Return the requests that were cancelled, and the others whose deadline has passed."""
        with self.changed:
            cancelled = {task for task in self.tasks.values() if task.job.cancelled}
            late = {self.tasks[entry] for entry in self.batcher.expired()}
        return cancelled, late - cancelled

    def to_encode(self) -> list[QueuedWork]:
        """Take waiting boxes off the queue, as many as the next UNet calls have room for."""
        with self.changed:
            waiting = []
            for entry in self.batcher.to_begin():
                if entry.work.bucket.precise:  # a row that is painted again is encoded already
                    self.batcher.begun(entry)
                else:
                    waiting.append(entry)
            return waiting

    def next_batch(self) -> Batch:
        """Return the rows of the next UNet call; empty if none can run."""
        with self.changed:
            return self.batcher.next_batch()

    def to_decode(self) -> list[list[tuple[RunningRequest, int]]]:
        """Return the rows that were finished since the last call, by their numbers, grouped by bucket."""
        done: dict[Bucket, list[tuple[RunningRequest, int]]] = {}
        with self.changed:
            for task in dict.fromkeys(self.tasks.values()):
                for number, row in task.numbered():
                    if row.done and number not in task.decoding:
                        task.decoding.add(number)
                        done.setdefault(row.bucket, []).append((task, number))
        return list(done.values())

    def limit(self, fits: Batch) -> None:
        """Allow no more rows than these in one UNet call of their bucket from now on."""
        with self.changed:
            slots = sum(entry.work.slots for entry, _ in fits)
            self.batcher.limit(fits[0][0].work.bucket, slots)
