"""An engine client whose engines run in worker processes, one each.

:mod:`server.engines.dispatch` decides which worker gets which request, :mod:`server.engines.supervise` keeps
the processes running.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from math import inf

from inpaint.errors import BusyError, ClosedError, InpaintError
from inpaint.request import InpaintRequest
from server.engines.child import WORKER
from server.engines.client import ANY_TIME, Health, Terms
from server.engines.dispatch import Dispatcher
from server.engines.supervise import Supervisor
from server.engines.ticket import prepare
from server.engines.worker import WorkerSpec
from server.engines.worker_slot import PoolTicket, Restarts, WorkerSlot, steps_of


class Pool:
    """Worker processes with an engine each; see :class:`server.engines.client.EngineClient`.

    Args:
        spec: what each worker loads; on CUDA worker ``i`` sees GPU ``i`` only.
        workers: number of processes.
        numbers: those of its workers, if other pools have the numbers between; instead of ``workers``.
        keeps_trying: whether the pool lives on if the model cannot be loaded at first.
        hang_s: seconds without progress after which a worker with work is killed.
        max_attempts: tries of a request whose worker dies under it.
        idle_unload_s: seconds without work after which a worker is ended until it is needed.
        restarts: when workers that died are started again.
        program: arguments of the Python interpreter that make a child a worker; tests bring their own.
    """

    def __init__(
        self,
        spec: WorkerSpec,
        *,
        workers: int = 1,
        numbers: Sequence[int] = (),
        keeps_trying: bool = False,
        hang_s: float = 120.0,
        max_attempts: int = 2,
        idle_unload_s: float = inf,
        restarts: Restarts = Restarts(),  # noqa: B008 - frozen
        program: Sequence[str] = WORKER,
    ) -> None:
        self._slots = [WorkerSlot(i, spec.max_rows) for i in numbers or range(workers)]
        self._dispatcher = Dispatcher(
            self._slots, max_attempts=max_attempts, crash_limit=restarts.crash_limit
        )
        self._supervisor = Supervisor(
            spec,
            self._slots,
            self._dispatcher,
            hang_s=hang_s,
            idle_unload_s=idle_unload_s,
            restarts=restarts,
            program=program,
        )
        self._keeps_trying = keeps_trying
        self._closing = False

    async def start(self) -> None:
        """Start the workers, see :meth:`server.engines.client.EngineClient.start`."""
        try:
            await self._supervisor.start()
        except BaseException as error:  # also when the start itself is cancelled: no child may be left
            if not (self._keeps_trying and isinstance(error, InpaintError)):
                await self.close(0)
            raise

    async def close(self, drain_s: float) -> None:
        """Take no more, wait at most ``drain_s`` seconds for what is under way, then end every worker."""
        self._closing = True
        under_way = self._dispatcher.under_way()
        if under_way and drain_s > 0:
            await asyncio.wait([asyncio.ensure_future(t.ended()) for t in under_way], timeout=drain_s)
        self._dispatcher.abandon(ClosedError("the server stopped before this was finished; send it again"))
        await self._supervisor.stop()

    async def submit(self, request: InpaintRequest, terms: Terms = ANY_TIME) -> PoolTicket:
        """Queue a request, see :meth:`server.engines.client.EngineClient.submit`."""
        self._check_ready()
        request = await prepare(request)
        work = await asyncio.to_thread(self._dispatcher.engines.work, request, terms.key)
        self._check_ready()  # it may have changed meanwhile
        return self._dispatcher.add(request, self._dispatcher.promise(work, terms))

    def health(self) -> Health:
        """Return the pool's state, see :meth:`server.engines.client.EngineClient.health`."""
        under_way = self._dispatcher.under_way()
        running = sum(ticket.begun for ticket in under_way)
        engines = self._dispatcher.engines if self._supervisor.described else None
        counts = sum((slot.counts + slot.counts_before for slot in self._slots), Counter[str]())
        return Health(
            ready=self._ready,
            reason="" if self._ready else self._not_ready(),
            waiting=len(under_way) - running,
            running=running,
            native_size=engines.native_size if engines else None,
            in_channels=engines.in_channels if engines else None,
            backlog_s=self._dispatcher.backlog_s,
            restarts=sum(max(0, slot.starts - slot.unload_count - 1) for slot in self._slots),
            row_steps=counts["row_steps"],
            unet_calls=counts["unet_calls"],
            images=counts["images"],
            out_of_memory=counts["out_of_memory"],
            steps=steps_of(counts),
            failed=not self._supervisor.described and any(slot.deaths for slot in self._slots),
        )

    def pids(self) -> list[int]:
        """Return the process ids of the workers that run now."""
        return [slot.child.pid for slot in self._slots if slot.child is not None]

    @property
    def _ready(self) -> bool:
        return not self._closing and any(slot.available for slot in self._slots)

    def _check_ready(self) -> None:
        if not self._ready:
            raise BusyError(f"not ready: {self._not_ready()}; try again later", self._supervisor.load_s)

    def _not_ready(self) -> str:
        if self._closing:
            return "the server is stopping"
        return "; ".join(dict.fromkeys(slot.reason for slot in self._slots))
