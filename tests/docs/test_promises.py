"""``docs/promises.md``: each promise stands in its page, and its test exists."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.paths import ROOT

PAGES = ("README.md", "docs/commands.md", "docs/api.md", "docs/operations.md")
ROW = re.compile(r"\| (?P<sentence>.+?) \| `(?P<test>[^`]+)` \|")


def rows() -> Iterator[tuple[str, str, str]]:
    """(page, sentence, test) of every row."""
    page = ""
    for line in (ROOT / "docs" / "promises.md").read_text("utf-8").splitlines():
        if line.startswith("## "):
            page = line.removeprefix("## ")
        elif found := ROW.fullmatch(line):
            yield page, found["sentence"], found["test"]


def plain(text: str) -> str:
    """Text on one line."""
    return " ".join(text.split())


@pytest.mark.parametrize("page", PAGES)
def test_every_promise_stands_in_its_page(page: str) -> None:
    """A sentence that is changed takes its row along."""
    text = plain((ROOT / page).read_text("utf-8"))
    promised = [sentence for where, sentence, _ in rows() if where == page]
    assert len(promised) >= 5
    assert [sentence for sentence in promised if plain(sentence) not in text] == []


def test_every_promise_has_a_test() -> None:
    """A test that is renamed takes its row along."""
    missing = []
    for _, _, test in rows():
        file, _, name = test.partition("::")
        path = Path(ROOT, "tests", file)
        if not path.is_file() or (name and f"def {name}(" not in path.read_text("utf-8")):
            missing.append(test)
    assert missing == []
