"""The heartbeat of one server among several with the same database.

Once a second it renews this server's lease, cancels and abandons requests as other servers ask, and takes
over the requests of servers that stopped. The rules of the lease are in ``server.storage.peers``.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

import structlog

from inpaint.errors import BusyError
from server.service.parts import Parts
from server.service.runner import LiveRequest, Runner

T = TypeVar("T")

log = structlog.get_logger()


class Heartbeat:
    """The loop that renews this server's lease once a second. Every method is for the event loop."""

    def __init__(self, parts: Parts, runner: Runner) -> None:
        self._parts, self._runner = parts, runner
        # A thread of its own: a server whose other threads all wait for something is busy, not dead.
        self._heartbeat_executor = ThreadPoolExecutor(1, "inpaint-heartbeat")
        self._left = False

    async def start(self) -> None:
        """Launch the requests that an earlier process left, then beat until the runner stops."""
        await self._on_heartbeat_thread(self._parts.peers.beat, {})
        for record in await self._on_heartbeat_thread(self._parts.store.recover):
            self._runner.launch(record)
        self._runner.spawn(self._keep_beating())

    async def leave(self) -> None:
        """Give this server's requests up, so that others need not wait for its lease to run out."""
        if self._left:
            return
        self._left = True
        with suppress(BusyError):  # the others will notice that the heartbeats stop
            # On the one thread of the heartbeat, so that it runs after a beat that has started.
            await self._on_heartbeat_thread(self._parts.peers.leave)
        self._heartbeat_executor.shutdown(wait=False)

    async def _keep_beating(self) -> None:
        while True:
            await asyncio.sleep(self._parts.peers.beat_s)
            try:
                await self._on_heartbeat_thread(self._parts.database.check_writable)
                await self._on_heartbeat_thread(self._parts.store.catch_up)
                if self._parts.database.shared:
                    await self._beat()
            except BusyError as error:  # once the database answers again, others may have our requests
                log.warning("no heartbeat", error=str(error))
            except Exception as error:  # without heartbeats other servers would take over every request
                log.error("bug", error=type(error).__name__, exc_info=error)

    async def _beat(self) -> None:
        parts, runner = self._parts, self._runner
        steps = {
            request_id: live.ticket.steps_taken if live.ticket is not None else 0
            for request_id, live in runner.live.items()
        }
        reply = await self._on_heartbeat_thread(parts.peers.beat, steps)
        await self._abandon([live for name in reply.lost if (live := runner.live.get(name)) is not None])
        for name in reply.cancelled:
            if (live := runner.live.get(name)) is not None:
                await runner.cancel(live)
        for record in await self._on_heartbeat_thread(parts.store.recover, reply.dead):
            log.info("taken over", request=record.id)
            runner.launch(record)

    async def _abandon(self, lost: list[LiveRequest]) -> None:
        """Stop working on requests that another server has taken over: nothing done here may reach them."""
        tasks = [live.task for live in lost if live.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _on_heartbeat_thread(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(
            self._heartbeat_executor, function, *arguments
        )
