"""Paintings while others are under way: queued, cancelled, kept, and gone on with after a reload."""

import re

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from inpaint.errors import OutOfMemoryError
from server.engines.ticket import LoopTicket
from tests.support.browser_session import Visit
from tests.support.page_driver import Desk, photo
from tests.support.served import FakeEngine, Served, colour_of, eventually, file_of

pytest_plugins = ["tests.support.browser", "tests.support.served_fixtures", "tests.support.page_fixtures"]


def held(served: Served) -> FakeEngine:
    """Let nothing be painted until the test says so."""
    assert isinstance(served.engine, FakeEngine)
    served.engine.held = True
    return served.engine


def ask(desk: Desk, prompt: str, seed: int) -> None:
    """Queue one picture of what is marked."""
    desk.get("samples").select_option("1")
    desk.get("seed").fill(str(seed))
    desk.paint(prompt)


def two_queued(served: Served, desk: Desk) -> tuple[LoopTicket, LoopTicket]:
    """Queue a painting, mark another place meanwhile, and queue that, too."""
    engine = held(served)
    desk.stroke((30, 30), (50, 30))
    ask(desk, "first", 7)
    first = engine.next()
    served.do(engine.step, first, 1)
    expect(desk.get("progress-text")).to_contain_text("Step 1")
    desk.click("tool-clear")
    desk.stroke((80, 100), (100, 100))
    ask(desk, "second", 9)
    expect(desk.get("job")).to_have_count(2)
    return first, engine.next()


def mask_of(ticket: LoopTicket) -> np.ndarray:
    """(h, w) of what the engine was given."""
    return np.asarray(ticket.request.mask.convert("L"))


def test_the_next_mask_is_drawn_and_queued_while_it_paints(fake: Served, desk: Desk) -> None:
    """A user does not wait: each painting has the mask and the prompt of its moment, and its own results."""
    engine = held(fake)
    first, second = two_queued(fake, desk)
    assert [ticket.request.prompt for ticket in (first, second)] == ["first", "second"]
    assert (mask_of(first)[30, 40], mask_of(first)[100, 90]) == (255, 0)
    assert (mask_of(second)[30, 40], mask_of(second)[100, 90]) == (0, 255)
    expect(desk.get("job").locator(".job-prompt")).to_have_text(["first", "second"])
    fake.do(engine.step, second, 2)
    expect(desk.get("job-state")).to_have_text([re.compile("^Step 1 of 22"), re.compile("^Step 2 of 22")])
    expect(desk.get("progress-text")).to_have_text(re.compile("^Step 1 of"))
    for number, ticket in enumerate((first, second), 1):
        fake.do(engine.paint, ticket)
        desk.results(number)
    expect(desk.get("jobs")).to_be_hidden()
    assert desk.get("result").all_inner_texts() == ["9", "7"]
    expect(desk.get("undo")).to_be_enabled()


@pytest.mark.slow
def test_new_strokes_are_seen_over_the_preview(fake: Served, desk: Desk) -> None:
    """The preview stays where it is painted; what is drawn meanwhile is not hidden by it."""
    engine = held(fake)
    desk.stroke((50, 64), (78, 64))
    ask(desk, "first", 7)
    ticket = engine.next()
    eventually(lambda: ticket.watchers)  # without one there are no previews
    fake.do(engine.step, ticket, 1)
    preview = (255, 0, 0)
    assert desk.sees(64, 64, preview)
    before = desk.pixel(64, 20)
    desk.stroke((50, 20), (78, 20))
    eventually(lambda: desk.pixel(64, 20) != before)
    fake.do(engine.step, ticket, 1)
    expect(desk.get("progress-text")).to_contain_text("Step 2")
    assert desk.pixel(64, 20) != before, "the new mask is filled"
    assert desk.pixel(64, 64) != photo().getpixel((64, 64)), "the preview is still there"
    desk.click("undo")
    assert desk.sees(64, 64, preview)
    assert desk.sees(64, 20, before)
    desk.open(file_of(Image.new("RGB", (128, 128), "white")), "other.png")
    assert desk.sees(64, 64, (255, 255, 255)), "the preview belongs to another picture"
    fake.do(engine.paint, ticket)
    desk.results(1)
    expect(desk.get("result").first).to_have_attribute("aria-pressed", "false")


@pytest.mark.slow
def test_one_of_two_is_cancelled_and_the_other_is_painted(fake: Served, desk: Desk) -> None:
    """Each has a button; Esc takes back the one that was asked for last."""
    engine = held(fake)
    first, second = two_queued(fake, desk)
    desk.get("job-cancel").nth(0).click()
    expect(desk.get("job").locator(".job-prompt")).to_have_text(["second"])
    assert first.finished
    desk.get("canvas").focus()
    desk.get("samples").select_option("1")
    desk.paint("third")
    third = engine.next()
    expect(desk.get("job")).to_have_count(2)
    desk.get("canvas").focus()
    desk.page.keyboard.press("Escape")
    expect(desk.get("job").locator(".job-prompt")).to_have_text(["second"])
    assert third.finished
    fake.do(engine.paint, second)
    assert desk.results(1).all_inner_texts() == ["9"]
    expect(desk.get("error")).to_have_count(0)


@pytest.mark.slow
def test_results_do_not_disturb_a_user_who_went_on(fake: Served, desk: Desk) -> None:
    """Who has drawn since sees the strokes, and results wait in the film; who has waited sees them."""
    engine = held(fake)
    first, second = two_queued(fake, desk)
    fake.do(engine.paint, first)
    desk.results(1)
    expect(desk.get("result").first).to_have_attribute("aria-pressed", "false")
    assert desk.sees(40, 30, photo().getpixel((40, 30)))
    fake.do(engine.paint, second)
    desk.results(2)
    expect(desk.get("result").first).to_have_attribute("aria-pressed", "true")
    assert desk.sees(90, 100, colour_of(9))


