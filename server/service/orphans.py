"""The search for orphans: requests that the database holds as this server's, and that no task of it has.

There should be none. An unforeseen error between two steps of a request would leave one: its caller waits and
its price is taken until the next start. Once a minute each is taken up again, or ended and refunded.
"""

import asyncio
import time

import structlog

from inpaint.errors import InpaintError
from server.service.accounting import Accounting
from server.service.runner import Runner
from server.storage.requests import Store

_EVERY_S = 60.0
_AGE_S = 60.0  # a younger one may be between the database and its task
_LOST = "the server lost this request; nothing was charged, send it again"

log = structlog.get_logger()


async def keep_searching(store: Store, accounting: Accounting, runner: Runner) -> None:
    """Search once a minute until cancelled."""
    while True:
        await asyncio.sleep(_EVERY_S)
        try:
            await search(store, accounting, runner, before=time.time() - _AGE_S)
        except InpaintError as error:
            log.warning("no search for orphans", error=str(error))


async def search(store: Store, accounting: Accounting, runner: Runner, *, before: float) -> int:
    """Take up v2 requests that no task has, end v1 requests; return how many there were.

    Args:
        store: of the records.
        accounting: knows which requests a task is about to settle.
        runner: knows which v2 requests it is to paint.
        before: Unix seconds; requests that were accepted later are left alone.

    Raises:
        InpaintError: the database is unreachable.
    """
    found = await asyncio.to_thread(store.unfinished, before)
    orphans = [record for record in found if record.id not in runner.live.keys() | accounting.open]
    for record in orphans:
        log.error("an orphan", request=record.id, mode=record.mode, state=record.state)
        if record.mode == "v1":
            await accounting.fail(record, _LOST, 503)
        else:
            if record.state == "PROCESSING":
                await asyncio.to_thread(store.requeue, record.id)
            runner.launch(record)
    return len(orphans)
