"""Web pages of others, in a real browser: of another port, of another site, and of a name that leads here.

A browser lets any page send a form to any address, this machine's too. Nothing may be painted for such a
page, and it may read nothing.
"""

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from tests.support.browser_session import ARGUMENTS
from tests.support.http_server import serving
from tests.support.programs import need
from tests.support.served import FakeEngine, Served

pytest_plugins = ["tests.support.served_fixtures"]
pytestmark = pytest.mark.slow

EVIL = "evil.test"  # in this browser a name of this machine
RULES = f"--host-resolver-rules=MAP {EVIL} 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"
PAGE = b"""<!doctype html><meta charset="utf-8"><title>a page</title><script>
const picture = (colour) => new Promise((done) => {
  const canvas = Object.assign(document.createElement("canvas"), { width: 128, height: 128 });
  const context = canvas.getContext("2d");
  context.fillStyle = colour;
  context.fillRect(0, 0, 128, 128);
  canvas.toBlob(done, "image/png");
});
const tried = async (name, work, into) => {
  try { into[name] = await work(); } catch { into[name] = "refused"; }
};
async function attack(server) {
  const form = new FormData();
  form.append("image", await picture("teal"), "a.png");
  form.append("mask", await picture("white"), "m.png");
  form.append("prompt", "x");
  const found = {};
  for (const path of ["/v1/sdxl-inpaint", "/v2/sdxl-inpaint"])
    for (const extra of [{}, { referrerPolicy: "no-referrer" }, { mode: "cors" }, { keepalive: true }])
      await tried(`${path} ${JSON.stringify(extra)}`, async () => {
        const answer = await fetch(server + path, { method: "POST", mode: "no-cors", body: form, ...extra });
        return `${answer.type} ${(await answer.text()).length}`;
      }, found);
  for (const path of ["/v1/get-user-credits", "/v2/sdxl-inpaint", "/metrics", "/openapi.json"])
    await tried(`read ${path}`, async () => (await fetch(server + path)).text(), found);
  await tried("script", () => new Promise((done) => {
    const script = Object.assign(document.createElement("script"), { src: `${server}/web/js/main.js` });
    script.onload = () => done("loaded");
    script.onerror = () => done("refused");
    document.head.append(script);
  }), found);
  await tried("frame", () => new Promise((done) => {
    const frame = Object.assign(document.createElement("iframe"), { src: `${server}/` });
    frame.onload = () => { try { done(frame.contentDocument.title || "empty"); } catch { done("refused"); } };
    document.body.append(frame);
  }), found);
  return found;
}
</script><body></body>"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = need("Chromium")
    arguments = [argument for argument in ARGUMENTS if not argument.startswith("--host-resolver-rules")]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=[*arguments, RULES])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def other_port() -> Iterator[int]:
    """The port of another server on this machine, with a hostile page."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", str(len(PAGE)))
            self.end_headers()
            self.wfile.write(PAGE)

        def log_message(self, *_: object) -> None:
            pass

    with serving(Handler) as port:
        yield port


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with browser.new_context() as context:
        yield context.new_page()


def painted(served: Served) -> int:
    assert isinstance(served.engine, FakeEngine)
    return len(served.engine.requests)


@pytest.mark.gate
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", EVIL])
def test_another_page_paints_nothing_and_reads_nothing(
    host: str, other_port: int, served: Served, page: Page
) -> None:
    """A notebook on another port, the same machine by another name, and any site on the internet."""
    before = painted(served)
    page.goto(f"http://{host}:{other_port}/")
    found = page.evaluate(f"attack('{served.url}')")
    assert len(found) == 14
    for what, seen in found.items():
        assert seen in ("refused", "opaque 0", "empty"), what
    assert painted(served) == before


def test_a_name_that_was_made_to_lead_here_paints_and_reads_nothing(served: Served, page: Page) -> None:
    """DNS rebinding: for the browser it is the server's own origin, so only the name gives it away."""
    before = painted(served)
    page.goto(f"http://{EVIL}:{served.port}/")  # the page's files are no secret
    script = "async (path) => { const seen = await fetch(path); return [seen.status, await seen.text()]; }"
    for path in ("/v1/get-user-credits", "/v2/sdxl-inpaint", "/metrics", "/openapi.json"):
        status, text = page.evaluate(script, path)
        assert status == 403, path
        assert "inpaint keys create" in text
    assert painted(served) == before


def test_its_own_page_reads(served: Served, page: Page) -> None:
    """The checks above would pass if the browser could reach nothing."""
    page.goto(f"{served.url}/")
    assert page.evaluate("async () => (await fetch('/v1/get-user-credits')).status") == 200
