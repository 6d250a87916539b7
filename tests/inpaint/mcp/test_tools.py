"""The tools as the SDK's own client calls them, painted by an engine in this process."""

import asyncio
import base64
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mcp.client.client import Client
from mcp.server.mcpserver import MCPServer
from PIL import Image

from inpaint import Engine
from inpaint.images import metadata
from inpaint.mcp.backend import EngineBackend
from inpaint.mcp.folders import Folders
from inpaint.mcp.tools import tools_server

QUICK = {"num_inference_steps": 4, "scheduler": "DDIM", "seed": 5}
Steps = list[tuple[float, float | None]]


class Outcome:
    """What a tool answered."""

    def __init__(self, result: Any, steps: Steps) -> None:
        self.error = bool(result.is_error)
        self.text: str = result.content[0].text
        self.previews = [one for one in result.content if one.type == "image"]
        self.steps = steps

    @property
    def facts(self) -> dict[str, Any]:
        assert not self.error, self.text
        found: dict[str, Any] = json.loads(self.text)
        return found

    @property
    def preview(self) -> Image.Image:
        (one,) = self.previews
        assert one.mime_type == "image/jpeg"
        return Image.open(io.BytesIO(base64.b64decode(one.data)))


def call(server: MCPServer, tool: str, **arguments: object) -> Outcome:
    """Call a tool in memory."""

    async def once() -> Outcome:
        steps: Steps = []

        async def heard(done: float, total: float | None, message: str | None) -> None:
            steps.append((done, total))

        async with Client(server) as client:
            return Outcome(await client.call_tool(tool, arguments, progress_callback=heard), steps)

    return asyncio.run(once())


@pytest.fixture
def folder(tmp_path: Path, photo: Image.Image) -> Path:
    """A folder with a picture; nothing outside it may be used."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    photo.save(folder / "a.png")
    photo.save(tmp_path / "outside.png")
    return folder


@pytest.fixture
def loads() -> list[int]:
    """How often the model was loaded."""
    return []


@pytest.fixture
def server(folder: Path, engine: Engine, loads: list[int]) -> Iterator[MCPServer]:
    """The tools over the tiny model."""

    @contextmanager
    def load() -> Iterator[Engine]:
        loads.append(1)
        yield engine

    backend = EngineBackend(load)
    yield tools_server(Folders.of([folder]), backend)
    backend.close()


def opened(path: str) -> Image.Image:
    """A file's picture, all of it read."""
    with Image.open(path) as image:
        image.load()
        return image


def same_outside(one: Image.Image, other: Image.Image, box: tuple[int, int, int, int]) -> bool:
    """Whether two pictures differ in no pixel outside a box."""
    pixels, others = np.asarray(one).copy(), np.asarray(other).copy()
    left, top, right, bottom = box
    for each in (pixels, others):
        each[top:bottom, left:right] = 0
    return bool((pixels == others).all())


def test_the_tools_say_what_they_take(server: MCPServer) -> None:
    """A model knows nothing but this of them."""

    async def listed() -> Any:
        async with Client(server) as client:
            return (await client.list_tools()).tools

    tools = {tool.name: tool for tool in asyncio.run(listed())}
    assert list(tools) == ["inpaint", "remove", "extend", "select", "describe"]
    for tool in tools.values():
        assert tool.description
        for argument in tool.input_schema["properties"].values():
            assert argument["description"]
    assert tools["inpaint"].input_schema["required"] == ["image_path", "prompt"]
    assert tools["inpaint"].input_schema["properties"]["strength"]["maximum"] == 1
    assert tools["describe"].annotations.read_only_hint
    assert not tools["inpaint"].annotations.destructive_hint


def test_a_box_is_repainted_and_nothing_else(server: MCPServer, folder: Path, photo: Image.Image) -> None:
    """An agent cannot draw a mask; and what it did not name, it must not change."""
    before = (folder / "a.png").read_bytes()
    box = (32, 40, 96, 104)
    outcome = call(server, "inpaint", image_path="a.png", prompt="a red circle", box=list(box), **QUICK)
    facts = outcome.facts
    assert facts.pop("seconds") > 0
    assert facts == {"path": str(folder / "a_inpainted.png"), "width": 128, "height": 128, "seed": 5}
    painted = opened(facts["path"])
    assert same_outside(painted, photo, box)
    assert not same_outside(painted, photo, (0, 0, 0, 0))
    assert (folder / "a.png").read_bytes() == before
    made = metadata.read(Path(facts["path"]).read_bytes())
    assert made is not None
    assert (made.settings["prompt"], made.settings["seed"]) == ("a red circle", 5)


