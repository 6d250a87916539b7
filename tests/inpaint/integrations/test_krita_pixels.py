"""What the Krita plugin sends of a picture, and what it makes of the answer."""

from typing import cast

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from inpaint import InpaintRequest
from inpaint.canvas.crop import cut
from inpaint.integrations.krita.sdxl_inpaint.client import Problem
from inpaint.integrations.krita.sdxl_inpaint.pixels import Area, patch, surroundings
from inpaint.integrations.krita.sdxl_inpaint.settings import DEFAULTS, request_fields

CANVAS = Area(0, 0, 3600, 2600)


@pytest.mark.parametrize(
    "selected",
    [
        Area(1900, 1400, 1, 1),
        Area(1900, 1400, 300, 200),
        Area(0, 0, 20, 20),
        Area(3500, 2500, 100, 100),
        Area(1500, 1500, 900, 9),
        Area(1000, 200, 7, 1100),
        Area(3400, -50, 400, 300),
    ],
)
@pytest.mark.parametrize("settings", [{}, {"grow": 256, "feather": 256}])
def test_the_server_sees_the_same_box_in_the_part_that_is_sent(
    selected: Area, settings: dict[str, object]
) -> None:
    """A part is sent because a poster takes long; what comes back must not depend on it."""
    part = surroundings(selected, CANVAS)
    mask = Image.new("L", CANVAS[2:])
    mask.paste(255, (selected.x, selected.y, selected.x + selected.width, selected.y + selected.height))
    where = (part.x, part.y, part.x + part.width, part.y + part.height)

    def box(mask: Image.Image) -> tuple[tuple[int, ...], ...]:
        request = InpaintRequest(Image.new("RGB", mask.size), mask, "x", **settings)  # type: ignore[arg-type]
        (canvas,) = cut(request).canvases
        return canvas.box, canvas.size, (canvas.grow_px, canvas.feather_px)

    whole, (cropped, *same) = box(mask), box(mask.crop(where))
    left, top, right, bottom = cropped
    moved = (left + part.x, top + part.y, right + part.x, bottom + part.y)
    assert whole == (moved, *same)
    assert part.width * part.height < CANVAS.width * CANVAS.height


@pytest.mark.parametrize("selected", [Area(0, 0, 0, 0), Area(-50, 10, 50, 10), Area(10, 2600, 5, 5)])
def test_a_selection_without_pixels_on_the_canvas_is_a_sentence(selected: Area) -> None:
    """A painter who forgot to select, or moved the selection off the canvas."""
    with pytest.raises(Problem, match="Select what to repaint"):
        surroundings(selected, CANVAS)


def test_a_layer_is_opaque_where_it_is_selected_or_changed() -> None:
    """Everywhere else the painter's own layers show through; where it is opaque it is the server's answer."""
    random = np.random.default_rng(1)
    before = random.integers(0, 256, (40, 50, 4), dtype=np.uint8)
    before[..., 3] = 255
    before[5, 5, 3] = 0
    after = before.copy()
    after[10:20, 10:20, :3] ^= 1
    after[5, 5, 3] = 128  # only its alpha has changed
    selected = np.zeros((40, 50), np.uint8)
    selected[18:25, 18:25] = 7
    layer = pixels_of(patch(before.tobytes(), after.tobytes(), selected.tobytes()), before.shape)
    expected = np.zeros((40, 50), bool)
    expected[10:20, 10:20] = expected[18:25, 18:25] = expected[5, 5] = True
    assert np.array_equal(layer[..., 3] > 0, expected)
    assert np.array_equal(layer[expected], after[expected])


def pixels_of(data: bytes, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    return cast("NDArray[np.uint8]", np.frombuffer(data, np.uint8).reshape(shape))


def test_settings_that_are_empty_are_left_to_the_server() -> None:
    """An empty seed is a random one; neither the address nor the key is part of a request."""
    settings = dict(DEFAULTS, prompt=" a heart ", key="secret", strength="5")
    assert request_fields(settings) == {
        "prompt": "a heart",
        "strength": "0.05",
        "samples": "1",
        "num_inference_steps": "25",
        "output_format": "png",
    }
