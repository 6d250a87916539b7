"""The editor's input: mouse, touch, keys, browser zoom; and how long a stroke takes."""

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from playwright.sync_api import CDPSession

from tests.support.editor_page import EditorPage, grey_picture

if TYPE_CHECKING:
    from tests.support.browser import Visiting

pytest_plugins = ["tests.support.browser", "tests.support.editor_fixtures"]

WIDTH, HEIGHT = 64, 48
SOME_PIXELS = [(0, 0), (63, 47), (31, 7), (5, 40)]


def painted(editor: EditorPage) -> list[tuple[int, int]]:
    """(x, y) of every pixel that is repainted."""
    return sorted((int(x), int(y)) for y, x in np.argwhere(editor.mask() >= 128))


def dot_on(editor: EditorPage, pixels: list[tuple[int, int]]) -> None:
    """Click in the middle of each pixel with the smallest brush."""
    editor.run("{editor.brush = {size: 1}}")
    for x, y in pixels:
        editor.page.mouse.click(*editor.at(x + 0.5, y + 0.5))


@pytest.mark.slow
@pytest.mark.parametrize("ratio", [0.8, 1, 1.5, 2])
def test_in_a_zoomed_browser_the_pixel_under_the_pointer_is_painted(
    visiting: "Visiting", editor_url: str, ratio: float
) -> None:
    """80 % and 150 % are what people have set; the browser then has other, larger or smaller, CSS pixels."""
    size = {"width": round(1280 / ratio), "height": round(800 / ratio)}
    editor = EditorPage(visiting(viewport=size, device_scale_factor=ratio), editor_url)
    editor.open(grey_picture(WIDTH, HEIGHT))
    dot_on(editor, SOME_PIXELS)
    assert painted(editor) == sorted(SOME_PIXELS)


@pytest.mark.slow
@pytest.mark.parametrize("style", ["zoom: 0.8", "zoom: 1.5", "transform: scale(0.7)"])
def test_inside_a_scaled_page_the_pixel_under_the_pointer_is_painted(editor: EditorPage, style: str) -> None:
    """An element above may be scaled, by an extension of the browser or an embedding page."""
    name, value = style.split(": ")
    editor.run("{document.documentElement.style[a[0]] = a[1]; await h.frames(3);}", [name, value])
    editor.open(grey_picture(WIDTH, HEIGHT))
    dot_on(editor, SOME_PIXELS)
    editor.run("{document.documentElement.style[a] = ''}", name)
    assert painted(editor) == sorted(SOME_PIXELS)


def test_the_wheel_zooms_at_the_pointer_and_pixels_stay_under_it(editor: EditorPage) -> None:
    """Zooming in on a detail must not lose it."""
    editor.open(grey_picture(1000, 700))
    editor.page.mouse.move(400, 600)
    (x0, y0), (x1, y1) = editor.at(0, 0), editor.at(1000, 700)
    before = (1000 * (400 - x0) / (x1 - x0), 700 * (600 - y0) / (y1 - y0))
    zoom = editor.run("editor.zoom")
    editor.page.mouse.wheel(0, -900)
    editor.page.wait_for_function("(zoom) => harness.editor.zoom > 2 * zoom", arg=zoom)
    assert editor.at(*before) == pytest.approx((400, 600), abs=0.01)
    outside = (int(before[0]) + 9, int(before[1]) - 9)
    dot_on(editor, [outside])
    assert painted(editor) == [outside]


@pytest.mark.slow
@pytest.mark.parametrize("how", ["middle", "space", "tool"])
def test_panning_moves_the_picture_and_paints_nothing(editor: EditorPage, how: str) -> None:
    """With the middle button, with the space bar held, and with the hand."""
    editor.open(grey_picture(200, 150))
    before = editor.at(0, 0)
    if how == "space":
        editor.page.keyboard.down(" ")
    if how == "tool":
        editor.run("{editor.tool = 'pan'}")
    mouse = editor.page.mouse
    mouse.move(600, 400)
    mouse.down(button="middle" if how == "middle" else "left")
    mouse.move(650, 370, steps=3)
    mouse.up(button="middle" if how == "middle" else "left")
    editor.page.keyboard.up(" ")
    after = editor.at(0, 0)
    assert (after[0] - before[0], after[1] - before[1]) == pytest.approx((50, -30))
    assert editor.run("editor.isEmpty")


def test_escape_takes_back_the_stroke_in_progress(editor: EditorPage) -> None:
    """A slip is not even a step."""
    editor.open(grey_picture(200, 150))
    editor.page.mouse.move(*editor.at(50, 50))
    editor.page.mouse.down()
    editor.page.mouse.move(*editor.at(100, 100), steps=3)
    editor.page.keyboard.press("Escape")
    editor.page.mouse.up()
    assert not editor.mask().any()
    assert editor.run("editor.canUndo") is False


