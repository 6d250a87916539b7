"""An ``EngineClient`` whose engines are the replicas of a Ray Serve deployment.

Ray's handle holds the queue and its router chooses the replica. What happens to a request comes back as a
stream. A replica that dies breaks the streams of all that it held: they are sent again, each to be painted
alone on a replica, so that the one that kills another is found and fails by itself.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import replace
from math import inf
from typing import Any

import ray
from PIL import Image
from ray.exceptions import ObjectLostError, RayActorError, RayTaskError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle

from inpaint.batching.admission import demand_s, refuse_late
from inpaint.batching.work import Work
from inpaint.errors import BusyError, CancelledError, ClosedError, DeadlineError, DeviceError, PaintError
from inpaint.job import Event
from inpaint.request import InpaintRequest
from server.engines.client import ANY_TIME, Health, Terms
from server.engines.forecast import Engines
from server.engines.messages import Message, error_from, pack, request_message, result_from, unpack
from server.engines.ticket import LoopTicket, prepare
from server.engines.worker_slot import steps_of
from server.ray.replica_stats import replica_stats_of

_log = logging.getLogger(__name__)
_DIED = (RayActorError, ObjectLostError, ReplicaUnavailableError)
_RETRY_S = 0.5  # while no replica is there, or all queues are full
_DESCRIBE_S = 30.0  # what pictures cost changes slowly
_TRIES = 10  # of a request whose replicas died before they had let it in
_POISON = (
    "not painted: the engine's process ended each of the {attempts} times this request was tried; "
    "try a smaller picture or fewer samples, and report it if that fails too"
)


class RayTicket(LoopTicket):
    """A request in the handle's queue or on a replica."""

    def __init__(self, request: InpaintRequest, work: Work) -> None:
        super().__init__(request)
        self.name = secrets.token_hex(8)
        self.work = work  # its deadline is on the loop's clock
        self.attempts = 0  # whose replica died under it
        self.tries = 0
        self.on_replica = False


