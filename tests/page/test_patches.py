"""Patches on the page: it fetches and keeps the painted part, and the whole file when that is wanted."""

import base64
import shutil

import numpy as np
import pytest
from PIL import Image, ImageCms
from playwright.sync_api import expect

from tests.support.browser_session import Visit
from tests.support.page_driver import Desk, opened, photo
from tests.support.served import Served, colour_of, file_of

pytest_plugins = ["tests.support.browser", "tests.support.served_fixtures", "tests.support.page_fixtures"]

LACKS = "The server no longer has this picture, so the browser wrote the file"
_OVERLAY = """
() => {
  const canvas = document.querySelector(".editor-result");
  return [canvas.toDataURL(), parseFloat(canvas.style.left), parseFloat(canvas.style.top)];
}
"""


def painted(desk: Desk, samples: int = 1) -> None:
    """A stroke off the middle, painted with seeds from 7."""
    if desk.get("drafts").is_checked():
        desk.get("drafts").uncheck()
    desk.stroke((70, 84), (96, 84))
    desk.get("samples").select_option(str(samples))
    desk.get("seed").fill("7")
    desk.paint()
    desk.results(samples)


def overlay(desk: Desk) -> tuple[np.ndarray, int, int]:
    """The pixels that are laid over the picture, and where their left upper corner is."""
    desk.page.wait_for_function("() => document.querySelector('.editor-result').width > 0")
    url, left, top = desk.page.evaluate(_OVERLAY)
    return np.asarray(opened(base64.b64decode(url.partition(",")[2])).convert("RGB")), int(left), int(top)


def pixels(data: bytes) -> np.ndarray:
    return np.array(opened(data).convert("RGB"))


def forget_pictures(served: Served) -> None:
    """The server's pictures have expired."""
    for folder in (served.settings.data / "pictures").iterdir():
        shutil.rmtree(folder)


def test_the_patch_is_shown_where_the_whole_file_has_it(fake: Served, visit: Visit) -> None:
    """What is looked at is what is saved, to the pixel; and until then only the painted part travels."""
    desk = Desk(visit, fake.url)
    desk.open(file_of(photo()))
    painted(desk)
    patch, left, top = overlay(desk)
    assert patch.shape[0] < 128 > patch.shape[1]
    fetched = [url for url in visit.requests if "/images/" in url]
    assert fetched
    assert all("crop=box" in url for url in fetched)
    _, data = desk.downloaded()
    whole, height, width = pixels(data), *patch.shape[:2]
    assert np.array_equal(whole[top : top + height, left : left + width], patch)
    whole[top : top + height, left : left + width] = np.asarray(photo())[
        top : top + height, left : left + width
    ]
    assert np.array_equal(whole, np.asarray(photo())), "outside are the caller's own pixels"


@pytest.mark.slow
def test_a_kept_result_is_the_whole_file_after_a_reload(desk: Desk) -> None:
    """Its colour profile too: what is painted next is painted on the file, not on a canvas of it."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    desk.open(file_of(photo(), icc_profile=profile), "profile.png")
    painted(desk)
    _, first = desk.downloaded()
    desk.click("result-keep")
    expect(desk.get("picture-name")).to_have_text("profile_inpainted_7.png")
    desk.wait_saved()
    desk.reload()
    expect(desk.get("picture-name")).to_have_text("profile_inpainted_7.png")
    assert desk.sees(80, 84, colour_of(7))
    desk.stroke((20, 20), (30, 20))
    desk.click("paint")
    desk.results(2)
    assert desk.sent()[-1]["image"] == first
    assert opened(first).info["icc_profile"] == profile


@pytest.mark.slow
def test_a_result_of_an_earlier_picture_is_shown_whole(fake: Served, desk: Desk) -> None:
    """Its patch alone, over a picture that has changed since, would be a picture that nobody painted."""
    desk.open(file_of(photo()))
    painted(desk, samples=2)
    desk.click("result-keep")
    expect(desk.get("picture-name")).to_have_text("photo_inpainted_7.png")
    desk.get("result").nth(1).click()
    assert desk.sees(80, 84, colour_of(8))
    assert desk.sees(25, 20, photo().getpixel((25, 20)))
    patch, left, top = overlay(desk)
    assert (patch.shape, left, top) == ((128, 128, 3), 0, 0)


@pytest.mark.slow
def test_pictures_that_the_server_has_no_longer_are_composed(fake: Served, visit: Visit) -> None:
    """The history outlives the server's pictures, and a person is told what such a file lacks."""
    visit.expect_trouble("404")
    desk = Desk(visit, fake.url)
    desk.open(file_of(photo()))
    painted(desk, samples=2)
    _, expected = desk.downloaded()
    forget_pictures(fake)
    desk.wait_saved()
    desk.reload()
    desk.results(2).nth(0).click()
    assert desk.sees(80, 84, colour_of(7))
    _, data = desk.downloaded()
    assert np.array_equal(pixels(data), pixels(expected))
    expect(desk.get("notice")).to_contain_text(LACKS)
    desk.get("result").nth(1).click()
    desk.click("result-keep")
    expect(desk.get("picture-name")).to_have_text("photo_inpainted_8.png")
    assert desk.sees(80, 84, colour_of(8))
    assert desk.sees(20, 20, photo().getpixel((20, 20)))


