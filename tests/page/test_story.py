"""The page on the demo model: from an empty window to a painted picture on disk, as people would do it."""

import io
import json

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.support.browser_session import Visit, Visiting
from tests.support.page_driver import PAINTING_MS, Desk, opened, photo
from tests.support.served import Served, file_of

pytest_plugins = ["tests.support.browser", "tests.support.served_fixtures", "tests.support.page_fixtures"]

SIZE = (128, 128)
REACH_PX = 4  # how far from the mask pixels may change: grow 8 + feather 16 of 1024, in a box of at most 128


def changed(before: Image.Image, after: Image.Image) -> np.ndarray:
    """(h, w) of bool: which pixels differ."""
    return np.any(np.asarray(before.convert("RGB")) != np.asarray(after.convert("RGB")), axis=2)


def reach_of(mask: bytes) -> np.ndarray:
    """(h, w) of bool: the mask and what may change around it."""
    white = np.argwhere(np.asarray(opened(mask).convert("L")) >= 128)
    (top, left), (bottom, right) = white.min(0), white.max(0)
    found = np.zeros(SIZE[::-1], bool)
    found[max(0, top - REACH_PX) : bottom + REACH_PX + 1, max(0, left - REACH_PX) : right + REACH_PX + 1] = (
        True
    )
    return found


def test_from_a_brush_stroke_to_a_file_on_disk(real: Served, visit: Visit) -> None:
    """The whole way, once: mark, correct, paint, watch, cancel, paint again, compare, keep, reload, save."""
    desk = Desk(visit, real.url)
    original = photo(SIZE)
    desk.open(file_of(original))
    expect(desk.get("server-state")).to_have_text("demo · ready", timeout=PAINTING_MS)
    desk.quick(steps=100)
    desk.get("field-scheduler").select_option("DPM2 Karras")
    desk.get("samples").select_option("4")  # slow enough to be seen and cancelled
    desk.stroke((40, 40), (80, 40))
    desk.stroke((100, 100), (120, 120))
    desk.click("undo")
    desk.page.keyboard.press("[")

    # Progress and a preview come, and cancelling leaves the mask as it was.
    desk.paint()
    expect(desk.get("progress-text")).to_contain_text("of 90", timeout=PAINTING_MS)
    preview = desk.page.locator(".editor-preview")
    expect(preview).not_to_have_js_property("width", 0, timeout=PAINTING_MS)
    desk.click("cancel")
    expect(desk.get("progress")).to_be_hidden()
    expect(desk.get("result")).to_have_count(0)
    expect(preview).to_have_js_property("width", 0)

    desk.quick()
    desk.click("paint")
    desk.results(1)
    first, second = desk.sent()
    assert first["mask"] == second["mask"]
    assert second["image"] == file_of(original), "the caller's own file, byte for byte"

    desk.click("compare")
    expect(desk.get("compare")).to_have_attribute("aria-pressed", "true")
    desk.click("result-keep")
    expect(desk.get("picture-name")).to_have_text(
        "photo_inpainted_" + desk.get("result").inner_text() + ".png"
    )
    desk.wait_saved()
    desk.reload()
    desk.results(1)
    name, data = desk.downloaded()
    assert name.startswith("photo_inpainted_")
    difference = changed(original, opened(data))
    assert not np.any(difference & ~reach_of(second["mask"])), "outside are the caller's own pixels"
    assert np.mean(difference[30:50, 45:75]) > 0.9
    red, green, blue = np.asarray(opened(data))[35:46, 50:70].reshape(-1, 3).mean(0)
    assert red > green + 60
    assert red > blue + 60
    _gives_its_settings_back(desk, data)


def _gives_its_settings_back(desk: Desk, data: bytes) -> None:
    """Dropped on the page, the download knows what it was painted with."""
    desk.get("prompt").fill("something else")
    desk.drop(data, "old.png")
    expect(desk.get("settings-found")).to_contain_text("“a red circle”")
    desk.get("settings-found").get_by_role("button", name="Use its settings").click()
    expect(desk.get("prompt")).to_have_value("a red circle")
    expect(desk.get("field-num_inference_steps")).to_have_value("20")
    expect(desk.get("field-scheduler")).to_have_value("DDIM")
    expect(desk.get("lock-seed")).to_have_attribute("aria-pressed", "true")


@pytest.mark.slow
def test_without_a_pointer(real: Served, visit: Visit) -> None:
    """Keyboard alone, from the empty window to a painted picture that is kept."""
    desk = Desk(visit, real.url)
    page = desk.page
    expect(desk.get("example")).to_be_visible(timeout=PAINTING_MS)
    tab_to(desk, "example")
    page.keyboard.press("Enter")
    expect(desk.get("picture-name")).to_have_text("portrait.jpg")
    expect(desk.get("canvas")).to_be_focused()
    for key in ("ArrowUp", "Enter", "ArrowUp", "Enter"):
        page.keyboard.press(key)
    tab_to(desk, "samples")
    page.keyboard.press("1")
    tab_to(desk, "seed")
    page.keyboard.type("3")
    page.keyboard.press("Control+Enter")
    desk.results(1)
    assert desk.sent()[0]["seed"] == b"3"
    page.keyboard.press("Escape")
    page.keyboard.press(".")
    expect(desk.get("result")).to_be_focused()
    page.keyboard.press("k")
    expect(desk.get("picture-name")).to_have_text("portrait_inpainted_3.jpg")


