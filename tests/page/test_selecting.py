"""Selections of the server in the page: the right object is marked, a step each; the last click counts."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw
from playwright.sync_api import Route, expect

from inpaint.lru import LruCache
from tests.support.browser_session import Visit
from tests.support.page_driver import Desk
from tests.support.served import Served

pytest_plugins = ["tests.support.browser", "tests.support.served_fixtures", "tests.support.page_fixtures"]

SIZE = 240
DISC = (40, 50, 120, 130)  # left, top, right, bottom
SQUARE = (150, 140, 215, 210)


def scene() -> tuple[bytes, dict[str, np.ndarray]]:
    """A red disc and a blue square on noisy grey, as a file; where each is."""
    random = np.random.default_rng(3)
    masks = {}
    pixels = np.full((SIZE, SIZE, 3), 150, np.float64)
    for name, box, colour in (("disc", DISC, (200, 40, 40)), ("square", SQUARE, (40, 60, 190))):
        drawn = Image.new("L", (SIZE, SIZE))
        draw = ImageDraw.Draw(drawn)
        (draw.ellipse if name == "disc" else draw.rectangle)(box, fill=255)
        masks[name] = np.asarray(drawn) > 0
        pixels[masks[name]] = colour
    pixels += random.normal(0, 4, pixels.shape)
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue(), masks


FILE, MASKS = scene()


@pytest.fixture
def marking(fake: Served, visit: Visit) -> Desk:
    """The page with the scene open."""
    desk = Desk(visit, fake.url)
    desk.open(FILE, "scene.png")
    expect(desk.get("tool-snap")).to_be_enabled()
    return desk


def mask_of(desk: Desk) -> np.ndarray:
    """What would be sent: the saved mask of the draft, as the page's own pixels."""
    with desk.page.expect_download() as download:
        desk.click("save-as")
        desk.click("save-mask")
    with Image.open(download.value.path()) as image:
        return np.asarray(image.convert("L"))


def overlap(mask: np.ndarray, expected: np.ndarray) -> float:
    marked = mask >= 128
    return float((marked & expected).sum() / (marked | expected).sum())


def settle(desk: Desk, steps: int) -> None:
    """Until the page waits for no selection, and there is a step to undo."""
    desk.page.wait_for_function("() => document.getElementById('host').dataset.cursor !== 'wait'")
    if steps:
        expect(desk.get("undo")).to_be_enabled()


def forget_pictures(served: Served) -> None:
    """As after a restart: the server holds no decoded picture."""
    selecting = served.running.service.selecting
    served.do(setattr, selecting, "_held", LruCache(1_000_000, lambda pixels: pixels.nbytes))


def test_a_rough_stroke_becomes_the_object(marking: Desk) -> None:
    """Drawn inside it, marked to its edge; undo takes all of it back, redo and a reload bring it again."""
    marking.click("tool-snap")
    marking.get("brush-size").fill("40")
    marking.stroke((65, 75), (95, 105))
    settle(marking, 1)
    assert overlap(mask_of(marking), MASKS["disc"]) > 0.9
    marking.click("undo")
    expect(marking.get("undo")).to_be_disabled()
    marking.click("redo")
    marking.wait_saved()
    marking.reload()
    assert overlap(mask_of(marking), MASKS["disc"]) > 0.9


def test_a_box_becomes_the_object_in_it(marking: Desk) -> None:
    """With the click tool by dragging, with snap by choosing a box."""
    marking.click("tool-click")
    marking.stroke((30, 40), (130, 140))
    settle(marking, 1)
    assert overlap(mask_of(marking), MASKS["disc"]) > 0.9
    marking.click("tool-snap")
    marking.get("snap-shape").select_option("box")
    marking.stroke((140, 130), (226, 222))
    settle(marking, 2)
    assert overlap(mask_of(marking), MASKS["disc"] | MASKS["square"]) > 0.9


def test_clicks_add_objects_and_alt_takes_one_away(marking: Desk) -> None:
    """Two objects by two clicks, then one less."""
    marking.click("tool-click")
    for steps, point in enumerate(((80, 90), (182, 175)), 1):
        marking.stroke(point)
        settle(marking, steps)
        expect(marking.get("undo")).to_be_enabled()
    marking.page.wait_for_function("() => document.body.dataset.draft === 'saved'")
    assert overlap(mask_of(marking), MASKS["disc"] | MASKS["square"]) > 0.85
    marking.page.keyboard.down("Alt")
    marking.stroke((80, 90))
    marking.page.keyboard.up("Alt")
    settle(marking, 3)
    assert overlap(mask_of(marking), MASKS["square"]) > 0.85