@pytest.mark.slow
def test_an_extended_picture_has_its_patch_at_the_new_edge(fake: Served, desk: Desk) -> None:
    """Where pixels were added on the left, the patch begins left of the picture."""
    desk.open(file_of(photo()))
    desk.get("drafts").uncheck()
    desk.page.get_by_role("radio", name="Extend").check(force=True)
    desk.page.locator("#extension input").first.fill("32")
    desk.page.keyboard.press("Tab")
    desk.get("samples").select_option("1")
    desk.paint("more")
    desk.results(1)
    patch, left, top = overlay(desk)
    assert left == -32
    _, data = desk.downloaded()
    whole = pixels(data)
    assert whole.shape[1] == 160
    height, width = patch.shape[:2]
    assert np.array_equal(whole[top : top + height, left + 32 : left + 32 + width], patch)
    desk.click("result-keep")
    expect(desk.get("picture-size")).to_have_text("160 × 128")


@pytest.mark.slow
def test_variations_are_numbered_enlarged_and_say_what_made_them(fake: Served, desk: Desk) -> None:
    """Four small pictures of a large one looked alike, and an older one hid its prompt."""
    desk.open(file_of(photo((400, 400))))
    painted(desk, samples=4)
    results = desk.get("result")
    numbers = [results.nth(n).get_attribute("data-number") for n in range(4)]
    assert numbers == ["1", "2", "3", "4"]
    expect(desk.get("enlarged")).to_be_hidden()
    results.nth(1).hover()
    expect(desk.get("enlarged")).to_be_visible()
    thumbnail, large = results.nth(1).bounding_box(), desk.get("enlarged").bounding_box()
    assert thumbnail is not None
    assert large is not None
    assert large["y"] + large["height"] <= thumbnail["y"]
    assert large["width"] > 1.5 * thumbnail["width"]
    desk.page.mouse.move(600, 300)
    expect(desk.get("enlarged")).to_be_hidden()
    desk.get("prompt").fill("something else")
    results.nth(2).click()
    expect(desk.get("result-made")).to_contain_text("“a red circle” · ")
    expect(desk.get("result-made")).to_contain_text("strength 0.9")


@pytest.mark.slow
def test_a_discarded_result_comes_back_with_the_picture_around_it(fake: Served, desk: Desk) -> None:
    """The picture that it was painted on is deleted with the last result that needs it."""
    desk.open(file_of(photo()))
    painted(desk)
    desk.page.keyboard.press("Escape")
    desk.get("result").click()
    desk.click("result-discard")
    expect(desk.get("result")).to_have_count(0)
    desk.get("notice").get_by_role("button", name="Bring it back").click()
    desk.results(1)
    desk.wait_saved()
    desk.reload()
    forget_pictures(fake)
    desk.open(file_of(Image.new("RGB", (128, 128), "white")), "other.png")
    desk.results(1).click()
    assert desk.sees(80, 84, colour_of(7))
    assert desk.sees(20, 20, photo().getpixel((20, 20)))
