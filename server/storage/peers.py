"""The servers of one database: who lives, whose requests are up for adoption, and what they say.

Each adds one to its row of ``servers`` once a second. Whoever sees a row unchanged for ``lease_s`` *by its
own clock* takes that server for dead, so that no two hosts' clocks need to agree; and it takes over under the
number that it saw last, so that a heartbeat at the last moment is not overlooked. Whoever could not look
itself for a while, because the database was away or its host slept, knows of nobody's silence in that time.
A server that was only slow finds that its requests belong to another: the database lets it change nothing of
them any more.
"""

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from sqlalchemy import Connection, delete, insert, select, update

from server.storage.database import Database
from server.storage.tables import requests, servers

NOBODY_ELSE = ""  # the id of the only server of a database


@dataclass(frozen=True, slots=True)
class HeartbeatReply:
    """What a server learnt with a heartbeat, of the requests that it named."""

    cancelled: frozenset[str] = frozenset()  # another server's client asks for it
    lost: frozenset[str] = frozenset()  # they belong to another server by now
    dead: Mapping[str, int] = field(default_factory=dict)  # other servers, and their last heartbeats


class Peers:
    """This server among those of its database. Safe from one thread at a time."""

    def __init__(
        self, database: Database, lease_s: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Tell nobody yet. SQLite has one server: it hears of nobody, and nobody of it."""
        self._database, self._lease_s, self._clock = database, lease_s, clock
        self._looked = clock()
        self.server_id = secrets.token_hex(8) if database.shared else NOBODY_ELSE
        self._seen: dict[str, tuple[int, float]] = {}  # the last heartbeat of each other server, and when

    @property
    def beat_s(self) -> float:
        """Seconds between two heartbeats."""
        return min(1.0, self._lease_s / 5)

    def beat(self, steps: Mapping[str, int]) -> HeartbeatReply:
        """Say that this server lives, and how far its requests are (id → denoising steps).

        Raises:
            BusyError: the database is away.
        """
        if not self._database.shared:
            return HeartbeatReply()
        with self._database.write() as connection:
            alive = update(servers).where(servers.c.id == self.server_id)
            if not connection.execute(alive.values(beats=servers.c.beats + 1)).rowcount:
                connection.execute(insert(servers).values(id=self.server_id, beats=0))
            cancelled, lost = self._requests(connection, steps)
            others = select(servers.c.id, servers.c.beats).where(servers.c.id != self.server_id)
            return HeartbeatReply(
                cancelled, lost, self._dead({row.id: row.beats for row in connection.execute(others)})
            )

    def leave(self) -> None:
        """Say that this server goes: what it leaves is taken over at once. Its last word."""
        if not self._database.shared:
            return
        with self._database.write() as connection:
            connection.execute(delete(servers).where(servers.c.id == self.server_id))

    def _requests(
        self, connection: Connection, steps: Mapping[str, int]
    ) -> tuple[frozenset[str], frozenset[str]]:
        if not steps:
            return frozenset(), frozenset()
        mine = requests.c.id.in_(list(steps)) & (requests.c.server_id == self.server_id)
        kept = {
            row.id: row
            for row in connection.execute(
                select(requests.c.id, requests.c.step, requests.c.cancel_asked).where(mine)
            )
        }
        for request_id, row in kept.items():
            if row.step != steps[request_id]:
                moved = update(requests).where(
                    requests.c.id == request_id, requests.c.server_id == self.server_id
                )
                connection.execute(moved.values(step=steps[request_id]))
        cancelled = frozenset(request_id for request_id, row in kept.items() if row.cancel_asked)
        return cancelled, frozenset(steps.keys() - kept.keys())

    def _dead(self, others: Mapping[str, int]) -> dict[str, int]:
        now = self._clock()
        if now - self._looked > self._lease_s / 2:
            self._seen = {}  # they may have been heard of meanwhile, or as unable to be as this server
        self._looked = now
        self._seen = {
            server_id: seen if (seen := self._seen.get(server_id)) and seen[0] == beats else (beats, now)
            for server_id, beats in others.items()
        }
        return {
            server_id: beats
            for server_id, (beats, since) in self._seen.items()
            if now - since > self._lease_s
        }