def test_an_object_is_selected_by_keyboard(marking: Desk) -> None:
    """Enter shows the crosshair, arrows move it, Enter selects there."""
    marking.page.keyboard.press("a")
    marking.get("canvas").focus()
    marking.page.keyboard.press("Enter")
    marking.page.keyboard.press("ArrowLeft")
    for _ in range(11):
        marking.page.keyboard.press("ArrowLeft")
    for _ in range(8):
        marking.page.keyboard.press("ArrowUp")
    marking.page.keyboard.press("Enter")
    settle(marking, 1)
    assert overlap(mask_of(marking), MASKS["disc"]) > 0.85


def test_subject_and_background_are_buttons(marking: Desk) -> None:
    """What one of them marks is about what the other one leaves."""
    marking.click("tool-subject")
    settle(marking, 1)
    subject = mask_of(marking) >= 128
    assert subject.any()
    marking.click("undo")
    marking.click("tool-background")
    settle(marking, 1)
    background = mask_of(marking) >= 128
    assert (subject ^ background).mean() > 0.9


def test_the_picture_is_sent_before_the_first_click_and_once(fake: Served, marking: Desk) -> None:
    """Choosing the tool sends it; the click names it; a server that forgot it gets it again."""
    sent: list[tuple[bool, bool]] = []

    def watch(route: Route) -> None:
        body = route.request.post_data_buffer or b""
        sent.append((b'name="image"' in body, b'name="prepare"' in body))
        route.continue_()

    marking.page.route("**/v2/select", watch)
    with marking.page.expect_response("**/v2/select"):
        marking.click("tool-click")
    for steps in (1, 2):
        with marking.page.expect_response("**/v2/select"):
            marking.stroke((80, 90))
        settle(marking, steps)
    assert sent == [(True, True), (False, False), (False, False)]
    forget_pictures(fake)
    marking.visit.expect_trouble("404")  # the console's line about the answer to the name
    with marking.page.expect_response(lambda r: r.url.endswith("/v2/select") and r.ok):
        marking.stroke((182, 175))
    settle(marking, 3)
    assert sent[3:] == [(False, False), (True, False)], "its name, then the file"
    expect(marking.get("error")).to_be_hidden()
    assert overlap(mask_of(marking), MASKS["disc"] | MASKS["square"]) > 0.85


def test_where_sam_is_missing_the_page_says_how_to_get_it(fake: Served, visit: Visit) -> None:
    """And clicks work with snap meanwhile."""

    def without_sam(route: Route) -> None:
        answer = route.fetch()
        offer = answer.json()
        offer["select"] = {"methods": ["snap"], "missing": {"sam": "inpaint models fetch sam2-tiny"}}
        route.fulfill(response=answer, json=offer)

    visit.context.route("**/v2/sdxl-inpaint", without_sam)
    desk = Desk(visit, fake.url)
    desk.open(FILE, "scene.png")
    desk.click("tool-click")
    expect(desk.get("select-hint")).to_contain_text("inpaint models fetch sam2-tiny")
    desk.click("tool-brush")
    expect(desk.get("select-hint")).to_be_hidden()


def test_the_last_click_counts_and_drawing_goes_on(marking: Desk) -> None:
    """The first answer is late: it is no longer wanted; the brush paints meanwhile."""
    held: list[Route] = []
    marking.click("tool-click")
    marking.page.route("**/v2/select", lambda route: held.append(route), times=1)
    marking.stroke((182, 175))
    marking.page.wait_for_function("() => document.getElementById('host').dataset.cursor === 'wait'")
    marking.stroke((80, 90))
    settle(marking, 1)
    assert overlap(mask_of(marking), MASKS["disc"]) > 0.85
    assert len(held) == 1


def test_what_goes_wrong_is_said(marking: Desk) -> None:
    """A server that is gone is a notice, and the mask stays."""
    marking.visit.expect_trouble("ERR_FAILED")
    marking.page.route("**/v2/select", lambda route: route.abort())
    marking.click("tool-subject")
    expect(marking.get("error")).to_contain_text("does not answer")
    expect(marking.get("undo")).to_be_disabled()
