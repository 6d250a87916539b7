"""The page on a server with several models: which one paints is chosen, and seen afterwards."""

from pathlib import Path

import pytest
from playwright.sync_api import expect

from server.engines.fleet import Fleet
from tests.support.browser_session import Visit
from tests.support.page_driver import Desk, photo
from tests.support.served import FakeEngine, PictureHost, Served, file_of, server_for

pytest_plugins = ["tests.support.browser", "tests.support.served_fixtures", "tests.support.page_fixtures"]


@pytest.mark.slow
def test_one_model_is_no_choice(fake: Served, desk: Desk) -> None:
    """Nothing is asked where there is one answer."""
    expect(desk.get("server-state")).to_have_text("demo · ready")
    expect(desk.get("model")).to_be_hidden()


@pytest.mark.slow
@pytest.mark.gate
def test_a_model_is_chosen_and_its_results_say_so(
    tmp_path: Path, picture_host: PictureHost, visit: Visit
) -> None:
    """One that is being loaded says so; the choice survives a reload."""
    demo, beach = FakeEngine(), FakeEngine(loaded=False)
    fleet = Fleet({"demo": demo, "beach": beach})
    with server_for(tmp_path, picture_host, fleet, model="demo,beach") as served:
        desk = Desk(visit, served.url)
        desk.open(file_of(photo()))
        model, state = desk.get("model"), desk.get("server-state")
        expect(model).to_have_value("demo")
        expect(desk.page.locator("#about")).to_be_visible()  # no photographs
        expect(model.locator("option").nth(1)).to_have_text("beach: being loaded")
        model.select_option("beach")
        expect(state).to_have_text("beach · the model is being loaded")
        expect(desk.page.locator("#about")).to_be_hidden()
        served.do(beach.load)
        expect(state).to_have_text("beach · ready")
        expect(model.locator("option").nth(1)).to_have_text("beach")
        expect(model).to_have_value("beach")
        desk.wait_saved()
        desk.reload()
        expect(model).to_have_value("beach")
        desk.stroke((50, 64), (78, 64))
        desk.page.select_option("#samples", "1")
        desk.get("seed").fill("7")
        desk.get("seed").press("Tab")
        desk.paint()
        desk.results(1)
        assert (len(demo.requests), len(beach.requests)) == (0, 1)
        expect(desk.get("result").first).to_have_attribute("title", "Draft, seed 7, a red circle, beach")
        model.select_option("demo")
        desk.click("result-takeOver")
        expect(model).to_have_value("beach")
    assert not served.unseen
