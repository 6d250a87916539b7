"""A server process of its own, met from outside: its words, its port, its signals, its children.

``cli(…)`` runs ``inpaint serve`` itself, ``program(…)`` the same start with a stub engine or with faults.
Leaving a ``ServerProcess`` ends it, and fails if any of its worker processes is still there.
"""

import base64
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Self

import httpx2
from PIL import Image

from server.storage.database import Database
from server.storage.keys import Keys
from server.storage.ledger import MICRO, Ledger
from tests.support.http_server import serving

PATIENCE_S = 100.0  # a worker imports torch, and the machine may be busy; nothing that works waits so long


def eventually(true: Callable[[], Any]) -> Any:
    """Wait until something is true, and return it."""
    deadline = time.monotonic() + PATIENCE_S
    while not (found := true()):
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)
    return found


def gone(pid: int) -> bool:
    """Return whether a process has ended; a zombie has, even if its new parent never waits for it."""
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return True


def cli(data: Path, *arguments: str) -> list[str]:
    """``inpaint serve``."""
    return ["-m", "inpaint", "serve", "--port", "0", "--data", str(data), *arguments]


def program(
    data: Path,
    *,
    stub: bool = True,
    faults: str = "",
    fetch_port: int | None = None,
    watch: bool = False,
    models: Sequence[str] = ("calls",),
    **flags: object,
) -> list[str]:
    """``tests/support/serve_program.py``; with ``stub``, each UNet call is a line in ``data / calls``.

    With several ``models``, it is one in the file of the model's name.

    With ``watch``, each callback of its event loop that takes long is a line in ``data / slow``.
    """
    data.mkdir(exist_ok=True)
    if stub:
        for model in models:
            (data / model).touch()
        flags["model"] = ",".join(str(data / model) for model in models)
    given = {"port": 0, "data": str(data), "device": "cpu", **flags}
    order = {"flags": given, "stub": stub, "faults": faults, "fetch_port": fetch_port, "watch": watch}
    return [str(Path(__file__).with_name("serve_program.py")), json.dumps(order)]


class ServerProcess:
    """A running server. ``settings`` become ``INPAINT_*`` variables; no other of these is passed on.

    ``python`` may be that of another environment, whose server it is then.
    """

    def __init__(
        self,
        arguments: list[str],
        cwd: Path | None = None,
        python: str | Path = sys.executable,
        **settings: object,
    ) -> None:
        env = {name: value for name, value in os.environ.items() if not name.startswith("INPAINT_")}
        env["INPAINT_WARM_UP"] = "false"  # seconds at each start, which few tests are about
        env |= {f"INPAINT_{name.upper()}": str(value) for name, value in settings.items()}
        self._process = subprocess.Popen(
            [python, *arguments],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=env | {"OMP_NUM_THREADS": "1"},
            cwd=cwd,
            text=True,
            start_new_session=True,  # so that a test can send to the whole group, as a terminal does
        )
        self.pid = self._process.pid
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self._seen: set[int] = set()
        self._client: httpx2.Client | None = None

    def _read(self) -> None:
        assert self._process.stderr is not None
        with self._process.stderr as file:
            self._lines.extend(file)  # its end is that of the last process that holds it

    @property
    def said(self) -> str:
        """Everything on stderr so far."""
        return "".join(self._lines)

    @property
    def url(self) -> str:
        """From the greeting's first line; waits for it."""

        def greeted() -> str | None:
            assert self._process.poll() is None, self.said
            return next((line.split()[0] for line in list(self._lines) if line.startswith("http")), None)

        return str(eventually(greeted))

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def client(self) -> httpx2.Client:
        """Without a key."""
        if self._client is None:
            url = f"http://127.0.0.1:{self.port}"
            limits = httpx2.Limits(max_keepalive_connections=0)  # a connection left over is a killed server's
            self._client = httpx2.Client(base_url=url, timeout=PATIENCE_S, trust_env=False, limits=limits)
        return self._client

    def ready(self) -> bool:
        """What ``/readyz`` says now."""
        return self.client.get("/readyz").status_code == 200

    def wait_ready(self) -> Self:
        """Until it paints."""
        eventually(lambda: self._running() and self.ready())
        self.workers()
        return self

    def _running(self) -> bool:
        assert self._process.poll() is None, self.said
        return True

    def workers(self) -> list[int]:
        """Its child processes now."""
        found: list[int] = []
        for file in Path(f"/proc/{self.pid}/task").glob("*/children"):
            with suppress(OSError):
                found += map(int, file.read_text().split())
        self._seen.update(found)
        return found

    def gauge(self, name: str, key: str = "") -> float:
        """One of the metrics' values."""
        scraped = self.client.get("/metrics", headers={"x-api-key": key} if key else {}).text
        return float(next(line for line in scraped.splitlines() if line.startswith(f"{name} ")).split()[1])

    def signal(self, number: int) -> None:
        self.workers()
        os.kill(self.pid, number)

    def ctrl_c(self) -> None:
        """To the whole group, as a terminal does."""
        self.workers()
        os.killpg(self.pid, signal.SIGINT)

    def exit_code(self) -> int:
        """Wait for the end, and for that of its workers."""
        code = self._process.wait(PATIENCE_S)
        eventually(lambda: all(map(gone, self._seen)))
        return code

    def kill(self) -> None:
        """SIGKILL to the server alone."""
        with suppress(ProcessLookupError):
            self.signal(signal.SIGKILL)
        self.exit_code()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self._process.poll() is None:
                self.kill()
            self.exit_code()
        except BaseException:  # the test fails, and nothing stays behind all the same
            for pid in self._seen:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            raise
        finally:
            if self._client is not None:
                self._client.close()
            self._reader.join(PATIENCE_S)
            assert not self._reader.is_alive(), "a process that it started still holds its stderr"


