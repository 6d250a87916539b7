"""Drafts: variations are painted nearly exact; the one that is kept is painted again exactly."""

import math
from typing import Any

import cv2
import httpx2
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from inpaint.errors import OutOfMemoryError
from inpaint.request import InpaintResult
from tests.support.browser_session import Visit, Visiting
from tests.support.page_driver import PAINTING_MS, Desk, opened, photo
from tests.support.served import FakeEngine, Served, colour_of, file_of

pytest_plugins = ["tests.support.browser", "tests.support.served_fixtures", "tests.support.page_fixtures"]

REACH_PX = 4  # beyond the mask: grow 8 + feather 16 of 1024, in a box of at most 128
EXACT_COLOUR = (10, 200, 30)  # what the test paints in place of the fake engine's own
# The browser's animations, noted down instead of looked for while they last.
NOTE_FADES = """
window.fades = [];
const animate = Element.prototype.animate;
Element.prototype.animate = function (frames, options) {
  window.fades.push([this.className, frames.opacity]);
  return animate.call(this, frames, options);
};
"""


def engine_of(served: Served) -> FakeEngine:
    assert isinstance(served.engine, FakeEngine)
    return served.engine


def drafted(desk: Desk, samples: int = 1) -> None:
    """Paint drafts with seeds from 7, from a stroke in the middle."""
    desk.stroke((50, 64), (78, 64))
    desk.get("samples").select_option(str(samples))
    desk.get("seed").fill("7")
    desk.paint()
    desk.results(samples)


def kept(served: Served, desk: Desk) -> Any:
    """Keep a draft, and return the ticket with which its exact picture is painted."""
    engine = engine_of(served)
    drafted(desk)
    engine.next()
    engine.held = True
    desk.click("result-keep")
    expect(desk.get("picture-name")).to_have_text("photo_inpainted_7.png")
    return engine.next()


def finish(served: Served, ticket: Any) -> None:
    """Paint the exact picture, all in one colour."""
    image = Image.new("RGB", ticket.request.image.size, EXACT_COLOUR)
    served.do(ticket.finish, InpaintResult([image], ticket.seeds, (0, 0, *image.size)))


def pictures_of(visit: Visit, server: str) -> list[np.ndarray]:
    """Return every whole picture that the page has fetched, downloaded again, as (H, W, 3) floats."""
    urls = dict.fromkeys(
        url for url in visit.requests if "/images/" in url and url.startswith(server) and "crop=" not in url
    )
    files = [httpx2.get(url, trust_env=False).content for url in urls]
    return [np.asarray(opened(data).convert("RGB"), float) for data in files]


@pytest.mark.slow
def test_the_distance_that_is_shown_is_that_of_the_files(real: Served, visit: Visit) -> None:
    """A number must be one that can be measured; and outside the mask the two do not differ at all."""
    desk = Desk(visit, real.url)
    desk.open(file_of(photo()))
    expect(desk.get("server-state")).to_have_text("demo · ready", timeout=PAINTING_MS)
    desk.quick()
    expect(desk.get("drafts")).to_be_checked()
    drafted(desk)
    assert desk.sent()[0]["pace"] == b"near"
    expect(desk.get("result-note")).to_have_text("A draft, nearly exact. Keep paints it exactly.")
    desk.click("result-keep")
    note = desk.get("result-note")
    expect(note).to_contain_text("Exact. Its draft was", timeout=PAINTING_MS)
    draft, exact = pictures_of(visit, real.url)
    mask = np.asarray(opened(desk.sent()[0]["mask"]).convert("L")) >= 128
    distance = 10 * math.log10(255**2 / np.square(draft - exact)[mask].mean())
    assert 25 < distance < 80
    expect(note).to_contain_text(f"Seed 7: Exact. Its draft was {distance:.1f} dB away, ")
    near_the_mask = cv2.dilate(mask.astype(np.uint8), np.ones((2 * REACH_PX + 1, 2 * REACH_PX + 1))) > 0
    assert np.array_equal(draft[~near_the_mask], exact[~near_the_mask])
    desk.wait_saved()
    name, data = desk.downloaded()
    assert name == "photo_inpainted_7.png"
    assert np.array_equal(np.asarray(opened(data).convert("RGB"), float), exact)


def test_the_exact_picture_comes_without_a_jump(fake: Served, desk: Desk) -> None:
    """A user goes on working: mask, view and undo stay, and undo never brings the draft back."""
    ticket = kept(fake, desk)
    assert (ticket.request.pace, ticket.seeds) == ("exact", [7])
    expect(desk.get("result-note")).to_contain_text("it is being painted exactly")
    desk.stroke((20, 20), (40, 20))
    desk.click("zoom-in")
    zoom = desk.get("zoom").inner_text()
    place = desk.at(64, 64)
    assert desk.sees(64, 64, colour_of(7))
    finish(fake, ticket)
    assert desk.sees(64, 64, EXACT_COLOUR)
    assert (desk.get("zoom").inner_text(), desk.at(64, 64)) == (zoom, place)
    expect(desk.get("result")).to_have_count(1)
    expect(desk.get("result")).not_to_have_attribute("data-draft", "")
    desk.click("undo")
    expect(desk.get("picture-name")).to_have_text("photo_inpainted_7.png")
    desk.click("undo")
    expect(desk.get("picture-name")).to_have_text("photo.png")
    desk.click("redo")
    expect(desk.get("picture-name")).to_have_text("photo_inpainted_7.png")
    assert desk.sees(64, 64, EXACT_COLOUR)
    desk.get("result").click()
    assert desk.sees(64, 64, EXACT_COLOUR), "the film has the exact one, too"


