"""The model that needs no download: what the name ``demo`` means."""

from inpaint.demo.standin import NATIVE_SIZE, write_standin
from inpaint.errors import OutputError
from inpaint.weights import Checkpoint, models_dir

__all__ = ["DEMO_NOTICE", "NATIVE_SIZE", "demo_checkpoint"]

DEMO_NOTICE = "the model 'demo' is a stand-in with random weights: it paints coloured noise, not your prompt"


def demo_checkpoint() -> Checkpoint:
    """The demo model's folder, written beside the other models at first use.

    Raises:
        OutputError: the models folder is not writable.
    """
    folder = models_dir() / ".demo-standin"
    try:
        return Checkpoint("demo", write_standin(folder), "folder")
    except OSError as error:
        raise OutputError(
            f"the demo model could not be written to {folder.parent} ({error.strerror}); "
            "set INPAINT_MODELS to a folder that can be written"
        ) from error
