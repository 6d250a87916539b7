"""An engine that answers immediately without painting, and a server around it, for the server's benches."""

import asyncio
import contextlib
import os
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import uvicorn

from inpaint.errors import CancelledError
from inpaint.request import InpaintRequest, InpaintResult
from server.app import create_app
from server.engines.client import ANY_TIME, Health, Terms
from server.engines.ticket import LoopTicket
from server.observe.logs import configure
from server.settings import Settings
from server.uvicorn_server import DrainingServer, listen

ROOT = Path(__file__).parents[2]


class InstantEngine:
    """An ``EngineClient`` that answers every request immediately with the request's own picture."""

    async def start(self) -> None:
        """Do nothing: there is nothing to load."""

    async def close(self, drain_s: float) -> None:
        """Do nothing: there is nothing to stop."""

    async def submit(self, request: InpaintRequest, terms: Terms = ANY_TIME) -> LoopTicket:
        """Return a ticket that is finished already."""
        ticket = LoopTicket(request)
        ticket.on_cancel = lambda: ticket.fail(CancelledError("cancelled"))
        ticket.finish(InpaintResult([request.image] * request.samples, ticket.seeds, (0, 0, 8, 8)))
        return ticket

    def health(self) -> Health:
        """Return that the engine is ready."""
        return Health(ready=True)


async def serve(settings: Settings, drive: Callable[[int], Awaitable[None]] | None = None) -> None:
    """Print the port, then serve until ``drive(port)`` is done, or until a signal."""
    configure("WARNING")
    listener = listen(settings)
    port = listener.getsockname()[1]
    app = create_app(settings, InstantEngine())
    config = uvicorn.Config(app, log_config=None, access_log=False, server_header=False)
    server = DrainingServer(config, app.state.running)
    print(port, flush=True)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    if drive is not None:
        await drive(port)
        server.should_exit = True
    await serving
    listener.close()


def settings(data: str, **changes: Any) -> Settings:
    """Return settings without limits on rate or queue."""
    plain = {"port": 0, "data": Path(data), "rate": "1000000/minute", "drain_s": 0.0}
    return Settings(**(plain | {"max_in_flight_per_key": 1000, "max_waiting": 1000} | changes))


def conditions() -> dict[str, Any]:
    """Return the commit, processor and load of this machine."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    cpu = "CPU"
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        cpu = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    load = round(os.getloadavg()[0], 1)
    return {"commit": done.stdout.strip(), "device": f"{cpu}, {os.cpu_count()} core(s)", "load": load}
