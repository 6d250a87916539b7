"""The magic wand: which pixels it marks, held to a flood fill written here; undo, drafts, keys."""

import json
from collections import deque

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tests.support.editor_page import EditorPage, Grey, encoded

pytest_plugins = ["tests.support.browser", "tests.support.editor_fixtures"]

WIDTH, HEIGHT = 96, 72


def patches(seed: int) -> NDArray[np.uint8]:
    """Rectangles of a few colours that touch, overlap and enclose each other, and some noise."""
    random = np.random.default_rng(seed)
    picture = np.full((HEIGHT, WIDTH, 3), 100, np.uint8)
    for _ in range(30):
        x, y = random.integers(0, WIDTH), random.integers(0, HEIGHT)
        w, h = random.integers(1, 40, 2)
        picture[y : y + h, x : x + w] = random.choice([60, 90, 100, 140], 3)
    noise = random.integers(-6, 7, picture.shape)
    return (picture + noise).clip(0, 255).astype(np.uint8)


def alike(picture: NDArray[np.uint8], x: int, y: int, tolerance: int) -> NDArray[np.bool_]:
    difference = np.abs(picture.astype(int) - picture[y, x].astype(int))
    result: NDArray[np.bool_] = difference.max(2) <= tolerance
    return result


def touching(like: NDArray[np.bool_], x: int, y: int) -> NDArray[np.bool_]:
    """What can be reached from (x, y) by steps up, down, left and right."""
    found = np.zeros_like(like)
    queue = deque([(x, y)])
    while queue:
        x, y = queue.popleft()
        if 0 <= x < WIDTH and 0 <= y < HEIGHT and like[y, x] and not found[y, x]:
            found[y, x] = True
            queue.extend([(x + 1, y), (x - 1, y), (x, y + 1), (x, y - 1)])
    return found


def click(editor: EditorPage, x: int, y: int, **how: bool) -> Grey:
    """Click in the middle of a pixel; the mask afterwards."""
    modifiers = [key.title() for key in ("alt", "shift") if how.get(key)]
    for key in modifiers:
        editor.page.keyboard.down(key)
    editor.page.mouse.click(*editor.at(x + 0.5, y + 0.5), button="right" if how.get("right") else "left")
    for key in modifiers:
        editor.page.keyboard.up(key)
    return editor.mask()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("contiguous", [True, False])
def test_the_wand_marks_what_looks_alike_and_no_other_pixel(
    editor: EditorPage, seed: int, contiguous: bool
) -> None:
    """Held to a plain flood fill at three tolerances and several places, corners among them."""
    picture = patches(seed)
    editor.open(Image.fromarray(picture))
    editor.run("{editor.tool = 'wand'}")
    random = np.random.default_rng(seed + 100)
    places = [(0, 0), (WIDTH - 1, HEIGHT - 1)]
    places += [(int(random.integers(0, WIDTH)), int(random.integers(0, HEIGHT))) for _ in range(3)]
    for tolerance in (0, 12, 60):
        editor.run("{editor.wand = a}", {"tolerance": tolerance, "contiguous": contiguous})
        for x, y in places:
            editor.run("{editor.clear()}")
            like = alike(picture, x, y, tolerance)
            expected = touching(like, x, y) if contiguous else like
            assert np.array_equal(click(editor, x, y), np.where(expected, 255, 0)), (x, y, tolerance)


def test_transparent_and_opaque_pixels_are_not_alike(editor: EditorPage) -> None:
    """A cut-out's black and its empty surroundings are the same numbers but for their opacity."""
    picture = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    picture[20:40, 30:60, 3] = 255
    editor.open(Image.fromarray(picture))
    editor.run("{editor.tool = 'wand'; editor.wand = {contiguous: false}}")
    assert np.array_equal(click(editor, 45, 30) > 0, picture[..., 3] > 0)


def test_clicks_add_and_take_away(editor: EditorPage) -> None:
    """Alt, the right button and the switch take away; Shift adds whatever the switch says."""
    stripes = np.repeat(np.arange(0, 240, 40, dtype=np.uint8), WIDTH // 6)
    picture = np.tile(stripes, (HEIGHT, 1))
    editor.open(Image.fromarray(picture).convert("RGB"))
    editor.run("{editor.tool = 'wand'; editor.wand = {tolerance: 8}; editor.brush = {strength: 0.6}}")

    def marked(mask: Grey) -> list[int]:
        return [int(mask[3, 16 * k + 3]) for k in range(6)]

    click(editor, 3, 3)
    assert marked(click(editor, 35, 3)) == [153, 0, 153, 0, 0, 0]
    assert marked(click(editor, 3, 3, alt=True)) == [0, 0, 153, 0, 0, 0]
    assert marked(click(editor, 35, 3, right=True)) == [0] * 6
    click(editor, 50, 3)
    editor.run("{editor.subtracting = true}")
    assert marked(click(editor, 50, 3)) == [0] * 6
    assert marked(click(editor, 66, 3, shift=True)) == [0, 0, 0, 0, 153, 0]


def test_a_click_is_a_step_that_is_undone_and_survives_a_reload(editor: EditorPage) -> None:
    """The draft keeps the click, not its pixels, and comes to the same mask."""
    picture = Image.fromarray(patches(7))
    editor.open(picture)
    editor.run("{editor.tool = 'wand'}")
    states = [editor.mask(), click(editor, 10, 10), click(editor, 60, 50), click(editor, 10, 10, alt=True)]
    editor.run("{editor.grow(3)}")
    states.append(editor.mask())
    draft = json.dumps(editor.run("editor.toJSON()"))
    assert len(draft) < 600
    editor.run("{h.reset()}")
    file = [encoded(picture), "first.png", draft]
    editor.run("editor.restore({blob: h.blobOf(a[0]), name: a[1]}, JSON.parse(a[2]))", file)
    for expected in states[::-1]:
        assert np.array_equal(editor.mask(), expected)
        editor.run("{editor.undo()}")
    for expected in states[1:]:
        editor.run("{editor.redo()}")
        assert np.array_equal(editor.mask(), expected)


def test_a_click_outside_the_picture_is_no_step(editor: EditorPage) -> None:
    """Nothing is marked, and undo does not stop there."""
    editor.open(Image.fromarray(patches(7)))
    editor.run("{editor.tool = 'wand'}")
    editor.page.mouse.click(3, 3)
    assert not editor.mask().any()
    assert editor.run("editor.canUndo") is False


def test_the_wand_works_by_keyboard(editor: EditorPage) -> None:
    """Enter shows the crosshair in the middle; Enter again marks there."""
    picture = patches(5)
    editor.open(Image.fromarray(picture))
    editor.run("{editor.tool = 'wand'; document.getElementById('host').focus()}")
    editor.page.keyboard.press("Enter")
    editor.page.keyboard.press("Enter")
    like = alike(picture, WIDTH // 2, HEIGHT // 2, 32)
    assert np.array_equal(editor.mask() > 0, touching(like, WIDTH // 2, HEIGHT // 2))
