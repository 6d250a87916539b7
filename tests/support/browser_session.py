"""A visit of Chromium to the page, and what it must not do while a test looks elsewhere.

Whatever a test is about, it fails if the page asked another host for anything, wrote an error to its console
(a violation of the content security policy is one), or let an exception escape. The fixtures are in
``tests.support.browser``.
"""

import re
from collections.abc import Callable
from urllib.parse import urlsplit

from playwright.sync_api import BrowserContext, ConsoleMessage, Page

# What Chromium would start for every context, unseen: two pages for the drop-down list of an address bar that
# headless Chromium never shows (0.6 s of CPU time), and a spare renderer (as much as opening our page).
UNSEEN = (
    "WebUIOmniboxPopup",
    "WebUIOmniboxAimPopup",
    "WebUIOmniboxFullPopup",
    "SpareRendererForSitePerProcess",
)
ARGUMENTS = [
    "--no-sandbox",  # it runs as root in a container, and loads nothing but our own page
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    f"--disable-features={','.join(UNSEEN)}",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",  # nothing else can be reached at all
]
BLOCKED = "Service Worker registration blocked by Playwright"  # said of every page, see the fixtures
PATIENCE_MS = 60_000.0  # two cores may be busy with other tests; nothing that works waits so long


class Visit:
    """A browser context of its own (storage, cache, viewport), watched."""

    def __init__(self, context: BrowserContext) -> None:
        self.context = context
        self.requests: list[str] = []  # URLs in order, those of blobs and data too
        self._hosts: set[str] = set()
        self._troubles: list[str] = []
        self._expected: list[re.Pattern[str]] = []
        context.set_default_timeout(PATIENCE_MS)
        context.on("request", lambda request: self.requests.append(request.url))
        context.on("console", self._on_console)
        context.on("weberror", lambda error: self._troubles.append(f"exception: {error.error}"))

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning") and message.text != BLOCKED:
            self._troubles.append(f"{message.text} ({message.location.get('url', '')})")

    def open(self, url: str) -> Page:
        """A new page on ``url``, whose host may be asked from now on."""
        self._hosts.add(urlsplit(url).netloc)
        page = self.context.new_page()
        page.goto(url)
        return page

    def expect_trouble(self, pattern: str) -> None:
        """The console may say this: Chromium writes a line for every answer of 400 and above."""
        self._expected.append(re.compile(pattern))

    def elsewhere(self) -> list[str]:
        """Requests to hosts other than those that were opened."""
        local = ("blob", "data", "about")
        parts = [(urlsplit(url), url) for url in self.requests]
        return [u for split, u in parts if split.scheme not in local and split.netloc not in self._hosts]

    def check(self) -> None:
        """Raise AssertionError if anything went wrong unseen."""
        unexpected = [t for t in self._troubles if not any(p.search(t) for p in self._expected)]
        assert not unexpected
        assert not self.elsewhere()


Visiting = Callable[..., Visit]
