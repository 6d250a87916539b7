"""The first minute on the page: what the model paints, and an example that is ready to be painted."""

import io

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from tests.conftest import EYES_MASK, PORTRAIT
from tests.support.browser_session import Visit
from tests.support.page_driver import PAINTING_MS, Desk, opened
from tests.support.served import Serve, Served
from tools.train_demo.things.judge import judge_picture

pytest_plugins = ["tests.support.browser", "tests.support.served_fixtures", "tests.support.page_fixtures"]


@pytest.mark.slow
def test_the_page_says_what_the_demo_model_paints(fake: Served, visit: Visit) -> None:
    """Someone who asks it for a giraffe learns why there is none, and what there is is a click away."""
    desk = Desk(visit, fake.url)
    expect(desk.get("about")).to_contain_text("Demo model: paints coloured shapes")
    expect(desk.get("about")).to_contain_text("inpaint models fetch sdxl-inpainting")
    desk.get("prompt").fill("a giraffe sitting, photo")
    expect(desk.get("about")).to_contain_text("It does not know “giraffe, sitting, photo”.")
    desk.get("prompt").fill("A big blue star")
    expect(desk.get("about")).not_to_contain_text("does not know")
    desk.get("things").locator("summary").click()
    desk.get("things").get_by_role("button", name="a sunflower").click()
    expect(desk.get("prompt")).to_have_value("a sunflower")
    expect(desk.get("things")).to_have_attribute("open", "")  # to try another one


@pytest.mark.slow
def test_a_model_for_photographs_needs_no_line(serve: Serve, visit: Visit) -> None:
    """Nor the example, which is made for the demo model."""
    desk = Desk(visit, serve(model="sdxl-inpainting", no_auth=True).url)
    expect(desk.get("server-state")).to_contain_text("sdxl-inpainting")
    expect(desk.get("about")).to_be_hidden()
    expect(desk.get("example")).to_be_hidden()


@pytest.mark.slow
@pytest.mark.gate
def test_the_example_needs_one_click_to_be_painted(real: Served, visit: Visit) -> None:
    """A mask over the eyes and a prompt are there, and sunglasses come out."""
    desk = Desk(visit, real.url)
    expect(desk.get("example")).to_be_visible(timeout=PAINTING_MS)
    desk.click("example")
    expect(desk.get("picture-name")).to_have_text("portrait.jpg")
    expect(desk.get("prompt")).to_have_value("black sunglasses")
    expect(desk.get("undo")).to_be_enabled()  # the mask is there
    desk.get("samples").select_option("1")
    desk.get("seed").fill("1")
    desk.click("paint")
    desk.results(1)
    mask = opened(desk.sent()[0]["mask"]).convert("L")
    eyes = Image.open(EYES_MASK).convert("L")
    assert np.abs(np.asarray(mask, int) - np.asarray(eyes, int)).mean() < 1
    desk.click("result-keep")
    shown = Image.open(io.BytesIO(desk.downloaded()[1])).convert("RGB")
    assert judge_picture(shown, Image.open(PORTRAIT).convert("RGB"), eyes, "sunglasses").right