def test_a_mouse_without_a_button_does_not_paint(editor: EditorPage) -> None:
    """A dialog that opens meanwhile swallows the release; back on the picture, nothing sticks to it."""
    editor.open(grey_picture(200, 150))
    editor.run("{editor.brush = {size: 4}}")
    start, end = editor.at(20, 20), editor.at(150, 100)
    editor.page.mouse.move(*start)
    editor.page.mouse.down()
    editor.run(
        """{
        const init = {pointerId: 1, pointerType: "mouse", buttons: 0, clientX: a[0], clientY: a[1]};
        document.getElementById("host").dispatchEvent(new PointerEvent("pointermove", init));
    }""",
        end,
    )
    editor.page.mouse.move(*end)
    editor.page.mouse.up()
    mask = editor.mask()
    assert mask[20, 20] == 255
    assert not mask[30:].any()


def test_without_a_picture_clicks_and_scrolling_are_the_page_s(editor: EditorPage) -> None:
    """Where nothing is open, the page has its own invitation, with buttons, in the same place."""
    editor.run("""{
        window.clicked = 0;
        window.scrolled = null;
        const button = document.createElement("button");
        button.textContent = "Open";
        button.addEventListener("click", () => { window.clicked += 1; });
        document.getElementById("host").append(button);
        window.addEventListener("wheel", (event) => { window.scrolled = !event.defaultPrevented; });
    }""")
    editor.page.get_by_role("button", name="Open").click()
    editor.page.mouse.wheel(0, 100)
    editor.page.wait_for_function("window.scrolled !== null")
    assert editor.run("[clicked, scrolled]") == [1, True]


def touches(session: CDPSession, kind: str, *points: tuple[float, float]) -> None:
    """Fingers on a touch screen: where they all are now."""
    fingers = [{"x": x, "y": y, "id": k} for k, (x, y) in enumerate(points)]
    session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": fingers})


@pytest.fixture
def phone(visiting: "Visiting", editor_url: str) -> EditorPage:
    """The editor on a phone, a picture open."""
    options: dict[str, Any] = {"has_touch": True, "is_mobile": True, "device_scale_factor": 2}
    editor = EditorPage(visiting(viewport={"width": 360, "height": 640}, **options), editor_url)
    editor.open(grey_picture(200, 150))
    return editor


def test_a_finger_paints(phone: EditorPage) -> None:
    """Touch draws as the mouse does, and does not scroll the page away."""
    phone.run("{editor.brush = {size: 10}}")
    session = phone.visit.context.new_cdp_session(phone.page)
    touches(session, "touchStart", phone.at(50, 75))
    for x in (70, 100, 150):
        touches(session, "touchMove", phone.at(x, 75))
    touches(session, "touchEnd")
    mask = phone.mask()
    assert (mask[75, 50:150] == 255).all()
    assert not mask[:69].any()
    assert not mask[:, 157:].any()


def test_two_fingers_zoom_and_pan_and_paint_nothing(phone: EditorPage) -> None:
    """Fingers never land together: what the first one has begun to paint is taken back."""
    session = phone.visit.context.new_cdp_session(phone.page)
    zoom = phone.run("editor.zoom")
    left, right = phone.at(80, 75), phone.at(120, 75)
    apart = right[0] - left[0]
    touches(session, "touchStart", (left[0] - 25, left[1] - 5))
    touches(session, "touchMove", left)
    touches(session, "touchStart", left, right)
    for k in range(1, 6):
        touches(
            session, "touchMove", (left[0] - 10 * k, left[1] + 6 * k), (right[0] + 10 * k, right[1] + 6 * k)
        )
    touches(session, "touchEnd", (left[0] - 50, left[1] + 30))
    touches(session, "touchMove", (left[0] - 20, left[1] + 90))
    touches(session, "touchEnd")
    assert phone.run("editor.zoom / a", zoom) == pytest.approx((apart + 100) / apart, rel=0.02)
    assert phone.at(100, 75) == pytest.approx(((left[0] + right[0]) / 2, left[1] + 30), abs=1)
    assert not phone.mask().any()
    assert phone.run("editor.canUndo") is False


def test_a_mask_is_painted_by_keyboard_alone(editor: EditorPage) -> None:
    """Who cannot use a pointer paints with arrows and Enter: a dab, and a line while the key is held."""
    editor.open(grey_picture(200, 150))
    keys = editor.page.keyboard
    editor.run("{editor.brush = {size: 1}; document.activeElement.blur()}")
    keys.press("Tab")
    assert editor.run("document.activeElement.id") == "host"
    scale = editor.run("editor.zoom")
    keys.press("Enter")  # the crosshair appears in the middle
    keys.press("Enter")
    assert painted(editor) == [(100, 75)]
    for _ in range(3):
        keys.press("ArrowDown")
    keys.down("Enter")
    for _ in range(10):
        keys.press("ArrowRight")
    keys.up("Enter")
    row = 75 + int(3 * 8 / scale)
    line = [(x, row) for x in range(100, 100 + int(80 / scale) + 1)]
    assert painted(editor) == sorted([(100, 75), *line])
    keys.press("Shift+ArrowLeft")
    assert "".join(editor.page.locator(".editor-live").all_inner_texts()).endswith(f", {row}")
    editor.run("{editor.undo()}")
    assert painted(editor) == [(100, 75)]


