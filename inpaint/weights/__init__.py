"""Model files: the lock, fetching, verifying, importing, and finding a checkpoint by name.

Knows files, digests and headers; never loads a weight. Importing it loads neither torch, diffusers nor
huggingface_hub.
"""

from inpaint.weights.fetch import fetch
from inpaint.weights.importer import BUILT_IN, import_model
from inpaint.weights.lock import Entry, Lock, LockedFile, Source, load_lock, parse_lock, sha256sums
from inpaint.weights.safety import check_folder, check_safetensors, check_single_file
from inpaint.weights.store import (
    Checkpoint,
    Listing,
    config_folder,
    find_entry,
    listings,
    models_dir,
    resolve,
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
    "Progress",
    "Source",
    "check_folder",
    "check_safetensors",
    "check_single_file",
    "config_folder",
    "fetch",
    "find_entry",
    "import_model",
    "listings",
    "load_lock",
    "models_dir",
    "parse_lock",
    "resolve",
    "sha256sums",
    "unknown",
    "verify",
    "verify_bundled",
]
