"""Worker processes, one engine each, and the supervision that keeps them painting.

The pool holds the queue: a worker gets no more than its rows and one request to go on with, so that the
rest can be cancelled cheaply and is safe from whatever happens to the worker.

When a worker dies, what it held is painted again, **one request at a time in the whole pool and alone on
its worker**: the one that kills it once more is found, fails by itself after ``max_attempts``, and its
neighbours finish. A worker with work and without progress for ``hang_s`` is killed: progress is what its
engine has done, not that its process answers.

A worker without work for ``idle_unload_s`` is ended, so that its GPU is free, and started again by the next
request, which waits for it; the pool is ready all the while.
"""

import asyncio
import itertools
import logging
import signal
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from math import inf

from inpaint.batching.admission import backlog_s, demand_s, refuse_late
from inpaint.batching.cost_profile import Profile
from inpaint.batching.fair_queue import FairQueue
from inpaint.batching.work import Work
from inpaint.errors import BusyError, CancelledError, ClosedError, DeadlineError, DeviceError, PaintError
from inpaint.job import Event
from inpaint.request import InpaintRequest
from server.engines.child import WORKER, Child
from server.engines.client import ANY_TIME, Health, Terms
from server.engines.forecast import Engines
from server.engines.messages import Message, error_from, request_message, result_from
from server.engines.ticket import prepare
from server.engines.worker import WorkerSpec
from server.engines.worker_slot import COUNTS, PoolTicket, Restarts, WorkerSlot, steps_of

_log = logging.getLogger(__name__)
_POISON = (
    "not painted: the worker process ended each of the {attempts} times this request was tried ({reason}); "
    "try a smaller picture or fewer samples, and report it if that fails too"
)


