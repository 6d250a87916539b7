"""What the editor shows, by the pixels of a screenshot: results, divider, previews, mask, handles."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.editor_page import EditorPage, encoded, grey_picture

pytest_plugins = ["tests.support.browser", "tests.support.editor_fixtures"]

WIDTH, HEIGHT = 400, 300
GREY, GREEN, BLUE = (120, 130, 140), (0, 160, 0), (0, 0, 200)
BITMAP = """{
    const canvas = new OffscreenCanvas(a[0], a[1]);
    const context = canvas.getContext("2d");
    context.fillStyle = a[2];
    context.fillRect(0, 0, a[0], a[1]);
    window.bitmap = canvas.transferToImageBitmap();
}"""


@pytest.fixture
def opened(editor: EditorPage) -> EditorPage:
    """The editor with a grey picture open, no pointer on it."""
    editor.page.mouse.move(1, 1)
    editor.open(grey_picture(WIDTH, HEIGHT))
    return editor


def colours(editor: EditorPage, *points: tuple[float, float]) -> list[tuple[int, ...]]:
    """What is seen at points of the picture."""
    editor.frame()
    with Image.open(io.BytesIO(editor.page.screenshot())) as shot:
        seen = shot.convert("RGB")
    places = [editor.at(*point) for point in points]
    return [seen.getpixel((round(x), round(y))) for x, y in places]  # type: ignore[misc]


def bitmap(editor: EditorPage, width: int, height: int, colour: tuple[int, int, int]) -> None:
    """A picture of one colour, as ``window.bitmap``."""
    editor.run(BITMAP, [width, height, f"rgb{colour}"])


@pytest.mark.slow
def test_a_result_covers_the_picture_and_goes_again(opened: EditorPage) -> None:
    """The mask's tint would hide the result: it is not there while a result is looked at."""
    opened.run("{editor.fill()}")
    bitmap(opened, WIDTH, HEIGHT, GREEN)
    opened.run("{editor.overlay({bitmap})}")
    assert colours(opened, (50, 50), (350, 250)) == [GREEN, GREEN]
    opened.run("{editor.original = true}")
    assert colours(opened, (50, 50)) == [GREY]
    opened.run("{editor.original = false}")
    assert colours(opened, (50, 50)) == [GREEN]
    opened.run("{editor.overlay(null); editor.clear()}")
    assert colours(opened, (50, 50)) == [GREY]


@pytest.mark.slow
def test_the_divider_shows_the_original_left_and_the_result_right(opened: EditorPage) -> None:
    """Dragged by pointer and moved by keys; the page receives its position."""
    bitmap(opened, WIDTH, HEIGHT, GREEN)
    opened.run("{editor.overlay({bitmap, split: 0.5})}")
    assert colours(opened, (190, 20), (210, 20)) == [GREY, GREEN]
    divider = opened.page.get_by_test_id("compare-divider")
    box = divider.bounding_box()
    assert box is not None
    mouse = opened.page.mouse
    mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    mouse.down()
    mouse.move(*opened.at(100, 150), steps=4)
    mouse.up()
    assert colours(opened, (90, 20), (110, 20)) == [GREY, GREEN]
    assert opened.run("editor.split") == pytest.approx(0.25, abs=0.01)
    divider.press("ArrowRight")
    assert opened.run("editor.split") == pytest.approx(0.27, abs=0.01)
    opened.frame()
    assert divider.get_attribute("aria-valuenow") == "27"
    assert "split" in opened.run("h.events")
    assert opened.run("editor.isEmpty")
    divider.press("End")
    assert colours(opened, (50, 20), (380, 20)) == [GREY, GREY]


@pytest.mark.slow
def test_a_wider_result_lies_over_what_was_added_too(opened: EditorPage) -> None:
    """An extended picture's result is larger than the picture, and is shown where it belongs."""
    opened.run("{editor.extend = {left: 80, bottom: 40}; editor.fit()}")
    bitmap(opened, WIDTH + 80, HEIGHT + 40, GREEN)
    opened.run("{editor.overlay({bitmap})}")
    inside, outside = (-75, 335), (395, 5)
    assert colours(opened, inside, outside, (-85, 5)) == [GREEN, GREEN, (119, 119, 119)]
    opened.run("{editor.overlay({bitmap, split: 0.5})}")
    assert colours(opened, (140, 5), (170, 5)) == [GREY, GREEN]


