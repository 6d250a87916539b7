"""Fixtures: Chromium, driven by Playwright, one context a visit.

A test module asks for these with ``pytest_plugins = ["tests.support.browser"]``; they give what
``tests.support.browser_session`` has.
"""

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.support.browser_session import ARGUMENTS, Visit, Visiting
from tests.support.programs import need


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One browser a module: Playwright's event loop would be in the way of tests that have their own."""
    program = need("Chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def visiting(chromium: Browser) -> Iterator[Visiting]:
    """Playwright's context options → a visit, checked and closed after the test."""
    visits: list[Visit] = []

    def start(**options: Any) -> Visit:
        plain: dict[str, Any] = {"viewport": {"width": 1280, "height": 800}, "reduced_motion": "reduce"}
        plain["service_workers"] = "block"  # Playwright routes no request that a worker answers
        visits.append(Visit(chromium.new_context(**(plain | options))))
        return visits[-1]

    yield start
    for visit in visits:
        visit.context.close()
    for visit in visits:
        visit.check()


@pytest.fixture
def visit(visiting: Visiting) -> Visit:
    """A desktop-sized visit, light."""
    return visiting()
