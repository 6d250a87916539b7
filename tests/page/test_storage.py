"""What the page keeps in the browser, and for whom: drafts, results, workspaces, keys."""

import numpy as np
import pytest
from playwright.sync_api import expect

from tests.support.browser_session import Visit, Visiting
from tests.support.page_driver import Desk, opened, photo
from tests.support.served import FakeEngine, Served, colour_of, file_of

pytest_plugins = ["tests.support.browser", "tests.support.served_fixtures", "tests.support.page_fixtures"]

NO_LOCKS = "Object.defineProperty(Navigator.prototype, 'locks', { value: undefined });"

# Every write of a draft waits until the test lets it go.
HOLD_DRAFTS = """
async () => {
  const { Database } = await import(new URL("web/js/database.js", document.baseURI));
  const put = Database.prototype.put;
  window.held = [];
  Database.prototype.put = async function (store, value) {
    if (store === "drafts") await new Promise((go) => window.held.push(go));
    await put.call(this, store, value);
    window.written = (window.written ?? 0) + (store === "drafts");
  };
}
"""


def painted(desk: Desk, name: str, seed: int) -> None:
    """A picture of its own, and one result."""
    desk.page.bring_to_front()  # a tab behind another is drawn once a second
    desk.open(file_of(photo()), name)
    desk.stroke((50, 64), (78, 64))
    desk.get("samples").select_option("1")
    desk.get("seed").fill(str(seed))
    desk.paint(f"prompt of {name}")
    desk.results(1)


def is_empty(desk: Desk) -> bool:
    """Nothing of anybody's is seen."""
    expect(desk.get("empty")).to_be_visible()
    return desk.get("result").count() == 0 and desk.get("prompt").input_value() == ""


@pytest.mark.slow
@pytest.mark.gate
def test_a_reload_loses_nothing(fake: Served, desk: Desk) -> None:
    """Picture, strokes, extension, prompt, intent, knobs, results: a crash of the browser costs no work."""
    desk.get("intent-extend").check()
    desk.stroke((50, 64), (78, 64))
    desk.stroke((64, 64), (64, 90), button="right")
    desk.get("extend-right-px").fill("32")
    desk.get("extend-right-px").press("Tab")
    desk.get("samples").select_option("2")
    desk.get("seed").fill("7")
    desk.page.click("#advanced summary")
    desk.get("field-guidance_scale").fill("4.5")
    desk.paint("a red circle")
    desk.results(2)
    desk.wait_saved()
    before = desk.sent()[0]
    desk.reload()
    expect(desk.get("picture-name")).to_have_text("photo.png")
    expect(desk.get("prompt")).to_have_value("a red circle")
    expect(desk.get("intent-extend")).to_be_checked()
    assert desk.results(2).all_inner_texts() == ["7", "8"]
    desk.click("paint")
    desk.results(4)
    assert desk.sent()[0] == before
    desk.get("result").nth(3).click()
    desk.click("result-keep")
    expect(desk.get("picture-name")).to_have_text("photo_inpainted_8.png")
    desk.wait_saved()
    desk.reload()
    expect(desk.get("picture-size")).to_have_text("160 × 128")
    assert desk.sees(150, 64, colour_of(8))
    assert desk.downloaded()[0] == "photo_inpainted_8.png"


@pytest.mark.slow
def test_a_result_that_was_kept_survives_a_reload_right_after(fake: Served, desk: Desk) -> None:
    """The page says that it is kept: from then on it is."""
    painted(desk, "photo.png", 7)
    desk.click("result-keep")
    expect(desk.page.locator("#live")).to_have_text("The result is the working picture now.")
    desk.reload()
    expect(desk.get("picture-name")).to_have_text("photo_inpainted_7.png")
    assert desk.sees(64, 64, colour_of(7))


def test_undo_goes_back_to_the_original_after_a_reload(fake: Served, desk: Desk) -> None:
    """Every picture that was kept, the strokes on each, and what was undone: as before the reload."""
    painted(desk, "photo.png", 7)
    desk.get("drafts").uncheck()
    desk.click("result-keep")
    expect(desk.get("picture-name")).to_have_text("photo_inpainted_7.png")
    desk.stroke((20, 20), (40, 20))
    desk.click("undo")
    desk.click("undo")
    expect(desk.get("picture-name")).to_have_text("photo.png")
    desk.click("redo")
    for _ in range(2):
        desk.wait_saved()
        desk.reload()
        expect(desk.get("picture-name")).to_have_text("photo_inpainted_7.png")
        assert desk.sees(64, 64, colour_of(7))
    desk.click("redo")
    expect(desk.get("redo")).to_be_disabled()
    desk.click("undo")
    desk.click("undo")
    expect(desk.get("picture-name")).to_have_text("photo.png")
    desk.paint("again")
    desk.results(2)
    mask = np.asarray(opened(desk.sent()[-1]["mask"]).convert("L"))
    assert mask[64, 64] == 255, "its strokes are there, too"
    assert desk.sent()[-1]["image"] == file_of(photo())


