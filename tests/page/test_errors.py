"""What the page says when something goes wrong, and that it goes on from there."""

import signal
from pathlib import Path

import pytest
from playwright.sync_api import expect

from inpaint.errors import OutOfMemoryError
from tests.support.browser_session import Visit
from tests.support.page_driver import PAINTING_MS, Desk, photo
from tests.support.served import FakeEngine, Serve, Served, file_of, white_box
from tests.support.server_process import ServerProcess, eventually, program

pytest_plugins = ["tests.support.browser", "tests.support.served_fixtures", "tests.support.page_fixtures"]


def marked(visit: Visit, url: str) -> Desk:
    """A picture with a stroke, and a prompt."""
    desk = Desk(visit, url)
    desk.open(file_of(photo()))
    desk.stroke((50, 64), (78, 64))
    desk.get("prompt").fill("a red circle")
    return desk


@pytest.mark.slow
def test_a_full_server_is_asked_again_when_it_said(own: Served, visit: Visit) -> None:
    """503 with Retry-After: the server's sentence, the seconds counted down, then again at a press."""
    visit.expect_trouble("503")
    desk = marked(visit, own.url)
    desk.page.clock.install()
    own.do(setattr, own.running.service, "draining", True)
    desk.click("paint")
    expect(desk.get("error")).to_contain_text("The server is going down for a restart; try again.")
    again = desk.get("error").get_by_role("button", name="Try again")
    expect(again).to_have_text("Try again in 10 s")
    expect(again).to_be_disabled()
    desk.page.clock.run_for(4000)
    expect(again).to_have_text("Try again in 6 s")
    desk.page.clock.run_for(7000)
    expect(again).to_be_enabled()
    own.do(setattr, own.running.service, "draining", False)
    again.click()
    desk.results(4)
    expect(desk.get("error")).to_have_count(0)


@pytest.mark.slow
def test_a_key_over_its_rate_sees_when_to_try_again(serve: Serve, visit: Visit) -> None:
    """429: it is this key, not the server, and for how long."""
    visit.expect_trouble("401|429")
    served = serve(rate="2/hour")  # opening a picture asks what it says, which is the first
    token = served.key()
    visit.context.add_init_script(f"if (location.host) sessionStorage.setItem('inpaint-key', '{token}')")
    desk = marked(visit, served.url)
    desk.click("paint")
    desk.results(4)
    desk.click("paint")
    expect(desk.get("error")).to_contain_text("This key may make 2 requests per 3600 seconds")
    expect(desk.get("error").get_by_role("button", name="Try again in 60 min")).to_be_disabled()


@pytest.mark.slow
@pytest.mark.gate
def test_a_server_that_is_gone_is_said_and_nothing_is_lost(serve: Serve, visit: Visit) -> None:
    """Stopped before Paint was pressed; the page sees when it is back, and a press sends the same again."""
    visit.expect_trouble("ERR_CONNECTION_REFUSED")
    served = serve()
    desk = marked(visit, served.url)
    served.stop()
    desk.click("paint")
    expect(desk.get("error")).to_contain_text("The server does not answer. Is it still running?")
    expect(desk.get("error")).to_contain_text("Your picture and your mask are kept.")
    state = desk.get("server-state")
    expect(state).to_have_attribute("data-state", "unreachable")
    serve(port=served.port)
    expect(state).to_have_attribute("data-state", "ready")
    expect(desk.get("error")).to_have_count(0)
    desk.click("job-again")
    desk.results(4)


@pytest.mark.slow
def test_an_idle_page_sees_that_its_server_has_gone(serve: Serve, visit: Visit) -> None:
    """A green dot means that Paint will work, also when nobody has pressed anything for a while."""
    visit.expect_trouble("ERR_CONNECTION_REFUSED")
    served = serve()
    state = Desk(visit, served.url).get("server-state")
    expect(state).to_have_attribute("data-state", "ready")
    served.stop()
    expect(state).to_have_attribute("data-state", "unreachable")
    expect(state).to_have_text("no answer from the server")
    serve(port=served.port)
    expect(state).to_have_text("demo · ready")


@pytest.mark.slow
def test_a_notice_goes_when_what_it_said_is_no_longer_so(fake: Served, visit: Visit) -> None:
    """An old sentence over new work is a wrong one."""
    desk = Desk(visit, fake.url)
    notice = desk.get("notices")
    desk.click("paint")
    expect(notice).to_contain_text("Open a picture first.")
    desk.open(file_of(photo()))
    expect(notice).to_be_empty()
    desk.get("brush-strength").fill("40")
    desk.stroke((50, 64), (78, 64))
    desk.click("paint")
    expect(notice).to_contain_text("The strokes are too faint: below 50 % opacity counts only in Add.")
    desk.get("brush-strength").fill("100")
    desk.stroke((50, 64), (78, 64))
    expect(notice).to_be_empty()
    desk.click("paint")
    expect(notice).to_contain_text("Say what should be painted.")
    desk.get("prompt").fill("a red circle")
    expect(notice).to_be_empty()
    desk.drop(file_of(white_box((64, 64))), "mask.png", "drop-mask")
    expect(desk.get("error")).to_contain_text("64 × 64")
    desk.drop(file_of(white_box((128, 128))), "mask.png", "drop-mask")
    expect(notice).to_be_empty()
    engine = fake.engine
    assert isinstance(engine, FakeEngine)
    engine.failures.append(OutOfMemoryError("too large for this GPU"))
    desk.click("paint")
    expect(desk.get("error")).to_contain_text("Too large for this GPU.")
    desk.click("job-again")
    desk.results(4)
    expect(notice).to_be_empty()