@pytest.mark.slow
def test_a_reload_while_a_draft_is_painted_exactly_goes_on(fake: Served, desk: Desk) -> None:
    """What was kept is exact in the end, whatever happens to the page meanwhile."""
    ticket = kept(fake, desk)
    expect(desk.get("result-note")).to_contain_text("it is being painted exactly")
    desk.wait_saved()
    desk.reload()
    expect(desk.get("picture-name")).to_have_text("photo_inpainted_7.png")
    assert desk.sees(64, 64, colour_of(7))
    finish(fake, ticket)
    assert desk.sees(64, 64, EXACT_COLOUR)
    desk.wait_saved()
    desk.reload()
    assert desk.sees(64, 64, EXACT_COLOUR)
    assert len(engine_of(fake).requests) == 2


@pytest.mark.slow
def test_a_draft_stays_where_it_cannot_be_painted_exactly(fake: Served, desk: Desk) -> None:
    """No error takes a picture away; the page says why and tries again when asked."""
    engine = engine_of(fake)
    drafted(desk)
    engine.failures.append(OutOfMemoryError("it did not fit into the GPU's memory"))
    desk.click("result-keep")
    expect(desk.get("stays-draft")).to_contain_text("stays a draft: it did not fit into the GPU's memory")
    assert desk.sees(64, 64, colour_of(7))
    expect(desk.get("result")).to_have_attribute("data-draft", "")
    desk.get("stays-draft").get_by_role("button", name="Try again").click()
    expect(desk.get("result-note")).to_contain_text("Exact. Its draft was the same to the last bit.")
    assert [request.pace for request in engine.requests] == ["near", "exact", "exact"]


@pytest.mark.slow
def test_a_draft_that_the_server_has_forgotten_stays(own: Served, visit: Visit) -> None:
    """After an hour the server knows the request no more; the browser still has the picture."""
    desk = Desk(visit, own.url)
    desk.open(file_of(photo()))
    drafted(desk)
    (request_id,) = {path.parent.name for path in (own.settings.data / "pictures").glob("*/*")}
    own.parts.blobs.delete(request_id)
    visit.expect_trouble("404")
    desk.click("result-keep")
    expect(desk.get("stays-draft")).to_contain_text("the server no longer has what it was painted from")
    expect(desk.get("picture-name")).to_have_text("photo_inpainted_7.png")


@pytest.mark.slow
@pytest.mark.parametrize("waits", [True, False])
def test_what_is_painted_next_is_painted_on_the_exact_picture(fake: Served, desk: Desk, waits: bool) -> None:
    """Else a draft's pixels would stay in the final picture. A user in a hurry may go on without it."""
    engine = engine_of(fake)
    ticket = kept(fake, desk)
    desk.stroke((20, 20), (40, 20))
    desk.click("paint")
    notice = desk.get("waiting-for-exact")
    expect(notice).to_be_visible()
    if waits:
        finish(fake, ticket)
    else:
        notice.get_by_role("button", name="Do not wait").click()
    following = engine.next()
    seen = following.request.image.convert("RGB").getpixel((64, 64))
    assert seen == (EXACT_COLOUR if waits else colour_of(7))
    fake.do(engine.paint, following)
    desk.results(2)


@pytest.mark.slow
def test_without_drafts_everything_is_painted_exactly(fake: Served, desk: Desk) -> None:
    """Drafts can be switched off, for good; where a sampler has none, the page says so."""
    engine = engine_of(fake)
    desk.get("drafts").uncheck()
    drafted(desk)
    assert desk.sent()[0]["pace"] == b"exact"
    expect(desk.get("result-note")).to_have_text("")
    desk.click("result-keep")
    expect(desk.get("picture-name")).to_have_text("photo_inpainted_7.png")
    desk.wait_saved()
    desk.reload()
    expect(desk.get("drafts")).not_to_be_checked()
    desk.get("drafts").check()
    desk.page.click("#advanced summary")
    desk.get("field-scheduler").select_option("Euler a")
    desk.stroke((50, 64), (78, 64))
    desk.click("paint")
    desk.results(2)
    expect(desk.get("result-note")).to_have_text("Exact: with these settings there are no drafts.")
    desk.click("result-keep")
    expect(desk.get("undo")).to_be_enabled()
    assert [request.pace for request in engine.requests] == ["exact", "near"]


@pytest.mark.slow
@pytest.mark.gate
def test_the_draft_fades_into_the_exact_picture(fake: Served, visiting: Visiting) -> None:
    """A sudden change would draw the eye; a user who wants no motion sees none."""
    faded = {}
    for motion in ("no-preference", "reduce"):
        visit = visiting(reduced_motion=motion)
        visit.context.add_init_script(NOTE_FADES)
        desk = Desk(visit, fake.url)
        desk.open(file_of(photo()))
        engine_of(fake).held = False
        finish(fake, kept(fake, desk))
        assert desk.sees(64, 64, EXACT_COLOUR)
        expect(desk.page.locator(".editor-fading")).to_have_count(0)
        faded[motion] = desk.page.evaluate("() => window.fades")
    assert faded == {"no-preference": [["editor-fading", [1, 0]]], "reduce": []}