@pytest.mark.slow
def test_a_reload_while_two_are_queued_loses_neither(fake: Served, desk: Desk) -> None:
    """The page that comes back has both, with their pictures of the mask, and paints nothing twice."""
    engine = held(fake)
    first, second = two_queued(fake, desk)
    desk.wait_saved()
    desk.reload()
    expect(desk.get("job").locator(".job-prompt")).to_have_text(["first", "second"])
    assert desk.page.evaluate(
        "() => [...document.querySelectorAll('.job img')].every((i) => i.naturalWidth > 0)"
    )
    for number, ticket in enumerate((first, second), 1):
        fake.do(engine.paint, ticket)
        desk.results(number)
    assert len(engine.requests) == 2
    expect(desk.get("result").first).to_have_attribute("aria-pressed", "true")


@pytest.mark.slow
def test_what_was_being_sent_when_the_page_was_loaded_again_is_sent_again(fake: Served, desk: Desk) -> None:
    """A reload in the middle of an upload: the page has kept the form, and its key makes it one request."""
    engine = held(fake)
    desk.stroke((50, 64), (78, 64))
    keys: list[str] = []

    def swallow(route: object) -> None:
        keys.append(route.request.headers["idempotency-key"])  # type: ignore[attr-defined]

    desk.page.route(
        "**/v2/sdxl-inpaint",
        lambda route: swallow(route) if route.request.method == "POST" else route.continue_(),
    )
    ask(desk, "sent twice", 7)
    expect(desk.get("job-state")).to_have_text("Sending the picture…")
    desk.wait_saved()
    desk.page.unroute_all()
    with desk.page.expect_request(
        lambda one: one.method == "POST" and one.url.endswith("/sdxl-inpaint")
    ) as sent:
        desk.reload()
    assert [sent.value.headers["idempotency-key"]] == keys
    ticket = engine.next()
    assert (ticket.request.prompt, mask_of(ticket)[64, 64]) == ("sent twice", 255)
    fake.do(engine.paint, ticket)
    desk.results(1)


@pytest.mark.slow
def test_a_result_is_kept_while_another_is_painted(fake: Served, desk: Desk) -> None:
    """The other one goes on; its result replaces the picture as a whole, and the page says so."""
    engine = held(fake)
    first, second = two_queued(fake, desk)
    fake.do(engine.paint, first)
    desk.results(1).first.click()
    desk.get("drafts").uncheck()
    desk.click("result-keep")
    expect(desk.get("picture-name")).to_have_text("photo_inpainted_7.png")
    fake.do(engine.paint, second)
    desk.results(2)
    expect(desk.get("picture-name")).to_have_text("photo_inpainted_7.png")
    desk.get("result").first.click()
    desk.click("result-keep")
    expect(desk.get("kept-other")).to_contain_text("was painted on an earlier picture")
    expect(desk.get("picture-name")).to_have_text("photo_inpainted_9.png")
    desk.click("undo")
    expect(desk.get("picture-name")).to_have_text("photo_inpainted_7.png")


@pytest.mark.slow
def test_many_are_queued_and_the_page_still_answers(fake: Served, desk: Desk) -> None:
    """A browser has six connections to a server; eight paintings leave some for everything else."""
    engine = held(fake)
    desk.stroke((50, 64), (78, 64))
    for number in range(8):
        ask(desk, f"number {number}", number)
    expect(desk.get("job")).to_have_count(8)
    tickets = [engine.next() for _ in range(8)]
    assert [ticket.request.prompt for ticket in tickets] == [f"number {number}" for number in range(8)]
    desk.get("job-cancel").nth(5).click()
    expect(desk.get("job")).to_have_count(7)
    for ticket in tickets:
        fake.do(engine.paint, ticket)
    desk.results(7)


@pytest.mark.slow
def test_one_that_failed_stays_until_it_is_tried_again(fake: Served, desk: Desk) -> None:
    """Its card says so when the notice has gone, and sends what was asked for, not what is marked now."""
    engine = held(fake)
    desk.stroke((50, 64), (78, 64))
    ask(desk, "too large", 7)
    engine.failures.append(OutOfMemoryError("too large for this GPU"))
    fake.do(engine.paint, engine.next())
    expect(desk.get("job-state")).to_have_text("Not painted.")
    expect(desk.get("progress")).to_be_hidden()
    desk.click("tool-clear")
    desk.get("job-again").click()
    again = engine.next()
    assert (again.request.prompt, mask_of(again)[64, 64]) == ("too large", 255)
    fake.do(engine.paint, again)
    desk.results(1)
    expect(desk.get("jobs")).to_be_hidden()


@pytest.mark.slow
def test_a_painting_goes_on_while_another_picture_is_opened(fake: Served, visit: Visit) -> None:
    """Nothing stops a user who has the next picture ready."""
    engine = held(fake)
    desk = Desk(visit, fake.url)
    desk.open(file_of(photo()))
    desk.stroke((50, 64), (78, 64))
    ask(desk, "first", 7)
    ticket = engine.next()
    desk.open(file_of(photo((64, 96))), "other.png")
    expect(desk.get("job")).to_have_count(1)
    fake.do(engine.paint, ticket)
    desk.results(1)
    expect(desk.get("picture-name")).to_have_text("other.png")
