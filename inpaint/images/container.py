"""The structure of a picture file, read before Pillow reads it."""

from dataclasses import dataclass

from inpaint.images.exif import BROKEN

Colour = tuple[tuple[bytes, bytes], ...]

ANIMATED = "is animated; its first frame is painted"
SIXTEEN_BITS = "has more than 8 bits a colour channel; it is painted and kept with 8"

# The errors that Pillow's readers raise on damaged files; a fuzz test checks that the list is complete.
DAMAGED = (
    *BROKEN,
    NotImplementedError,
    EOFError,
    RuntimeError,  # libavif's and libheif's
    AssertionError,  # a PNG whose palette is missing; with python -O an AttributeError
)


@dataclass(frozen=True, slots=True)
class Container:
    """A file whose structure was followed without decoding a pixel.

    Attributes:
        data: what Pillow is given: the file's bytes, or a copy without parts that no pixel needs.
        size: (width, height) that the file declares, where a decoder takes memory before Pillow says it.
        icc_profile: the ICC profile, where Pillow would refuse the file for it.
        colour: PNG chunks, kind and body, that say which colours the pixels' numbers are.
        lossless: the pixels are kept without loss, in a format that also has a lossy kind.
        notes: what is not painted or kept, as the end of a sentence about the file.
    """

    data: bytes
    size: tuple[int, int] | None = None
    icc_profile: bytes | None = None
    colour: Colour = ()
    lossless: bool = False
    notes: tuple[str, ...] = ()


class BombError(Exception):
    """A file that takes far more work to decode than a picture of its size."""


class UnreadableError(Exception):
    """A file of a kind that is not read, though its format is; its text is the end of a sentence about it."""
