"""The first minute on the page: what the model paints, and an example that is ready to be painted."""

import numpy as np
import pytest
from playwright.sync_api import expect

from tests.support.browser_session import Visit
from tests.support.page_driver import PAINTING_MS, Desk, opened
from tests.support.served import Serve, Served

pytest_plugins = ["tests.support.browser", "tests.support.served_fixtures", "tests.support.page_fixtures"]


@pytest.mark.slow
def test_the_page_says_what_the_demo_model_paints(fake: Served, visit: Visit) -> None:
    """Someone who asks it for a cat learns why there is none, before the picture and with it."""
    desk = Desk(visit, fake.url)
    expect(desk.get("about")).to_contain_text("Demo model: paints coloured shapes")
    expect(desk.get("about")).to_contain_text("inpaint models fetch sdxl-inpainting")
    desk.get("prompt").fill("a cat sitting, photo")
    expect(desk.get("about")).to_contain_text("It does not know “cat, sitting, photo”.")
    desk.get("prompt").fill("A big blue star")
    expect(desk.get("about")).not_to_contain_text("does not know")


@pytest.mark.slow
def test_a_model_for_photographs_needs_no_line(serve: Serve, visit: Visit) -> None:
    """Nor the example, which is made for the demo model."""
    desk = Desk(visit, serve(model="sdxl-inpainting", no_auth=True).url)
    expect(desk.get("server-state")).to_contain_text("sdxl-inpainting")
    expect(desk.get("about")).to_be_hidden()
    expect(desk.get("example")).to_be_hidden()


@pytest.mark.slow
def test_the_example_needs_one_click_to_be_painted(real: Served, visit: Visit) -> None:
    """A round mask on the mission patch and a prompt are there, and a blue disc comes out."""
    desk = Desk(visit, real.url)
    expect(desk.get("example")).to_be_visible(timeout=PAINTING_MS)
    desk.click("example")
    expect(desk.get("picture-name")).to_have_text("portrait.jpg")
    expect(desk.get("prompt")).to_have_value("a big blue circle")
    expect(desk.get("undo")).to_be_enabled()  # the mask is there
    desk.get("samples").select_option("1")
    desk.click("paint")
    desk.results(1)
    mask = np.asarray(opened(desk.sent()[0]["mask"]))
    assert (mask[384, 171], mask[384, 171 - 40], mask[384 - 60, 171]) == (255, 255, 0)
    desk.click("result-keep")
    red, green, blue = desk.pixel(171, 384)
    assert blue > red + 60
    assert blue > green + 30
