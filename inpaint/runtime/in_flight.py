"""The requests that a step loop has taken and not ended, and the lock that guards them."""

import threading
from dataclasses import replace

from inpaint.batching.batcher import Batch, Batcher, QueuedWork
from inpaint.batching.work import Bucket, Costs, Work
from inpaint.canvas.crop import Canvas
from inpaint.job import Event, Job
from inpaint.runtime.stages import RunningRequest


class InFlight:
    """The requests of one step loop, each with its entries in the batcher. Safe to call from any thread."""

    def __init__(self, costs: Costs) -> None:
        self.changed = threading.Condition()  # its lock guards the batcher and the table
        self.batcher = Batcher(costs)
        self.tasks: dict[QueuedWork, RunningRequest] = {}  # several entries where a row is painted again

    def add(self, job: Job, canvas: Canvas, work: Work, *, promised: bool) -> None:
        """Queue a job; with ``promised``, without asking whether there is time for it.

        Raises:
            BusyError: it could not be finished by its deadline.
        """
        with self.changed:
            entry = self.batcher.enter(work) if promised else self.batcher.submit(work)
            job.emit(Event("queued", steps=job.request.steps_to_run))
            self.tasks[entry] = RunningRequest(job, canvas, {entry: 0})

    def add_precise(self, task: RunningRequest, sample: int) -> None:
        """Queue one row of a running request again, which is now computed in fp32."""
        with self.changed:
            bucket = task.rows[sample].bucket
            # In fp32 every call computes all levels.
            work = replace(task.entry.work, bucket=bucket, samples=1, cached=frozenset())
            entry = self.batcher.enter(work)
            task.entries[entry] = sample
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

    def to_encode(self) -> list[RunningRequest]:
        """Take waiting requests off the queue, as many as the next UNet calls have room for."""
        with self.changed:
            tasks = []
            for entry in self.batcher.to_begin():
                task = self.tasks[entry]
                if task.rows:  # a row that is painted again is encoded already
                    self.batcher.begun(entry)
                else:
                    tasks.append(task)
            return tasks

    def next_batch(self) -> Batch:
        """Return the rows of the next UNet call; empty if none can run."""
        with self.changed:
            return self.batcher.next_batch()

    def to_decode(self) -> list[list[tuple[RunningRequest, int]]]:
        """Return the samples that were finished since the last call, grouped by bucket."""
        done: dict[Bucket, list[tuple[RunningRequest, int]]] = {}
        with self.changed:
            for task in dict.fromkeys(self.tasks.values()):
                for sample, row in enumerate(task.rows):
                    if row.done and sample not in task.decoding:
                        task.decoding.add(sample)
                        done.setdefault(row.bucket, []).append((task, sample))
        return list(done.values())

    def limit(self, fits: Batch) -> None:
        """Allow no more rows than these in one UNet call of their bucket from now on."""
        with self.changed:
            slots = sum(entry.work.slots for entry, _ in fits)
            self.batcher.limit(fits[0][0].work.bucket, slots)
