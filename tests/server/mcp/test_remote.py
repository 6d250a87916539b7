"""``inpaint mcp --url``: the tools over a running server's ``/v2`` API."""

import asyncio
import json
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
from mcp.client.client import Client
from PIL import Image

from inpaint.errors import PaintError, RequestError
from inpaint.mcp.folders import Folders
from inpaint.mcp.remote import ServerBackend
from inpaint.mcp.tools import tools_server
from tests.support.served import PATIENCE_S, FakeEngine, Serve, Served, colour_of, eventually, photo

pytest_plugins = ["tests.support.served_fixtures"]

SIZE = (96, 64)
T = TypeVar("T")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a picture."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    photo(SIZE).save(folder / "a.png")
    return folder


def call(
    url: str, folder: Path, tool: str, key: str | None = None, **arguments: object
) -> tuple[Any, list[float]]:
    """Call a tool over a server; returns its result and the steps that it reported."""

    async def once() -> tuple[Any, list[float]]:
        steps: list[float] = []

        async def heard(done: float, total: float | None, message: str | None) -> None:
            steps.append(done)

        async with Client(tools_server(Folders.of([folder]), ServerBackend(url, key))) as client:
            given = {"image_path": "a.png", **arguments}
            return await client.call_tool(tool, given, progress_callback=heard), steps

    return asyncio.run(once())


def painted(result: Any) -> tuple[Image.Image, dict[str, Any]]:
    """The picture that a tool wrote, and the facts of its answer."""
    assert not result.is_error, result.content[0].text
    facts = json.loads(result.content[0].text)
    with Image.open(facts["path"]) as image:
        image.load()
    return image, facts


def engine_of(served: Served) -> FakeEngine:
    assert isinstance(served.engine, FakeEngine)
    return served.engine


def test_the_server_paints(served: Served, folder: Path) -> None:
    """With the settings of the call, and its steps as they are taken."""
    arguments = {"prompt": "a red circle", "box": [40, 10, 90, 60], "seed": 7, "num_inference_steps": 20}
    result, steps = call(served.url, folder, "inpaint", **arguments)
    image, facts = painted(result)
    assert facts["seed"] == 7
    assert image.getpixel((60, 30)) == colour_of(7)
    assert image.getpixel((5, 5)) == photo(SIZE).getpixel((5, 5))
    request = engine_of(served).requests[-1]
    assert (request.prompt, request.num_inference_steps) == ("a red circle", 20)
    assert (request.grow, request.feather, request.lengths) == (0, 3, "picture")
    assert request.image.tobytes() == photo(SIZE).tobytes()
    assert request.mask.getbbox() == (43, 13, 87, 57)
    assert steps == sorted(set(steps))
    assert not result.content[1].data.startswith("data:")


def test_remove_and_extend_are_the_same_as_here(served: Served, folder: Path) -> None:
    """A server gets the same request as an engine would."""
    painted(call(served.url, folder, "remove", box=[40, 10, 90, 60])[0])
    request = engine_of(served).requests[-1]
    assert (request.prompt, request.fill, request.strength) == ("", "telea", 0.99)
    image, _ = painted(call(served.url, folder, "extend", prompt="a field", left=16, bottom=8, seed=7)[0])
    assert image.size == (112, 72)
    assert image.crop((16, 0, 112, 64)).tobytes() == photo(SIZE).tobytes()
    assert image.getpixel((0, 0)) == colour_of(7)


def test_a_key_is_sent(serve: Serve, folder: Path) -> None:
    """A server with keys refuses all others, in its own words."""
    served = serve()
    key = served.key()
    arguments: dict[str, Any] = {"prompt": "x", "box": [40, 10, 90, 60]}
    painted(call(served.url, folder, "inpaint", key, **arguments)[0])
    result, _ = call(served.url, folder, "inpaint", **arguments)
    assert result.is_error
    assert result.content[0].text == "Missing Authorization or x-api-key in header"


def test_the_servers_errors_are_passed_on(served: Served, folder: Path) -> None:
    """What it refuses, and what fails while it is painted."""
    arguments: dict[str, Any] = {"prompt": "x", "box": [40, 10, 90, 60]}
    result, _ = call(served.url, folder, "inpaint", num_inference_steps=4, **arguments)
    assert result.is_error
    assert result.content[0].text == "num_inference_steps: must be a whole number from 20 to 100, not '4'"
    engine_of(served).failures.append(PaintError("the model painted no picture"))
    result, _ = call(served.url, folder, "inpaint", **arguments)
    assert result.is_error
    assert result.content[0].text == "the model painted no picture"
    assert [each.name for each in folder.iterdir()] == ["a.png"]


def test_a_server_that_is_none_is_one_sentence(served: Served, folder: Path) -> None:
    """Another program's port, or nobody's."""
    result, _ = call("http://127.0.0.1:9", folder, "remove", box=[40, 10, 90, 60])
    assert result.is_error
    assert result.content[0].text.startswith("the server http://127.0.0.1:9 did not answer: ")
    result, _ = call(f"{served.url}/livez", folder, "remove", box=[40, 10, 90, 60])
    assert result.is_error
    assert "\n" not in result.content[0].text
    for url in ("127.0.0.1:8000", "ftp://127.0.0.1", "http://", ""):
        with pytest.raises(RequestError, match=r"^url: must be a server's address"):
            ServerBackend(url, None)


def test_a_cancelled_call_is_cancelled_there(served: Served, folder: Path) -> None:
    """The GPU is for others then."""
    engine = engine_of(served)
    engine.held = True
    cancelled(served, folder, engine.next)
    eventually(lambda: engine.tickets[-1].finished)


def test_a_call_that_is_cancelled_before_its_request_has_an_id(
    served: Served, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server has the request but has not answered: it would be painted for nobody."""
    engine_of(served).held = True
    store, accepted, answered = served.parts.store, queue.SimpleQueue[str](), threading.Event()
    accept = store.accept

    def slowly(*args: Any, **options: Any) -> Any:
        record = accept(*args, **options)
        accepted.put(record.id)
        assert answered.wait(PATIENCE_S)
        return record

    monkeypatch.setattr(store, "accept", slowly)
    request_id = cancelled(served, folder, lambda: accepted.get(timeout=PATIENCE_S), answered.set)
    eventually(lambda: store.get(request_id, "").state == "CANCELLED")


def cancelled(
    served: Served, folder: Path, begun: Callable[[], T], then: Callable[[], object] = lambda: None
) -> T:
    """Cancel a call as soon as it has begun; returns what ``begun`` does."""

    async def once() -> T:
        async with Client(tools_server(Folders.of([folder]), ServerBackend(served.url, None))) as client:
            arguments = {"image_path": "a.png", "box": [40, 10, 90, 60]}
            calling = asyncio.create_task(client.call_tool("remove", arguments))
            found = await asyncio.to_thread(begun)
            calling.cancel()
            await asyncio.wait([calling], timeout=0.1)  # so that it is cancelled, and waits for the answer
            then()
            await asyncio.wait([calling])
            return found

    return asyncio.run(once())
