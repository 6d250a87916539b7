"""Requests that the database holds as this server's and that no task has: taken up, or ended and refunded."""

import asyncio
import time
from dataclasses import replace

import pytest

from server.service.orphans import search
from server.storage.requests import Record
from tests.support.served import Serve, Served, body, eventually

pytest_plugins = ["tests.support.served_fixtures"]

V2 = "/v2/sdxl-inpaint"
COST = 22 * 48 * 32  # micro-credits at a price of 1


def searched(served: Served, *, before: float) -> int:
    """The number of orphans that the server finds now, in its own loop."""
    queue, accounting = served.running.queue, served.running.service.accounting
    work = search(served.parts.store, accounting, queue._runner, before=before)
    return asyncio.run_coroutine_threadsafe(work, served.loop).result(60)


@pytest.fixture
def metered(serve: Serve) -> Served:
    return serve(metering=True, price=1.0)


def painted(served: Served, token: str) -> Record:
    """The record of a request that was painted, to make another like it."""
    with served.calling(key=token) as client:
        request_id = client.post(V2, json=body()).json()["request_id"]
        eventually(lambda: client.get(f"/v2/requests/{request_id}/status").json()["status"] == "COMPLETED")
    return served.parts.store.get(request_id, token.split("_")[1])


def lost(served: Served, like: Record, mode: str) -> str:
    """Accept a request and begin it, and let no task know of it."""
    record = replace(
        like, id="f" * 32, mode=mode, state="QUEUED", outputs=[], started_at=None, ended_at=None, attempts=0
    )
    store = served.parts.store
    for name in ("image.png", "mask.png"):
        served.parts.blobs.put(record.id, name, served.parts.blobs.get(like.id, name))
    store.accept(record)
    assert store.begin(record.id)
    return record.id


def test_a_lost_v1_request_is_ended_and_refunded(metered: Served) -> None:
    """Its caller is gone; the price must not be taken until the next restart."""
    token = metered.key(balance=1)
    key_id = token.split("_")[1]
    request_id = lost(metered, painted(metered, token), "v1")
    assert metered.parts.ledger.balance(key_id) == 10**6 - 2 * COST
    assert searched(metered, before=time.time() + 1) == 1
    assert metered.parts.ledger.balance(key_id) == 10**6 - COST
    record = metered.parts.store.get(request_id, key_id)
    assert (record.state, record.error_status) == ("FAILED", 503)


def test_a_lost_v2_request_is_painted_after_all(metered: Served) -> None:
    """It was promised."""
    token = metered.key(balance=1)
    key_id = token.split("_")[1]
    request_id = lost(metered, painted(metered, token), "v2")
    assert searched(metered, before=time.time() + 1) == 1
    eventually(lambda: metered.parts.store.get(request_id, key_id).state == "COMPLETED")
    assert metered.parts.ledger.balance(key_id) == 10**6 - 2 * COST
    assert searched(metered, before=time.time() + 1) == 0


def test_what_a_task_has_is_no_orphan(metered: Served) -> None:
    """Neither a request that waits or is painted, nor one that was accepted a moment ago."""
    token = metered.key(balance=1)
    like = painted(metered, token)
    metered.engine.held = True  # type: ignore[attr-defined]
    with metered.calling(key=token) as client:
        client.post(V2, json=body())
        metered.engine.next()  # type: ignore[attr-defined]
        metered.engine.next()  # type: ignore[attr-defined]
        assert searched(metered, before=time.time() + 1) == 0
    lost(metered, like, "v2")
    assert searched(metered, before=like.created_at) == 0
