"""Notes to the user on a checkpoint that is accepted: what it predicts, and what of it is not used."""

from pathlib import Path
from typing import Any

from inpaint.weights.prediction import SINGLE_FILE, describe, settings_of_file, settings_of_folder
from inpaint.weights.safety import left_out

# Settings of the sampler that a folder was saved with, and their usual values. A request's sampler has its
# own.
_SAMPLER_SETTINGS: dict[str, tuple[Any, ...]] = {
    "use_karras_sigmas": (False, None),
    "use_exponential_sigmas": (False, None),
    "use_beta_sigmas": (False, None),
    "use_lu_lambdas": (False, None),
    "final_sigmas_type": ("zero", None),
    "algorithm_type": ("dpmsolver++", None),
    "thresholding": (False, None),
}


def notes(checkpoint: Path) -> list[str]:
    """Return sentences about a checkpoint that was imported.

    Args:
        checkpoint: its folder in the store: a diffusers folder, or one with a single file.
    """
    if not (checkpoint / "model_index.json").is_file():
        said = describe(settings_of_file(checkpoint / SINGLE_FILE))
        return [said] if said else []
    config = settings_of_folder(checkpoint)
    found = [describe(config)]
    if (spacing := config.get("timestep_spacing", "leading")) != "leading":
        found.append(f"its timesteps are spaced {spacing!r}, as its scheduler_config.json says")
    if unused := [key for key, usual in _SAMPLER_SETTINGS.items() if config.get(key) not in usual]:
        found.append(
            f"its own {config.get('_class_name', 'sampler')} is not used ({', '.join(unused)}): each picture "
            "names its sampler, and those with Karras in their name have Karras sigmas"
        )
    if parts := left_out(checkpoint):
        found.append(f"left out, since painting uses none of it: {', '.join(parts)}")
    return [note for note in found if note]
