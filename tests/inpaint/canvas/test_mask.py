"""How a mask is read, the pixels that are repainted, and the refusal of a mask that repaints none."""

import io
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from inpaint import InpaintRequest
from inpaint.canvas.crop import cut, working_sizes_of
from inpaint.canvas.mask import fitted, plain_mask, require_mask, strength_of
from inpaint.errors import RequestError
from inpaint.request import EXIF_ORIENTATION

SIZE = (64, 64)


def request(grey: int, *, soft: bool) -> InpaintRequest:
    return InpaintRequest(
        image=Image.new("RGB", SIZE), mask=Image.new("L", SIZE, grey), prompt="x", soft=soft
    )


@pytest.mark.parametrize("grey", [0, 127])
def test_a_mask_without_white_says_what_to_paint(grey: int) -> None:
    """A newcomer may send a black mask, or one with the colours swapped and too dark."""
    for ask in (cut, working_sizes_of):
        with pytest.raises(RequestError, match=r"mask: nothing to repaint.* white \(128 or brighter\)"):
            ask(request(grey, soft=False))


@pytest.mark.parametrize("grey", [0, 1, 7])
def test_a_soft_mask_of_nothing_but_dark_greys_says_which_count(grey: int) -> None:
    """A user whose soft brush is too faint learns it before a picture is painted."""
    for ask in (cut, working_sizes_of):
        with pytest.raises(RequestError, match=r"mask: nothing to repaint.*greys from 8 up count"):
            ask(request(grey, soft=True))


@pytest.mark.parametrize(("grey", "soft"), [(8, True), (255, True), (128, False), (255, False)])
def test_the_first_grey_that_counts_is_repainted(grey: int, soft: bool) -> None:
    """A grey at the threshold itself is repainted."""
    mask = Image.new("L", SIZE)
    mask.paste(grey, (10, 20, 30, 50))
    painted, bounds = require_mask(mask, soft=soft)
    assert bounds == (10, 20, 30, 50)
    assert painted.getcolors() == [(64 * 64 - 20 * 30, 0), (20 * 30, 255)]
    (canvas,) = cut(request(grey, soft=soft)).canvases
    assert canvas.mask.getextrema() == (255, 255)


def test_a_mask_of_any_mode_is_read_as_luminance() -> None:
    """Fully transparent white counts as black, and 16-bit grey is scaled, not clipped."""
    with pytest.raises(RequestError, match="nothing to repaint"):
        require_mask(Image.new("LA", SIZE, (255, 0)), soft=True)
    with pytest.raises(RequestError, match="nothing to repaint"):
        require_mask(Image.new("I;16", SIZE, 7 * 257), soft=True)
    assert require_mask(Image.new("I;16", SIZE, 8 * 257), soft=True)[1] == (0, 0, *SIZE)


def test_asking_loads_neither_torch_nor_opencv() -> None:
    """The server asks before a request reaches an engine."""
    check = (
        "import inpaint.canvas.mask, sys; sys.exit(', '.join({'torch', 'cv2'} & set(sys.modules)) or None)"
    )
    subprocess.run([sys.executable, "-c", check], check=True)


# How a mask is read.


def painted(mask: Image.Image, **settings: Any) -> NDArray[np.bool_]:
    """Which pixels of a picture of 64 × 64 a request with this mask repaints."""
    asked = InpaintRequest(image=Image.new("RGB", SIZE), mask=mask, prompt="x", area="whole", **settings)
    return np.asarray(require_mask(fitted(strength_of(asked), SIZE), soft=asked.soft)[0]) > 0


BOX = (10, 20, 30, 50)
INSIDE = np.zeros(SIZE, bool)
INSIDE[20:50, 10:30] = True


def in_box(mode: str, back: Any, front: Any) -> Image.Image:
    mask = Image.new(mode, SIZE, back)
    mask.paste(front, BOX)
    return mask


def with_transparent_colour() -> Image.Image:
    """A palette picture in which the box has a colour that its file declares transparent."""
    file = io.BytesIO()
    in_box("L", 200, 10).convert("P").save(file, "PNG", transparency=10)
    return Image.open(file)


READINGS: dict[str, tuple[Image.Image, dict[str, Any]]] = {
    "white box": (in_box("L", 0, 255), {}),
    "black box, inverted": (in_box("L", 255, 0), {"invert_mask": True}),
    "dark box, inverted": (in_box("RGB", "white", "navy"), {"invert_mask": True}),
    "transparent box": (in_box("RGBA", (9, 200, 9, 255), (255, 255, 255, 0)), {"mask_channel": "alpha"}),
    "transparent box in black": (in_box("LA", (0, 255), (0, 0)), {"mask_channel": "alpha"}),
    "half transparent box": (in_box("LA", (0, 255), (0, 127)), {"mask_channel": "alpha"}),
    "transparent palette colour": (with_transparent_colour(), {"mask_channel": "alpha"}),
    "opaque box, inverted": (
        in_box("RGBA", (0, 0, 0, 0), (200, 0, 0, 255)),
        {"mask_channel": "alpha", "invert_mask": True},
    ),
    "white box, twice the size": (in_box("L", 0, 255).resize((128, 128)), {"resize_mask": True}),
    "white box, a quarter of the size": (in_box("L", 0, 255).resize((32, 32)), {"resize_mask": True}),
    "black box, three times the size": (
        in_box("L", 255, 0).resize((192, 192), Image.Resampling.NEAREST),
        {"resize_mask": True, "invert_mask": True},
    ),
    "transparent box, twice the size": (
        in_box("LA", (0, 255), (0, 0)).resize((128, 128), Image.Resampling.NEAREST),
        {"resize_mask": True, "mask_channel": "alpha"},
    ),
}


