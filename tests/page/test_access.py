"""The page for everybody: axe-core's findings, browser zoom, narrow windows, keys, colours."""

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, expect

from tests.support.browser_session import Visit, Visiting
from tests.support.page_driver import Desk, opened, photo
from tests.support.served import Served, file_of

pytest_plugins = ["tests.support.browser", "tests.support.served_fixtures", "tests.support.page_fixtures"]


def findings(desk: Desk) -> list[str]:
    """What axe-core calls serious or critical, with the elements it means."""
    found = Axe().run(desk.page).response["violations"]
    return [
        f"{one['id']}: {node['target']} {node['failureSummary']}"
        for one in found
        if one["impact"] in ("serious", "critical")
        for node in one["nodes"]
    ]


@pytest.mark.slow
@pytest.mark.gate
def test_no_other_host_is_asked_for_anything(fake: Served, visit: Visit) -> None:
    """Offline means offline, whatever is opened, painted and kept; the browser would refuse to ask."""
    desk = Desk(visit, fake.url)
    desk.click("example")
    desk.stroke((200, 200), (260, 230))
    desk.paint()
    desk.results(4)
    desk.click("result-keep")
    desk.downloaded()
    desk.page.keyboard.press("?")
    assert visit.elsewhere() == []
    assert len(visit.requests) > 40


TRIES = {
    "img-src": "new Image().src = 'https://example.org/pixel.png'",
    "connect-src": "fetch('https://example.org/').catch(() => {})",
    "script-src-elem": "import('https://example.org/module.js').catch(() => {})",
}


@pytest.mark.slow
def test_a_request_to_another_host_is_refused_and_would_fail_a_test(fake: Served, chromium: Browser) -> None:
    """The browser refuses it by our policy; and the check that watches every test of the page would fail."""
    visit = Visit(chromium.new_context())
    page = visit.open(fake.url)
    for directive, script in TRIES.items():
        violated = page.evaluate(
            f"""() => new Promise((resolve) => {{
              const report = (event) => resolve(event.effectiveDirective);
              document.addEventListener("securitypolicyviolation", report, {{ once: true }});
              {script};
            }})"""
        )
        assert violated == directive
    visit.context.close()
    assert visit.elsewhere()
    with pytest.raises(AssertionError):
        visit.check()


def nowhere(desk: Desk, *widths: int) -> None:
    """No findings at these widths, light and dark."""
    for width in widths:
        for scheme in ("light", "dark"):
            desk.page.set_viewport_size({"width": width, "height": 800})
            desk.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            assert findings(desk) == [], (width, scheme)


@pytest.mark.slow
@pytest.mark.gate
def test_axe_finds_nothing_serious(own: Served, visit: Visit) -> None:
    """Contrast, labels, roles: empty, with a picture and results, Advanced open, in dialogs, in an error."""
    visit.expect_trouble("503")
    desk = Desk(visit, own.url)
    expect(desk.get("example")).to_be_visible()
    nowhere(desk, 1280, 360)
    desk.page.set_viewport_size({"width": 1280, "height": 800})
    desk.open(file_of(photo()))
    desk.get("intent-extend").check()
    desk.stroke((50, 64), (78, 64))
    desk.page.click("#advanced summary")
    desk.paint()
    desk.results(4)
    desk.click("compare")
    nowhere(desk, 1280, 360)
    own.do(setattr, own.running.service, "draining", True)
    desk.click("paint")
    expect(desk.get("error")).to_be_visible()
    nowhere(desk, 360)
    desk.page.keyboard.press("Escape")
    desk.page.evaluate("() => document.getElementById('shortcuts-dialog').showModal()")
    nowhere(desk, 360)


@pytest.mark.slow
def test_axe_finds_nothing_serious_in_the_key_dialog(own: Served, visit: Visit) -> None:
    """The first thing that a user sees on a server with keys."""
    own.key()
    visit.expect_trouble("401")
    desk = Desk(visit, own.url)
    expect(desk.get("key-dialog")).to_be_visible()
    nowhere(desk, 360)