# What is asked of it.


def picture(size: tuple[int, int] = (48, 32), colour: str = "teal") -> bytes:
    """A plain PNG."""
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def body(**fields: object) -> dict[str, object]:
    """A small request's JSON: all of a plain picture is repainted."""
    image, mask = (base64.b64encode(picture(colour=c)).decode() for c in ("teal", "white"))
    plain = {"image": image, "mask": mask, "prompt": "a red circle", "seed": 7, "num_inference_steps": 20}
    return plain | {"scheduler": "DDIM", **fields}


def opened(data: bytes) -> Image.Image:
    """A file's picture, all of it read."""
    image = Image.open(io.BytesIO(data))
    image.load()
    return image


@contextmanager
def callers(count: int = 16) -> Iterator[Callable[..., "Future[httpx2.Response]"]]:
    """Threads that send what they are given to send."""
    with ThreadPoolExecutor(count) as pool:
        yield pool.submit


# The books.


@contextmanager
def accounts(data: Path) -> Iterator["Accounts"]:
    """Open the data folder's database, while the server runs or before."""
    with Database(f"sqlite:///{data / 'inpaint.db'}") as database:
        database.migrate()
        yield Accounts(database)


class Accounts:
    """Keys and credits, as ``inpaint keys`` and ``inpaint credits`` handle them."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.keys, self.ledger = Keys(database), Ledger(database)

    def key(self, balance: float = 0) -> tuple[str, str]:
        """A new key's id and token."""
        key, token = self.keys.create("test", scopes=("sdxl-inpaint", "metrics"))
        if balance:
            self.ledger.add(key.id, round(balance * MICRO))
        return key.id, token


# Pictures by URL.


@contextmanager
def picture_host(files: Mapping[str, bytes]) -> Iterator[tuple[int, list[str]]]:
    """Serve files by their path on loopback; yields the port and the list of paths asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            data = files[self.path]
            self.send_response(200)
            self.send_header("Content-Type", "image/png" if self.path.endswith("png") else "image/jpeg")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    with serving(Handler) as port:
        yield port, asked
