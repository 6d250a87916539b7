"""What a model paints, said to people: from its own ``about.json``, else from its configuration; no torch.

A diffusers folder may hold an ``about.json``: a ``text`` of one or two sentences, ``photographs`` (whether it
paints them) and, for a model that knows only a few things, ``things``, as prompts call them, and ``words``,
all those of prompts that it knows.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inpaint.demo import demo_about, demo_folder
from inpaint.errors import ModelError, RequestError, shown
from inpaint.files import in_home
from inpaint.prompt_weights import TAG
from inpaint.weights import find_entry, models_dir

SDXL_SIZE = 1024  # pixels; where the configuration does not say
_PHOTOGRAPHS = 512  # pixels; a model of smaller pictures makes no photographs
_WORD = re.compile(r"[^\W\d_]{2,}")  # of letters; one letter says nothing
_SMALL_WORDS = frozenset(("an", "and", "in", "of", "on", "one", "or", "some", "the", "with", "break"))
_MOST_SAID = 3  # unknown words in a warning
_MOST_KNOWN = 6  # things in a warning; the command line, the page and the API list them all


@dataclass(frozen=True, slots=True)
class About:
    """A model in one or two sentences, and what it knows if that is little."""

    text: str
    photographs: bool
    things: tuple[str, ...] | None = None  # that it paints, as prompts call them: "a red circle"
    words: tuple[str, ...] | None = None  # of prompts that it knows

    def doubts(self, model: str, prompt: str | None) -> list[str]:
        """Return a warning if the prompt is empty or holds words that the model does not know.

        Args:
            model: the model's name.
            prompt: as it was given; None is empty.
        """
        if self.words is None:
            return []
        words = dict.fromkeys(_WORD.findall(TAG.sub(" ", prompt or "").casefold()))
        known = f"it paints {_listed(self.things or self.words, _MOST_KNOWN)}"
        if not words:
            return [f"prompt: nothing is asked for, so the {model} model paints something arbitrary; {known}"]
        unknown = [shown(word) for word in words if word not in self.words and word not in _SMALL_WORDS]
        said = _listed(unknown, _MOST_SAID)
        return [f"prompt: the {model} model does not know {said}; {known}"] if unknown else []


def _listed(things: Sequence[str], most: int) -> str:
    more = f" and {len(things) - most} more" if len(things) > most else ""
    return ", ".join(things[:most]) + more


def about(model: str | Path) -> About:
    """Return what is known about a model by its name or path, also if it is not installed here."""
    folder = _place(model)
    if folder == demo_folder():
        return _parsed(demo_about())
    return _parsed(own) if (own := _json(folder / "about.json")) else _by_size(native_size(model))


def native_size(model: str | Path) -> int:
    """Return the side in pixels of the square that a model was trained on; SDXL's if nothing says so."""
    folder = _place(model)
    size = _json(folder / "unet" / "config.json").get("sample_size")
    blocks = _json(folder / "vae" / "config.json").get("block_out_channels")
    if not size or not isinstance(blocks, list):
        return SDXL_SIZE
    side = size if isinstance(size, int) else round(math.sqrt(size[0] * size[1]))
    return int(side * 2 ** (len(blocks) - 1))


def _by_size(size: int) -> About:
    if size < _PHOTOGRAPHS:
        return About(f"A small model: paints at {size} px, which is too small for photographs.", False)
    return About(f"Paints photographs and other pictures, at about {size} px.", True)


def _parsed(own: Mapping[str, Any]) -> About:
    things, words = (_few(own.get(name)) for name in ("things", "words"))
    return About(str(own.get("text", "")), bool(own.get("photographs", False)), things, words)


def _few(found: object) -> tuple[str, ...] | None:
    return tuple(map(str, found)) if isinstance(found, list) else None


def _place(model: str | Path) -> Path:
    """Return the folder or file that a name or a path stands for, whether or not it exists."""
    if model == "demo":
        return demo_folder()
    try:
        root = models_dir()
        entry = find_entry(model, root) if isinstance(model, str) else None
        return root / entry.target if entry else in_home(Path(model), "model")
    except (ModelError, RequestError, OSError):
        return Path(model)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
