"""The version stands in ``inpaint/_version.py``; what cannot read it there holds the same one."""

import re

import pytest

from inpaint import __version__
from tests.support.paths import ROOT

TAGGED = ["Dockerfile.cuda", *(f"docs/deploy/{name}.yaml" for name in ("compose", "kubernetes", "kuberay"))]


@pytest.mark.parametrize("path", TAGGED)
def test_every_image_is_of_this_version(path: str) -> None:
    """An operator who copies a line gets the image that this checkout builds."""
    versions = re.findall(r"sdxl-inpaint:([\w.]+)", (ROOT / path).read_text("utf-8"))
    assert versions
    assert set(versions) == {__version__}


def test_the_image_is_labelled_with_this_version() -> None:
    """The label is all that says it from outside."""
    (default,) = re.findall(
        r"^ARG VERSION=(.*)$", (ROOT / "Dockerfile.cuda").read_text("utf-8"), re.MULTILINE
    )
    assert default == __version__


def test_the_changelog_begins_with_this_version() -> None:
    """Users look there first."""
    headings = re.findall(r"^## ([\w.]+)", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert headings[0] == __version__