def test_corners_of_rectangle_and_lasso_are_set_by_keyboard(editor: EditorPage) -> None:
    """Enter sets corners; on the first corner again it closes the lasso; Esc takes back."""
    editor.open(grey_picture(200, 150))
    keys = editor.page.keyboard
    editor.run("{document.getElementById('host').focus(); editor.tool = 'rectangle'}")
    step = 8 / editor.run("editor.zoom")
    keys.press("Enter")
    for tool in ("rectangle", "lasso"):
        editor.run("{editor.clear(); editor.tool = a}", tool)
        corners = ["ArrowRight", "ArrowDown", "ArrowLeft", "ArrowUp"]
        keys.press(" ")
        for side in corners[:2] if tool == "rectangle" else corners:
            for _ in range(5):
                keys.press(side)
            if tool == "lasso":
                keys.press(" ")
        if tool == "rectangle":
            keys.press(" ")
        assert editor.mask().astype(bool).sum() == pytest.approx((5 * step) ** 2, rel=0.08)
        assert editor.run("editor.toJSON().steps.at(-1).kind") == {"lasso": "polygon"}.get(tool, tool)
    editor.run("{editor.clear()}")
    keys.press("Enter")
    keys.press("ArrowRight")
    keys.press("Enter")
    keys.press("Escape")
    assert editor.run("[editor.isEmpty, editor.toJSON().steps.at(-1).kind]") == [True, "fill"]


def test_keys_that_the_editor_takes_do_not_reach_the_page_and_others_do(editor: EditorPage) -> None:
    """Enter at the crosshair paints and does nothing else; Ctrl+Enter, B or 0 are the page's."""
    editor.open(grey_picture(200, 150))
    editor.run("""{
        window.received = [];
        window.addEventListener("keydown", (event) => received.push(event.key));
        document.getElementById("host").focus();
    }""")
    for key in ("Enter", "ArrowUp", " ", "b", "0", "[", "Control+Enter"):
        editor.page.keyboard.press(key)
    assert editor.run("received.filter((key) => key !== 'Control')") == ["b", "0", "[", "Enter"]


def test_what_the_hand_did_between_two_frames_is_painted(editor: EditorPage) -> None:
    """A browser passes on one move a frame; a quick curve is in the moves that it has put together."""
    editor.open(grey_picture(200, 150))
    editor.run("{editor.brush = {size: 4}}")
    editor.page.mouse.move(*editor.at(20, 20))
    editor.page.mouse.down()
    corner, end = editor.at(100, 130), editor.at(180, 20)
    editor.run(
        """{
        const move = ([clientX, clientY], coalescedEvents = []) => new PointerEvent("pointermove", {
            pointerId: 1, pointerType: "mouse", buttons: 1, bubbles: true, clientX, clientY, coalescedEvents,
        });
        document.getElementById("host").dispatchEvent(move(a[1], [move(a[0]), move(a[1])]));
    }""",
        [corner, end],
    )
    editor.page.mouse.move(*end)
    editor.page.mouse.up()
    mask = editor.mask()
    assert mask[129, 100] == 255
    assert mask[20, 100] == 0


def test_forty_moves_across_a_large_picture_take_less_than_a_second(editor: EditorPage) -> None:
    """The brush must not lag: from the first of 40 moves on 2048² to the frame that shows the last."""
    editor.open(grey_picture(2048, 2048))
    editor.run("{editor.brush = {size: 120, hardness: 0.5}}")
    took_ms = [forty_moves(editor)]
    assert editor.run("editor.toJSON().steps[0].points.length") >= 82
    assert editor.mask()[1050, 1025] == 255
    # Other work on the machine makes a stroke slower and never quicker, so the quickest of some says it.
    while min(took_ms) > 1000 and len(took_ms) < 8:
        took_ms.append(forty_moves(editor))
    assert min(took_ms) <= 1000


def forty_moves(editor: EditorPage) -> float:
    """One stroke across the picture; its milliseconds."""
    (x0, y0), (x1, y1) = editor.at(150, 300), editor.at(1900, 1800)
    editor.page.mouse.move(x0, y0)
    editor.page.mouse.down()
    # Moves as the browser would make them, one task each; from here, the mouse's own wait for each frame.
    took_ms = editor.run(
        """{
        const host = document.getElementById("host");
        const start = performance.now();
        for (let k = 1; k <= 40; k++) {
            const [clientX, clientY] = [a[0] + (a[2] - a[0]) * k / 40, a[1] + (a[3] - a[1]) * k / 40];
            const init = {pointerId: 1, pointerType: "mouse", buttons: 1, clientX, clientY, bubbles: true};
            host.dispatchEvent(new PointerEvent("pointermove", init));
            await scheduler.postTask(() => {});
        }
        await h.frames(2);
        return performance.now() - start;
    }""",
        [x0, y0, x1, y1],
    )
    editor.page.mouse.up()
    return float(took_ms)
