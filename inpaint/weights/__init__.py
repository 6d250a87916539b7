"""Model files: the lock, fetching, verifying, importing, merging, removing, and finding a checkpoint by name.

The package handles files, digests, headers and stored tensors, and builds no models. Importing it loads
neither torch, diffusers nor huggingface_hub.
"""

from inpaint.weights.check_shapes import check_fits
from inpaint.weights.complete import import_completed
from inpaint.weights.detect import check_single_file
from inpaint.weights.fetch import fetch
from inpaint.weights.header import check_safetensors
from inpaint.weights.import_model import import_model, name_for
from inpaint.weights.install import BUILT_IN
from inpaint.weights.lock import Entry, Lock, LockedFile, Source, load_lock, parse_lock, sha256sums
from inpaint.weights.merge import Merged, merge_models
from inpaint.weights.notes import notes
from inpaint.weights.remove import remove_model
from inpaint.weights.safety import check_folder
from inpaint.weights.store import (
    Checkpoint,
    Listing,
    check_name,
    config_folder,
    find_entry,
    listings,
    models_dir,
    resolve,
    unet_parameters,
    unknown,
)
from inpaint.weights.verify import Progress, verify, verify_bundled

__all__ = [
    "BUILT_IN",
    "Checkpoint",
    "Entry",
    "Listing",
    "Lock",
    "LockedFile",
    "Merged",
    "Progress",
    "Source",
    "check_fits",
    "check_folder",
    "check_name",
    "check_safetensors",
    "check_single_file",
    "config_folder",
    "fetch",
    "find_entry",
    "import_completed",
    "import_model",
    "listings",
    "load_lock",
    "merge_models",
    "models_dir",
    "name_for",
    "notes",
    "parse_lock",
    "remove_model",
    "resolve",
    "sha256sums",
    "unet_parameters",
    "unknown",
    "verify",
    "verify_bundled",
]
