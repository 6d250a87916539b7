"""Several pictures open in one page: each keeps its own work, and its paintings go on."""

import numpy as np
import pytest
from playwright.sync_api import expect

from tests.support.page_driver import Desk, opened, photo
from tests.support.served import FakeEngine, Served, colour_of, file_of

pytest_plugins = ["tests.support.browser", "tests.support.served_fixtures", "tests.support.page_fixtures"]


def held(served: Served) -> FakeEngine:
    assert isinstance(served.engine, FakeEngine)
    served.engine.held = True
    return served.engine


def ask(desk: Desk, prompt: str, seed: int) -> None:
    desk.get("samples").select_option("1")
    desk.get("seed").fill(str(seed))
    desk.paint(prompt)


def second_tab(desk: Desk) -> None:
    """Open another picture in a tab of its own."""
    desk.click("new-tab")
    expect(desk.get("empty")).to_be_visible()
    expect(desk.get("tab")).to_have_text(["photo.png", "No picture yet"])
    desk.open(file_of(photo((64, 96))), "other.png")
    expect(desk.get("tab")).to_have_text(["photo.png", "other.png"])


def test_each_tab_has_its_own_picture_mask_and_results(fake: Served, desk: Desk) -> None:
    """A user with two photographs works on both; a painting in the tab that is not shown goes on."""
    engine = held(fake)
    desk.stroke((50, 64), (78, 64))
    ask(desk, "first", 7)
    ticket = engine.next()
    second_tab(desk)
    expect(desk.get("jobs")).to_be_hidden()
    item = desk.page.locator(".tab").first
    expect(item).to_have_attribute("data-state", "painting")
    fake.do(engine.paint, ticket)
    expect(item).to_have_attribute("data-state", "new")
    assert desk.get("result").count() == 0
    desk.stroke((10, 50), (30, 50))
    ask(desk, "second", 9)
    following = engine.next()
    assert following.request.image.size == (64, 96)
    desk.get("tab").first.click()
    expect(desk.get("picture-name")).to_have_text("photo.png")
    expect(desk.get("prompt")).to_have_value("first")
    assert desk.results(1).all_inner_texts() == ["7"]
    desk.get("result").click()
    assert desk.sees(64, 64, colour_of(7))
    fake.do(engine.paint, following)
    expect(desk.page.locator(".tab").last).to_have_attribute("data-state", "new")
    desk.click("undo")
    expect(desk.get("undo")).to_be_disabled()
    desk.click("redo")
    ask(desk, "third", 7)
    mask = np.asarray(engine.next().request.mask.convert("L"))
    assert mask[64, 64] == 255


@pytest.mark.slow
def test_a_reload_brings_all_tabs_back(fake: Served, desk: Desk) -> None:
    """With what is painted in each, and the one that was shown."""
    engine = held(fake)
    desk.stroke((50, 64), (78, 64))
    ask(desk, "first", 7)
    ticket = engine.next()
    second_tab(desk)
    desk.stroke((10, 50), (30, 50))
    desk.wait_saved()
    desk.reload()
    expect(desk.get("tab")).to_have_text(["photo.png", "other.png"])
    expect(desk.get("picture-name")).to_have_text("other.png")
    expect(desk.get("undo")).to_be_enabled()
    fake.do(engine.paint, ticket)
    desk.get("tab").first.click()
    assert desk.results(1).all_inner_texts() == ["7"]


@pytest.mark.slow
def test_a_tab_that_was_closed_comes_back_when_asked(fake: Served, desk: Desk) -> None:
    """Closed by mistake: one press; after a reload it has gone for good."""
    desk.stroke((50, 64), (78, 64))
    second_tab(desk)
    desk.get("tab-close").first.click()
    expect(desk.get("tab")).to_have_text(["other.png"])
    desk.get("tab-closed").get_by_role("button", name="Bring it back").click()
    expect(desk.get("tab")).to_have_text(["photo.png", "other.png"])
    expect(desk.get("picture-name")).to_have_text("photo.png")
    expect(desk.get("undo")).to_be_enabled()
    desk.get("tab-close").first.click()
    expect(desk.get("picture-name")).to_have_text("other.png")
    desk.get("tab-close").first.click()
    expect(desk.get("tab")).to_have_text(["No picture yet"])
    expect(desk.get("empty")).to_be_visible()
    expect(desk.get("tab-closed")).to_be_visible()
    desk.reload()
    expect(desk.get("empty")).to_be_visible()
    kept = desk.page.evaluate(
        """() => new Promise((resolve) => {
          const opening = indexedDB.open("inpaint");
          opening.onsuccess = () => {
            const all = opening.result.transaction("pictures").objectStore("pictures").getAllKeys();
            all.onsuccess = () => resolve(all.result.length);
          };
        })"""
    )
    assert kept == 0


@pytest.mark.slow
def test_switching_in_a_hurry_mixes_nothing(fake: Served, desk: Desk) -> None:
    """Clicks faster than the pictures load: the last tab that was asked for is shown, with its own mask."""
    held(fake)
    desk.stroke((50, 64), (78, 64))
    second_tab(desk)
    desk.page.evaluate(
        "() => { for (const at of [0, 1, 0, 1, 0]) document.querySelectorAll('.tab-name')[at].click(); }"
    )
    expect(desk.get("picture-name")).to_have_text("photo.png")
    expect(desk.get("tab")).to_have_text(["photo.png", "other.png"])
    ask(desk, "first", 7)
    expect(desk.get("job")).to_have_count(1)
    assert np.asarray(opened(desk.sent()[0]["mask"]).convert("L"))[64, 64] == 255
