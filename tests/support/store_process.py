"""What the bug hunt hunts: a server's side of the database alone, which obeys orders until it is killed.

Run as a program it imports everything once and then forks, so that a new server takes milliseconds: each
socket that it is sent becomes one. Orders and answers are lines of JSON; the orders of one line are obeyed
at the same time, each in a thread.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any

from inpaint.errors import InpaintError
from server.storage.database import Database
from server.storage.ledger import Ledger
from server.storage.peers import Peers
from server.storage.requests import Record, Store
from tests.support.paths import ROOT

LEASE_S = 10.0
ANSWER_S = 60.0  # nothing that works takes so long

Order = dict[str, Any]
Answer = Any  # what the order returns, {"error": class} or {"bug": traceback}; None from one that was killed


class Server:
    """The orders."""

    def __init__(self, url: str) -> None:
        self._database = Database(url)
        self._now = 0.0
        self._one_at_a_time = threading.Lock()  # the application beats and recovers in one task
        self.start()

    def start(self) -> str:
        """Be a server that has just started; the connections stay, because making them takes long."""
        self._peers = Peers(self._database, LEASE_S, clock=lambda: self._now)
        self._store = Store(self._database, server_id=self._peers.server_id)
        self._ledger = Ledger(self._database)
        return self._peers.server_id

    def accept(self, id: str, key: str, mode: str, cost: int, idem: str | None, digest: str) -> str:  # noqa: A002
        record = Record.new(id=id, key_id=key, mode=mode, fields={}, seeds=[], cost_micro=cost)
        return self._store.accept(record, idempotency_key=idem, body_digest=digest).id

    def begin(self, id: str) -> bool:  # noqa: A002
        return self._store.begin(id) is not None

    def finish(self, id: str) -> bool:  # noqa: A002
        return self._store.finish(id, outputs=[{"file_name": "0.png"}], inference_s=1.0)

    def fail(self, id: str, state: str, refund: bool) -> bool:  # noqa: A002
        return self._store.fail(id, error="e", status=500, state=state, refund=refund)

    def requeue(self, id: str) -> None:  # noqa: A002
        self._store.requeue(id)

    def ask_cancel(self, id: str) -> None:  # noqa: A002
        self._store.ask_cancel(id)

    def credit(self, key: str, amount: int) -> int:
        return self._ledger.add(key, amount)

    def beat(self, now: float, steps: dict[str, int]) -> dict[str, list[str]]:
        """As the application beats: then what the dead left is taken over."""
        with self._one_at_a_time:
            self._now = now
            pulse = self._peers.beat(steps)
            taken = [record.id for record in self._store.recover(pulse.dead)]
        return {
            "cancelled": sorted(pulse.cancelled),
            "lost": sorted(pulse.lost),
            "dead": sorted(pulse.dead),
            "taken": taken,
        }

    def leave(self) -> None:
        with self._one_at_a_time:
            self._peers.leave()

    def obey(self, order: Order) -> Answer:
        try:
            return getattr(self, order.pop("do"))(**order)
        except InpaintError as error:
            return {"error": type(error).__name__}
        except Exception:  # noqa: BLE001 - the hunt reports it
            return {"bug": traceback.format_exc()}


def _obey(orders: socket.socket, url: str) -> None:
    server = Server(url)
    with orders, orders.makefile("rb") as lines, ThreadPoolExecutor(8) as pool:
        for line in lines:
            answers = list(pool.map(server.obey, json.loads(line)))
            orders.sendall(json.dumps(answers).encode() + b"\n")


def _fork_for_ever(control: socket.socket) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the dead are not waited for
    while True:
        url, given, _, _ = socket.recv_fds(control, 4096, 1)
        if not url:
            return
        if (pid := os.fork()) == 0:
            control.close()
            with suppress(BrokenPipeError, ConnectionError):
                _obey(socket.socket(fileno=given[0]), url.decode())
            os._exit(0)
        os.close(given[0])
        control.sendall(str(pid).encode())


# As the hunt sees it.


class StoreProcess:
    """One server, by its orders."""

    def __init__(self, forker: socket.socket, url: str) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(forker, [url.encode()], [theirs.fileno()])
        self.pid = int(forker.recv(20))
        self.killed = False
        ours.settimeout(ANSWER_S)
        self._socket, self._lines = ours, ours.makefile("rb")
        self.name = ""

    def start(self) -> None:
        """Be a server that has just started."""
        self.send([{"do": "start"}])
        answers = self.answers()
        assert answers is not None
        (self.name,) = answers

    def send(self, orders: list[Order]) -> None:
        """Send these to be obeyed immediately; :meth:`answers` must follow."""
        self._socket.sendall(json.dumps(orders).encode() + b"\n")

    def answers(self) -> list[Answer] | None:
        """One for each order; None where it was killed before it answered."""
        line = b""
        with suppress(ConnectionResetError):
            line = self._lines.readline()
        return json.loads(line) if line.endswith(b"\n") else None

    def kill(self) -> None:
        """SIGKILL, whatever it is at; the answer may be on its way all the same."""
        self.killed = True
        os.kill(self.pid, signal.SIGKILL)

    def close(self) -> None:
        """End the process, because no program sends it requests any more."""
        self._lines.close()
        self._socket.close()


class Processes:
    """Servers to be had; one that was not killed is used again."""

    def __init__(self, forker: socket.socket, url: str) -> None:
        self._forker, self._url = forker, url
        self._free: list[StoreProcess] = []

    def take(self) -> StoreProcess:
        """A server that has just started."""
        process = self._free.pop() if self._free else StoreProcess(self._forker, self._url)
        process.start()
        return process

    def give_back(self, process: StoreProcess) -> None:
        """It is not used any more."""
        if process.killed:
            process.close()
        else:
            self._free.append(process)

    def close(self) -> None:
        """They end."""
        for process in self._free:
            process.close()


@contextmanager
def processes(url: str) -> Iterator[Processes]:
    """Servers of one database."""
    ours, theirs = socket.socketpair()
    root = ROOT
    command = [sys.executable, "-m", "tests.support.store_process", str(theirs.fileno())]
    with ours, subprocess.Popen(command, pass_fds=[theirs.fileno()], cwd=root) as forker:
        theirs.close()
        found = Processes(ours, url)
        try:
            yield found
        finally:
            found.close()
            ours.shutdown(socket.SHUT_RDWR)
            assert forker.wait(ANSWER_S) == 0


if __name__ == "__main__":
    _fork_for_ever(socket.socket(fileno=int(sys.argv[1])))
