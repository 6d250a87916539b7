"""The page as an installed app: its files are kept, the network comes first, nothing of the API is kept."""

import json

import pytest
from playwright.sync_api import expect

from tests.support.browser_session import Visiting
from tests.support.page_driver import Desk, photo
from tests.support.served import Serve, Served, file_of

pytest_plugins = ["tests.support.browser", "tests.support.served_fixtures", "tests.support.page_fixtures"]

_KEPT = """
async () => {
  const paths = [];
  for (const name of await caches.keys()) {
    for (const { url } of await (await caches.open(name)).keys()) paths.push(new URL(url).pathname);
  }
  return paths;
}
"""
# The worker is told what to keep after the page is ready.
_ALL_KEPT = f"async () => (await ({_KEPT})()).includes('/web/js/settings.js')"


def installed(desk: Desk) -> None:
    """Wait until the page's files are kept."""
    desk.page.wait_for_function(_ALL_KEPT)


@pytest.mark.slow
@pytest.mark.gate
def test_the_page_opens_while_its_server_is_away(serve: Serve, visiting: Visiting) -> None:
    """A restart of the server is no blank window; what was being done is there."""
    visit = visiting(service_workers="allow")
    visit.expect_trouble("ERR_CONNECTION_REFUSED")
    served = serve()
    desk = Desk(visit, served.url)
    desk.open(file_of(photo()))
    desk.stroke((50, 64), (78, 64))
    desk.paint()
    desk.results(4)
    desk.wait_saved()
    installed(desk)
    kept = set(desk.page.evaluate(_KEPT))
    assert {"/", "/web/js/main.js", "/web/css/base.css"} <= kept
    assert {path for path in kept if path != "/" and not path.startswith("/web/")} == set()
    served.stop()
    desk.reload()
    expect(desk.get("picture-name")).to_have_text("photo.png")
    expect(desk.get("server-state")).to_have_attribute("data-state", "unreachable")


@pytest.mark.slow
def test_an_upgraded_server_never_meets_an_old_page(fake: Served, visiting: Visiting) -> None:
    """What is kept is used only where the network gives nothing; and it is brought up to date."""
    desk = Desk(visiting(service_workers="allow"), fake.url)
    installed(desk)
    icon = desk.page.evaluate(
        """async () => {
          const [name] = await caches.keys();
          const cache = await caches.open(name);
          await cache.put("/web/icon.svg", new Response("old"));
          const seen = await (await fetch("/web/icon.svg")).text();
          return [seen, await (await cache.match("/web/icon.svg")).text()];
        }"""
    )
    assert all(text.startswith("<svg") for text in icon)


@pytest.mark.slow
def test_the_browser_takes_the_manifest(fake: Served, visiting: Visiting) -> None:
    """Chromium itself finds no fault with it, and its icons are there."""
    desk = Desk(visiting(service_workers="allow"), fake.url)
    found = desk.visit.context.new_cdp_session(desk.page).send("Page.getAppManifest")
    assert found["errors"] == []
    manifest = json.loads(found["data"])
    assert found["manifest"]["startUrl"] == f"{fake.url}/"
    for icon in manifest["icons"]:
        response = fake.client.get(f"/web/{icon['src']}")
        assert response.headers["content-type"] == icon["type"]
