"""A worker process as its pool sees it: start, messages, kill, exit status."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

from server.engines.messages import Link, Message

WORKER = ("-m", "server.engines.worker")


class Child:
    """A running child process.

    It ends by itself when its link is closed, and so also when this process ends, for any reason.

    Args:
        program: arguments of the Python interpreter; the number of the socket is added.
        on_message: called on the event loop with each message of the child.
        variables: added to this process's environment.
    """

    def __init__(
        self, program: Sequence[str], on_message: Callable[[Message], None], variables: Mapping[str, str]
    ) -> None:
        ours, theirs = socket.socketpair()
        try:
            with theirs, _signals_blocked():
                self._process = subprocess.Popen(  # noqa: S603 - our own program
                    # -P: do not import a json.py from the folder that the server was started in.
                    [sys.executable, "-P", *program, str(theirs.fileno())],
                    stdin=subprocess.DEVNULL,
                    env={**os.environ, **variables},
                    pass_fds=[theirs.fileno()],
                )
        except OSError:
            ours.close()
            raise
        self.ended = asyncio.Event()
        self.link = Link(ours)
        loop = asyncio.get_running_loop()
        threading.Thread(
            target=self._read, args=(loop, on_message), name="inpaint-child", daemon=True
        ).start()

    @property
    def pid(self) -> int:
        """Id of the process."""
        return self._process.pid

    def kill(self) -> None:
        """Send SIGKILL; a process that hangs may not react to less."""
        self._process.kill()

    async def exit_status(self, timeout_s: float = 10.0) -> int | None:
        """Wait for the end of a process whose link is closed, and kill it after ``timeout_s`` seconds.

        Returns:
            The exit status; negative: the signal that ended it; None: not even SIGKILL ended it in time.
        """
        for killed in (False, True):
            try:
                return await asyncio.to_thread(self._process.wait, timeout_s)
            except subprocess.TimeoutExpired:
                if not killed:
                    self.kill()
        return None

    def _read(self, loop: asyncio.AbstractEventLoop, on_message: Callable[[Message], None]) -> None:
        with suppress(RuntimeError):  # the loop is closed: the messages have no reader any more
            try:
                for message in self.link.messages():
                    loop.call_soon_threadsafe(on_message, message)
                    del message  # else its pictures stay until the next one comes
            finally:
                loop.call_soon_threadsafe(self.ended.set)


@contextmanager
def _signals_blocked() -> Iterator[None]:
    """Block SIGINT and SIGTERM; children started meanwhile inherit the block, which survives exec.

    Ctrl-C and systemd's stop go to the whole process group, but a worker has pictures to finish while the
    pool drains. If the child ignored them instead, one that came before it did so would end it.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
