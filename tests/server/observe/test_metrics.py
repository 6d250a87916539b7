"""The engine's metrics as Prometheus reads them."""

from collections import Counter

import pytest
from sqlalchemy import update

from server.engines.client import Health
from server.engines.worker_slot import WorkerSlot, steps_of
from server.observe.metrics import Metrics
from server.storage.tables import keys
from tests.support.served import Serve, eventually

pytest_plugins = ["tests.support.served_fixtures"]

STATS = {"row_steps": 8, "unet_calls": 2, "images": 0, "out_of_memory": 0, "max_rows": 8}


def test_steps_are_labelled_by_the_samples_in_them() -> None:
    """A step's time at each batch size shows an operator whether batching pays."""
    text = Metrics().scrape(Health(ready=True, steps={"4": (2, 500_000), "1": (1, 200_000)})).decode()
    assert 'inpaint_step_seconds_count{batch="4"} 2.0' in text
    assert 'inpaint_step_seconds_sum{batch="4"} 0.5' in text
    assert text.index('batch="1"') < text.index('batch="4"')


def test_a_restarted_worker_does_not_forget_its_steps() -> None:
    """A counter that falls would look like a reset in every dashboard."""
    slot = WorkerSlot(index=0, max_rows=8)
    slot.count({**STATS, "step_us": {"4": [2, 500_000]}})
    slot.counts_before += slot.counts
    slot.count({**STATS, "step_us": {"4": [1, 100_000]}})
    assert steps_of(slot.counts + slot.counts_before) == {"4": (3, 600_000)}
    assert steps_of(Counter()) == {}


@pytest.mark.parametrize("engine_ready", [True, False])
def test_readiness_is_a_number(engine_ready: bool) -> None:
    """Alerts compare readiness with 1."""
    text = Metrics().scrape(Health(ready=engine_ready)).decode()
    assert f"inpaint_ready {float(engine_ready)}" in text


def test_credits_that_do_not_add_up_are_reported_at_the_next_start(serve: Serve) -> None:
    """A manual change of the database, or a bug, shows in the metrics without an audit."""
    first = serve()
    key = first.key(balance=5, scopes=("metrics",))
    first.key(balance=7)
    gauge = "inpaint_ledger_drift_keys"
    with first.calling(key=key) as client:
        assert f"{gauge} 0.0" in client.get("/metrics").text
    with first.parts.database.write() as connection:
        connection.execute(update(keys).values(balance_micro=keys.c.balance_micro + 1))
    first.stop()
    second = serve()
    with second.calling(key=key) as client:
        eventually(lambda: f"{gauge} 2.0" in client.get("/metrics").text)
