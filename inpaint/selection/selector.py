"""The selection of objects in this process, by SAM where it is installed, else by snap."""

import hashlib
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from inpaint.errors import RequestError, shown
from inpaint.selection.hints import Hints, Selection
from inpaint.selection.sam import FETCH, Sam, installed, prompt_of, selection_of, square_of
from inpaint.selection.snap import pixels_of, snap

Method = Literal["auto", "snap", "sam"]
METHODS: tuple[Method, ...] = get_args(Method)


class Selector:
    """One way of selecting; SAM is loaded for its first picture. For one thread at a time."""

    def __init__(self, folder: Path | None, device: str = "auto") -> None:
        """Take the verified folder of SAM's weights, or None for snap."""
        self._folder, self._device = folder, device
        self._sam: Sam | None = None

    @classmethod
    def of(cls, method: str = "auto", device: str = "auto", *, field: str = "method") -> "Selector":
        """Return the selector for a method; ``auto`` is SAM where it is installed.

        Args:
            method: one of ``METHODS``.
            device: SAM's, as a model's that paints.
            field: what errors call the method.

        Raises:
            RequestError: there is no such method, or SAM is not installed.
            ModelError: SAM's weights are damaged.
        """
        if method not in METHODS:
            raise RequestError(field, f"must be one of {', '.join(METHODS)}, not {shown(method)}")
        folder = None if method == "snap" else installed()
        if method == "sam" and folder is None:
            raise RequestError(field, f"sam is not installed; run: {FETCH}")
        return cls(folder, device)

    @property
    def name(self) -> str:
        """What selects: ``snap``, or the name of SAM's weights."""
        return "snap" if self._folder is None else self._folder.name

    def select(self, image: Image.Image, hints: Hints) -> Selection:
        """Select what the hints mean.

        Raises:
            RequestError: the hints do not fit the picture.
            ModelError: SAM cannot be loaded.
        """
        hints.checked(image.size)
        pixels = pixels_of(image)
        # SAM knows no strokes: they confuse it.
        if self._folder is None or hints.scribble is not None:
            return snap(pixels, hints)
        if self._sam is None:
            self._sam = Sam.load(self._folder, self._device)
        return _by(self._sam, pixels, hints)


def _by(sam: Sam, pixels: NDArray[np.uint8], hints: Hints) -> Selection:
    key = hashlib.sha256(pixels.tobytes()).hexdigest()
    if not sam.holds(key):
        sam.embed(key, square_of(pixels, sam.side))
    logits, score = sam.decide(key, prompt_of(pixels, hints))
    return selection_of(pixels, hints, logits, score)
