"""``require_mask``: the pixels that are repainted, and the refusal of a mask that repaints none."""

import subprocess
import sys

import pytest
from PIL import Image

from inpaint import InpaintRequest
from inpaint.canvas.crop import cut, working_size_of
from inpaint.canvas.mask import require_mask
from inpaint.errors import RequestError

SIZE = (64, 64)


def request(grey: int, *, soft: bool) -> InpaintRequest:
    return InpaintRequest(
        image=Image.new("RGB", SIZE), mask=Image.new("L", SIZE, grey), prompt="x", soft=soft
    )


@pytest.mark.parametrize("grey", [0, 127])
def test_a_mask_without_white_says_what_to_paint(grey: int) -> None:
    """A newcomer may send a black mask, or one with the colours swapped and too dark."""
    for ask in (cut, working_size_of):
        with pytest.raises(RequestError, match=r"mask: nothing to repaint.* white \(128 or brighter\)"):
            ask(request(grey, soft=False))


@pytest.mark.parametrize("grey", [0, 1, 7])
def test_a_soft_mask_of_nothing_but_dark_greys_says_which_count(grey: int) -> None:
    """A user whose soft brush is too faint learns it before a picture is painted."""
    for ask in (cut, working_size_of):
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
    assert cut(request(grey, soft=soft)).mask.getextrema() == (255, 255)


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