@pytest.mark.slow
def test_the_preview_is_seen_in_the_mask_and_nowhere_else(opened: EditorPage) -> None:
    """While it paints, one sees what comes, in place; around the mask the picture stays sharp."""
    opened.run("{editor.tool = 'rectangle'; editor.settings = {area: 'whole'}}")
    opened.drag((100, 100), (200, 200))
    opened.page.mouse.move(1, 1)
    bitmap(opened, 16, 16, BLUE)
    opened.run("{editor.preview(bitmap)}")
    assert opened.run("editor.box") == {"left": 0, "top": 0, "right": WIDTH, "bottom": HEIGHT}
    assert colours(opened, (110, 110), (190, 150), (90, 150), (300, 50)) == [BLUE, BLUE, GREY, GREY]
    opened.run("{editor.preview(null); editor.clear()}")
    assert colours(opened, (110, 110)) == [GREY]


@pytest.mark.parametrize("ground", [(0, 0, 0), (255, 255, 255), (255, 24, 112), GREY])
def test_the_mask_is_readable_on_any_picture(editor: EditorPage, ground: tuple[int, int, int]) -> None:
    """On black, on white, and on its own colour: a light and a dark line run around it."""
    editor.open(Image.new("RGB", (WIDTH, HEIGHT), ground))
    editor.run("{editor.tool = 'rectangle'; editor.settings = {native: 128}}")
    editor.drag((150, 100), (250, 200))
    editor.page.mouse.move(1, 1)
    editor.frame()
    with Image.open(io.BytesIO(editor.page.screenshot())) as shot:
        seen = np.asarray(shot.convert("L")).astype(int)
    x, y = (round(v) for v in editor.at(150, 150))
    across = seen[y, x - 5 : x + 6]
    assert across.max() - across.min() >= 110


def test_the_masks_colour_and_opacity_are_chosen(editor: EditorPage) -> None:
    """Red on an orange suit is hard to see."""
    editor.open(Image.new("RGB", (WIDTH, HEIGHT), (0, 0, 0)))
    editor.run("{editor.tool = 'rectangle'; editor.look = {colour: '#00ff80', opacity: 1}}")
    editor.drag((100, 50), (250, 200))
    editor.page.mouse.move(1, 1)
    assert colours(editor, (170, 120)) == [(0, 255, 128)]
    editor.run("{editor.look = {opacity: 0.5}}")
    red, green, blue = colours(editor, (170, 120))[0]
    assert (red, abs(green - 128) <= 2, abs(blue - 64) <= 2) == (0, True, True)


def test_the_mask_is_seen_in_black_and_white(editor: EditorPage) -> None:
    """Greys as the server gets them, black where nothing is marked; around the picture nothing changes."""
    editor.open(Image.new("RGB", (WIDTH, HEIGHT), GREY))
    around = colours(editor, (-8, 100))
    editor.run("{editor.tool = 'rectangle'; editor.settings = {area: 'whole'}; editor.look = {grey: true}}")
    editor.drag((100, 50), (250, 200))
    editor.run("{editor.brush = {strength: 0.4}}")
    editor.drag((20, 50), (80, 200))
    editor.page.mouse.move(1, 1)
    black, white, grey = (0, 0, 0), (255, 255, 255), (102, 102, 102)
    assert colours(editor, (170, 120), (50, 120), (90, 20)) == [white, grey, black]
    assert colours(editor, (-8, 100)) == around
    editor.run("{editor.look = {grey: false}; editor.clear()}")
    assert colours(editor, (90, 20)) == [GREY]