def tab_to(desk: Desk, testid: str) -> None:
    """Press Tab until the focus is there; the whole page has fewer stops than this."""
    for _ in range(80):
        if desk.page.evaluate("() => document.activeElement.dataset.testid") == testid:
            return
        desk.page.keyboard.press("Tab")
    pytest.fail(f"Tab never reaches {testid}")


@pytest.mark.slow
def test_by_touch_on_a_phone(real: Served, visiting: Visiting) -> None:
    """Everything is within reach at 360 px, nothing scrolls sideways, and a finger paints."""
    visit = visiting(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    desk = Desk(visit, real.url)
    desk.open(file_of(photo(SIZE)))
    swipe(desk, [(30, 64), (60, 64), (95, 64)])
    desk.quick()
    desk.get("prompt").fill("a blue square")
    desk.get("paint").tap()
    desk.results(1)
    mask = np.asarray(opened(desk.sent()[0]["mask"]).convert("L"))
    assert mask[64, 30] == mask[64, 60] == mask[64, 95] == 255
    assert mask[2].max() == mask[126].max() == 0
    assert desk.page.evaluate("() => document.documentElement.scrollWidth") == 360
    desk.get("result-keep").tap()
    expect(desk.get("picture-name")).to_contain_text("photo_inpainted_")


def swipe(desk: Desk, points: list[tuple[float, float]]) -> None:
    """One finger, as the browser's own input pipeline sees it."""
    desk.get("canvas").scroll_into_view_if_needed()
    session = desk.visit.context.new_cdp_session(desk.page)
    for number, point in enumerate(points):
        x, y = desk.at(*point)
        kind = "touchStart" if number == 0 else "touchMove"
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
    session.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})


@pytest.mark.slow
def test_a_photo_stays_a_photo(real: Served, visit: Visit) -> None:
    """A JPEG is worked on without loss and downloaded as a JPEG, upright and with its colour profile."""
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[0x0112] = 6
    data = file_of(photo((160, 128)), "JPEG", quality=95, icc_profile=profile, exif=exif)
    desk = Desk(visit, real.url)
    desk.open(data, "holiday.jpg")
    expect(desk.get("picture-size")).to_have_text("128 × 160")
    desk.quick()
    desk.stroke((60, 80), (70, 90))
    desk.paint()
    desk.results(1)
    sent = desk.sent()[0]
    assert (sent["image"], sent["output_format"]) == (data, b"png")
    assert opened(sent["mask"]).size == (128, 160)
    name, picture = desk.downloaded()
    found = Image.open(io.BytesIO(picture))
    assert name.endswith(".jpg")
    assert (found.format, found.size) == ("JPEG", (128, 160))
    assert found.info["icc_profile"] == profile


@pytest.mark.slow
def test_beyond_the_edge(real: Served, visit: Visit) -> None:
    """Extend: the picture grows by what was typed, the old part stays, and the result becomes the picture."""
    desk = Desk(visit, real.url)
    original = photo((96, 96))
    desk.open(file_of(original))
    desk.quick()
    desk.get("intent-extend").check()
    desk.get("extend-right-px").fill("32")
    desk.get("extend-right-px").press("Tab")
    desk.paint("")
    desk.results(1)
    assert desk.sent()[0]["extend"] == b"0,0,32,0"
    desk.click("result-keep")
    expect(desk.get("picture-size")).to_have_text("128 × 96")
    expect(desk.get("extend-right-px")).to_have_value("0")
    found = opened(desk.downloaded()[1])
    assert not changed(original.crop((0, 0, 80, 96)), found.crop((0, 0, 80, 96))).any()
    desk.click("undo")
    expect(desk.get("picture-size")).to_have_text("96 × 96")
    expect(desk.get("extend-right-px")).to_have_value("32")


@pytest.mark.slow
def test_what_a_picture_was_painted_with_is_exact(real: Served, visit: Visit) -> None:
    """Locking the seed of a result and painting again gives the same picture, to the pixel."""
    desk = Desk(visit, real.url)
    desk.open(file_of(photo(SIZE)))
    desk.quick()
    desk.stroke((50, 50), (80, 80))
    desk.paint()
    desk.results(1)
    first = opened(desk.downloaded()[1])
    desk.click("result-lockSeed")
    desk.click("paint")
    desk.results(2)
    expect(desk.get("result").first).to_have_attribute("aria-pressed", "true")
    again = desk.downloaded()[1]
    assert not changed(first, opened(again)).any()
    text = opened(again).info["inpaint"]
    assert json.loads(text)["settings"]["prompt"] == "a red circle"
