"""Traces for OpenTelemetry."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from inpaint.errors import RequestError
from server.observe import telemetry as module
from server.observe.telemetry import telemetry

# Run in a process of its own, because OpenTelemetry's providers are global to a process.
PROGRAM = """
import asyncio, sys
from pathlib import Path
import httpx2, uvicorn
from server.app import create_app
from server.uvicorn_server import listen
from server.settings import Settings
from server.engines.in_process import InProcessClient
from server.engines.worker import WorkerSpec

class NoEngine(InProcessClient):  # the requests below need none
    async def start(self):
        pass

async def main():
    settings = Settings(data=Path(sys.argv[1]), telemetry=sys.argv[2] == "on", no_auth=True, port=0)
    app, listener = create_app(settings, NoEngine(WorkerSpec())), listen(settings)
    server = uvicorn.Server(uvicorn.Config(app, log_config=None))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{listener.getsockname()[1]}") as caller:
        await caller.get("/v1/get-user-credits")
        await caller.get("/livez")
        await caller.get("/v2/requests/" + "0" * 32 + "/images/0?token=capability")
    server.should_exit = True
    await serving

asyncio.run(main())
"""


@pytest.fixture
def collector() -> Iterator[tuple[int, list[bytes]]]:
    """Serve OTLP over HTTP on a free port; yield the port and the bodies that arrive."""
    arrived: list[bytes] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            arrived.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port, arrived
        server.shutdown()


def run(port: int, data: Path, switch: str) -> None:
    environment = {
        **os.environ,
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{port}",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
    }
    subprocess.run([sys.executable, "-c", PROGRAM, data, switch], env=environment, check=True, timeout=120)


@pytest.mark.slow
def test_spans_reach_the_collector_and_hold_no_secret(
    collector: tuple[int, list[bytes]], tmp_path: Path
) -> None:
    """An operator follows a request across services; spans never hold a picture's URL, which opens it."""
    port, arrived = collector
    run(port, tmp_path, "on")
    assert any(b"get-user-credits" in body for body in arrived)
    assert not any(b"capability" in body or b"livez" in body for body in arrived)


@pytest.mark.slow
def test_nothing_is_sent_unless_asked_for(collector: tuple[int, list[bytes]], tmp_path: Path) -> None:
    """Without INPAINT_TELEMETRY nothing leaves the machine, even if OTEL_* variables are set."""
    port, arrived = collector
    run(port, tmp_path, "off")
    assert arrived == []


def test_the_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The error is one sentence with the command that installs the extra."""
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(RequestError, match=r"pip install 'sdxl-inpaint\[telemetry\]'"):
        telemetry(wanted=True)