class RayClient:
    """See :class:`server.engines.client.EngineClient`.

    Args:
        handle: of the deployment of ``EngineReplica``.
        hang_s: a replica that tells nothing of a request it has begun for so long, and a bit, is given up.
        max_attempts: of a request whose replica dies under it.
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
        """Take no more, wait at most ``drain_s`` for what is under way; the replicas stay."""
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
        """Hand a request over, see :meth:`server.engines.client.EngineClient.submit`."""
        self._check_ready()
        request = await prepare(request)
        work = await asyncio.to_thread(self._engines.work, request, terms.key)
        self._check_ready()  # it may have changed meanwhile
        work = self._promised(work, terms)
        ticket = RayTicket(request, work)
        task = asyncio.create_task(self._paint(ticket))
        self._tickets[ticket] = task
        task.add_done_callback(lambda _: self._tickets.pop(ticket, None))
        ticket.on_cancel = lambda: _cancel(task)
        ticket.on_watch = lambda change: self._watch(ticket, change)
        return ticket

    def health(self) -> Health:
        """See :meth:`server.engines.client.EngineClient.health`; of all replicas that have reported."""
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
            backlog_s=self._replica_stats.least_s + self._queued_s(),
            restarts=self._replica_stats.deaths,
            row_steps=counts["row_steps"],
            unet_calls=counts["unet_calls"],
            images=counts["images"],
            out_of_memory=counts["out_of_memory"],
            steps=steps_of(counts),
        )

    # Letting in.

    def _check_ready(self) -> None:
        if self._closing or not self._described or not self._replica_stats.size:
            raise BusyError(f"not ready: {self._not_ready()}; try again later", 10.0)

    def _not_ready(self) -> str:
        return "the server is stopping" if self._closing else "no engine of the cluster is ready"

    def _promised(self, work: Work, terms: Terms) -> Work:
        """The work with its deadline on the loop's clock; raises BusyError if it would not be in time.

        The replica that gets it looks again, at all that it has; here only the shortest wait is known.
        """
        now, costs = asyncio.get_running_loop().time(), self._engines.profile
        work = replace(work, expires_at=now + self._engines.given_s(work, terms))
        if work.expires_at < inf:
            refuse_late(work, now + self._replica_stats.least_s + self._queued_s(), (), (), costs)
        return work

    def _queued_s(self) -> float:
        """Seconds until the queue of this process is with the replicas."""
        queued = [ticket.work for ticket in self._tickets if not ticket.on_replica]
        return sum(demand_s(work, self._engines.profile) for work in queued) / max(
            self._replica_stats.size, 1
        )

    # Painting.

    async def _paint(self, ticket: RayTicket) -> None:
        """One request, from the queue to its end, however many replicas that takes."""
        try:
            while not ticket.finished:
                await self._try(ticket)
        except asyncio.CancelledError:
            ticket.fail(CancelledError("the request was cancelled"))  # unless it has ended otherwise
        except (BusyError, DeadlineError, PaintError) as error:
            ticket.fail(error)
        except Exception as error:  # noqa: BLE001 - a bug of ours or of Ray's must not leave a caller waiting
            _log.exception("bug")
            ticket.fail(PaintError(f"internal error, please report it: {type(error).__name__}: {error}"))

    async def _try(self, ticket: RayTicket) -> None:
        ticket.tries += 1
        ticket.on_replica = False
        try:
            async with aclosing(self._stream(ticket)) as stream:
                async for told in stream:
                    ticket.on_replica = True
                    await self._hear(ticket, told)
        except BackPressureError as error:
            await self._wait(ticket, "the server is full; try again", error)
        except DeploymentUnavailableError as error:
            await self._wait(ticket, "no engine of the cluster is ready; try again later", error)
        except (*_DIED, DeviceError, TimeoutError) as error:
            self._died(ticket, error)
        except RayTaskError as error:
            if not isinstance(error.cause, _DIED):
                raise
            self._died(ticket, error)

    async def _wait(self, ticket: RayTicket, problem: str, error: Exception) -> None:
        """Until there is room, for who has time; who has not is told to come again."""
        if ticket.work.expires_at < inf:
            raise BusyError(problem, self._replica_stats.least_s or 5.0) from error
        ticket.tries -= 1
        await asyncio.sleep(_RETRY_S)

    def _died(self, ticket: RayTicket, error: Exception) -> None:
        _log.warning("a replica died under a request, which is sent again: %s", error)
        ticket.attempts += ticket.on_replica
        if ticket.attempts >= self._max_attempts or ticket.tries >= _TRIES:
            raise PaintError(_POISON.format(attempts=ticket.attempts or ticket.tries)) from error
        ticket.tell(Event("queued", steps=ticket.request.steps_to_run))

    async def _stream(self, ticket: RayTicket) -> AsyncGenerator[dict[str, Any]]:
        """What a replica tells of the request; ending it early cancels the request there."""
        loop = asyncio.get_running_loop()
        left_s = ticket.work.expires_at - loop.time()
        if left_s <= 0:
            raise DeadlineError("not painted in time: others took longer than was foreseen; try again")
        message = request_message(0, ticket.request, ticket.watchers, ticket.work.key, left_s)
        order = await asyncio.to_thread(lambda: ray.put(pack(message)))
        response: Any = self._handle.options(method_name="paint", stream=True).remote(
            order,
            name=ticket.name,
            sent_at=time.time(),
            suspect=ticket.tries > 1,
            work_s=demand_s(ticket.work, self._engines.profile),
        )
        try:
            patience: float | None = None if left_s == inf else left_s + 5.0  # for a place on a replica
            while True:
                async with asyncio.timeout(patience):
                    told = await anext(response, None)
                if told is None:
                    return
                yield told
                patience = self._silence_s
        finally:
            response.cancel()

    async def _hear(self, ticket: RayTicket, told: dict[str, Any]) -> None:
        if told["kind"] == "done":
            ticket.finish(result_from(await asyncio.to_thread(unpack, told["result"])))
        elif told["kind"] == "event":
            if told["state"] not in ("queued", "done"):
                ticket.tell(Event(told["state"], told["step"], told["steps"], _picture(told["preview"])))
        elif told["kind"] != "entered":
            error = error_from(Message("failed", 0, told["fields"]))
            if told["kind"] == "broken":
                raise DeviceError(str(error))
            ticket.fail(error)

    def _watch(self, ticket: RayTicket, change: int) -> None:
        if ticket.on_replica:
            self._handle.broadcast("watch", ticket.name, change)

    # What the engines are.

    async def _describe(self) -> None:
        self._engines = Engines.from_json(await self._handle.describe.remote())
        self._described = True

    async def _keep_described(self) -> None:
        while True:
            await asyncio.sleep(_DESCRIBE_S)
            with suppress(Exception):  # the next time will do
                async with asyncio.timeout(_DESCRIBE_S):
                    await self._describe()


def _cancel(task: asyncio.Task[None]) -> None:
    task.cancel()


def _picture(preview: tuple[tuple[int, int], bytes] | None) -> Image.Image | None:
    return None if preview is None else Image.frombytes("RGB", *preview)
