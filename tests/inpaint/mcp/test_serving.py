"""``inpaint mcp`` as a process: what a host starts, or a client reaches by HTTP."""

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
from mcp import StdioServerParameters
from mcp.client.client import Client
from mcp.client.stdio import stdio_client
from PIL import Image

from tests.support.cli_runs import Run

pytest_plugins = ["tests.support.cli_fixtures"]

COMMAND = ["-m", "inpaint", "mcp"]
ENV = {name: value for name, value in os.environ.items() if not name.startswith("INPAINT_")}
ENV |= {"OMP_NUM_THREADS": "1"}
TOOLS = ["inpaint", "remove", "extend", "select", "describe"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a picture."""
    image = Image.new("RGB", (256, 192), "teal")
    image.paste("gold", (0, 0, 64, 64))
    image.save(tmp_path / "a.png")
    return tmp_path


async def talk(client: Client) -> dict[str, Any]:
    """List the tools, and call one that needs no model."""
    tools = await client.list_tools()
    assert [tool.name for tool in tools.tools] == TOOLS
    result = await client.call_tool("describe", {"image_path": "a.png"})
    found: dict[str, Any] = json.loads(result.content[0].text)  # type: ignore[union-attr]
    return found


def stdio(folder: Path) -> Any:
    """The transport of a host that starts the command in this folder."""
    return stdio_client(StdioServerParameters(command=sys.executable, args=COMMAND, env=ENV, cwd=folder))


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The command with HTTP on a free port; yields its URL, and ends it as Ctrl-C does."""
    arguments = [*COMMAND, "--transport", "http", "--port", "0", "--folder", str(folder)]
    process = subprocess.Popen([sys.executable, *arguments], stderr=subprocess.PIPE, text=True, env=ENV)
    assert process.stderr is not None
    try:
        line = process.stderr.readline()
        assert line.endswith("/mcp is ready for MCP clients; Ctrl-C stops it\n"), line
        yield line.split()[0]
    finally:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert "Traceback" not in said
    assert process.returncode in (0, 130), said


def test_a_host_starts_it_and_talks_on_stdio(folder: Path) -> None:
    """Its folder is the current one, and nothing but messages comes on stdout."""

    async def once() -> dict[str, Any]:
        async with Client(stdio(folder)) as client:
            return await talk(client)

    facts = asyncio.run(once())
    assert (facts["path"], facts["width"], facts["height"]) == (str(folder / "a.png"), 256, 192)


def test_http_serves_this_machine_alone(folder: Path) -> None:
    """A page of another site must not reach it, by its own name or by one that it points here."""

    async def once(url: str) -> dict[str, Any]:
        async with Client(url) as client:
            return await talk(client)

    with serving(folder) as url:
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/mcp", url)
        assert asyncio.run(once(url))["width"] == 256
        port = url.removesuffix("/mcp").rpartition(":")[2]
        body = {"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": {}}
        headers = {"accept": "application/json, text/event-stream"}
        for wrong, status in (
            ({"host": f"evil.example:{port}"}, 421),
            ({"origin": "http://evil.example"}, 403),
        ):
            answer = httpx2.post(url, json=body, headers=headers | wrong, trust_env=False)
            assert answer.status_code == status


def test_what_cannot_be_served_is_one_sentence(inpaint: Run, folder: Path) -> None:
    """A port in use, a folder that is none, and a URL that is none."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = inpaint("mcp", "--transport", "http", "--port", port)
    assert (done.code, done.out) == (1, "")
    assert done.err == f"error: --port: cannot listen on 127.0.0.1:{port}: Address already in use\n"
    done = inpaint("mcp", "--folder", folder / "none")
    assert (done.code, done.err) == (2, f"error: --folder: there is no folder {folder / 'none'}\n")
    done = inpaint("mcp", "--url", "paint.example.org")
    wanted = "must be a server's address such as http://127.0.0.1:8000, not 'paint.example.org'"
    assert (done.code, done.err) == (2, f"error: --url: {wanted}\n")


def test_without_the_sdk_it_says_how_to_install_it() -> None:
    """The extra is not part of a plain installation."""
    code = "import sys; sys.modules['mcp'] = None\nfrom inpaint.cli import main; main(['mcp'])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=ENV)
    assert done.returncode == 1
    wanted = "error: the MCP SDK is not installed; install it with: pip install 'sdxl-inpaint[mcp]' ("
    assert done.stderr.startswith(wanted)
    assert done.stderr.count("\n") == 1


@pytest.mark.slow
def test_the_demo_model_paints_over_stdio(folder: Path) -> None:
    """From start to file, as a host sees it."""

    async def once() -> tuple[Any, list[float]]:
        steps: list[float] = []

        async def heard(done: float, total: float | None, message: str | None) -> None:
            steps.append(done)

        async with Client(stdio(folder)) as client:
            arguments = {
                "image_path": "a.png",
                "prompt": "a red circle",
                "box": [96, 32, 224, 160],
                "seed": 4,
            }
            return await client.call_tool("inpaint", arguments, progress_callback=heard), steps

    result, steps = asyncio.run(once())
    assert not result.is_error, result.content
    assert steps == sorted(set(steps))
    assert len(steps) > 5
    with (
        Image.open(json.loads(result.content[0].text)["path"]) as painted,
        Image.open(folder / "a.png") as before,
    ):
        red, green, blue = painted.convert("RGB").getpixel((160, 96))  # type: ignore[misc]
        assert red > 150
        assert max(green, blue) < 110
        for box in ((0, 0, 256, 32), (0, 160, 256, 192), (0, 0, 96, 192), (224, 0, 256, 192)):
            assert painted.crop(box).tobytes() == before.crop(box).tobytes()
