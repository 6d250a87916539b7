"""Pictures from a prompt alone: what is painted, by the kind of model, and if it is what was asked for."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from inpaint import Engine, InpaintRequest
from inpaint.errors import RequestError
from inpaint.model.load import Model
from server.dialects.pictures import GENERATION, generation
from server.engines.in_process import InProcessClient
from server.engines.worker import WorkerSpec
from server.service.order import Blank
from tests.support.openai_api import engine_of, generate, pictures, problem
from tests.support.served import PictureHost, Serve, Served, eventually, server_for
from tools.train_demo.judge import judge
from tools.train_demo.scenes import COLOURS, SHAPES, Scene

pytest_plugins = ["tests.support.served_fixtures"]

GREY = (127, 127, 127)
QUICK = {"prompt": "a red circle", "scheduler": "DDIM", "num_inference_steps": 4, "seed": 5}


def test_an_inpainting_model_repaints_a_grey_picture(served: Served) -> None:
    """As A1111 does it: what these models were trained for."""
    assert pictures(generate(served.client, size="64x48"))[0].size == (64, 48)
    (request,) = engine_of(served).requests
    assert request.image.getcolors() == [(64 * 48, GREY)]
    assert request.mask.getcolors() == [(64 * 48, 255)]
    assert {name: getattr(request, name) for name in GENERATION} == dict(GENERATION)


def test_settings_of_an_edit_have_no_effect(served: Served) -> None:
    """A strength of 0.3 would leave the grey."""
    assert generate(served.client, strength=0.3, grow=9, fill="original").status_code == 200
    (request,) = engine_of(served).requests
    assert (request.strength, request.grow, request.fill) == (0.99, 0, "noise")


def test_without_a_size_it_is_1024(served: Served) -> None:
    """The native size of SDXL."""
    for size in (None, "auto"):
        assert generate(served.client, size=size).json()["size"] == "1024x1024"


def test_one_step_is_possible(served: Served) -> None:
    """0.99 of one step would be none; models of few steps are painted so."""
    assert generate(served.client, num_inference_steps=1).status_code == 200
    assert engine_of(served).requests[0].steps_to_run == 1


@pytest.mark.parametrize("size", [(8, 64), (9000, 64), (8192, 8192), (32, 1024)])
def test_a_size_that_is_not_painted_is_refused_before_any_memory_is_taken(
    size: tuple[int, int], served: Served
) -> None:
    """The blank picture is made by us, so that no file's header bounds it."""
    with pytest.raises(RequestError, match="size: "):
        generation(size, {}, None)
    problem(generate(served.client, size=f"{size[0]}x{size[1]}"), 400, "size")


@pytest.mark.parametrize(("in_channels", "strength"), [(None, 0.99), (9, 0.99), (4, 1.0)])
def test_a_model_of_whole_pictures_begins_with_noise_alone(in_channels: int | None, strength: float) -> None:
    """It was trained so; an inpainting model paints noise then."""
    order = generation((64, 48), {"prompt": "x", "strength": 0.5}, in_channels)
    assert order.settings["strength"] == strength
    assert order.image == Blank(64, 48)


@pytest.mark.parametrize(("strength", "alike"), [(1.0, True), (0.99, False)])
def test_nothing_of_the_blank_picture_shows_through_with_four_channels(
    strength: float, alike: bool, models: Callable[[int], Model]
) -> None:
    """A seed paints the same picture on any other, which at 0.99 it does not; nor is there a warning."""
    settings = {**generation((64, 64), QUICK, 4).settings, "fill": "original", "strength": strength}
    with Engine(models(4)) as engine:
        grey, white = (engine.paint(blank(colour, settings)) for colour in (GREY, "white"))
    assert (furthest(grey.images[0], white.images[0]) <= 1) == alike
    assert not grey.warnings


def blank(colour: Any, settings: Mapping[str, Any]) -> InpaintRequest:
    """A request to repaint all of a picture of one colour."""
    return InpaintRequest(Image.new("RGB", (64, 64), colour), Image.new("L", (64, 64), 255), **settings)


def furthest(one: Image.Image, other: Image.Image) -> int:
    """The largest difference of two pictures' values."""
    return int(np.abs(np.asarray(one, int) - np.asarray(other, int)).max())


def test_a_server_knows_its_model(
    serve: Serve, checkpoint: Callable[[int], Path], models: Callable[[int], Model]
) -> None:
    """From the engine's description to the answer: the picture is the engine's own at strength 1."""
    served = serve(InProcessClient(WorkerSpec(model=str(checkpoint(4)), device="cpu")))
    eventually(lambda: served.client.get("/readyz").status_code == 200)
    answer = generate(served.client, **QUICK, size="64x64")
    (painted,) = pictures(answer)
    assert not answer.json()["warnings"]
    with Engine(models(4)) as engine:
        own = engine.paint(blank(GREY, generation((64, 64), QUICK, 4).settings)).images[0]
    assert furthest(painted, own) <= 1


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, picture_host: PictureHost) -> Iterator[Served]:
    """Serve the demo model."""
    engine = InProcessClient(WorkerSpec("demo", device="cpu"))
    with server_for(tmp_path_factory.mktemp("demo"), picture_host, engine) as served:
        eventually(lambda: served.client.get("/readyz").status_code == 200)
        yield served


def on_its_own_background(painted: Image.Image, colour: str, shape: str) -> Scene:
    """The scene that a picture claims to be: an object on the colour of its border."""
    pixels = np.asarray(painted)
    border = np.concatenate([pixels[:4].reshape(-1, 3), pixels[-4:].reshape(-1, 3)])
    flat = Image.new("RGB", painted.size, tuple(int(v) for v in np.median(border, axis=0)))
    mask = Image.new("L", painted.size, 255)
    return Scene(flat, flat, mask, f"a {colour} {shape}", colour, shape, "flat")


@pytest.mark.slow
def test_the_demo_model_paints_what_the_prompt_names(demo: Served) -> None:
    """Six colours and six shapes."""
    found = []
    for colour, shape in zip(COLOURS, SHAPES, strict=False):
        answer = generate(
            demo.client, prompt=f"a {colour} {shape}", size="128x128", seed=3, scheduler="UniPC"
        )
        (painted,) = pictures(answer)
        found.append(judge(on_its_own_background(painted, colour, shape), painted))
    assert sum(verdict.colour_right for verdict in found) >= 5, found
    assert sum(verdict.shape_right for verdict in found) >= 4, found
