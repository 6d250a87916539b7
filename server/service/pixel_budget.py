"""The budget of decoded pixels: what the requests of this process may hold in memory together.

A file of 100 kB decodes to 25 megapixels, so the number of requests bounds no memory. Measured with such a
picture, a request takes 9.6 bytes a pixel in this process until it is answered: the picture, its mask and
the copy of both that the engine may need again, and a picture for each sample.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from inpaint.errors import BusyError
from inpaint.request import MAX_PIXELS

_RETRY_AFTER_S = 5.0
_INPUTS = 2  # what the inputs of a request take, in pictures


def decoded_pixels(width: int, height: int, samples: int, *, alpha: bool = False) -> int:
    """Return what a request takes of the budget, from the size of its picture; no more than any can take.

    Args:
        width: in pixels.
        height: in pixels.
        samples: pictures that are painted.
        alpha: whether the picture has a fourth channel, which is copied as often as the others.
    """
    return min(width * height, MAX_PIXELS) * (_INPUTS + alpha + samples)


class PixelBudget:
    """The decoded pixels held by requests, and their limit. Every method is for the event loop."""

    def __init__(self, max_pixels: int) -> None:
        self._max_pixels = max_pixels
        self.held = 0

    @contextmanager
    def hold(self, pixels: int) -> Iterator[None]:
        """Hold part of the budget for the length of the block; a request that is alone may exceed it.

        Raises:
            BusyError: others hold too much of it.
        """
        if self.held and self.held + pixels > self._max_pixels:
            raise BusyError("the server has no memory left for this picture; try again", _RETRY_AFTER_S)
        self.held += pixels
        try:
            yield
        finally:
            self.held -= pixels
