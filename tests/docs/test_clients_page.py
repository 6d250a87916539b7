"""What docs/clients.md says about versions and routes is what is tested and served."""

import json
import re

import pytest

from tests.support.clients import FOLDER
from tests.support.deployed import routes
from tests.support.paths import ROOT

PAGE = (ROOT / "docs" / "clients.md").read_text("utf-8")


def pinned() -> dict[str, str]:
    """Package → the version that the tests use."""
    lists = (file.read_text("utf-8") for file in (FOLDER / "requirements").glob("*.txt"))
    found = {
        name: version
        for text in lists
        for name, version in re.findall(r"^([\w-]+)==(\S+)$", text, re.MULTILINE)
    }
    npm = json.loads((FOLDER / "package.json").read_text("utf-8"))["dependencies"]
    return found | {f"{name} (npm)": version for name, version in npm.items()}


@pytest.mark.parametrize(
    ("section", "package"),
    [
        ("openai for Python", "openai"),
        ("openai for JavaScript", "openai (npm)"),
        ("LiteLLM", "litellm"),
        ("AI SDK", "ai (npm)"),
        ("webuiapi", "webuiapi"),
        ("sd-backend-client", "sd-backend-client"),
    ],
)
def test_the_version_that_a_section_names_is_the_one_tested(section: str, package: str) -> None:
    """A reader with trouble compares versions first."""
    (text,) = re.findall(rf"^## {re.escape(section)}\n\n(.*?)\n", PAGE, re.MULTILINE)
    assert re.search(rf"\*\*Tested\*\* with (?:\w+ )?{re.escape(pinned()[package])}[.,]", text), text


def test_every_route_that_it_names_is_served() -> None:
    """In the table of APIs, and in the text."""
    named = set(re.findall(r"/(?:v1|v2beta)/[a-z/-]*[a-z]", PAGE))
    assert {"/v1/images/edits", "/v2beta/stable-image/edit/inpaint"} <= named
    assert named <= routes()


def test_every_link_within_it_leads_to_a_section() -> None:
    """The list at the top is how a reader finds a program."""
    headings = re.findall(r"^## (.+)$", PAGE, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    linked = set(re.findall(r"\(#([\w-]+)\)", PAGE))
    assert len(linked) > 10
    assert linked <= anchors