@pytest.mark.parametrize("name", READINGS)
def test_every_way_to_say_the_same_box(name: str) -> None:
    """Other programs' masks need no image editor."""
    mask, settings = READINGS[name]
    assert np.array_equal(painted(mask, **settings), INSIDE)


@pytest.mark.parametrize("name", READINGS)
def test_the_mask_that_a_server_keeps_is_read_alike(name: str) -> None:
    """A stored request, a worker and a second attempt paint what the caller's file meant."""
    mask, settings = READINGS[name]
    kept = plain_mask(mask, settings.get("mask_channel", "luminance"))
    assert kept.mode in ("L", "LA")
    assert np.array_equal(painted(kept, **settings), INSIDE)
    assert np.array_equal(
        painted(plain_mask(kept, settings.get("mask_channel", "luminance")), **settings), INSIDE
    )


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "1", "I;16"])
def test_alpha_is_asked_of_a_mask_that_has_none(mode: str) -> None:
    """The caller who confuses the mask's alpha with the picture's learns which one is meant."""
    with pytest.raises(RequestError, match="mask: nothing in it is transparent, so that mask_channel alpha"):
        painted(Image.new(mode, SIZE, 255 if mode in ("L", "1", "I;16") else "white"), mask_channel="alpha")


@pytest.mark.parametrize(
    ("size", "fits"),
    [
        ((65, 64), True),
        ((63, 65), True),
        ((60, 70), True),
        ((128, 128), True),
        ((129, 126), True),
        ((640, 600), False),
        ((64, 128), False),
        ((128, 64), False),
    ],
    ids=str,
)
def test_a_mask_of_another_size_is_resized_on_request_alone(size: tuple[int, int], fits: bool) -> None:
    """An export that is a pixel off is mended on request; one of another picture is refused in any case."""
    mask = Image.new("L", size, 255)
    hint = "; with resize_mask .* it is resized" if fits else "$"
    with pytest.raises(
        RequestError, match=rf"must have the picture's size 64×64, but is {size[0]}×{size[1]}{hint}"
    ):
        painted(mask)
    if fits:
        assert painted(mask, resize_mask=True).all()
    else:
        with pytest.raises(RequestError, match="must have the shape of the picture, which is 64×64"):
            painted(mask, resize_mask=True)


@pytest.mark.parametrize("side", [16, 63, 65, 128, 500])
def test_resizing_keeps_black_and_white_and_thin_strokes(side: int) -> None:
    """No greys at the edges, and no stroke of one pixel is lost."""
    mask = Image.new("L", (side, side))
    mask.paste(255, (side // 2, 0, side // 2 + 1, side))
    small = fitted(mask, SIZE)
    assert {grey for _, grey in small.getcolors() or []} == {0, 255}
    assert np.asarray(small).max(1).min() == 255, "the stroke goes from top to bottom"


def test_a_turned_mask_is_turned_before_it_is_read() -> None:
    """A mask drawn over a phone's photo may be stored lying, as the photo is."""
    file = io.BytesIO()
    tags = Image.Exif()
    tags[EXIF_ORIENTATION] = 6
    lying = Image.new("LA", (40, 64), (0, 255))
    lying.paste((0, 0), (0, 0, 40, 8))
    lying.save(file, "PNG", exif=tags)
    read = InpaintRequest(
        image=Image.new("RGB", (64, 40)),
        mask=Image.open(file),
        prompt="x",
        mask_channel="alpha",
    )
    assert require_mask(strength_of(read), soft=False)[1] == (56, 0, 64, 40)


@pytest.mark.parametrize("settings", [{}, {"invert_mask": True}, {"soft": True}], ids=str)
def test_the_pictures_own_transparency_changes_no_mask(settings: dict[str, Any]) -> None:
    """A cut-out on a transparent ground is repainted where its mask says."""
    clear = Image.new("RGBA", SIZE, (255, 255, 255, 0))
    mask = in_box("L", 0, 255)
    for image in (clear, clear.convert("LA"), Image.new("RGB", SIZE)):
        asked = InpaintRequest(image=image, mask=mask, prompt="x", **settings)
        assert np.array_equal(
            np.asarray(strength_of(asked)) > 0, ~INSIDE if "invert_mask" in settings else INSIDE
        )


WRONG = [("mask_channel", "A"), ("mask_channel", None), ("invert_mask", 1), ("resize_mask", "yes")]


@pytest.mark.parametrize(("field", "value"), WRONG, ids=str)
def test_a_wrong_reading_names_its_field(field: str, value: object) -> None:
    """One sentence, before anything is read."""
    with pytest.raises(RequestError, match=f"^{field}: must be "):
        painted(in_box("L", 0, 255), **{field: value})
