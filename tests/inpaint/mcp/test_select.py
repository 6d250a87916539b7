"""The tool select: the mask of an object, as a file that inpaint takes."""

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from mcp.server.mcpserver import MCPServer
from PIL import Image

from inpaint import Engine
from inpaint.mcp.backend import EngineBackend
from inpaint.mcp.folders import Folders
from inpaint.mcp.tools import tools_server
from tests.inpaint.mcp.test_tools import QUICK, call, opened
from tests.support.scenes import overlap, scene

DRAWN = scene("red disc on grass", (300, 200))
Y, X = (float(each) for each in np.argwhere(DRAWN.truth).mean(0))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a drawn disc."""
    monkeypatch.setenv("INPAINT_MODELS", str(tmp_path / "models"))
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.fromarray(DRAWN.picture).save(folder / "disc.jpg", quality=95)
    return folder


@pytest.fixture
def server(folder: Path, engine: Engine) -> MCPServer:
    """The tools over the tiny model, which is the test run's."""
    return tools_server(Folders.of([folder]), EngineBackend(lambda: nullcontext(engine)))


def test_an_object_is_selected_and_its_mask_repainted(server: MCPServer, folder: Path) -> None:
    """What an agent does instead of drawing; a second mask has another name."""
    outcome = call(server, "select", image_path="disc.jpg", points=[[X, Y], [2, 2, 0]])
    facts = outcome.facts
    assert facts["path"] == str(folder / "disc_mask.png")
    assert (facts["width"], facts["height"], facts["method"]) == (300, 200, "snap")
    mask = opened(facts["path"])
    assert overlap(np.asarray(mask), DRAWN.truth) > 0.9
    assert tuple(facts["box"]) == mask.getbbox()
    preview = np.asarray(outcome.preview.convert("L")).astype(int)
    assert preview[DRAWN.truth].mean() > preview[~DRAWN.truth].mean() * 1.5
    painted = call(
        server, "inpaint", image_path="disc.jpg", mask_path="disc_mask.png", prompt="a ball", **QUICK
    )
    assert painted.facts["path"] == str(folder / "disc_inpainted.jpg")
    again = call(server, "select", image_path="disc.jpg", what="background").facts
    assert again["path"] == str(folder / "disc_mask_2.png")
    assert overlap(np.asarray(opened(again["path"])), ~DRAWN.truth) > 0.9


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({}, "points: give a point inside the object, a box around it, or a scribble"),
        ({"points": [[300, 5]]}, "points: (300, 5) is outside the picture of 300×200"),
        ({"points": [[3]]}, "points: must be [x, y, 1] inside or [x, y, 0] outside, not [3.0]"),
        ({"points": [[1, 1]] * 65}, "points: must be at most 64"),
        ({"box": [1, 2, 3]}, "box: must be [left, top, right, bottom], not [1, 2, 3]"),
        ({"box": [1, 2, 400, 50]}, "box: must be left, top, right, bottom in the picture"),
        ({"what": "sky"}, "what: must be one of object, subject, background, not 'sky'"),
        ({"what": "subject", "variant": "x"}, "variant: must be one of best, smaller, larger, not 'x'"),
        ({"image_path": "../disc.jpg", "what": "subject"}, "image_path: '../disc.jpg' is not in "),
    ],
)
def test_errors_are_one_sentence(
    server: MCPServer, folder: Path, arguments: dict[str, object], sentence: str
) -> None:
    """And nothing is written."""
    outcome = call(server, "select", **({"image_path": "disc.jpg"} | arguments))
    assert outcome.error
    assert outcome.text.startswith(sentence)
    assert [each.name for each in folder.iterdir()] == ["disc.jpg"]