class Pool:
    """``workers`` processes with an engine each; see :class:`server.engines.client.EngineClient`.

    Args:
        spec: what each loads; on CUDA worker ``i`` gets device ``cuda:i``.
        workers: how many.
        hang_s: a worker with work and without progress for so long is killed.
        max_attempts: of a request whose worker dies under it.
        idle_unload_s: a worker without work for so long is ended until it is needed.
        restarts: of workers that died.
        program: what a child runs, for tests.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        *,
        workers: int = 1,
        hang_s: float = 120.0,
        max_attempts: int = 2,
        idle_unload_s: float = inf,
        restarts: Restarts = Restarts(),  # noqa: B008 - frozen
        program: Sequence[str] = WORKER,
    ) -> None:
        self._spec = spec
        self._hang_s = hang_s
        self._max_attempts = max_attempts
        self._idle_unload_s = idle_unload_s
        self._restarts = restarts
        self._program = program
        self._slots = [WorkerSlot(i, spec.max_rows) for i in range(workers)]
        self._numbers = itertools.count(1)
        self._waiting: FairQueue[PoolTicket] = FairQueue()
        self._suspects: deque[PoolTicket] = deque()  # their worker died under them
        self._engines = Engines()  # as the workers describe them
        self._described = False  # whether any has
        self._load_s = 10.0  # what the last load took
        self._closing = False
        self._first: asyncio.Future[None] | None = None  # until one worker is ready or has failed
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Start the workers, see :meth:`server.engines.client.EngineClient.start`."""
        self._first = asyncio.get_running_loop().create_future()
        self._tasks = [asyncio.create_task(self._supervise(slot)) for slot in self._slots]
        self._tasks.append(asyncio.create_task(self._watch()))
        try:
            await self._first
        except BaseException:  # also when the start itself is cancelled: no child may be left
            await self.close(0)
            raise

    async def close(self, drain_s: float) -> None:
        """Take no more, wait at most ``drain_s`` for what is under way, then end every child."""
        self._closing = True
        under_way = self._under_way()
        if under_way and drain_s > 0:
            await asyncio.wait([asyncio.ensure_future(t.ended()) for t in under_way], timeout=drain_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for ticket in self._under_way():
            ticket.fail(ClosedError("the server stopped before this was finished; send it again"))
        children = [slot.child for slot in self._slots if slot.child is not None]
        for slot in self._slots:
            slot.ready, slot.child = False, None
            slot.tickets.clear()
        self._waiting = FairQueue()
        self._suspects.clear()
        for child in children:
            child.link.close()
        await asyncio.gather(*(child.exit_status(5.0) for child in children))

    async def submit(self, request: InpaintRequest, terms: Terms = ANY_TIME) -> PoolTicket:
        """Hand a request over, see :meth:`server.engines.client.EngineClient.submit`."""
        self._check_ready()
        request = await prepare(request)
        work = await asyncio.to_thread(self._engines.work, request, terms.key)
        self._check_ready()  # it may have changed meanwhile
        work = self._promised(work, terms)
        ticket = PoolTicket(request, next(self._numbers), work)
        ticket.on_cancel = lambda: self._cancel(ticket)
        ticket.on_watch = lambda change: self._send(
            ticket, Message("watch", ticket.number, {"change": change})
        )
        self._waiting.push(ticket, work, demand_s(work, self._engines.profile))
        self._dispatch()
        return ticket

    def _promised(self, work: Work, terms: Terms) -> Work:
        """The work with its deadline on the loop's clock; raises BusyError if it would not be in time."""
        now, costs = asyncio.get_running_loop().time(), self._engines.profile
        if not any(slot.ready for slot in self._slots):
            terms = replace(terms, slowdown=inf)  # no multiple of a picture's time allows for a load
        work = replace(work, expires_at=now + self._engines.given_s(work, terms))
        if work.expires_at < inf:
            first = self._waiting.ahead(work)
            held = [ticket.load for ticket in [*self._held(), *self._suspects]]
            ahead = [*held, *(ticket.load for ticket in first)]
            behind = [ticket.load for ticket in self._waiting if ticket not in first]
            refuse_late(work, now, ahead, behind, costs, devices=self._devices)
        return work

    def health(self) -> Health:
        """See :meth:`server.engines.client.EngineClient.health`."""
        under_way = self._under_way()
        running = sum(ticket.begun for ticket in under_way)
        counts = sum((slot.counts + slot.counts_before for slot in self._slots), Counter[str]())
        ready = any(slot.available for slot in self._slots) and not self._closing
        return Health(
            ready=ready,
            reason="" if ready else self._not_ready(),
            waiting=len(under_way) - running,
            running=running,
            native_size=self._engines.native_size if self._described else None,
            backlog_s=backlog_s([t.load for t in under_way], self._engines.profile, devices=self._devices),
            restarts=sum(max(0, slot.starts - slot.unload_count - 1) for slot in self._slots),
            **{name: counts[name] for name in COUNTS},
            steps=steps_of(counts),
        )

    def pids(self) -> list[int]:
        """Of the worker processes that run now."""
        return [slot.child.pid for slot in self._slots if slot.child is not None]

    @property
    def _devices(self) -> int:
        """Workers that paint, at least one: until one is there again, that is what is hoped for."""
        return max(1, sum(slot.ready for slot in self._slots))

    def _check_ready(self) -> None:
        if self._closing or not any(slot.available for slot in self._slots):
            raise BusyError(f"not ready: {self._not_ready()}; try again later", self._load_s)

    def _under_way(self) -> list[PoolTicket]:
        return [*self._held(), *self._suspects, *self._waiting]

    def _held(self) -> list[PoolTicket]:
        return [ticket for slot in self._slots for ticket in slot.tickets.values()]

    def _not_ready(self) -> str:
        if self._closing:
            return "the server is stopping"
        return "; ".join(dict.fromkeys(slot.reason for slot in self._slots))

    # Which worker gets what.

    def _dispatch(self) -> None:
        """Hand over as much as the workers take."""
        self._drop_late()
        if not self._dispatch_suspect():
            while self._waiting and (open_slots := [slot for slot in self._slots if slot.has_room]):
                self._hand_over(min(open_slots, key=lambda slot: slot.rows), self._waiting.pop())

        self._wake()

    def _wake(self) -> None:
        """As many workers as there are requests that no other is about to take."""
        coming = sum(not (slot.ready or slot.resting) for slot in self._slots)
        wanted = max(0, len(self._waiting) + len(self._suspects) - coming)
        for slot in [slot for slot in self._slots if slot.resting][:wanted]:
            slot.wake()

    def _drop_late(self) -> None:
        """Nobody wants those any more, and the others want their time."""
        now = asyncio.get_running_loop().time()
        for ticket in [ticket for ticket in self._waiting if ticket.work.expires_at < now]:
            self._waiting.remove(ticket)
            ticket.fail(DeadlineError("not painted in time: others took longer than was foreseen; try again"))

    def _dispatch_suspect(self) -> bool:
        """Give the oldest suspect an idle worker. True: nobody else may get one, so that one runs empty."""
        if not self._suspects or any(slot.alone for slot in self._slots):
            return False
        idle = [slot for slot in self._slots if slot.ready and not slot.tickets]
        if not idle:
            return all(slot.ready or slot.deaths >= self._restarts.crash_limit for slot in self._slots)
        idle[0].alone = True
        self._hand_over(idle[0], self._suspects.popleft())
        return False

    def _hand_over(self, slot: WorkerSlot, ticket: PoolTicket) -> None:
        if not slot.tickets:
            slot.stalled_s = 0.0
        ticket.attempts += 1
        slot.tickets[ticket.number] = ticket
        assert slot.child is not None
        left_s = ticket.work.expires_at - asyncio.get_running_loop().time()
        slot.child.link.send(
            request_message(ticket.number, ticket.request, ticket.watchers, ticket.work.key, left_s)
        )

    def _cancel(self, ticket: PoolTicket) -> None:
        waited = self._waiting.remove(ticket)
        if ticket in self._suspects:
            self._suspects.remove(ticket)
            waited = True
        if waited:
            ticket.fail(CancelledError("the request was cancelled"))
        self._send(ticket, Message("cancel", ticket.number))

    def _send(self, ticket: PoolTicket, message: Message) -> None:
        for slot in self._slots:
            if ticket.number in slot.tickets and slot.child is not None:
                slot.child.link.send(message)

    # What workers say.

    def _on_message(self, slot: WorkerSlot, message: Message) -> None:
        ticket = slot.tickets.get(message.id)
        if message.kind == "stats":
            slot.count(message.fields["stats"])
            self._engines = replace(self._engines, profile=Profile.from_json(message.fields["profile"]))
        elif message.kind == "ready":
            self._engines, self._described = Engines.from_json(message.fields), True
            self._on_ready(slot)
        elif message.kind in ("unfit", "broken"):
            slot.give_up(error_from(message))
        elif ticket is not None:
            slot.stalled_s = 0.0
            self._on_event(ticket, slot, message)

    def _on_ready(self, slot: WorkerSlot) -> None:
        slot.ready, slot.unloaded = True, False
        slot.reason = ""
        self._load_s = asyncio.get_running_loop().time() - slot.started_at
        if self._first is not None and not self._first.done():
            self._first.set_result(None)
        self._dispatch()

    def _on_event(self, ticket: PoolTicket, slot: WorkerSlot, message: Message) -> None:
        if message.kind == "event":
            self._follow(ticket, slot, message)
            if slot.has_room:  # its last waiting request was just begun
                self._dispatch()
            return
        if message.kind == "done":
            slot.deaths = 0
            ticket.finish(result_from(message))
        else:
            ticket.fail(error_from(message))
        del slot.tickets[ticket.number]
        slot.alone = False
        self._dispatch()

    def _follow(self, ticket: PoolTicket, slot: WorkerSlot, message: Message) -> None:
        told = message.fields
        preview = message.images[0] if message.images else None
        ticket.tell(Event(told["state"], told["step"], told["steps"], preview))

    # Life and death of workers.

    async def _supervise(self, slot: WorkerSlot) -> None:
        """Have a process in the slot, again and again."""
        while True:
            try:
                status = await self._run_process(slot)
            except OSError as error:  # no process, no memory, no descriptor left
                status, slot.error = None, DeviceError(f"no process could be started: {error}")
            if slot.wake_event is not None:  # it was told to end
                slot.settle()
                await slot.wake_event.wait()
                slot.wake_event = None
                continue
            self._on_exit(slot, status)
            await asyncio.sleep(self._restarts.delay_s(slot.deaths))

    async def _run_process(self, slot: WorkerSlot) -> int | None:
        """One process, from its start to its end; its exit status."""
        slot.starts += 1
        slot.error = None
        slot.stalled_s = 0.0
        slot.started_at = asyncio.get_running_loop().time()
        slot.max_rows = self._spec.max_rows
        child = slot.child = Child(self._program, lambda message: self._on_message(slot, message))
        order = {"spec": asdict(self._spec), "index": slot.index, "start": slot.starts}
        child.link.send(Message("load", fields=order))
        await child.ended.wait()
        slot.ready = False
        slot.reason = f"worker {slot.index} ended"
        status = await child.exit_status()
        slot.child = None
        return status

    def _on_exit(self, slot: WorkerSlot, status: int | None) -> None:
        slot.deaths += 1
        slot.unloaded = False
        how = str(slot.error) if slot.error is not None else _how(status)
        slot.reason = self._reason(slot, how)
        _log.error("%s", slot.reason)
        slot.settle()
        held, slot.tickets, slot.alone = list(slot.tickets.values()), {}, False
        for ticket in held:
            self._requeue(ticket, how)
        if self._first is not None and not self._first.done():
            self._first.set_exception(slot.error or DeviceError(f"the worker process ended early: {how}"))
        self._dispatch()

    def _reason(self, slot: WorkerSlot, how: str) -> str:
        delay_s = self._restarts.delay_s(slot.deaths)
        if slot.deaths < self._restarts.crash_limit:
            return f"worker {slot.index} ended ({how}) and is started again in {delay_s:g} s"
        return (
            f"worker {slot.index} ended {slot.deaths} times in a row without a picture (last: {how}); "
            f"look at its GPU and its log; it is tried again every {delay_s:g} s"
        )

    def _requeue(self, ticket: PoolTicket, how: str) -> None:
        if ticket.cancelled:
            ticket.fail(CancelledError("the request was cancelled"))
        elif ticket.attempts >= self._max_attempts:
            ticket.fail(PaintError(_POISON.format(attempts=ticket.attempts, reason=how)))
        else:
            self._suspects.append(ticket)
            ticket.tell(Event("queued", steps=ticket.request.steps_to_run))

    async def _watch(self) -> None:
        """Kill workers that stand still, and unload those that nobody needs."""
        interval_s = min(1.0, self._hang_s / 8, self._idle_unload_s / 4)
        while True:
            await asyncio.sleep(interval_s)
            self._drop_late()
            for slot in self._slots:
                # Counted in looks, not by the clock: a pause of this process is nobody's hang.
                if slot.child is not None and (slot.tickets or not slot.ready):
                    slot.stalled_s += interval_s
                    loading = not slot.ready and slot.error is None
                    limit_s = self._restarts.load_s if loading else self._hang_s
                    if slot.stalled_s > limit_s:
                        slot.give_up(DeviceError(f"no progress for {limit_s:g} s"))
                        slot.child.kill()
            self._unload_idle(interval_s)

    def _unload_idle(self, interval_s: float) -> None:
        for slot in self._slots:
            idle = slot.ready and not (slot.tickets or self._waiting or self._suspects)
            slot.idle_s = slot.idle_s + interval_s if idle else 0.0
            if slot.idle_s >= self._idle_unload_s:
                slot.sleep()
                _log.info("worker %d is unloaded after %g s without work", slot.index, self._idle_unload_s)


def _how(status: int | None) -> str:
    if status is None:
        return "it does not even obey SIGKILL"
    if status < 0:
        with suppress(ValueError):
            return f"killed by {signal.Signals(-status).name}"
    return f"exit status {status}"
