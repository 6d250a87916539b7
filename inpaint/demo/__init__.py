"""The model that ships with the package and is called ``demo``; MODEL_CARD.md says what it can paint."""

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
    """The demo model's folder, every file compared with its own lock.

    Raises:
        ModelError: a file of this installation is missing or changed.
    """
    try:
        folder = _HERE / demo_entry().target
        verify_bundled(demo_entry(), folder)
    except (ModelError, OSError) as error:
        what, _, _ = str(error).partition(";")  # its remedy is for models that are fetched or imported
        raise ModelError(
            f"the demo model of this installation is damaged ({what}); install sdxl-inpaint again"
        ) from error
    return Checkpoint("demo", folder, "folder")


def demo_entry() -> Entry:
    """The demo model's entry of its lock: every file with its size and SHA-256."""
    (entry,) = parse_lock(_LOCK.read_text("utf-8")).entries
    return entry