@pytest.mark.slow
def test_pictures_that_undo_no_longer_reaches_are_not_kept(fake: Served, desk: Desk) -> None:
    """A photograph has some 20 MB: what can never be seen again must not fill the disk."""
    count = """() => new Promise((resolve) => {
      const opening = indexedDB.open("inpaint");
      opening.onsuccess = () => {
        const all = opening.result.transaction("pictures").objectStore("pictures").getAllKeys();
        all.onsuccess = () => resolve(all.result.filter((key) => key.includes("/")).length);
      };
    })"""
    for number in range(3):
        desk.open(file_of(photo()), f"picture{number}.png")
    desk.wait_saved()
    assert desk.page.evaluate(count) == 4
    for _ in range(3):
        desk.click("undo")
    desk.stroke((50, 64), (78, 64))
    desk.wait_saved()
    assert desk.page.evaluate(count) == 1


def test_a_draft_is_saved_when_its_last_change_is(fake: Served, desk: Desk) -> None:
    """A write that ends after a later change does not count as that change's."""
    desk.wait_saved()
    desk.page.evaluate(HOLD_DRAFTS)
    desk.stroke((50, 64), (78, 64))
    desk.page.wait_for_function("() => window.held.length === 1")
    desk.stroke((64, 64), (64, 90))
    desk.page.evaluate("() => window.held[0]()")
    desk.page.wait_for_function("() => window.written === 1 && window.held.length === 2")
    assert desk.page.evaluate("() => document.body.dataset.draft") == "changed"
    desk.page.evaluate("() => window.held[1]()")
    desk.wait_saved()


@pytest.mark.slow
def test_a_reload_while_it_is_painted_goes_on(fake: Served, desk: Desk) -> None:
    """The server paints on; the page that comes back finds the request, and its pictures."""
    engine = fake.engine
    assert isinstance(engine, FakeEngine)
    engine.held = True
    desk.stroke((50, 64), (78, 64))
    desk.paint()
    ticket = engine.next()
    fake.do(engine.step, ticket, 3)
    expect(desk.get("progress-text")).to_contain_text("Step 3")
    desk.wait_saved()
    desk.reload()
    expect(desk.get("progress-text")).to_contain_text("Step 3 of 22")
    fake.do(engine.paint, ticket)
    desk.results(4)
    assert len(engine.requests) == 1


@pytest.mark.slow
@pytest.mark.gate
def test_two_simultaneous_pages_never_see_each_others_pictures(
    fake: Served, visit: Visit, visiting: Visiting
) -> None:
    """Two tabs, and two browsers on one server: each has its own picture, results, prompt and undo."""
    tabs = [Desk(visit, fake.url), Desk(visit, fake.url), Desk(visiting(), fake.url)]
    assert all(is_empty(tab) for tab in tabs)
    for number, tab in enumerate(tabs):
        painted(tab, f"picture{number}.png", seed=10 * number + 3)
    for tab in tabs:
        tab.wait_saved()
    for reloads in (False, True):
        for number, tab in enumerate(tabs):
            if reloads:
                tab.reload()
            expect(tab.get("picture-name")).to_have_text(f"picture{number}.png")
            expect(tab.get("prompt")).to_have_value(f"prompt of picture{number}.png")
            assert tab.results(1).all_inner_texts() == [str(10 * number + 3)]
    assert is_empty(Desk(visit, fake.url)), "a further tab has a workspace of its own"


@pytest.mark.slow
def test_a_new_tab_takes_up_what_no_tab_holds(fake: Served, visit: Visit) -> None:
    """Closed by accident, opened again: the work is there; a tab that is still open keeps its own."""
    first, second = Desk(visit, fake.url), Desk(visit, fake.url)
    first.open(file_of(photo()), "first.png")
    painted(second, "second.png", 2)
    second.wait_saved()
    second.page.close()
    again = Desk(visit, fake.url)
    expect(again.get("picture-name")).to_have_text("second.png")
    assert again.results(1).all_inner_texts() == ["2"]
    expect(first.get("picture-name")).to_have_text("first.png")


@pytest.mark.slow
def test_a_duplicated_tab_is_another_workspace(fake: Served, visit: Visit) -> None:
    """The browser copies a tab's session with it; the copy must not write over the original's work."""
    first = Desk(visit, fake.url)
    first.open(file_of(photo()), "first.png")
    first.wait_saved()
    session = first.page.evaluate("() => JSON.stringify(sessionStorage)")
    copy = f"for (const [k, v] of Object.entries({session})) sessionStorage[k] ??= v;"
    visit.context.add_init_script(f"if (location.host) {{ {copy} }}")
    assert is_empty(Desk(visit, fake.url))