@pytest.mark.parametrize("box", [[0, 0, 128, 128], [0, 0, 1, 1], [127.5, 10, 128, 20.2]])
def test_odd_boxes_hold_too(server: MCPServer, photo: Image.Image, box: list[float]) -> None:
    """The whole picture, a pixel, and fractions of pixels."""
    facts = call(server, "inpaint", image_path="a.png", prompt="a red circle", box=box, **QUICK).facts
    painted = opened(facts["path"])
    covered = (int(box[0]), int(box[1]), int(box[2]), 21 if box[3] == 20.2 else int(box[3]))
    assert same_outside(painted, photo, covered)
    assert not same_outside(painted, photo, (0, 0, 0, 0))


def test_a_mask_file_is_taken(
    server: MCPServer, folder: Path, photo: Image.Image, grid_mask: Image.Image
) -> None:
    """Away from the mask and its soft edge nothing changes."""
    grid_mask.save(folder / "m.png")
    facts = call(
        server, "inpaint", image_path="a.png", mask_path="m.png", prompt="a red circle", **QUICK
    ).facts
    assert same_outside(opened(facts["path"]), photo, (36, 28, 108, 100))


def test_remove_continues_the_surroundings(server: MCPServer) -> None:
    """Its settings are those that erase best, and its steps are reported as they are taken."""
    outcome = call(server, "remove", image_path="a.png", box=[32, 32, 64, 64], seed=5)
    made = metadata.read(Path(outcome.facts["path"]).read_bytes())
    assert made is not None
    wanted = {"prompt": "", "fill": "telea", "strength": 0.99}
    assert {name: made.settings[name] for name in wanted} == wanted
    done = [step for step, _ in outcome.steps]
    assert done == sorted(set(done))
    assert len(done) > 5
    assert outcome.steps[-1][0] == outcome.steps[-1][1] == 24


def test_extend_enlarges(server: MCPServer, photo: Image.Image) -> None:
    """The picture stays where it is, but for the blend along its old edge."""
    facts = call(server, "extend", image_path="a.png", prompt="a field", right=64, top=16, seed=5).facts
    assert (facts["width"], facts["height"]) == (192, 144)
    painted = opened(facts["path"])
    assert painted.crop((0, 26, 118, 144)).tobytes() == photo.crop((0, 10, 118, 128)).tobytes()


def test_describe_shows_the_picture(server: MCPServer, folder: Path, loads: list[int]) -> None:
    """Its true size, since the preview is smaller; no model is loaded for it."""
    Image.new("RGB", (1500, 1000), "teal").save(folder / "large.webp", lossless=True)
    outcome = call(server, "describe", image_path="large.webp")
    assert outcome.facts == {
        "path": str(folder / "large.webp"),
        "format": "WEBP",
        "width": 1500,
        "height": 1000,
        "painted_by": None,
        "settings": None,
    }
    assert outcome.preview.size == (512, 341)
    assert not loads


def test_describe_tells_how_a_picture_was_painted(server: MCPServer) -> None:
    """So that an agent can go on from it."""
    path = call(
        server, "inpaint", image_path="a.png", prompt="a red circle", box=[0, 0, 64, 64], **QUICK
    ).facts["path"]
    facts = call(server, "describe", image_path=path).facts
    assert facts["painted_by"] == "tiny-9"
    assert facts["settings"]["prompt"] == "a red circle"


def test_results_are_never_overwritten(server: MCPServer, folder: Path, loads: list[int]) -> None:
    """Three calls, three files; the model is loaded once."""
    arguments: dict[str, object] = {
        "image_path": "a.png",
        "prompt": "a red circle",
        "box": [0, 0, 64, 64],
        **QUICK,
    }
    paths = [call(server, "inpaint", **arguments).facts["path"] for _ in range(3)]
    assert [Path(path).name for path in paths] == [
        "a_inpainted.png",
        "a_inpainted_2.png",
        "a_inpainted_3.png",
    ]
    assert sorted(each.name for each in folder.iterdir()) == [
        "a.png",
        *sorted(Path(path).name for path in paths),
    ]
    assert loads == [1]


