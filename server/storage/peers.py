"""The servers that share one database: their heartbeats, and which of them are dead.

Each server adds one to its row of ``servers`` once a second. A server that sees another's row unchanged for
``lease_s`` *by its own clock* takes that server for dead, so that no two hosts' clocks need to agree. It
takes over only if the row still has the number that it saw last: a heartbeat at the last moment counts.
A server that could not look for a while, because the database was unreachable or its host was suspended,
starts to count anew: it cannot know whether the others were silent in that time. A server that was only slow
finds that its requests belong to another: the database lets it change none of them any more.
"""

import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from sqlalchemy import Connection, delete, insert, select, update

from server.storage.database import Database
from server.storage.tables import requests, servers

ONLY_SERVER = ""  # the id of the only server of a database


@dataclass(frozen=True, slots=True)
class HeartbeatReply:
    """The reply to a heartbeat: news of the requests that it listed, and of other servers."""

    cancelled: frozenset[str] = frozenset()  # ids of requests that a client of another server cancelled
    lost: frozenset[str] = frozenset()  # ids of requests that another server has taken over
    dead: Mapping[str, int] = field(default_factory=dict)  # server id → number of its last heartbeat


class Peers:
    """One server's view of the other servers of its database. Use it from one thread at a time."""

    def __init__(
        self, database: Database, lease_s: float, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Write nothing yet. With SQLite there is only one server, and no heartbeats.

        Args:
            database: the one that the servers share.
            lease_s: seconds without a heartbeat after which a server is taken for dead.
            clock: seconds that only grow.
        """
        self._database, self._lease_s, self._clock = database, lease_s, clock
        self._looked = clock()
        self.server_id = secrets.token_hex(8) if database.shared else ONLY_SERVER
        # By server id: the number of its last heartbeat, and when this server first saw that number.
        self._last_beats: dict[str, tuple[int, float]] = {}

    @property
    def beat_s(self) -> float:
        """The seconds between two heartbeats."""
        return min(1.0, self._lease_s / 5)

    def beat(self, steps: Mapping[str, int]) -> HeartbeatReply:
        """Renew this server's lease, and report how far its requests are.

        Args:
            steps: request id → denoising steps so far.

        Raises:
            BusyError: the database is unreachable.
        """
        if not self._database.shared:
            return HeartbeatReply()
        with self._database.write() as connection:
            alive = update(servers).where(servers.c.id == self.server_id)
            if not connection.execute(alive.values(beats=servers.c.beats + 1)).rowcount:
                connection.execute(insert(servers).values(id=self.server_id, beats=0))
            cancelled, lost = self._report_steps(connection, steps)
            others = select(servers.c.id, servers.c.beats).where(servers.c.id != self.server_id)
            return HeartbeatReply(
                cancelled, lost, self._dead({row.id: row.beats for row in connection.execute(others)})
            )

    def leave(self) -> None:
        """End this server's lease: others take over its requests immediately. Call no beat after it."""
        if not self._database.shared:
            return
        with self._database.write() as connection:
            connection.execute(delete(servers).where(servers.c.id == self.server_id))

    def _report_steps(
        self, connection: Connection, steps: Mapping[str, int]
    ) -> tuple[frozenset[str], frozenset[str]]:
        """Write the steps down; return the requests that were cancelled elsewhere and those that are lost."""
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
        """Return those of the servers whose last heartbeat this server has seen for longer than the lease."""
        now = self._clock()
        if now - self._looked > self._lease_s / 2:
            self._last_beats = {}  # they may have sent heartbeats meanwhile, or been unable to, too
        self._looked = now
        self._last_beats = {
            server_id: last
            if (last := self._last_beats.get(server_id)) and last[0] == beats
            else (beats, now)
            for server_id, beats in others.items()
        }
        return {
            server_id: beats
            for server_id, (beats, since) in self._last_beats.items()
            if now - since > self._lease_s
        }
