"""Words that readers would have to learn first do not come back.

An earlier version of this code had a private vocabulary. Each word has a plain one in its place: stream or
contender (lane), optimisation (lever), copy (twin), Laplace fill (membrane), lock (office), internal error
(apology), tiny checkpoint (stand-in), next to or outside (beside), this many (so many), a caller, user or
process by its name (whoever, somebody), expensive (dear), immediately or simultaneously (at once),
unreachable (is away).
"""

import re
import subprocess
from pathlib import Path

from tests.support.paths import ROOT

RETIRED = re.compile(
    r"\b(lanes?|levers?|twins?|membranes?|offices?|apology|stand-?ins?|beside|so\s+many|whoever|dear(?:er|est)?"
    r"|at\s+once|is\s+away|somebody)\b",
    re.IGNORECASE,
)
SUFFIXES = {".py", ".md", ".js", ".html", ".yaml"}
NAMED = {"Makefile", "pyproject.toml", "Dockerfile.cuda"}
# Keys of results that were kept before the words were replaced.
OLD_KEYS = {"lane", "lanes"}
WITH_OLD_KEYS = {"bench/plots.py", "tests/bench/test_bench.py"}


def prose() -> list[str]:
    """Return the tracked files that people read, without this one and the kept results."""
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True)
    return [
        name
        for name in filter(None, tracked.stdout.split("\0"))
        if (Path(name).suffix in SUFFIXES or name in NAMED)
        and not name.startswith("bench/results/")
        and ROOT / name != Path(__file__)
        and (ROOT / name).exists()
    ]


def hits() -> list[str]:
    """Return ``file:line: word`` for each retired word."""
    found = []
    for name in prose():
        text = (ROOT / name).read_text("utf-8")
        for word in RETIRED.finditer(text):
            if not (name in WITH_OLD_KEYS and word[0].lower() in OLD_KEYS):
                line = text.count("\n", 0, word.start()) + 1
                found.append(f"{name}:{line}: {' '.join(word[0].split())}")
    return found


def test_no_retired_word_comes_back() -> None:
    """A newcomer reads plain English; the words and what to write instead are above."""
    found = hits()
    assert not found, "\n" + "\n".join(found)


def test_the_words_are_found() -> None:
    """Else the test above would pass without looking."""
    assert len(prose()) > 400
    assert RETIRED.findall("Stand-in, at\nonce; a LEVER beside") == [
        "Stand-in",
        "at\nonce",
        "LEVER",
        "beside",
    ]
    assert not RETIRED.search("standing, leverage, planes, official, dearth")