@pytest.mark.parametrize("look", [{"colour": "red"}, {"colour": 5}, {"opacity": "x"}, {"opacity": -3}, {}])
def test_a_look_that_cannot_be_is_left_out(editor: EditorPage, look: dict[str, object]) -> None:
    """What a browser remembers may be of another version of this page."""
    editor.run("{editor.look = a}", look)
    shown = editor.run("editor.look")
    assert shown["colour"] == "#ff1870"
    assert 0.1 <= shown["opacity"] <= 1


def test_a_speck_is_seen_however_far_one_zooms_out(editor: EditorPage) -> None:
    """A pixel painted by accident widens the cut box; it must not vanish between samples."""
    speck = np.zeros((3000, 4000), np.uint8)
    speck[1501, 2003] = 255
    editor.page.mouse.move(1, 1)
    editor.open(grey_picture(4000, 3000))
    editor.run("{editor.settings = {area: 'whole'}}")
    editor.run("editor.loadMask(h.blobOf(a))", encoded(Image.fromarray(speck)))
    editor.frame()
    x, y = (round(v) for v in editor.at(2003, 1501))
    with Image.open(io.BytesIO(editor.page.screenshot())) as shot:
        around = np.asarray(shot.convert("RGB")).astype(int)[y - 3 : y + 4, x - 3 : x + 4]
    assert np.abs(around - GREY).max() > 50


def drag_handle(editor: EditorPage, side: str, by: tuple[float, float]) -> None:
    box = editor.page.get_by_test_id(f"extend-{side}").bounding_box()
    assert box is not None
    mouse = editor.page.mouse
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    mouse.move(x, y)
    mouse.down()
    mouse.move(x + by[0], y + by[1], steps=4)
    mouse.up()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("side", "outwards", "key"),
    [
        ("left", (-1, 0), "ArrowLeft"),
        ("top", (0, -1), "ArrowUp"),
        ("right", (1, 0), "ArrowRight"),
        ("bottom", (0, 1), "ArrowDown"),
    ],
)
def test_handles_extend_the_picture(
    opened: EditorPage, side: str, outwards: tuple[int, int], key: str
) -> None:
    """Pulled by pointer or pushed by keys; one step each, and never into the picture."""
    opened.run("{editor.extending = true}")
    opened.frame()
    scale = opened.run("editor.zoom")
    drag_handle(opened, side, (outwards[0] * 60, outwards[1] * 60))
    pulled = opened.run("editor.extend[a]", side)
    assert pulled == pytest.approx(60 / scale, abs=1)
    assert opened.run("editor.isEmpty") is False
    handle = opened.page.get_by_test_id(f"extend-{side}")
    handle.press(key)
    assert opened.run("editor.extend[a]", side) == pulled + 8
    opened.frame()
    assert handle.get_attribute("aria-valuenow") == str(pulled + 8)
    opened.run("{editor.undo()}")
    assert opened.run("editor.extend[a]", side) == pulled
    drag_handle(opened, side, (outwards[0] * -300, outwards[1] * -300))
    assert opened.run("Object.values(editor.extend)") == [0, 0, 0, 0]
    opened.run("{editor.undo(); editor.undo()}")
    assert opened.run("[editor.canUndo, editor.isEmpty]") == [False, True]


@pytest.mark.parametrize(
    ("size", "wanted", "got"),
    [
        ((400, 300), {"left": 12.4, "top": -3, "right": "7"}, [12, 0, 7, 0]),
        ((400, 300), {"right": 5000}, [0, 0, 4400, 0]),
        ((8000, 3000), {"left": 500, "right": 100}, [192, 0, 0, 0]),
        ((5000, 4000), {"bottom": 4000}, [0, 0, 0, 1000]),
    ],
)
def test_an_extension_is_cut_to_what_the_server_takes(
    editor: EditorPage, size: tuple[int, int], wanted: dict[str, Any], got: list[int]
) -> None:
    """Sides, megapixels and shape have limits on the server; a larger extension is cut to them."""
    editor.open(grey_picture(*size))
    editor.run("{editor.extend = a}", wanted)
    assert editor.run("Object.values(editor.extend)") == got
