"""A Redis of the test's own on a Unix socket: started, killed, paused."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

PATIENCE_S = 30.0


class RedisProcess:
    """It keeps nothing on the disk; killed and started again, it is empty."""

    def __init__(self, program: Path) -> None:
        self._program = program
        self._folder = Path(tempfile.mkdtemp(prefix="redis-"))  # short: the path of a socket has its limits
        self._socket = self._folder / "s"
        self.url = f"async+redis+unix://{self._socket}"
        self.start()

    def start(self) -> None:
        where = ["--port", "0", "--unixsocket", str(self._socket), "--dir", str(self._folder)]
        command = [str(self._program), *where, "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=self._folder)
        deadline = time.monotonic() + PATIENCE_S
        while not self._socket.exists():
            assert self._process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(PATIENCE_S)
        self._socket.unlink(missing_ok=True)

    def pause(self) -> None:
        os.kill(self._process.pid, signal.SIGSTOP)

    def go_on(self) -> None:
        os.kill(self._process.pid, signal.SIGCONT)

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self._folder)