def test_a_jpeg_stays_one_with_a_small_preview(server: MCPServer, folder: Path) -> None:
    """Its format and resolution are the owner's; the preview is for a model with little room."""
    noise = np.random.default_rng(1).integers(0, 256, (900, 600, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "p.jpg", dpi=(300, 300))
    outcome = call(server, "inpaint", image_path="p.jpg", prompt="a red circle", box=[0, 0, 90, 90], **QUICK)
    painted = opened(outcome.facts["path"])
    assert (painted.format, painted.info["dpi"]) == ("JPEG", (300, 300))
    assert outcome.preview.size == (341, 512)
    assert len(outcome.previews[0].data) < 200_000


@pytest.mark.parametrize(
    ("tool", "arguments", "sentence"),
    [
        ("remove", {"image_path": "../outside.png", "box": [0, 0, 9, 9]}, "image_path: '../outside.png' is "),
        ("inpaint", {"mask_path": "../outside.png"}, "mask_path: '../outside.png' is not in "),
        ("describe", {"image_path": "/etc/passwd"}, "image_path: '/etc/passwd' is not in "),
        ("describe", {"image_path": "none.png"}, "image: there is no file "),
        ("inpaint", {}, "box: give either box or mask_path, to say which part is repainted"),
        ("inpaint", {"box": [0, 0, 9, 9], "mask_path": "a.png"}, "box: give either box or mask_path"),
        ("inpaint", {"box": [0, 0, 129, 9]}, "box: must be [left, top, right, bottom] in pixels inside the "
         "picture, which is 128×128, not [0.0, 0.0, 129.0, 9.0]"),
        ("inpaint", {"box": [9, 0, 9, 9]}, "box: must be "),
        ("inpaint", {"box": [0, 0, 9]}, "box: must be "),
        ("inpaint", {"box": [0, 0, 9, 9], "strength": 2}, "strength: must be a number above 0, at most"),
        ("inpaint", {"box": [0, 0, 9, 9], "prompt": None}, "prompt: Input should be a valid string"),
        ("remove", {"box": "everything"}, "box: Input should be a valid list"),
        ("extend", {}, "left: left, top, right and bottom must be 0 or more, and one of them above 0"),
        ("extend", {"left": -1}, "left: left, top, right and bottom must be 0 or more"),
        ("extend", {"left": 9000}, "extend: sides must be 16 to 8192 pixels, but it is 9128×128"),
        ("shout", {}, "Unknown tool: shout"),
    ],
)  # fmt: skip
def test_errors_are_one_sentence(
    server: MCPServer, folder: Path, loads: list[int], tool: str, arguments: dict[str, object], sentence: str
) -> None:
    """A model reads it and tries again; nothing was loaded or written for it."""
    plain: dict[str, object] = {"image_path": "a.png"} | (
        {} if tool in ("remove", "describe") else {"prompt": "x"}
    )
    outcome = call(server, tool, **(plain | arguments))
    assert outcome.error
    assert outcome.text.startswith(sentence)
    assert "\n" not in outcome.text
    assert not loads
    assert [each.name for each in folder.iterdir()] == ["a.png"]


def test_a_missing_argument_is_named(server: MCPServer) -> None:
    """The SDK's own text is a paragraph with a link."""
    assert call(server, "inpaint", image_path="a.png").text == "prompt: is required"


def test_a_call_that_is_cancelled_paints_no_further(server: MCPServer, folder: Path, engine: Engine) -> None:
    """The host's user pressed stop; the GPU is for others."""

    async def cancelled() -> None:
        begun = asyncio.Event()

        async def heard(done: float, total: float | None, message: str | None) -> None:
            if message == "painting":
                begun.set()

        async with Client(server) as client:
            arguments = {
                "image_path": "a.png",
                "prompt": "x",
                "box": [0, 0, 64, 64],
                "num_inference_steps": 150,
            }
            calling = asyncio.create_task(client.call_tool("inpaint", arguments, progress_callback=heard))
            await begun.wait()
            calling.cancel()
            await asyncio.wait([calling])

    asyncio.run(cancelled())
    assert engine.drain(timeout_s=60)
    assert engine.stats().images == 0
    assert [each.name for each in folder.iterdir()] == ["a.png"]
