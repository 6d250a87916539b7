"""docs/architecture.md names packages and modules that exist, in the order that the layer test holds."""

import re

from tests.support.paths import ROOT
from tests.test_architecture import ORDER

PAGE = (ROOT / "docs" / "architecture.md").read_text("utf-8")
BELOW = ("inpaint", "server", "server/web", ".")  # where the page's shortened paths begin


def exists(path: str) -> bool:
    """True for a file, a module or a folder; of ``service/service.admitted`` the module counts."""
    module = path.partition(".")[0]
    names = (path, module, f"{module}.py", f"{module}.js")
    return any((ROOT / below / name).exists() for below in BELOW for name in names)


def test_every_module_it_names_exists() -> None:
    """A reader opens what the page names."""
    named = set(re.findall(r"`([a-z_]+/[\w/.]*)`", PAGE))
    assert len(named) > 20
    assert [path for path in sorted(named) if not exists(path)] == []


def test_its_list_is_the_order_of_the_packages() -> None:
    """A package that is missing here, or in another place, misleads a newcomer."""
    tree = re.search(r"## Packages\n.*?```\n(.*?)```", PAGE, re.DOTALL)
    assert tree is not None
    for package, lines in zip(("inpaint", "server"), tree[1].split("\n\n"), strict=True):
        listed = [name.removesuffix(".py") for name in re.findall(r"^  (\w+(?:\.py)?)", lines, re.MULTILINE)]
        order = [name for name in ORDER[package] if not name.startswith("_")]
        assert [name for name in listed if name != "web"] == order
