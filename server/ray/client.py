"""An engine client whose engines are the replicas of a Ray Serve deployment.

Ray's handle holds the queue and its router chooses the replica. The events of a request come back as a
stream. A replica that dies breaks the streams of all its requests: each is sent again, to be painted alone on
a replica (:func:`server.engines.dispatch.retry_alone`), so that the one that kills replicas is found.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from math import inf
from typing import Any

import ray
from PIL import Image
from ray.exceptions import ObjectLostError, RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle

from inpaint.batching.admission import demand_s
from inpaint.batching.work import Work
from inpaint.errors import BusyError, CancelledError, ClosedError, DeadlineError, DeviceError, PaintError
from inpaint.job import Event
from inpaint.request import InpaintRequest
from server.engines.client import ANY_TIME, Health, Terms
from server.engines.dispatch import retry_alone
from server.engines.forecast import LATE, Engines, QueueState
from server.engines.messages import Message, error_from, pack, request_message, result_from, unpack
from server.engines.ticket import LoopTicket, prepare
from server.engines.worker_slot import steps_of
from server.ray.replica_stats import replica_stats_of

_log = logging.getLogger(__name__)
_DIED = (RayActorError, ObjectLostError, ReplicaUnavailableError)
_RETRY_S = 0.5  # while there is no replica, or all queues are full
_DESCRIBE_S = 30.0  # between descriptions of the engines: costs change slowly
_TRIES = 10  # of a request whose replicas died before they took it from their queue


class RayTicket(LoopTicket):
    """A request in the handle's queue or on a replica."""

    def __init__(self, request: InpaintRequest, work: Work) -> None:
        super().__init__(request)
        self.name = secrets.token_hex(8)
        self.work = work  # its deadline is on the loop's clock
        self.attempts = 0  # replicas that died under it
        self.tries = 0  # replicas that it was sent to
        self.on_replica = False  # a replica has taken it from its queue


