"""The latent sizes that a model is compiled for, in the order in which this machine's requests use them."""

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from inpaint.batching.cost_profile import Profile
from inpaint.batching.cost_record import MadeFor
from inpaint.batching.usage import Usage
from inpaint.batching.work import Bucket
from inpaint.canvas.sizes import usual_sizes
from inpaint.errors import OutputError
from inpaint.model.load import Model

_log = logging.getLogger(__name__)


def compiled_sizes(model: Model, identity: MadeFor, folder: Path | None) -> tuple[Sequence[Bucket], int]:
    """Return the latent sizes to compile for, the most frequent first, and how many of them are frequent.

    The counts of requests are those in the profile in ``folder``. As long as there are none, the native
    square is first, and the only frequent one.
    """
    profile = None if folder is None else Profile.load(folder / identity.file_name, identity, max_slots=1)
    sizes = usual_sizes(model.native_size) or [(model.native_size, model.native_size)]
    buckets = [Bucket(height // model.vae_factor, width // model.vae_factor) for width, height in sizes]
    return (Usage() if profile is None else profile.usage).ordered(buckets)


def save_usage(profile: Profile, folder: Path) -> None:
    """Write the counts of requests into the profile in ``folder``; its measurements stay as they are there.

    Those were made with uncompiled code, with which the next process starts, too. If there is no profile,
    nothing is written; a file that cannot be written is a warning.
    """
    path = folder / profile.made_for.file_name
    try:
        kept = Profile.from_json(json.loads(path.read_text("utf-8")))
    except (OSError, ValueError):
        return
    kept.usage = profile.usage
    try:
        kept.save(path)
    except OutputError as error:
        _log.warning("the sizes of requests could not be saved: %s", error)
