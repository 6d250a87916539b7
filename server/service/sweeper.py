"""What is looked after once a minute: expired requests, their pictures, and whether the credits add up.

Of several servers with one database, one does it.
"""

import asyncio
import itertools
import time

import structlog

from inpaint.errors import InpaintError
from server.service.service import Parts

_EVERY_S = 60.0
_SWEEPS_AN_AUDIT = 10  # an audit adds up every entry of the ledger
_SWEEP_LOCK = 7_011_889_515  # see Database.elected

log = structlog.get_logger()


async def keep_swept(parts: Parts) -> None:
    """Sweep until cancelled; a store that is away for a while is met again a minute later."""
    for turn in itertools.count():
        try:
            await asyncio.to_thread(sweep, parts, audits=turn % _SWEEPS_AN_AUDIT == 0)
        except (InpaintError, OSError) as error:
            log.error("the sweep failed", error=str(error))
        await asyncio.sleep(_EVERY_S)


def sweep(parts: Parts, *, audits: bool) -> bool:
    """Once; False where another server is at it.

    Raises:
        InpaintError: the database or the picture store is away.
    """
    with parts.database.try_lock(_SWEEP_LOCK) as try_lock:
        if not try_lock:
            return False
        if audits:
            _audit(parts)
        ttls = parts.settings.requests_ttl_s, parts.settings.pictures_ttl_s
        expired = parts.store.sweep(time.time(), *ttls)
        for request_id in expired:
            parts.blobs.delete(request_id)
        parts.store.pictures_deleted(expired)
        return True


def _audit(parts: Parts) -> None:
    """Tell Prometheus, and the log, of keys whose credits do not add up."""
    wrong = parts.ledger.check()
    parts.metrics.ledger_drift.set(len(wrong))
    for sentence in wrong:
        log.error("the ledger is damaged", error=sentence)
