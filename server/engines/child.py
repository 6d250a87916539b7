"""One child process with an engine, as its pool sees it: from its start to its last byte."""

import asyncio
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

from server.engines.messages import Link, Message

WORKER = ("-m", "server.engines.worker")


class Child:
    """A running child; ``heard`` is called on the event loop with each of its messages.

    It ends by itself when its link is closed, hence also with this process, however that dies.
    """

    def __init__(self, program: Sequence[str], heard: Callable[[Message], None]) -> None:
        ours, theirs = socket.socketpair()
        try:
            with theirs, _deaf():
                self._process = subprocess.Popen(  # noqa: S603 - our own program
                    # -P: a file json.py in the folder that the server was started in is not ours.
                    [sys.executable, "-P", *program, str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                )
        except OSError:
            ours.close()
            raise
        self.ended = asyncio.Event()
        self.link = Link(ours)
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._read, args=(loop, heard), name="inpaint-child", daemon=True).start()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def kill(self) -> None:
        """SIGKILL: a process that hangs obeys nothing less."""
        self._process.kill()

    async def exit_status(self, timeout_s: float = 10.0) -> int | None:
        """Wait for the end of a process whose link is closed; negative: the signal that killed it.

        One that has not ended in time is killed; None if not even that ended it.
        """
        for last_resort in (False, True):
            try:
                return await asyncio.to_thread(self._process.wait, timeout_s)
            except subprocess.TimeoutExpired:
                if not last_resort:
                    self.kill()
        return None

    def _read(self, loop: asyncio.AbstractEventLoop, heard: Callable[[Message], None]) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody is there to be told
            try:
                for message in self.link.messages():
                    loop.call_soon_threadsafe(heard, message)
            finally:
                loop.call_soon_threadsafe(self.ended.set)


@contextmanager
def _deaf() -> Iterator[None]:
    """Children started here never hear SIGINT and SIGTERM: a blocked signal stays blocked over exec.

    Ctrl-C and systemd's stop go to the whole group, but a worker has pictures to finish while the pool
    drains. Blocking here, and not ignoring there, leaves no moment in which the child could die of one.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
