"""Fixtures: the harness page of the editor, served as the page is.

A test module asks for these with ``pytest_plugins = ["tests.support.browser",
"tests.support.editor_fixtures"]``.
"""

from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.support.browser import Visit
from tests.support.editor_page import EditorPage
from tests.support.http_server import serving
from tests.support.paths import ROOT

WEB = ROOT / "server" / "web"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'"
)


class HarnessHandler(SimpleHTTPRequestHandler):
    """The page's files under /web/, the harness at /, the page's policy on everything."""

    protocol_version = "HTTP/1.1"

    def translate_path(self, path: str) -> str:
        name = path.partition("?")[0]
        if name.startswith("/web/"):
            return str(WEB / name.removeprefix("/web/"))
        return str(
            Path(__file__).parent / f"editor_harness.{name.rpartition('.')[2] if '.' in name else 'html'}"
        )

    def end_headers(self) -> None:
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("Cache-Control", "no-store")
        super().end_headers()

    def log_message(self, *_: object) -> None:
        """Tests' output is for tests."""


@pytest.fixture(scope="session")
def editor_url() -> Iterator[str]:
    """Where the harness page is served."""
    with serving(HarnessHandler) as port:
        yield f"http://127.0.0.1:{port}/"


@pytest.fixture(scope="module")
def harness(chromium: Browser, editor_url: str) -> Iterator[EditorPage]:
    """One page for the tests of a module: to load it takes longer than most of them."""
    visit = Visit(chromium.new_context(viewport={"width": 1280, "height": 800}, reduced_motion="reduce"))
    yield EditorPage(visit, editor_url)
    visit.context.close()


@pytest.fixture
def editor(harness: EditorPage) -> Iterator[EditorPage]:
    """A new editor at desktop size, nothing open; nothing may have gone wrong unseen."""
    harness.run("{h.reset()}")
    yield harness
    harness.visit.check()
