"""An engine as a Ray Serve replica: one GPU, one process, replaced when it hangs or its GPU fails.

Requests and pictures come and go through Ray's object store, as bytes in ``wire``'s format.
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
from server.engines.in_process import InProcessClient
from server.engines.messages import error_message, pack, request_from, result_message, unpack
from server.engines.ticket import LoopTicket
from server.engines.worker import EXIT_BROKEN, WorkerSpec

_LAST_WORDS_S = 0.5
_HEARD_S = 0.1  # for the caller to know that from now on a death may be this request's doing
Told = dict[str, Any]  # what a stream carries


class EngineReplica:
    """Load an engine, paint with it, and say how much there is to do.

    Args:
        spec: fields of a ``WorkerSpec``.
        hang_s: with work and without progress for so long it is replaced.
        loads: ``module:function`` that makes an engine, as ``server.engines.worker.load_engine`` does.
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
        self._reported: Told = {}
        await self._client.start()

    async def paint(
        self, order: bytes, *, name: str, sent_at: float, suspect: bool, work_s: float
    ) -> AsyncIterator[Told]:
        """Everything that happens to a request, ending with its pictures or an error.

        Args:
            order: a ``submit`` of ``wire``.
            name: by which :meth:`watch` means it.
            sent_at: Unix seconds, from when its deadline counts; hosts agree on the time to a second or so.
            suspect: a replica died under it. It is painted alone, so that if it was the cause it dies alone.
            work_s: for the router.
        """
        async with self._gate.entered(alone=suspect):
            yield {"kind": "entered"}
            if suspect:
                await asyncio.sleep(_HEARD_S)
            message = unpack(order)
            left_s = message.fields["left_s"] - max(0.0, time.time() - sent_at)
            try:
                if left_s <= 0:
                    raise DeadlineError(
                        "not painted in time: others took longer than was foreseen; try again"
                    )
                ticket = await self._client.submit(
                    request_from(message), Terms(message.fields["key"], left_s)
                )
            except InpaintError as error:
                yield _failed(error)
                return
            self._tickets[name] = ticket
            try:
                if watchers := message.fields["watchers"]:
                    self.watch(name, watchers)
                async for event in ticket.events():
                    yield await self._told(ticket, event)
            finally:
                del self._tickets[name]
                ticket.cancel()  # nothing happens to one that has ended

    async def _told(self, ticket: LoopTicket, event: Event) -> Told:
        if event.error is not None:
            if isinstance(event.error, DeviceError | ClosedError):
                # No clean-up: a spoiled GPU could hang it.
                asyncio.get_running_loop().call_later(_LAST_WORDS_S, os._exit, EXIT_BROKEN)
                return _failed(event.error) | {"kind": "broken"}
            return _failed(event.error)
        if event.state == "done":
            # As an item of the stream, which Ray puts into its object store. A reference would not do: Serve
            # pickles what a stream carries, so that Ray does not see that somebody holds it.
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
        """One more or fewer wants previews of a request; nothing happens where it is not here."""
        ticket = self._tickets.get(name)
        if ticket is not None and ticket.on_watch is not None:
            ticket.on_watch(change)

    def describe(self) -> Told:
        """The engine, see ``forecast.Engines``."""
        return self._client.engines.to_json()

    def record_routing_stats(self) -> Told:
        """For the router, about twice a second."""
        health = self._client.health()
        counts = {name: getattr(health, name) for name in COUNTS}
        for rows, (calls, micros) in health.steps.items():
            counts |= {f"calls:{rows}": calls, f"us:{rows}": micros}
        now = {"backlog_s": health.backlog_s, "counts": counts}
        if {name: self._reported.get(name) for name in now} != now:  # or Ray would tell everybody of nothing
            self._reported = now | {"at": time.time()}
        return self._reported

    def record_autoscaling_stats(self) -> dict[str, float]:
        """For ``scaling``."""
        return {"backlog_s": self._client.health().backlog_s}

    def check_health(self) -> None:
        """Ray replaces this replica when it raises, or does not answer, several times in a row."""
        health = self._client.health()
        if not health.ready:
            raise RuntimeError(health.reason)
        now, made = time.monotonic(), _made(health)
        idle = not self._tickets
        if idle or made != self._progress[0]:
            self._progress = (made, now)
        elif now - self._progress[1] > self._hang_s:
            raise RuntimeError(f"no progress for {self._hang_s:g} s")


COUNTS = ("waiting", "running", "row_steps", "unet_calls", "images", "out_of_memory")


class ExclusiveGate:
    """Lets everybody in together, or one alone."""

    def __init__(self) -> None:
        self._changed = asyncio.Condition()
        self._inside = 0
        self._alone = False  # one is alone inside, or waits for the others to leave

    @asynccontextmanager
    async def entered(self, *, alone: bool) -> AsyncIterator[None]:
        """Wait to be let in; with ``alone`` until everybody has left, and nobody else comes meanwhile."""
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
    """A spec as arguments of a deployment."""
    return asdict(spec)


def _made(health: Health) -> object:
    return health.row_steps, health.unet_calls, health.images, health.out_of_memory


def _failed(error: InpaintError) -> Told:
    message = error_message("failed", 0, error)
    return {"kind": "failed", "fields": dict(message.fields)}
