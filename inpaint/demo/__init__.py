"""The demo model, which ships with the package; MODEL_CARD.md describes what it can paint."""

from pathlib import Path

from inpaint.errors import ModelError
from inpaint.weights import Checkpoint, Entry, parse_lock, verify_bundled

_HERE = Path(__file__).parent
_LOCK = _HERE / "demo.lock"

NATIVE_SIZE = 128  # pixels
NOTICE = (
    "the demo model paints coloured shapes (try: a red circle, a big blue star, background); "
    "for anything else: inpaint models fetch sdxl-inpainting"
)


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
