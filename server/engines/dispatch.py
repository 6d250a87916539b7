"""The queue of a pool: which worker gets which request, and what becomes of those whose worker died.

A worker gets no more than its rows and one request in reserve. The others stay in the queue, where they can
be cancelled cheaply and survive the worker.

A request whose worker died is a suspect. Suspects are tried again **one at a time in the whole pool, each
alone on its worker**: the one that kills its worker again is found, fails after ``max_attempts``, and its
neighbours finish.
"""

import asyncio
import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from math import inf

from inpaint.batching.admission import backlog_s, demand_s
from inpaint.batching.fair_queue import FairQueue
from inpaint.batching.work import Work
from inpaint.errors import CancelledError, DeadlineError, InpaintError, PaintError
from inpaint.job import Event
from inpaint.request import InpaintRequest
from server.engines.client import Terms
from server.engines.forecast import LATE, Engines, QueueState
from server.engines.messages import Message, error_from, request_message, result_from
from server.engines.ticket import LoopTicket
from server.engines.worker_slot import PoolTicket, WorkerSlot

_POISON = (
    "not painted: the worker process ended each of the {attempts} times this request was tried ({reason}); "
    "try a smaller picture or fewer samples, and report it if that fails too"
)


class Dispatcher:
    """A fair queue of requests and the rules by which workers get them.

    Args:
        slots: the pool's workers.
        max_attempts: tries of a request whose worker dies under it.
        crash_limit: deaths in a row after which other requests no longer wait for a worker to come back.
    """

    def __init__(self, slots: Sequence[WorkerSlot], *, max_attempts: int, crash_limit: int) -> None:
        self.engines = Engines()  # as the workers last described them
        self._slots = slots
        self._max_attempts = max_attempts
        self._crash_limit = crash_limit
        self._numbers = itertools.count(1)
        self._waiting: FairQueue[PoolTicket] = FairQueue()
        self._suspects: deque[PoolTicket] = deque()  # their worker died under them

    def promise(self, work: Work, terms: Terms) -> Work:
        """Set when the work expires, on the loop's clock.

        Raises:
            BusyError: it would not be in time, or would make others late.
        """
        if not any(slot.ready for slot in self._slots):
            terms = replace(terms, slowdown=inf)  # no multiple of a picture's time allows for a load
        return self.engines.promise(work, terms, self._queued_with)

    def add(self, request: InpaintRequest, work: Work) -> PoolTicket:
        """Queue a prepared request whose work was promised, and dispatch."""
        ticket = PoolTicket(request, next(self._numbers), work)
        ticket.on_cancel = lambda: self._cancel(ticket)
        ticket.on_watch = lambda change: self._send(
            ticket, Message("watch", ticket.number, {"change": change})
        )
        self._waiting.push(ticket, work, demand_s(work, self.engines.profile))
        self.dispatch()
        return ticket

    def dispatch(self) -> None:
        """Send the workers as much as they take, and start unloaded ones if more are needed."""
        self.drop_late()
        if not self._dispatch_suspect():
            while self._waiting and (open_slots := [slot for slot in self._slots if slot.has_room]):
                self._assign(min(open_slots, key=lambda slot: slot.rows), self._waiting.pop())
        self._reload()

    def drop_late(self) -> None:
        """Fail queued requests that have expired: their time goes to the others."""
        now = asyncio.get_running_loop().time()
        for ticket in [ticket for ticket in self._waiting if ticket.work.expires_at < now]:
            self._waiting.remove(ticket)
            ticket.fail(DeadlineError(LATE))

    def requeue(self, slot: WorkerSlot, reason: str) -> None:
        """Queue what a dead worker held as suspects, and fail what had its last attempt.

        Args:
            slot: the worker's.
            reason: why its process ended.
        """
        held, slot.tickets, slot.alone = list(slot.tickets.values()), {}, False
        for ticket in held:
            if retry_alone(ticket, ticket.attempts, self._max_attempts, reason):
                self._suspects.append(ticket)

    def abandon(self, error: InpaintError) -> None:
        """Fail every request under way."""
        for ticket in self.under_way():
            ticket.fail(error)
        for slot in self._slots:
            slot.tickets.clear()
        self._waiting = FairQueue()
        self._suspects.clear()

    def under_way(self) -> list[PoolTicket]:
        """Return all requests that have not ended, on workers and in the queue."""
        return [*self._held(), *self._suspects, *self._waiting]

    @property
    def idle(self) -> bool:
        """True while no request is queued."""
        return not (self._waiting or self._suspects)

    @property
    def backlog_s(self) -> float:
        """Seconds until everything under way is painted, as far as costs are known."""
        loads = [ticket.load for ticket in self.under_way()]
        return backlog_s(loads, self.engines.profile, devices=self._devices)

    def on_message(self, slot: WorkerSlot, message: Message) -> None:
        """Take a worker's message about a request: an event, its pictures or an error."""
        ticket = slot.tickets.get(message.id)
        if ticket is None:
            return
        slot.stalled_s = 0.0
        if message.kind == "event":
            ticket.emit(_event_from(message))
            if slot.has_room:  # its request in reserve was just begun
                self.dispatch()
            return
        if message.kind == "done":
            slot.deaths = 0
            ticket.finish(result_from(message, ticket.request.image))
        else:
            ticket.fail(error_from(message))
        del slot.tickets[ticket.number]
        slot.alone = False
        self.dispatch()

    @property
    def _devices(self) -> int:
        """Workers that paint; at least one, which is expected back while there is none."""
        return max(1, sum(slot.ready for slot in self._slots))

    def _held(self) -> list[PoolTicket]:
        return [ticket for slot in self._slots for ticket in slot.tickets.values()]

    def _queued_with(self, work: Work) -> QueueState:
        first = self._waiting.ahead(work)
        ahead = [ticket.load for ticket in [*self._held(), *self._suspects, *first]]
        behind = [ticket.load for ticket in self._waiting if ticket not in first]
        return QueueState(ahead, behind, self._devices)

    def _dispatch_suspect(self) -> bool:
        """Give the oldest suspect to an idle worker, alone.

        Returns:
            True if other requests must wait, because a worker has to become idle for the suspect.
        """
        if not self._suspects or any(slot.alone for slot in self._slots):
            return False
        idle = [slot for slot in self._slots if slot.ready and not slot.tickets]
        if not idle:
            return all(slot.ready or slot.deaths >= self._crash_limit for slot in self._slots)
        idle[0].alone = True
        self._assign(idle[0], self._suspects.popleft())
        return False

    def _reload(self) -> None:
        """Start an unloaded worker for each queued request that no worker on its way will take."""
        starting = sum(not (slot.ready or slot.can_reload) for slot in self._slots)
        wanted = max(0, len(self._waiting) + len(self._suspects) - starting)
        for slot in [slot for slot in self._slots if slot.can_reload][:wanted]:
            slot.reload()

    def _assign(self, slot: WorkerSlot, ticket: PoolTicket) -> None:
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
        queued = self._waiting.remove(ticket)
        if ticket in self._suspects:
            self._suspects.remove(ticket)
            queued = True
        if queued:
            ticket.fail(CancelledError("the request was cancelled"))
        self._send(ticket, Message("cancel", ticket.number))

    def _send(self, ticket: PoolTicket, message: Message) -> None:
        for slot in self._slots:
            if ticket.number in slot.tickets and slot.child is not None:
                slot.child.link.send(message)


def retry_alone(ticket: LoopTicket, attempts: int, max_attempts: int, reason: str) -> bool:
    """Decide whether a request is tried again after its worker died, and notify its listeners.

    Args:
        ticket: the request.
        attempts: how often its worker has died under it.
        max_attempts: after this many it fails.
        reason: why the last worker ended.

    Returns:
        True if it is to be tried again, alone on a worker; else it has ended.
    """
    if ticket.cancelled:
        ticket.fail(CancelledError("the request was cancelled"))
    elif attempts >= max_attempts:
        ticket.fail(PaintError(_POISON.format(attempts=attempts, reason=reason)))
    else:
        ticket.emit(Event("queued", steps=ticket.request.steps_to_run))
    return not ticket.finished


def _event_from(message: Message) -> Event:
    preview = message.images[0] if message.images else None
    return Event(message.fields["state"], message.fields["step"], message.fields["steps"], preview)
