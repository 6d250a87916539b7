"""The processes of a pool's workers: start, kill when stalled, restart with back-off, unload when idle.

A worker with work and without progress for ``hang_s`` is killed. Progress is what its engine has done, not
that its process answers.

A worker without work for ``idle_unload_s`` is ended, so that its GPU is free, and started again by the next
request, which waits for it. The pool stays ready in the meantime.
"""

import asyncio
import logging
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace

from inpaint.batching.cost_profile import Profile
from inpaint.errors import DeviceError, InpaintError
from server.engines.child import Child
from server.engines.dispatch import Dispatcher
from server.engines.forecast import Engines
from server.engines.gpus import advice, gpu_for
from server.engines.messages import Message, error_from
from server.engines.worker import WorkerSpec
from server.engines.worker_slot import Restarts, WorkerSlot

_log = logging.getLogger(__name__)


class Supervisor:
    """The life cycle of a pool's worker processes.

    Args:
        spec: what each worker loads; on CUDA worker ``i`` sees GPU ``i`` only.
        slots: the workers, whose processes this starts and ends.
        dispatcher: gets the workers' messages about requests, and the requests of dead workers.
        hang_s: seconds without progress after which a worker with work is killed.
        idle_unload_s: seconds without work after which a worker is unloaded.
        restarts: when dead workers are started again.
        program: arguments of the Python interpreter that make a child a worker.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        slots: Sequence[WorkerSlot],
        dispatcher: Dispatcher,
        *,
        hang_s: float,
        idle_unload_s: float,
        restarts: Restarts,
        program: Sequence[str],
    ) -> None:
        self.load_s = 10.0  # duration of the last load
        self.described = False  # whether a worker has described its engine yet
        self._spec = spec
        self._slots = slots
        self._dispatcher = dispatcher
        self._hang_s = hang_s
        self._idle_unload_s = idle_unload_s
        self._restarts = restarts
        self._program = program
        self._first_ready: asyncio.Future[None] | None = None
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start every worker; return once the first is ready.

        Raises:
            ModelError: missing or damaged.
            DeviceError: the device is not there, or the worker's process ended early.
        """
        self._first_ready = asyncio.get_running_loop().create_future()
        self._tasks = [asyncio.create_task(self._supervise(slot)) for slot in self._slots]
        self._tasks.append(asyncio.create_task(self._watch()))
        await self._first_ready

    async def stop(self) -> None:
        """End every worker."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        children = [slot.child for slot in self._slots if slot.child is not None]
        for slot in self._slots:
            slot.ready, slot.child = False, None
        for child in children:
            child.link.close()
        await asyncio.gather(*(child.exit_status(5.0) for child in children))

    async def _supervise(self, slot: WorkerSlot) -> None:
        """Keep a process in the slot until this is cancelled."""
        while True:
            try:
                status = await self._run_process(slot)
            except OSError as error:  # no process, no memory, no descriptor left
                status, slot.error = None, DeviceError(f"no process could be started: {error}")
            if slot.reload_event is not None:  # unloaded
                slot.keep_counts()
                await slot.reload_event.wait()
                slot.reload_event = None
                continue
            self._on_exit(slot, status)
            await asyncio.sleep(self._restarts.delay_s(slot.deaths))

    async def _run_process(self, slot: WorkerSlot) -> int | None:
        """Run one process from its start to its end; return its exit status."""
        slot.starts += 1
        slot.error = None
        slot.stalled_s = 0.0
        slot.started_at = asyncio.get_running_loop().time()
        slot.max_rows = self._spec.max_rows
        variables, device = gpu_for(slot.index, self._spec.device, os.environ)
        child = slot.child = Child(self._program, lambda message: self._on_message(slot, message), variables)
        spec = asdict(replace(self._spec, device=device))
        fields = {"spec": spec, "index": slot.index, "start": slot.starts}
        child.link.send(Message("load", fields=fields))
        await child.ended.wait()
        slot.ready = False
        slot.reason = f"worker {slot.index} ended"
        status = await child.exit_status()
        slot.child = None
        return status

    def _on_message(self, slot: WorkerSlot, message: Message) -> None:
        if message.kind == "stats":
            slot.count(message.fields["stats"])
            profile = Profile.from_json(message.fields["profile"])
            self._dispatcher.engines = replace(self._dispatcher.engines, profile=profile)
        elif message.kind == "ready":
            self._dispatcher.engines = Engines.from_json(message.fields)
            self._on_ready(slot)
        elif message.kind in ("unfit", "broken"):
            slot.mark_failed(self._advised(slot, error_from(message)))
        else:
            self._dispatcher.on_message(slot, message)

    def _advised(self, slot: WorkerSlot, error: InpaintError) -> InpaintError:
        """Return a process's error, with what to do about it if it has no GPU."""
        if not isinstance(error, DeviceError) or self.described:
            return error
        return DeviceError(f"{error}{advice(slot.index, self._spec.device, os.environ)}")

    def _on_ready(self, slot: WorkerSlot) -> None:
        self.described = True
        slot.ready, slot.unloaded = True, False
        slot.reason = ""
        self.load_s = asyncio.get_running_loop().time() - slot.started_at
        if self._first_ready is not None and not self._first_ready.done():
            self._first_ready.set_result(None)
        self._dispatcher.dispatch()

    def _on_exit(self, slot: WorkerSlot, status: int | None) -> None:
        slot.deaths += 1
        slot.unloaded = False
        cause = str(slot.error) if slot.error is not None else _cause_of(status)
        slot.reason = self._reason(slot, cause)
        _log.error("%s", slot.reason)
        slot.keep_counts()
        self._dispatcher.requeue(slot, cause)
        if self._first_ready is not None and not self._first_ready.done():
            error = slot.error or DeviceError(f"the worker process ended early: {cause}")
            self._first_ready.set_exception(error)
        self._dispatcher.dispatch()

    def _reason(self, slot: WorkerSlot, cause: str) -> str:
        delay_s = self._restarts.delay_s(slot.deaths)
        if slot.deaths < self._restarts.crash_limit:
            return f"worker {slot.index} ended ({cause}) and is started again in {delay_s:g} s"
        return (
            f"worker {slot.index} ended {slot.deaths} times in a row without a picture (last: {cause}); "
            f"look at its GPU and its log; it is tried again every {delay_s:g} s"
        )

    async def _watch(self) -> None:
        """Fail late requests, kill stalled workers and unload idle ones, until this is cancelled."""
        interval_s = min(1.0, self._hang_s / 8, self._idle_unload_s / 4)
        while True:
            await asyncio.sleep(interval_s)
            self._dispatcher.drop_late()
            for slot in self._slots:
                self._kill_if_stalled(slot, interval_s)
                self._unload_if_idle(slot, interval_s)

    def _kill_if_stalled(self, slot: WorkerSlot, interval_s: float) -> None:
        if slot.child is None or (slot.ready and not slot.tickets):
            return
        # Intervals are counted, not the clock read: a pause of this process is not the worker's stall.
        slot.stalled_s += interval_s
        loading = not slot.ready and slot.error is None
        limit_s = self._restarts.load_s if loading else self._hang_s
        if slot.stalled_s > limit_s:
            slot.mark_failed(DeviceError(f"no progress for {limit_s:g} s"))
            slot.child.kill()

    def _unload_if_idle(self, slot: WorkerSlot, interval_s: float) -> None:
        idle = slot.ready and not slot.tickets and self._dispatcher.idle
        slot.idle_s = slot.idle_s + interval_s if idle else 0.0
        if slot.idle_s >= self._idle_unload_s:
            slot.unload()
            _log.info("worker %d is unloaded after %g s without work", slot.index, self._idle_unload_s)


def _cause_of(status: int | None) -> str:
    if status is None:
        return "it does not end even on SIGKILL"
    if status < 0:
        with suppress(ValueError):
            return f"killed by {signal.Signals(-status).name}"
    return f"exit status {status}"