@pytest.mark.slow
def test_a_faint_mask_is_painted_where_it_counts(fake: Served, desk: Desk) -> None:
    """In Add, grey strokes keep more of the picture; they are no mistake there."""
    desk.get("brush-strength").fill("40")
    desk.stroke((50, 64), (78, 64))
    desk.get("intent-add").check()
    desk.paint()
    desk.results(4)


@pytest.mark.slow
def test_a_failed_painting_is_said_in_the_servers_words(fake: Served, visit: Visit) -> None:
    """Out of memory on the GPU: the sentence says what to do, a press tries it."""
    engine = fake.engine
    assert isinstance(engine, FakeEngine)
    engine.failures.append(OutOfMemoryError("too large for this GPU; paint a smaller part of the picture"))
    desk = marked(visit, fake.url)
    desk.click("paint")
    expect(desk.get("error")).to_contain_text("Too large for this GPU; paint a smaller part of the picture.")
    expect(desk.get("progress")).to_be_hidden()
    desk.get("error").get_by_role("button", name="Try again").click()
    desk.results(4)


@pytest.mark.slow
def test_a_refused_request_is_said_in_the_servers_words(serve: Serve, visit: Visit) -> None:
    """The server has the last word on what can be painted."""
    visit.expect_trouble("413")
    served = serve(max_body_bytes=2_000)
    desk = marked(visit, served.url)
    desk.click("paint")
    expect(desk.get("error")).to_contain_text("The body must be at most 0 MB.")


@pytest.mark.slow
def test_a_request_that_the_server_forgot_ends(own: Served, visit: Visit) -> None:
    """Its data were deleted while the page was closed: said once, and the page is free again."""
    engine = own.engine
    assert isinstance(engine, FakeEngine)
    engine.held = True
    desk = marked(visit, own.url)
    desk.click("paint")
    engine.next()
    desk.wait_saved()
    visit.expect_trouble("404")
    desk.page.route("**/events", lambda route: route.fulfill(status=404, json={"error": "no such request"}))
    desk.reload()
    expect(desk.get("error")).to_contain_text("No such request.")
    expect(desk.get("progress")).to_be_hidden()


@pytest.mark.slow
def test_a_model_that_is_still_loading_is_waited_for(serve: Serve, visit: Visit) -> None:
    """The page is there before the model; what is asked for meanwhile is painted then."""
    engine = FakeEngine(loaded=False)
    served = serve(engine)
    desk = marked(visit, served.url)
    expect(desk.get("server-state")).to_have_text("demo · the model is being loaded")
    desk.click("paint")
    expect(desk.get("progress-text")).to_have_text("Waiting for its turn…")
    served.do(engine.load)
    desk.results(4)
    expect(desk.get("server-state")).to_have_text("demo · ready")


@pytest.mark.slow
def test_a_server_killed_while_it_paints_is_said_and_goes_on(tmp_path: Path, visit: Visit) -> None:
    """Power cut: the page says so, finds the server again, and gets the pictures it had asked for."""
    visit.expect_trouble("ERR_CONNECTION_REFUSED|ERR_INCOMPLETE_CHUNKED|ERR_CONNECTION_RESET|ERR_EMPTY")
    data = tmp_path / "data"
    with ServerProcess(program(data)) as server:
        server.wait_ready()
        port = server.port
        desk = marked(visit, server.url)
        desk.get("samples").select_option("1")
        desk.page.click("#advanced summary")
        desk.get("field-num_inference_steps").fill("60")
        desk.paint("slow")
        expect(desk.get("progress-text")).to_contain_text("Step ", timeout=PAINTING_MS)
        server.signal(signal.SIGKILL)
        server.exit_code()
    expect(desk.get("progress-text")).to_contain_text("The server does not answer; trying again.")
    with ServerProcess(program(data, port=port)) as server:
        eventually(server.ready)
        expect(desk.get("progress-text")).to_contain_text("Step ", timeout=PAINTING_MS)
        desk.results(1)
    calls = (data / "calls").read_text().splitlines()
    assert calls.count("slow") >= 54


@pytest.mark.slow
def test_what_anybody_says_is_only_text(fake: Served, visit: Visit) -> None:
    """Nothing that a file, a prompt or a server says becomes markup."""
    desk = Desk(visit, fake.url)
    evil = "<img src=x onerror=alert(1)>"
    desk.open(file_of(photo()), f"{evil}.png".replace("/", ""))
    desk.stroke((50, 64), (78, 64))
    desk.paint(evil)
    desk.results(4)
    assert desk.page.locator("img[src=x]").count() == 0
