"""What CONTRIBUTING.md names exists: files, make targets, modules to run."""

import re

from tests.support.paths import ROOT

PAGE = (ROOT / "CONTRIBUTING.md").read_text("utf-8")


def test_every_file_it_names_exists() -> None:
    """A newcomer opens what the table says."""
    named = set(re.findall(r"`((?:inpaint|server|tests|docs|bench|tools)/[\w/.-]+)`", PAGE)) - {
        "docs/decisions/NNNN-title.md",
    }
    assert len(named) > 20
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []


def test_every_name_in_the_code_exists() -> None:
    """``NAME` of `FILE`` in the table: the name is in that file."""
    pairs = re.findall(r"`(\w+)` (?:of|in) `([\w/]+\.py)`", PAGE)
    assert len(pairs) >= 6
    assert [f"{name} in {file}" for name, file in pairs if name not in (ROOT / file).read_text("utf-8")] == []


def test_every_command_it_names_exists() -> None:
    """Targets of make, and modules of tools and bench."""
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = set(re.findall(r"(?:^|`|&& )make ([\w-]+)", PAGE, re.MULTILINE))
    assert len(named) > 5
    assert named <= targets
    for module in re.findall(r"python -m ((?:tools|bench)[\w.]+)", PAGE):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module
