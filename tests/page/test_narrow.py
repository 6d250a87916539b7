"""Phones and zoomed windows: targets for fingers, and nothing cut off."""

import pytest

from tests.page.test_access import findings
from tests.support.browser_session import Visiting
from tests.support.page_driver import Desk, photo
from tests.support.served import Served, file_of

pytest_plugins = ["tests.support.browser", "tests.support.served_fixtures", "tests.support.page_fixtures"]

_SMALL = """
() => [...document.querySelectorAll(
    "#panel :is(button, input, select, summary, textarea, .field.is-check):not([type=checkbox], [type=radio])"
  )]
  .filter((element) => element.offsetParent !== null)
  .map((element) => [element.id || element.className || element.type, element.getBoundingClientRect().height])
  .filter(([, height]) => height < 40)
"""


@pytest.mark.slow
@pytest.mark.gate
def test_the_panel_is_made_for_fingers_where_they_are_used(fake: Served, visiting: Visiting) -> None:
    """Sliders, check boxes with their labels, buttons: 40 px and more."""
    desk = Desk(visiting(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True), fake.url)
    desk.open(file_of(photo()))
    desk.page.click("#advanced summary")
    assert desk.page.evaluate("() => document.querySelectorAll('#fields input[type=range]').length") > 5
    assert desk.page.evaluate(_SMALL) == []


@pytest.mark.slow
@pytest.mark.parametrize("size", [(390, 844), (640, 400)], ids=["a phone", "twice the size"])
def test_menus_and_panel_fit_a_small_window(fake: Served, visiting: Visiting, size: tuple[int, int]) -> None:
    """Also in German, whose words are long; 640 × 400 is a 1280 × 800 window at 200 %."""
    width, height = size
    visit = visiting(locale="de", viewport={"width": width, "height": height}, device_scale_factor=2)
    desk = Desk(visit, fake.url)
    desk.open(file_of(photo()))
    desk.get("prompt").fill("a red circle")
    for button, menu in (("save-as", "save-menu"), ("earlier-prompts", "prompts-menu")):
        desk.click(button)
        box = desk.get(menu).bounding_box()
        assert box is not None
        assert box["x"] >= 0
        assert box["y"] >= 0
        assert box["x"] + box["width"] <= width
        assert box["y"] + box["height"] <= height
        assert findings(desk) == []
        desk.page.keyboard.press("Escape")
    assert desk.page.evaluate("() => document.documentElement.scrollWidth") == width
