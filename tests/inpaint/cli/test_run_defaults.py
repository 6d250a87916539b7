"""``inpaint run`` without options paints what ``InpaintRequest`` without arguments does."""

import inspect
from types import SimpleNamespace
from typing import Any

from PIL import Image

from inpaint import InpaintRequest
from inpaint.cli.run.command import run
from inpaint.cli.run.settings import settings_from
from inpaint.images.metadata import settings_hash
from inpaint.request import DEFAULTS, SETTINGS


def test_the_options_defaults_are_the_requests() -> None:
    """A default that is changed in the dataclass changes on the command line too."""
    options: Any = SimpleNamespace(
        params={name: parameter.default for name, parameter in inspect.signature(run).parameters.items()}
    )
    assert settings_from(options, None) == {"prompt": None, **DEFAULTS}


def test_every_setting_but_the_prompt_has_a_default() -> None:
    """A field added without one would break every caller of the library."""
    blank = Image.new("L", (16, 16))
    request = InpaintRequest(image=blank, mask=blank, prompt="x")
    assert {name: getattr(request, name) for name in SETTINGS if name != "prompt"} == DEFAULTS


def test_a_setting_at_its_default_does_not_change_the_hash() -> None:
    """``--resume`` must not repaint a picture because its default was spelled out."""
    assert settings_hash({"prompt": "x", **DEFAULTS}, "demo", []) == settings_hash(
        {"prompt": "x"}, "demo", []
    )
