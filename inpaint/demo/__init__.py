"""The demo model, which ships with the package; MODEL_CARD.md describes what it can paint."""

import json
from pathlib import Path
from typing import Any

from inpaint.errors import ModelError
from inpaint.weights import Checkpoint, Entry, parse_lock, verify_bundled

_HERE = Path(__file__).parent
_LOCK = _HERE / "demo.lock"


def demo_folder() -> Path:
    """Return the folder of the demo model's files, in the diffusers layout."""
    return _HERE / "model"


def demo_about() -> dict[str, Any]:
    """Return what the demo model says of itself, see :mod:`inpaint.about`."""
    found: dict[str, Any] = json.loads((_HERE / "about.json").read_text("utf-8"))
    return found


def demo_checkpoint() -> Checkpoint:
    """Return the demo model's checkpoint, after comparing every file with the model's own lock.

    Raises:
        ModelError: a file of this installation is missing or has changed.
    """
    try:
        folder = _HERE / demo_entry().target
        verify_bundled(demo_entry(), folder)
    except (ModelError, OSError) as error:
        what, _, _ = str(error).partition(";")  # the rest is a remedy for models that are fetched or imported
        raise ModelError(
            f"the demo model of this installation is damaged ({what}); install sdxl-inpaint again"
        ) from error
    return Checkpoint("demo", folder, "folder")


def demo_entry() -> Entry:
    """Return the demo model's entry of its own lock: every file with its size and SHA-256."""
    (entry,) = parse_lock(_LOCK.read_text("utf-8")).entries
    return entry
