"""What a hand expects of a brush: a pen's pressure, straight lines, polygons, the size by the wheel."""

import json
from typing import Any

import numpy as np
import pytest

from tests.support.editor_page import EditorPage, Grey, encoded, grey_picture

pytest_plugins = ["tests.support.browser", "tests.support.editor_fixtures"]

WIDTH, HEIGHT = 320, 240


@pytest.fixture
def opened(editor: EditorPage) -> EditorPage:
    """The editor with a grey picture open and a hard brush of 40 px."""
    editor.open(grey_picture(WIDTH, HEIGHT))
    editor.run("{editor.tool = 'brush'; editor.pressure = 'none'; editor.brush = {size: 40}}")
    return editor


def pen(editor: EditorPage, *path: tuple[float, float, float]) -> Grey:
    """Draw with a pen along points of the picture, each with its force; the mask afterwards."""
    session = editor.page.context.new_cdp_session(editor.page)
    for k, (x, y, force) in enumerate(path):
        left, top = editor.at(x, y)
        event = {"pointerType": "pen", "button": "left", "buttons": 1, "force": force, "clickCount": 1}
        kind = "mouseMoved" if k else "mousePressed"
        session.send("Input.dispatchMouseEvent", {"type": kind, "x": left, "y": top, **event})
    end: dict[str, Any] = {"type": "mouseReleased", "button": "left", "buttons": 0, "pointerType": "pen"}
    session.send("Input.dispatchMouseEvent", {**end, "x": left, "y": top})
    session.detach()
    return editor.mask()


def width_at(mask: Grey, x: int) -> int:
    return int((mask[:, x] >= 128).sum())


ALONG = ((40, 120, 0.1), (160, 120, 0.5), (280, 120, 1.0))


def test_pressure_is_size(opened: EditorPage) -> None:
    """Thin where the pen is light, as wide as the brush where it is pressed."""
    opened.run("{editor.pressure = 'size'}")
    mask = pen(opened, *ALONG)
    widths = [width_at(mask, x) for x in (45, 160, 278)]
    assert widths[0] <= 8
    assert abs(widths[1] - 20) <= 2
    assert abs(widths[2] - 40) <= 2
    assert set(np.unique(mask[120, 45:278])) == {255}


def test_pressure_is_opacity(opened: EditorPage) -> None:
    """The width stays; the grey follows the pen."""
    opened.run("{editor.pressure = 'opacity'}")
    mask = pen(opened, *ALONG)
    assert (np.diff(mask[120, 40:280].astype(int)) >= 0).all()
    assert abs(int(mask[120, 160]) - 128) <= 4
    assert mask[120, 279] >= 250
    assert mask[120, 41] <= 32
    assert abs(int((mask[:, 160] > 0).sum()) - 40) <= 2


def test_without_the_setting_pressure_changes_nothing(opened: EditorPage) -> None:
    """And the draft holds no pressures."""
    mask = pen(opened, *ALONG)
    assert {width_at(mask, x) for x in range(60, 260)} == {40}
    assert "pressures" not in opened.run("editor.toJSON().steps.at(-1)")


def test_a_mouse_has_full_pressure(opened: EditorPage) -> None:
    """Browsers say 0.5 for it."""
    opened.run("{editor.pressure = 'size'}")
    opened.drag((60, 120), (260, 120))
    assert width_at(opened.mask(), 160) == 40


@pytest.mark.parametrize("pressure", ["size", "opacity"])
def test_a_draft_repeats_pressure(opened: EditorPage, pressure: str) -> None:
    """To the same greys; and undo and redo too."""
    opened.run("{editor.pressure = a}", pressure)
    mask = pen(opened, (40, 60, 0.2), (160, 200, 0.9), (280, 60, 0.4))
    draft = json.dumps(opened.run("editor.toJSON()"))
    opened.run("{editor.undo(); editor.redo()}")
    assert np.array_equal(opened.mask(), mask)
    opened.run("{h.reset()}")
    file = [encoded(grey_picture(WIDTH, HEIGHT)), "first.png", draft]
    opened.run("editor.restore({blob: h.blobOf(a[0]), name: a[1]}, JSON.parse(a[2]))", file)
    assert np.array_equal(opened.mask(), mask)


@pytest.mark.parametrize(
    "pressed",
    [
        {"pressure": "colour", "pressures": [1]},
        {"pressure": "size", "pressures": [1, 1]},
        {"pressure": "size", "pressures": [7]},
        {"pressures": [1]},
        {"pressure": "size"},
    ],
)
def test_pressures_that_do_not_fit_are_refused(opened: EditorPage, pressed: dict[str, Any]) -> None:
    """A draft from elsewhere ends in a sentence, not in a stroke of nothing."""
    step = {"kind": "stroke", "size": 4, "hardness": 1, "value": 255, "points": [1, 2], **pressed}
    script = "editor.restore({blob: h.blobOf(a[0]), name: 'x'}, a[1]).then(() => null, (e) => e.message)"
    said = opened.run(script, [encoded(grey_picture(64, 48)), {"version": 1, "steps": [step]}])
    assert said == "The draft cannot be read: it was written by another version of this page."