class RayClient:
    """Engines on a Ray cluster; see :class:`server.engines.client.EngineClient`.

    Args:
        handle: Ray's handle of the deployment of ``EngineReplica``.
        hang_s: a replica that sends no event of a request for 30 s longer than this counts as dead.
        max_attempts: tries of a request whose replica dies under it.
    """

    def __init__(self, handle: DeploymentHandle[Any], *, hang_s: float, max_attempts: int) -> None:
        self._handle = handle
        self._silence_s = hang_s + 30.0
        self._max_attempts = max_attempts
        self._replica_stats = replica_stats_of(handle.deployment_name)
        self._engines = Engines()
        self._described = False
        self._closing = False
        self._tickets: dict[RayTicket, asyncio.Task[None]] = {}
        self._describing: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Wait for the first replica, see :meth:`server.engines.client.EngineClient.start`."""
        await self._describe()
        self._describing = asyncio.create_task(self._keep_described())

    async def close(self, drain_s: float) -> None:
        """Take no more, and wait at most ``drain_s`` seconds for what is under way; the replicas stay."""
        self._closing = True
        if self._tickets and drain_s > 0:
            await asyncio.wait(list(self._tickets.values()), timeout=drain_s)
        tasks = [*self._tickets.values(), *([self._describing] if self._describing else [])]
        for ticket in self._tickets:
            ticket.fail(ClosedError("the server stopped before this was finished; send it again"))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def submit(self, request: InpaintRequest, terms: Terms = ANY_TIME) -> RayTicket:
        """Queue a request, see :meth:`server.engines.client.EngineClient.submit`."""
        self._check_ready()
        request = await prepare(request)
        work = await asyncio.to_thread(self._engines.work, request, terms.key)
        self._check_ready()  # it may have changed meanwhile
        # The replica that gets it checks again, with all that it holds; only the shortest wait is known here.
        work = self._engines.promise(work, terms, self._queued_with)
        ticket = RayTicket(request, work)
        task = asyncio.create_task(self._paint(ticket))
        self._tickets[ticket] = task
        task.add_done_callback(lambda _: self._forget(ticket))
        ticket.on_cancel = lambda: _cancel(task)
        ticket.on_watch = lambda change: self._watch(ticket, change)
        return ticket

    def _forget(self, ticket: RayTicket) -> None:
        self._tickets.pop(ticket, None)
        # A task that is cancelled before its first step is never entered, so it could not say so itself.
        ticket.fail(CancelledError("the request was cancelled"))  # unless it has ended otherwise

    def health(self) -> Health:
        """Return the sums over all replicas that have reported.

        See :meth:`server.engines.client.EngineClient.health`.
        """
        counts = self._replica_stats.totals()
        ready = self._described and self._replica_stats.size > 0 and not self._closing
        running = counts["running"]
        queued = sum(not ticket.on_replica for ticket in self._tickets)
        return Health(
            ready=ready,
            reason="" if ready else self._not_ready(),
            waiting=counts["waiting"] + queued,
            running=running,
            native_size=self._engines.native_size if self._described else None,
            in_channels=self._engines.in_channels if self._described else None,
            backlog_s=self._replica_stats.least_s + self._queued_s(),
            restarts=self._replica_stats.deaths,
            row_steps=counts["row_steps"],
            unet_calls=counts["unet_calls"],
            images=counts["images"],
            out_of_memory=counts["out_of_memory"],
            steps=steps_of(counts),
        )

    def _check_ready(self) -> None:
        if self._closing or not self._described or not self._replica_stats.size:
            raise BusyError(f"not ready: {self._not_ready()}; try again later", 10.0)

    def _not_ready(self) -> str:
        return "the server is stopping" if self._closing else "no engine of the cluster is ready"

    def _queued_with(self, _: Work) -> QueueState:
        return QueueState(delay_s=self._replica_stats.least_s + self._queued_s())

    def _queued_s(self) -> float:
        """Return the seconds until the replicas have taken this process's queue."""
        queued = [ticket.work for ticket in self._tickets if not ticket.on_replica]
        return sum(demand_s(work, self._engines.profile) for work in queued) / max(
            self._replica_stats.size, 1
        )

    async def _paint(self, ticket: RayTicket) -> None:
        """Try a request on one replica after the other until it has ended."""
        try:
            while not ticket.finished:
                await self._try(ticket)
        except (BusyError, DeadlineError, PaintError) as error:
            ticket.fail(error)
        except Exception as error:  # noqa: BLE001 - a bug of ours or of Ray's must not leave a caller waiting
            _log.exception("internal error while painting a request")
            ticket.fail(PaintError(f"internal error, please report it: {type(error).__name__}: {error}"))

    async def _try(self, ticket: RayTicket) -> None:
        ticket.tries += 1
        ticket.on_replica = False
        try:
            async with aclosing(self._stream(ticket)) as stream:
                async for item in stream:
                    ticket.on_replica = True
                    await self._on_item(ticket, item)
        except BackPressureError as error:
            await self._wait(ticket, "the server is full; try again", error)
        except DeploymentUnavailableError as error:
            await self._wait(ticket, "no engine of the cluster is ready; try again later", error)
        except (*_DIED, DeviceError, TimeoutError) as error:
            self._on_death(ticket, error)
        except RayTaskError as error:
            if not isinstance(error.cause, _DIED):
                raise
            self._on_death(ticket, error.cause)

    async def _wait(self, ticket: RayTicket, problem: str, error: Exception) -> None:
        """Wait a moment for room; refuse a request that has a deadline."""
        if ticket.work.expires_at < inf:
            raise BusyError(problem, self._replica_stats.least_s or 5.0) from error
        ticket.tries -= 1
        await asyncio.sleep(_RETRY_S)

    def _on_death(self, ticket: RayTicket, error: Exception) -> None:
        _log.warning("a replica died under a request: %s", error)
        ticket.attempts += ticket.on_replica
        attempts = ticket.tries if ticket.tries >= _TRIES else ticket.attempts
        retry_alone(ticket, attempts, min(self._max_attempts, _TRIES), _reason_of(error))

    async def _stream(self, ticket: RayTicket) -> AsyncGenerator[dict[str, Any]]:
        """Send the request to a replica and yield its stream; closing this early cancels the request."""
        loop = asyncio.get_running_loop()
        left_s = ticket.work.expires_at - loop.time()
        if left_s <= 0:
            raise DeadlineError(LATE)
        message = request_message(0, ticket.request, ticket.watchers, ticket.work.key, left_s)
        packed = await asyncio.to_thread(lambda: ray.put(pack(message)))
        response: Any = self._handle.options(method_name="paint", stream=True).remote(
            packed,
            name=ticket.name,
            sent_at=time.time(),
            suspect=ticket.tries > 1,
            work_s=demand_s(ticket.work, self._engines.profile),
        )
        try:
            timeout_s: float | None = None if left_s == inf else left_s + 5.0  # until a replica takes it
            while True:
                async with asyncio.timeout(timeout_s):
                    item = await anext(response, None)
                if item is None:
                    return
                yield item
                timeout_s = self._silence_s
        finally:
            response.cancel()

    async def _on_item(self, ticket: RayTicket, item: dict[str, Any]) -> None:
        if item["kind"] == "done":
            ticket.finish(result_from(await asyncio.to_thread(unpack, item["result"])))
        elif item["kind"] == "event":
            if item["state"] not in ("queued", "done"):
                ticket.emit(Event(item["state"], item["step"], item["steps"], _picture(item["preview"])))
        elif item["kind"] != "entered":
            error = error_from(Message("failed", 0, item["fields"]))
            if item["kind"] == "broken":
                raise DeviceError(str(error))
            ticket.fail(error)

    def _watch(self, ticket: RayTicket, change: int) -> None:
        if ticket.on_replica:
            self._handle.broadcast("watch", ticket.name, change)

    async def _describe(self) -> None:
        self._engines = Engines.from_json(await self._handle.describe.remote())
        self._described = True

    async def _keep_described(self) -> None:
        while True:
            await asyncio.sleep(_DESCRIBE_S)
            with suppress(Exception):  # an old description is good enough until the next try
                async with asyncio.timeout(_DESCRIBE_S):
                    await self._describe()


def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()


def _reason_of(error: Exception) -> str:
    """Return the first line of an error, without its full stop; Ray's continue with ids and addresses."""
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(".")


def _picture(preview: tuple[tuple[int, int], bytes] | None) -> Image.Image | None:
    return None if preview is None else Image.frombytes("RGB", *preview)