@pytest.mark.slow
@pytest.mark.parametrize("zoom", [0.8, 1.5])
def test_a_zoomed_browser_marks_the_same_pixels(fake: Served, visiting: Visiting, zoom: float) -> None:
    """Browser zoom is fewer CSS pixels for more of the screen's; the stroke lands where it was drawn."""
    size = {"width": round(1280 / zoom), "height": round(800 / zoom)}
    desk = Desk(visiting(viewport=size, device_scale_factor=zoom), fake.url)
    desk.open(file_of(photo()))
    for _ in range(40):
        desk.page.keyboard.press("[")
    desk.stroke((20, 30), (100, 30))
    desk.stroke((100, 100))
    desk.paint()
    desk.results(4)
    mask = np.asarray(opened(desk.sent()[0]["mask"]).convert("L"))
    rows, columns = np.nonzero(mask >= 128)
    assert (columns.min(), columns.max()) == (20, 100)
    assert set(rows) == {30, 100}


@pytest.mark.slow
def test_shortcuts_work_and_never_while_the_user_types(fake: Served, desk: Desk) -> None:
    """An `e` in a prompt is an `e`."""
    page = desk.page
    for key, tool in {"e": "eraser", "l": "lasso", "r": "rectangle", "h": "pan", "b": "brush"}.items():
        page.keyboard.press(key)
        expect(desk.get(f"tool-{tool}")).to_have_attribute("aria-pressed", "true")
    size = desk.page.locator("#brush-size-value").inner_text()
    desk.get("prompt").click()
    page.keyboard.type("elephant [x] 0+-?")
    expect(desk.get("prompt")).to_have_value("elephant [x] 0+-?")
    expect(desk.get("tool-brush")).to_have_attribute("aria-pressed", "true")
    assert desk.page.locator("#brush-size-value").inner_text() == size
    expect(desk.get("shortcuts-dialog")).to_be_hidden()
    page.keyboard.press("Escape")
    expect(desk.get("canvas")).to_be_focused()
    page.keyboard.press("]")
    expect(desk.page.locator("#brush-size-value")).not_to_have_text(size)
    page.keyboard.press("x")
    page.keyboard.press("Control+z")
    expect(desk.get("redo")).to_be_enabled()
    page.keyboard.press("Control+Shift+z")
    expect(desk.get("redo")).to_be_disabled()
    before = desk.get("zoom").inner_text()
    page.keyboard.press("+")
    expect(desk.get("zoom")).not_to_have_text(before)
    page.keyboard.press("0")
    expect(desk.get("zoom")).to_have_text(before)
    page.keyboard.press("?")
    expect(desk.get("shortcuts-dialog")).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("Control+Enter")
    desk.results(4)


@pytest.mark.slow
def test_tools_of_the_left_column_change_the_mask(fake: Served, desk: Desk) -> None:
    """Mark everything, erase by the right button, invert, grow, clear; what is sent is what was made."""
    desk.click("tool-fill")
    desk.stroke((64, 64), button="right")
    desk.click("tool-invert")
    desk.get("grow-by").fill("4")
    desk.click("tool-grow")
    desk.click("tool-shrink")
    desk.paint()
    desk.results(4)
    mask = np.asarray(opened(desk.sent()[0]["mask"]).convert("L"))
    assert mask[64, 64] == 255
    assert mask[5].max() == 0
    desk.click("tool-clear")
    desk.click("paint")
    expect(desk.get("notice")).to_contain_text("Mark what should change first")


@pytest.mark.slow
def test_nothing_is_cut_off_at_any_width(fake: Served, desk: Desk) -> None:
    """No sideways scrolling of the page, and every control can be brought into view."""
    desk.stroke((50, 64), (78, 64))
    desk.paint()
    desk.results(4)
    for width in (360, 760, 761, 1000):
        desk.page.set_viewport_size({"width": width, "height": 700})
        assert desk.page.evaluate("() => document.documentElement.scrollWidth") == width
        for testid in ("tool-alpha", "grow-by", "result-download", "download", "advanced", "paint"):
            desk.get(testid).scroll_into_view_if_needed()
            box = desk.get(testid).bounding_box()
            assert box is not None
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width + 1, (testid, width)
