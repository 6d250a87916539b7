"""The sweeper: it deletes expired requests and pictures once a minute, and audits the ledger every ten.

If several servers share a database, only one of them sweeps at a time.
"""

import asyncio
import itertools
import time

import structlog

from inpaint.errors import InpaintError
from server.service.parts import Parts

_EVERY_S = 60.0
_SWEEPS_PER_AUDIT = 10  # an audit sums every entry of the ledger
_SWEEP_LOCK = 7_011_889_515  # see Database.try_lock

log = structlog.get_logger()


async def keep_swept(parts: Parts) -> None:
    """Sweep once a minute until cancelled; a sweep that fails is logged and tried again."""
    for turn in itertools.count():
        try:
            await asyncio.to_thread(sweep, parts, audits=turn % _SWEEPS_PER_AUDIT == 0)
        except (InpaintError, OSError) as error:
            log.error("the sweep failed", error=str(error))
        await asyncio.sleep(_EVERY_S)


def sweep(parts: Parts, *, audits: bool) -> bool:
    """Sweep once, and audit the ledger if ``audits``; False if another server is sweeping.

    Raises:
        InpaintError: the database or the picture store is unreachable.
    """
    with parts.database.try_lock(_SWEEP_LOCK) as locked:
        if not locked:
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
    """Report keys whose entries do not sum to their balance, to Prometheus and the log."""
    wrong = parts.ledger.check()
    parts.metrics.ledger_drift.set(len(wrong))
    for sentence in wrong:
        log.error("the ledger is damaged", error=sentence)
