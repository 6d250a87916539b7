"""Callers that leave before what they wait for has begun: nothing is painted for nobody, or loaded twice."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mcp.client.client import Client
from PIL import Image

from inpaint import Engine, InpaintRequest
from inpaint.errors import CancelledError
from inpaint.job import Job
from inpaint.mcp.backend import EngineBackend
from inpaint.mcp.folders import Folders
from inpaint.mcp.tools import tools_server

PATIENCE_S = 60.0
BOX: dict[str, Any] = {"image_path": "a.png", "prompt": "x", "box": [0, 0, 64, 64]}


class Gate:
    """A place in another thread at which it is held up until the test lets it go on."""

    def __init__(self) -> None:
        self.reached, self.opened = threading.Event(), threading.Event()

    def hold(self) -> None:
        self.reached.set()
        assert self.opened.wait(PATIENCE_S)

    async def leave(self, calling: "asyncio.Task[Any]") -> None:
        """Cancel a call that is held up here."""
        assert await asyncio.to_thread(self.reached.wait, PATIENCE_S)
        calling.cancel()
        await asyncio.wait([calling])


@pytest.fixture
def folder(tmp_path: Path, photo: Image.Image) -> Path:
    """A folder with a picture."""
    photo.save(tmp_path / "a.png")
    return tmp_path


def test_a_model_is_loaded_once_though_the_first_caller_leaves(folder: Path, engine: Engine) -> None:
    """A second model would not fit into the GPU's memory."""
    gate, loads = Gate(), []

    @contextmanager
    def load() -> Iterator[Engine]:
        loads.append(1)
        gate.hold()
        yield engine

    backend = EngineBackend(load)

    async def talk() -> Any:
        async with Client(tools_server(Folders.of([folder]), backend)) as client:
            await gate.leave(asyncio.create_task(client.call_tool("inpaint", BOX)))
            again = asyncio.create_task(client.call_tool("inpaint", {**BOX, "num_inference_steps": 2}))
            await asyncio.wait([again], timeout=0.1)  # so that it finds the first one's load under way
            gate.opened.set()
            return await again

    assert not asyncio.run(talk()).is_error
    backend.close()
    assert loads == [1]


def test_a_load_that_failed_is_tried_again(folder: Path, engine: Engine) -> None:
    """The user mended what was wrong, and need not start the host again."""
    loads: list[int] = []

    @contextmanager
    def load() -> Iterator[Engine]:
        loads.append(1)
        if len(loads) == 1:
            raise MemoryError("the GPU is full")
        yield engine

    backend = EngineBackend(load)

    async def talk() -> list[bool]:
        async with Client(tools_server(Folders.of([folder]), backend)) as client:
            arguments = {**BOX, "num_inference_steps": 2}
            return [(await client.call_tool("inpaint", arguments)).is_error for _ in range(2)]

    assert asyncio.run(talk()) == [True, False]
    backend.close()


def test_a_load_that_failed_for_nobody_is_tried_again(folder: Path, engine: Engine) -> None:
    """The next caller would get the error of one who has left."""
    gate, loads = Gate(), list[int]()

    @contextmanager
    def load() -> Iterator[Engine]:
        loads.append(1)
        if len(loads) == 1:
            gate.hold()
            raise MemoryError("the GPU is full")
        yield engine

    backend = EngineBackend(load)

    async def talk() -> Any:
        async with Client(tools_server(Folders.of([folder]), backend)) as client:
            await gate.leave(asyncio.create_task(client.call_tool("inpaint", BOX)))
            loading = backend._loading
            assert loading is not None
            gate.opened.set()
            await asyncio.wait([loading])
            return await client.call_tool("inpaint", {**BOX, "num_inference_steps": 2})

    assert not asyncio.run(talk()).is_error
    backend.close()


def test_a_caller_that_leaves_while_its_request_is_handed_over(
    folder: Path, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job of which it was not told yet is cancelled, too."""
    gate, submit, jobs = Gate(), engine.submit, list[Job]()

    def slowly(request: InpaintRequest) -> Job:
        jobs.append(submit(request))
        gate.hold()
        return jobs[-1]

    monkeypatch.setattr(engine, "submit", slowly)
    backend = EngineBackend(lambda: contextmanager(lambda: iter([engine]))())

    async def talk() -> None:
        async with Client(tools_server(Folders.of([folder]), backend)) as client:
            calling = asyncio.create_task(client.call_tool("inpaint", {**BOX, "num_inference_steps": 150}))
            await gate.leave(calling)
            gate.opened.set()
            await asyncio.to_thread(lambda: list(jobs[0].events()))

    asyncio.run(talk())
    with pytest.raises(CancelledError):
        jobs[0].result()
    backend.close()
