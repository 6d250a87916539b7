"""Erase: what is marked goes, without a prompt; one step, which undo takes back."""

import numpy as np
from playwright.sync_api import expect

from tests.support.browser_session import Visit
from tests.support.page_driver import PAINTING_MS, Desk, opened, photo
from tests.support.served import Serve, file_of

pytest_plugins = ["tests.support.browser", "tests.support.served_fixtures", "tests.support.page_fixtures"]


def test_what_is_marked_is_erased_and_undo_brings_it_back(serve: Serve, visit: Visit) -> None:
    """As Photoshop's and IOPaint's: the picture changes, everything else in it stays."""
    desk = Desk(visit, serve().url)
    original = photo((128, 128))
    original.paste("red", (50, 50, 70, 70))
    desk.open(file_of(original))
    expect(desk.get("erase")).to_be_visible()
    desk.click("erase")
    expect(desk.get("notice")).to_contain_text("Mark what should change first")
    for _ in range(8):
        desk.page.keyboard.press("[")
    desk.stroke((48, 60), (72, 60))
    desk.click("erase")
    expect(desk.get("picture-name")).to_have_text("photo_erased.png", timeout=PAINTING_MS)
    with desk.page.expect_download() as download:
        desk.click("download")
    before, after = (
        np.asarray(original),
        np.asarray(opened(download.value.path().read_bytes()).convert("RGB")),
    )
    changed = (before != after).any(2)
    assert changed[60, 60]
    assert not changed[:, :16].any()
    assert not changed[:, 112:].any()
    desk.click("undo")
    expect(desk.get("picture-name")).to_have_text("photo.png")
