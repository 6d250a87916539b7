"""The defaults of the HTTP API and of the page are those of ``InpaintRequest``."""

import re

from inpaint.request import DEFAULTS
from server.dialects.segmind_request import InpaintBody
from tests.support.paths import ROOT


def test_a_request_without_settings_has_the_engines_defaults() -> None:
    """A default that is changed in the engine changes over HTTP too; test_segmind_v1 pins the hosted ones."""
    order = InpaintBody(image=b"", mask=b"", prompt="x").order()
    settings = {**order.settings, "loras": tuple(order.settings["loras"])}  # type: ignore[arg-type]
    assert settings == {"prompt": "x", **DEFAULTS}


def test_the_pages_box_has_the_engines_defaults() -> None:
    """The page draws the box before the server has sent it the fields of a request."""
    script = (ROOT / "server" / "web" / "js" / "editor" / "box.js").read_text("utf-8")
    table = re.search(r"DEFAULTS = Object\.freeze\(\{(.*?)\}\)", script, re.DOTALL)
    assert table is not None
    found = dict(re.findall(r'(\w+): "?(\w+)"?,', table[1]))
    assert found.pop("native") == "1024"
    assert found == {name: str(DEFAULTS[name]).lower() for name in found}
    assert {"area", "padding", "grow", "feather", "soft"} <= found.keys()
