"""What the kill tests kill: a process that accepts and ends requests until it dies; it imports little."""

import os
import random
from pathlib import Path

from server.errors import CreditsError
from server.storage.database import Database
from server.storage.requests import Record, Store


def accept_and_end(url: str, key_id: str, answered: Path, seed: int) -> None:
    """Forever: accept, begin, then finish, fail, cancel or requeue.

    Args:
        url: of a migrated database.
        key_id: who pays.
        answered: a file that gets a line ``id mode`` for each request whose acceptance was answered.
        seed: of the random choices, and the beginning of every id.
    """
    store, choice = Store(Database(url)), random.Random(seed)
    with answered.open("ab", buffering=0) as lines:
        for number in range(10**9):
            name, mode = f"{seed}-{number}", choice.choice(["v1", "v2"])
            record = Record.new(id=name, key_id=key_id, mode=mode, fields={}, seeds=[], cost_micro=number % 4)
            try:
                store.accept(record, idempotency_key=name, body_digest=name)
            except CreditsError:
                os._exit(7)  # the test gives enough
            lines.write(f"{name} {mode}\n".encode())
            store.begin(name)
            end = choice.choice(["finish", "fail", "cancel", "requeue", "leave"])
            if end == "finish":
                store.finish(name, outputs=[{"file_name": "0.png"}], inference_s=1.0)
            elif end == "fail":
                store.fail(name, error="no memory", status=503)
            elif end == "cancel":
                store.fail(name, error="gone", status=422, state="CANCELLED", refund=False)
            elif end == "requeue":
                store.requeue(name)
