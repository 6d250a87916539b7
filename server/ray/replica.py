"""An engine as a Ray Serve replica: one GPU, one process, replaced when it hangs or its GPU fails.

Requests and pictures pass through Ray's object store as bytes, see :mod:`server.engines.messages`.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from importlib import import_module
from typing import Any

from inpaint.errors import ClosedError, DeadlineError, DeviceError, InpaintError
from inpaint.job import Event
from server.engines.client import Health, Terms
from server.engines.forecast import LATE
from server.engines.in_process import InProcessClient
from server.engines.messages import Message, error_message, pack, request_from, result_message, unpack
from server.engines.ticket import LoopTicket
from server.engines.worker import EXIT_BROKEN, WorkerSpec

COUNTS = ("waiting", "running", "row_steps", "unet_calls", "images", "out_of_memory")
StreamItem = dict[str, Any]
_EXIT_DELAY_S = 0.5  # for the error to reach the client before the process ends
_ENTERED_DELAY_S = 0.1  # for "entered" to reach the client: from then on it blames this request for a death


class EngineReplica:
    """A Ray actor with an engine, which paints and reports its backlog.

    Args:
        spec: fields of a ``WorkerSpec``.
        hang_s: seconds without progress after which a replica with work is replaced.
        loads: ``module:function`` that loads an engine, as ``server.engines.worker.load_engine`` does.
    """

    async def __init__(  # type: ignore[misc]  # Ray waits for it
        self, spec: Mapping[str, Any], hang_s: float, loads: str
    ) -> None:
        module, _, function = loads.partition(":")
        self._client = InProcessClient(WorkerSpec(**spec), load=getattr(import_module(module), function))
        self._hang_s = hang_s
        self._gate = ExclusiveGate()
        self._tickets: dict[str, LoopTicket] = {}
        self._progress: tuple[object, float] = (None, time.monotonic())
        self._reported: StreamItem = {}
        await self._client.start()

    async def paint(
        self, packed: bytes, *, name: str, sent_at: float, suspect: bool, work_s: float
    ) -> AsyncIterator[StreamItem]:
        """Paint a request and yield its events, ending with its pictures or an error.

        Args:
            packed: a packed ``submit`` message.
            name: identifies the request for :meth:`watch`.
            sent_at: Unix seconds from which its deadline counts; the hosts' clocks agree to about a second.
            suspect: a replica died under it, so it is painted alone: if it was the cause, no other request
                is affected again.
            work_s: seconds of work; only the router reads it.
        """
        async with self._gate.entered(alone=suspect):
            yield {"kind": "entered"}
            if suspect:
                await asyncio.sleep(_ENTERED_DELAY_S)
            message = unpack(packed)
            try:
                ticket = await self._submit(message, sent_at)
            except InpaintError as error:
                yield _failed(error)
                return
            self._tickets[name] = ticket
            try:
                if watchers := message.fields["watchers"]:
                    self.watch(name, watchers)
                async for event in ticket.events():
                    yield await self._item_of(ticket, event)
            finally:
                del self._tickets[name]
                ticket.cancel()  # nothing happens to one that has ended

    async def _submit(self, message: Message, sent_at: float) -> LoopTicket:
        left_s = message.fields["left_s"] - max(0.0, time.time() - sent_at)
        if left_s <= 0:
            raise DeadlineError(LATE)
        return await self._client.submit(request_from(message), Terms(message.fields["key"], left_s))

    async def _item_of(self, ticket: LoopTicket, event: Event) -> StreamItem:
        if event.error is not None:
            if isinstance(event.error, DeviceError | ClosedError):
                # No clean-up: on a failed GPU it could hang.
                asyncio.get_running_loop().call_later(_EXIT_DELAY_S, os._exit, EXIT_BROKEN)
                return _failed(event.error) | {"kind": "broken"}
            return _failed(event.error)
        if event.state == "done":
            # The bytes themselves, which Ray puts into its object store. Not a reference to an object there:
            # Serve pickles the items of a stream, so Ray would not count the reference and free the object.
            packed = await asyncio.to_thread(pack, result_message(0, await ticket.result()))
            return {"kind": "done", "result": packed}
        preview = None if event.preview is None else (event.preview.size, event.preview.tobytes())
        return {
            "kind": "event",
            "state": event.state,
            "step": event.step,
            "steps": event.steps,
            "preview": preview,
        }

    def watch(self, name: str, change: int) -> None:
        """Add ``change`` listeners for previews of a request; do nothing if this replica does not have it."""
        ticket = self._tickets.get(name)
        if ticket is not None and ticket.on_watch is not None:
            ticket.on_watch(change)

    def describe(self) -> StreamItem:
        """Return the engine's description as JSON, see :class:`server.engines.forecast.Engines`."""
        return self._client.engines.to_json()

    def record_routing_stats(self) -> StreamItem:
        """Return the report for the routers; Ray calls this about twice a second."""
        health = self._client.health()
        counts = {name: getattr(health, name) for name in COUNTS}
        for rows, (calls, micros) in health.steps.items():
            counts |= {f"calls:{rows}": calls, f"us:{rows}": micros}
        now = {"backlog_s": health.backlog_s, "counts": counts}
        if any(self._reported.get(name) != value for name, value in now.items()):
            # Only now: Ray sends every new report to every router.
            self._reported = now | {"at": time.time()}
        return self._reported

    def record_autoscaling_stats(self) -> dict[str, float]:
        """Return the report for :func:`server.ray.scaling.by_backlog`."""
        return {"backlog_s": self._client.health().backlog_s}

    def check_health(self) -> None:
        """Raise if the engine is not ready or hangs.

        Ray replaces the replica when this raises or does not return several times in a row.

        Raises:
            RuntimeError: says why.
        """
        health = self._client.health()
        if not health.ready:
            raise RuntimeError(health.reason)
        now, done = time.monotonic(), _work_done(health)
        idle = not self._tickets
        if idle or done != self._progress[0]:
            self._progress = (done, now)
        elif now - self._progress[1] > self._hang_s:
            raise RuntimeError(f"no progress for {self._hang_s:g} s")


class ExclusiveGate:
    """A readers-writer lock for asyncio tasks: many hold it together, or one alone."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._inside = 0
        self._alone = False  # a task is alone inside, or waits for the others to leave

    @asynccontextmanager
    async def entered(self, *, alone: bool) -> AsyncIterator[None]:
        """Hold the lock, shared or ``alone``; a task that waits to be alone keeps new ones out."""
        async with self._changed:
            await self._changed.wait_for(lambda: not self._alone)
            if alone:
                self._alone = True
                try:
                    await self._changed.wait_for(lambda: not self._inside)
                except BaseException:
                    self._alone = False
                    self._changed.notify_all()
                    raise
            self._inside += 1
        try:
            yield
        finally:
            await asyncio.shield(self._leave(alone=alone))

    async def _leave(self, *, alone: bool) -> None:
        async with self._changed:
            self._inside -= 1
            self._alone = self._alone and not alone
            self._changed.notify_all()


def spec_fields(spec: WorkerSpec) -> dict[str, Any]:
    """Return a spec as an argument of the deployment."""
    return asdict(spec)


def _work_done(health: Health) -> object:
    return health.row_steps, health.unet_calls, health.images, health.out_of_memory


def _failed(error: InpaintError) -> StreamItem:
    message = error_message("failed", 0, error)
    return {"kind": "failed", "fields": dict(message.fields)}
