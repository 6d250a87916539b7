"""The tools as people see and reach them: words, fingers, high contrast, keys, what a browser remembers."""

import numpy as np
import pytest
from playwright.sync_api import Locator, expect

from tests.page.test_access import findings
from tests.support.browser_session import Visit, Visiting
from tests.support.page_driver import Desk, opened, photo
from tests.support.served import Served, file_of

pytest_plugins = ["tests.support.browser", "tests.support.served_fixtures", "tests.support.page_fixtures"]

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}
LEAST = 40  # CSS pixels of what a finger presses
TOOLS = ("brush", "eraser", "lasso", "polygon", "rectangle", "pan", "wand", "snap", "click")
KEYS = dict(zip("belprhwsa", TOOLS, strict=True))

# A control's own box and those of its labels, which press it too: its name where that is too small.
_SMALL = """
(least) => {
  const seen = (e) => e.checkVisibility({visibilityProperty: true}) && e.getBoundingClientRect().width > 1;
  const controls = "button, input:not([type=file]), select, textarea, summary, [role=slider]";
  const all = [...document.querySelectorAll(controls)].filter(seen);
  return all.filter((control) => {
    const boxes = [control, ...(control.labels ?? [])].map((e) => e.getBoundingClientRect());
    const height = Math.max(...boxes.map((box) => box.height));
    const width = Math.max(...boxes.map((box) => box.width));
    return height < least || width < least;
  }).map((e) => e.dataset.testid || e.id || e.outerHTML.slice(0, 90));
}
"""


def test_every_tool_has_its_word_and_its_key(fake: Served, desk: Desk) -> None:
    """A picture alone does not say what it does, and a title is not there for a finger."""
    words = desk.page.locator("#tools .tool-word")
    assert len(set(words.all_inner_texts())) == desk.page.locator("#tools button").count() == words.count()
    clipped = "(all) => all.filter((e) => e.scrollWidth > e.clientWidth).map((e) => e.textContent)"
    assert words.evaluate_all(clipped) == []
    desk.get("canvas").focus()
    for key, tool in KEYS.items():
        desk.page.keyboard.press(key)
        expect(desk.get(f"tool-{tool}")).to_have_attribute("aria-pressed", "true")


def test_the_options_are_those_of_the_tool(fake: Served, desk: Desk) -> None:
    """A wand has no hardness, and a brush no tolerance; on one line in a window of 1280 px."""
    for tool, here, gone in (
        ("brush", "brush-hardness", "tolerance"),
        ("wand", "tolerance", "brush-size"),
        ("lasso", "subtracting", "brush-hardness"),
    ):
        desk.click(f"tool-{tool}")
        expect(desk.get(here)).to_be_visible()
        expect(desk.get(gone)).to_be_hidden()
        box = desk.page.locator("#options").bounding_box()
        assert box is not None
        assert box["height"] < 60, tool


def test_a_browser_remembers_its_tools(fake: Served, desk: Desk) -> None:
    """Size, hardness, tolerance, the mask's colour and the pen: set once, not at every visit."""
    desk.get("brush-size").fill("70")
    desk.get("brush-hardness").fill("35")
    desk.get("pressure").select_option("size")
    desk.click("tool-wand")
    desk.get("tolerance").fill("77")
    desk.get("contiguous").uncheck()
    desk.page.locator("#look summary").click()
    desk.get("mask-colour").fill("#00ff00")
    desk.get("mask-grey").check()
    size = desk.page.locator("#brush-size-value").text_content()
    desk.wait_saved()
    desk.reload()
    expect(desk.get("brush-hardness")).to_have_value("35")
    expect(desk.page.locator("#brush-size-value")).to_have_text(size or "")
    expect(desk.get("pressure")).to_have_value("size")
    expect(desk.get("tolerance")).to_have_value("77")
    expect(desk.get("contiguous")).not_to_be_checked()
    expect(desk.get("mask-colour")).to_have_value("#00ff00")
    expect(desk.get("mask-grey")).to_be_checked()


@pytest.mark.parametrize("stored", ["{", "null", "7", '{"brush": {"size": "x"}, "look": {"colour": 3}}'])
def test_what_was_remembered_wrongly_is_forgotten(fake: Served, visit: Visit, stored: str) -> None:
    """The page opens, with the usual brush."""
    desk = Desk(visit, fake.url)
    desk.page.evaluate("(stored) => localStorage.setItem('inpaint-tools', stored)", stored)
    desk.reload()
    expect(desk.page.locator("#brush-size-value")).to_have_text("64 px")
    expect(desk.get("mask-colour")).to_have_value("#ff1870")


@pytest.mark.slow
def test_a_finger_finds_everything(fake: Served, visiting: Visiting) -> None:
    """On a phone every control that is shown is 40 px high and wide, with every tool and Advanced open."""
    desk = Desk(visiting(**PHONE), fake.url)
    desk.open(file_of(photo()))
    desk.page.click("#advanced summary")
    desk.page.locator("#look summary").click()
    for tool in TOOLS:
        if desk.get(f"tool-{tool}").is_enabled():
            desk.click(f"tool-{tool}")
            small = desk.page.evaluate(_SMALL, LEAST)
            assert small == [], (tool, small)


def shown(desk: Desk, what: Locator) -> np.ndarray:
    return np.asarray(opened(what.screenshot()).convert("RGB")).astype(int)


@pytest.mark.slow
def test_in_high_contrast_what_is_chosen_differs(fake: Served, visiting: Visiting) -> None:
    """The tool, the intent, the result and the server's state, by more than the weight of a letter."""
    desk = Desk(visiting(forced_colors="active"), fake.url)
    desk.open(file_of(photo()))

    def share(what: Locator, change: Locator) -> float:
        """How many of its pixels differ once something else is chosen."""
        desk.page.mouse.move(640, 20)
        before = shown(desk, what)
        change.click()
        desk.page.mouse.move(640, 20)
        after = shown(desk, what)
        height, width = np.minimum(before.shape, after.shape)[:2]  # bold letters are a little wider
        return float((np.abs(before[:height, :width] - after[:height, :width]).max(2) > 60).mean())

    assert share(desk.get("tool-brush"), desk.get("tool-lasso")) > 0.5
    first = desk.page.locator("#intents label").first
    assert share(first, desk.page.locator("#intents label").nth(2)) > 0.5
    first.click()
    desk.click("tool-brush")
    desk.stroke((50, 64), (78, 64))
    desk.paint()
    results = desk.results(4)
    assert share(results.nth(0), results.nth(1)) > 0.03
    dot = "(e) => getComputedStyle(e, '::before').borderTopStyle"
    assert desk.get("server-state").evaluate(dot) == "solid"


@pytest.mark.slow
def test_axe_finds_nothing_serious_in_the_options(fake: Served, desk: Desk) -> None:
    """Every tool's options and the mask's view, wide and narrow, light and dark."""
    desk.page.locator("#look summary").click()
    for tool in TOOLS:
        desk.page.keyboard.press({name: key for key, name in KEYS.items()}[tool])
        for width, scheme in ((1280, "light"), (360, "dark")):
            desk.page.set_viewport_size({"width": width, "height": 800})
            desk.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            assert findings(desk) == [], (tool, width)