def test_shift_draws_straight_from_the_last_point(opened: EditorPage) -> None:
    """Two clicks, a line between them; each is a step of its own."""
    opened.run("{editor.brush = {size: 10}}")
    opened.page.mouse.click(*opened.at(40, 40))
    opened.page.keyboard.down("Shift")
    opened.page.mouse.click(*opened.at(280, 200))
    opened.page.keyboard.up("Shift")
    mask = opened.mask()
    for t in np.linspace(0, 1, 40):
        assert mask[round(40 + 160 * t), round(40 + 240 * t)] == 255
    assert mask[200, 60] == 0
    opened.run("{editor.undo()}")
    assert opened.mask()[200, 280] == 0
    assert opened.mask()[40, 40] == 255


def test_shift_without_a_last_point_is_a_dot(opened: EditorPage) -> None:
    """The last picture's strokes are none of this one's."""
    opened.page.mouse.click(*opened.at(10, 10))
    opened.open(grey_picture(WIDTH, HEIGHT))
    opened.page.keyboard.down("Shift")
    opened.page.mouse.click(*opened.at(200, 200))
    opened.page.keyboard.up("Shift")
    assert opened.mask()[100, 100] == 0


def corners(editor: EditorPage, *points: tuple[float, float]) -> None:
    for point in points:
        editor.page.mouse.click(*editor.at(*point))


TRIANGLE = ((60, 40), (260, 60), (100, 200))


def inside(mask: Grey) -> list[int]:
    """Within the triangle, and left, right and below of it."""
    return [int(mask[y, x]) for x, y in ((120, 80), (40, 120), (240, 160), (180, 220))]


@pytest.mark.parametrize("close", ["enter", "double click", "first corner", "another step"])
def test_a_polygon_is_set_by_clicks(opened: EditorPage, close: str) -> None:
    """Enter, a double click, a click on the first corner, or the next step closes it."""
    opened.run("{editor.tool = 'polygon'}")
    if close == "double click":
        corners(opened, *TRIANGLE[:2])
        opened.page.mouse.dblclick(*opened.at(*TRIANGLE[2]))
    else:
        corners(opened, *TRIANGLE)
        assert not opened.mask().any()
    if close == "enter":
        opened.page.keyboard.press("Enter")
    elif close == "first corner":
        corners(opened, (61, 41))
    elif close == "another step":
        opened.run("{editor.extend = {left: 8}; editor.invert(); editor.undo()}")
    assert inside(opened.mask()) == [255, 0, 0, 0]
    opened.run("{editor.undo()}")
    assert not opened.mask().any()


def test_backspace_removes_a_corner_and_escape_the_polygon(opened: EditorPage) -> None:
    """Nothing is a step until it is closed, and two corners are no polygon."""
    opened.run("{editor.tool = 'polygon'}")
    corners(opened, TRIANGLE[0], TRIANGLE[1], (300, 230))
    opened.page.keyboard.press("Backspace")
    corners(opened, TRIANGLE[2])
    opened.page.keyboard.press("Enter")
    assert inside(opened.mask()) == [255, 0, 0, 0]
    corners(opened, (10, 10), (50, 10), (30, 230))
    opened.page.keyboard.press("Escape")
    corners(opened, (10, 10), (50, 10))
    opened.page.keyboard.press("Enter")
    assert inside(opened.mask()) == [255, 0, 0, 0]
    assert opened.run("editor.toJSON().steps.length") == 1


def test_alt_takes_a_polygon_away_and_opacity_is_its_grey(opened: EditorPage) -> None:
    """As with lasso and rectangle."""
    opened.run("{editor.brush = {strength: 0.6}; editor.fill(); editor.tool = 'polygon'}")
    opened.page.keyboard.down("Alt")
    corners(opened, *TRIANGLE)
    opened.page.keyboard.up("Alt")
    opened.page.keyboard.press("Enter")
    assert inside(opened.mask()) == [0, 153, 153, 153]


def test_a_polygon_is_set_by_keyboard(opened: EditorPage) -> None:
    """Arrows move the crosshair, Enter sets a corner, on the first one it closes."""
    opened.run("{editor.tool = 'polygon'; document.getElementById('host').focus()}")
    press = opened.page.keyboard.press
    press("Enter")
    press("Enter")
    for key in ("ArrowRight", "ArrowDown", "ArrowLeft"):
        for _ in range(5):
            press(key)
        press("Enter")
    for _ in range(5):
        press("ArrowUp")
    press("Enter")
    mask = opened.mask()
    assert mask.any()
    ys, xs = np.nonzero(mask)
    assert mask[ys.min() : ys.max() + 1, xs.min() : xs.max() + 1].all()  # a square


def test_alt_and_the_wheel_change_the_brush(opened: EditorPage) -> None:
    """Larger upwards; without Alt the wheel zooms, and with a tool without a size, too."""
    size, zoom = opened.run("[editor.brush.size, editor.zoom]")
    opened.page.mouse.move(*opened.at(160, 120))
    opened.page.keyboard.down("Alt")
    opened.page.mouse.wheel(0, -120)
    opened.page.wait_for_function("(size) => harness.editor.brush.size > size", arg=size)
    for _ in range(2):
        opened.page.mouse.wheel(0, 120)
    opened.page.wait_for_function("(size) => harness.editor.brush.size < size", arg=size)
    assert opened.run("editor.zoom") == zoom
    opened.run("{editor.tool = 'lasso'}")
    opened.page.mouse.wheel(0, -120)
    opened.page.keyboard.up("Alt")
    opened.page.wait_for_function("(zoom) => harness.editor.zoom > zoom", arg=zoom)
