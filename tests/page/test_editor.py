"""The editor's tools, in a real browser: which pixels of the mask they change, and which they do not."""

import io
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from tests.support.editor_page import EditorPage, Grey, encoded, grey_picture

pytest_plugins = ["tests.support.browser", "tests.support.editor_fixtures"]

WIDTH, HEIGHT = 320, 240


@pytest.fixture
def opened(editor: EditorPage) -> EditorPage:
    """The editor with a grey picture open."""
    editor.open(grey_picture(WIDTH, HEIGHT))
    return editor


def distances(points: list[float], shape: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    """(H, W) of each pixel centre's distance from a line through ``points`` (x, y, x, y, …)."""
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    path = np.reshape(points, (-1, 2))
    nearest = np.hypot(x - path[0][0], y - path[0][1])
    for (ax, ay), (bx, by) in pairwise(path):
        dx, dy = bx - ax, by - ay
        t = np.clip(((x - ax) * dx + (y - ay) * dy) / (dx * dx + dy * dy), 0, 1)
        nearest = np.minimum(nearest, np.hypot(x - ax - t * dx, y - ay - t * dy))
    return nearest


def last_points(editor: EditorPage) -> list[float]:
    """The path that the last step was drawn along."""
    points: list[float] = editor.run("editor.toJSON().steps.at(-1).points")
    return points


@pytest.mark.slow
def test_a_stroke_paints_the_pixels_under_the_brush_and_no_others(opened: EditorPage) -> None:
    """Who paints around a face wants the edge where the brush's circle was."""
    opened.run("{editor.brush = {size: 30, hardness: 1, strength: 1}}")
    opened.drag((60, 50), (250, 70), (200, 180))
    points = last_points(opened)
    assert np.allclose([points[:2], points[-2:]], [[60, 50], [200, 180]], atol=0.5)
    away, mask = distances(points), opened.mask()
    assert mask.shape == (HEIGHT, WIDTH)
    assert (mask[away <= 14.5] == 255).all()
    assert (mask[away >= 15.5] == 0).all()
    assert ((mask >= 128) == (away <= 15))[np.abs(away - 15) > 0.01].all()


@pytest.mark.slow
def test_a_soft_brush_falls_off_from_its_core_to_its_rim(opened: EditorPage) -> None:
    """Soft requests take the grey as strength: half hard means full strength up to half the radius."""
    opened.run("{editor.brush = {size: 80, hardness: 0.5, strength: 1}}")
    opened.drag((160, 120), (170, 120))
    away, mask = distances(last_points(opened)), opened.mask()
    assert (mask[away <= 20] == 255).all()
    assert (mask[away >= 40.5] == 0).all()
    rim = mask[(away > 21) & (away < 39)].astype(int)
    order = np.argsort(away[(away > 21) & (away < 39)])
    assert (np.diff(rim[order]) <= 0).all()
    assert {0 < v < 255 for v in rim} == {True}


@pytest.mark.slow
def test_strength_is_the_grey_that_is_painted_and_crossing_a_stroke_does_not_add_up(
    opened: EditorPage,
) -> None:
    """A stroke at 40 % stays at 40 % where it crosses itself; over white it paints 40 %, as paint does."""
    opened.run("{editor.brush = {size: 20, strength: 0.4}}")
    opened.drag((50, 50), (150, 50), (100, 20), (100, 150))
    assert set(np.unique(opened.mask()[distances(last_points(opened)) < 9])) == {102}
    opened.run("{editor.brush = {strength: 1}; editor.fill(); editor.brush = {strength: 0.4}}")
    opened.drag((50, 50), (150, 50))
    assert set(np.unique(opened.mask()[distances(last_points(opened)) < 9])) == {102}


@pytest.mark.slow
@pytest.mark.parametrize(("tool", "button"), [("eraser", "left"), ("brush", "right"), ("eraser", "right")])
def test_the_eraser_and_the_right_button_take_away(opened: EditorPage, tool: str, button: str) -> None:
    """No user wants to look for the eraser: with any brush the other button erases."""
    opened.run("{editor.fill(); editor.brush = {size: 24}; editor.tool = a}", tool)
    opened.drag((40, 40), (200, 150), button=button)
    away, mask = distances(last_points(opened)), opened.mask()
    assert (mask[away <= 11.5] == 0).all()
    assert (mask[away >= 12.5] == 255).all()


def test_strokes_that_leave_the_picture_and_the_window_come_back_whole(opened: EditorPage) -> None:
    """Painting along an edge, one goes over it; what is inside must be there on both sides of it."""
    opened.run("{editor.brush = {size: 20}}")
    mouse, page = opened.page.mouse, opened.page
    mouse.move(*opened.at(300, 60))
    mouse.down()
    for x, y in ((1270, 300), (1400, 350), (1400, 500)):  # past the host, past the window
        mouse.move(x, y)
    mouse.move(*opened.at(300, 180))
    mouse.up()
    assert page.viewport_size is not None
    assert page.viewport_size["width"] < 1400
    points, mask = last_points(opened), opened.mask()
    assert max(points[::2]) > WIDTH + 100
    away = distances(points)
    assert (mask[away <= 9.5] == 255).all()
    assert (mask[away >= 10.5] == 0).all()
    assert mask[distances([300, 60, 319, 66]) < 5].all()
    assert mask[distances([300, 180, 319, 178]) < 5].all()


def test_fast_strokes_have_no_gaps(opened: EditorPage) -> None:
    """A quick hand gives few points, far apart."""
    opened.run("{editor.brush = {size: 6}}")
    opened.drag((10, 120), (310, 120), steps=1)
    assert (opened.mask()[120, 10:310] == 255).all()


def test_a_rectangle_is_exact_in_any_direction(opened: EditorPage) -> None:
    """A rectangle's corners are where the pointer was pressed and released."""
    opened.run("{editor.tool = 'rectangle'}")
    opened.drag((200, 150), (40, 30))
    expected = np.zeros((HEIGHT, WIDTH), np.uint8)
    expected[30:150, 40:200] = 255
    assert (opened.mask() == expected).all()
    opened.drag((60, 50), (100, 400), button="right")
    expected[50:, 60:100] = 0
    assert (opened.mask() == expected).all()


def test_a_lasso_fills_what_it_goes_around(opened: EditorPage) -> None:
    """Every pixel whose centre is inside, and no other; also where it goes beyond the picture."""
    opened.run("{editor.tool = 'lasso'}")
    opened.drag((30, 30), (150, 60), (280, 20), (400, 120), (200, 230), (120, 100))
    y, x = np.mgrid[:HEIGHT, :WIDTH] + 0.5
    assert (opened.mask() == np.where(wound(last_points(opened), x, y), 255, 0)).all()


def wound(points: list[float], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Whether a closed path goes around each point, by the sum of the angles it is seen under."""
    corners = np.reshape(points, (-1, 2))
    angle = np.zeros_like(x)
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, 0), strict=True):
        cross = (ax - x) * (by - y) - (ay - y) * (bx - x)
        angle += np.arctan2(cross, (ax - x) * (bx - x) + (ay - y) * (by - y))
    winding: np.ndarray = np.abs(angle) > np.pi
    return winding


def test_a_click_with_lasso_or_rectangle_is_no_step(opened: EditorPage) -> None:
    """A slip of the hand leaves nothing to undo."""
    for tool in ("lasso", "rectangle"):
        opened.run("{editor.tool = a}", tool)
        opened.page.mouse.click(*opened.at(100, 100))
    assert opened.run("[editor.canUndo, editor.isEmpty]") == [False, True]


def test_clear_fill_and_invert(opened: EditorPage) -> None:
    """Invert twice is what was there, greys included."""
    opened.run("{editor.brush = {size: 50, hardness: 0.2, strength: 0.7}}")
    opened.drag((60, 50), (250, 70))
    painted = opened.mask()
    opened.run("{editor.invert()}")
    assert (opened.mask() == 255 - painted).all()
    opened.run("{editor.invert()}")
    assert (opened.mask() == painted).all()
    opened.run("{editor.brush = {strength: 1}; editor.fill()}")
    assert (opened.mask() == 255).all()
    opened.run("{editor.clear()}")
    assert not opened.mask().any()
    assert opened.run("editor.isEmpty")


def as_l(mask: Grey) -> Image.Image:
    return Image.fromarray(mask)


def as_transparent(mask: Grey) -> Image.Image:
    white = np.full((*mask.shape, 3), 255, np.uint8)
    return Image.fromarray(np.dstack([white, mask]))


@pytest.mark.parametrize("wrapped", [as_l, as_transparent])
def test_an_uploaded_mask_comes_back_as_it_was(
    opened: EditorPage, wrapped: Callable[[Grey], Image.Image]
) -> None:
    """Every grey of it; and a transparent one counts as black, as at the server."""
    given = np.add.outer(np.arange(HEIGHT), np.arange(WIDTH)).astype(np.uint8)
    opened.run("editor.loadMask(h.blobOf(a))", encoded(wrapped(given)))
    assert (opened.mask() == given).all()
    opened.run("{editor.undo()}")
    assert not opened.mask().any()


def test_a_coloured_mask_counts_by_its_luminance_as_at_the_server(opened: EditorPage) -> None:
    """Red is 76 to Pillow, and so it is here: page and server agree about what is repainted."""
    given = Image.fromarray(np.random.default_rng(3).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8))
    opened.run("editor.loadMask(h.blobOf(a))", encoded(given))
    assert (opened.mask() == np.asarray(given.convert("L"))).all()


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (
            encoded(grey_picture(10, 20)),
            "The mask is 10 × 20 pixels, but must have the picture's size, 320 × 240.",
        ),
        (
            encoded(b"no picture"),
            "The mask cannot be opened: it is not a picture, or the file is damaged.",
        ),
    ],
)
def test_a_mask_that_does_not_fit_is_refused_in_words(opened: EditorPage, data: str, sentence: str) -> None:
    """And what was painted stays."""
    opened.run("{editor.fill()}")
    said = opened.run("editor.loadMask(h.blobOf(a)).then(() => null, (error) => error.message)", data)
    assert said == sentence
    assert (opened.mask() == 255).all()


def test_the_mask_of_a_picture_with_holes_is_its_holes(editor: EditorPage) -> None:
    """What was cut out in another program is what is repainted; half transparent is half strength."""
    alpha = np.full((HEIGHT, WIDTH), 255, np.uint8)
    alpha[50:90, 20:300], alpha[100:120, 20:300] = 0, 155
    colours = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    editor.open(Image.fromarray(np.dstack([colours, alpha])))
    editor.run("{editor.maskFromAlpha()}")
    assert editor.run("editor.picture.hasAlpha")
    assert (editor.mask() == 255 - alpha).all()


def test_an_opaque_picture_has_no_holes(editor: EditorPage) -> None:
    """An alpha channel that is all 255 is none: nothing is offered that would do nothing."""
    editor.open(grey_picture(WIDTH, HEIGHT).convert("RGBA"))
    assert editor.run("editor.picture.hasAlpha") is False


def test_a_photo_is_painted_as_it_is_seen(editor: EditorPage) -> None:
    """A phone's photo lies on its side in the file; the mask is the upright one's, as at the server."""
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    grey_picture(120, 80).save(file, "JPEG", exif=exif)
    editor.open(file.getvalue(), "phone.jpg")
    assert editor.run("[editor.picture.width, editor.picture.height]") == [80, 120]
    assert editor.mask().shape == (120, 80)


def test_locked_takes_no_edits_but_still_pans(opened: EditorPage) -> None:
    """While the server paints, the mask it was sent stays on the screen."""
    opened.run("{editor.brush = {size: 40}; editor.locked = true}")
    before = opened.at(0, 0)
    opened.drag((60, 50), (120, 70))
    opened.run("{editor.fill(); editor.invert(); editor.extend = {left: 8}; editor.undo()}")
    assert not opened.mask().any()
    assert opened.at(0, 0) != before
    assert opened.run("[editor.canUndo, editor.extend.left]") == [False, 0]