@pytest.mark.slow
def test_tabs_are_distinguished_without_locks_too(fake: Served, visit: Visit) -> None:
    """Over plain HTTP from another machine browsers have no locks; the tabs then ask each other."""
    visit.context.add_init_script(NO_LOCKS)
    first = Desk(visit, fake.url)
    assert first.page.evaluate("() => navigator.locks") is None
    first.open(file_of(photo()), "first.png")
    second = Desk(visit, fake.url)
    assert is_empty(second)
    first.wait_saved()
    first.reload()
    expect(first.get("picture-name")).to_have_text("first.png")
    assert is_empty(second)


@pytest.mark.slow
def test_a_browser_that_keeps_nothing_says_so_and_works(fake: Served, visit: Visit) -> None:
    """Private windows of some browsers have no storage; the page paints all the same."""
    visit.context.add_init_script("indexedDB.open = () => { throw new DOMException('denied'); };")
    desk = Desk(visit, fake.url)
    expect(desk.get("notice")).to_contain_text("a reload loses your work")
    painted(desk, "photo.png", 7)
    desk.click("result-keep")
    expect(desk.get("picture-name")).to_have_text("photo_inpainted_7.png")


@pytest.mark.slow
def test_a_full_disk_loses_no_result(fake: Served, desk: Desk) -> None:
    """The browser keeps no more; what was painted is still shown, kept and downloaded, with a warning."""
    desk.page.evaluate(
        "() => { IDBObjectStore.prototype.put = () => { throw new DOMException('', 'QuotaExceededError'); } }"
    )
    painted(desk, "photo.png", 7)
    expect(desk.get("notice")).to_contain_text("no room left")
    assert desk.sees(64, 64, colour_of(7))
    assert np.asarray(opened(desk.downloaded()[1]))[64, 64].tolist() == list(colour_of(7))


# Keys.


@pytest.fixture
def token(own: Served) -> str:
    """From here on the server asks for keys."""
    return own.key()


def give(desk: Desk, key: str, *, remember: bool = False) -> None:
    expect(desk.get("key-dialog")).to_be_visible()
    desk.get("key").fill(key)
    desk.get("key-remember").set_checked(remember)
    desk.click("key-use")


def kept(desk: Desk, where: str) -> str | None:
    """The key in a storage of this page."""
    found: str | None = desk.page.evaluate(f"() => {where}.getItem('inpaint-key')")
    return found


@pytest.mark.slow
def test_a_server_with_keys_is_asked_with_one(own: Served, visit: Visit, token: str) -> None:
    """Wrong ones are refused in the server's words; a good one is kept for the tab, or longer if asked."""
    visit.expect_trouble("401")
    desk = Desk(visit, own.url)
    give(desk, "inp_0_wrong")
    expect(desk.get("key-problem")).to_contain_text("API key is invalid")
    give(desk, token)
    expect(desk.get("key-dialog")).to_be_hidden()
    expect(desk.get("server-state")).to_have_text("demo · ready")
    painted(desk, "photo.png", 7)
    assert (kept(desk, "sessionStorage"), kept(desk, "localStorage")) == (token, None)
    assert visit.context.cookies() == []
    desk.reload()
    expect(desk.get("server-state")).to_have_text("demo · ready")
    other = Desk(visit, own.url)
    give(other, token, remember=True)
    expect(other.get("server-state")).to_have_text("demo · ready")
    assert kept(desk, "localStorage") == token
    expect(Desk(visit, own.url).get("server-state")).to_have_text("demo · ready")


@pytest.mark.slow
def test_no_key_is_no_dead_end(own: Served, visit: Visit, token: str) -> None:
    """A user who closes the dialog can look around, and is asked again when a key is needed."""
    visit.expect_trouble("401")
    desk = Desk(visit, own.url)
    expect(desk.get("key-dialog")).to_be_visible()
    desk.page.keyboard.press("Escape")
    expect(desk.get("error")).to_contain_text("Missing Authorization or x-api-key")
    desk.get("error").get_by_role("button", name="Use another key").click()
    give(desk, token)
    expect(desk.get("server-state")).to_have_text("demo · ready")
    own.parts.keys.revoke(token.split("_")[1])
    desk.open(file_of(photo()))
    expect(desk.get("key-dialog")).to_be_visible()
    give(desk, own.key())
    desk.stroke((50, 64), (78, 64))
    desk.paint()
    desk.results(4)


@pytest.mark.slow
def test_a_key_reaches_no_url_and_no_picture(own: Served, visit: Visit, token: str) -> None:
    """URLs are logged by proxies and kept in histories."""
    visit.expect_trouble("401")
    desk = Desk(visit, own.url)
    give(desk, token)
    painted(desk, "photo.png", 7)
    secret = token.split("_")[2]
    assert not [url for url in visit.requests if secret in url]
