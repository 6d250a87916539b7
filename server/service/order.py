"""The order that a dialect passes to the service: a request with pictures that are not yet fetched."""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from inpaint.errors import RequestError

Format = Literal["jpeg", "png", "webp"]

_MAX_URL_CHARACTERS = 8192
_SCHEME = re.compile(r"\s*([a-zA-Z][a-zA-Z0-9+.-]*):")


@dataclass(frozen=True, slots=True)
class Url:
    """The URL of a picture; only ``server.fetch.fetcher`` opens it."""

    text: str = field(repr=False)  # may contain a signature, so it must never reach a log


Source = Url | bytes
Sides = tuple[int, int, int, int]  # left, top, right, bottom


@dataclass(frozen=True, slots=True)
class Order:
    """A request in the engine's words.

    ``settings`` are fields of ``InpaintRequest``, all but its two pictures. ``extend`` is the number of
    pixels that the picture grows on each side before it is painted; the mask then has the size of the picture
    before that, and may be missing.
    """

    image: Source = field(repr=False)
    mask: Source | None = field(repr=False)
    settings: Mapping[str, object]
    output_format: Format = "jpeg"
    quality: int = 95
    extend: Sides | None = None
    metadata: bool | None = None  # write into the pictures how they were made; None: the server's setting

    @property
    def has_urls(self) -> bool:
        """True if a picture must be fetched."""
        return isinstance(self.image, Url) or isinstance(self.mask, Url)


def source(name: str, value: object) -> Source:
    """Read a picture as clients send it: an http(s) URL, a data: URI, plain base64, or a file part's bytes.

    Base64 stays encoded: :func:`decode_source` decodes it, outside the event loop.

    Raises:
        RequestError: the field ``name`` is none of these.
    """
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str) or not value.strip():
        raise RequestError(name, "must be an http(s) URL, a data: URI or base64 of a picture")
    scheme = _SCHEME.match(value[:64])
    if scheme is None:
        return value.encode("ascii", "replace")
    if scheme[1].lower() in ("http", "https"):
        if len(value) > _MAX_URL_CHARACTERS:
            raise RequestError(name, f"must be a URL of at most {_MAX_URL_CHARACTERS} characters")
        return Url(value)
    if scheme[1].lower() == "data":
        return value.encode("ascii", "replace")
    raise RequestError(name, "must be an http(s) URL, a data: URI or base64 of a picture")


_DATA_URI = re.compile(rb"\s*data:image/[a-z0-9.+-]+;(?:[a-z0-9=.+-]+;)*base64,", re.IGNORECASE)


def decode_source(name: str, data: bytes) -> bytes:
    """Return a file's bytes, from the bytes themselves or from base64 with or without ``data:``.

    Raises:
        RequestError: a data: URI that is not a base64 picture, or text that is not base64.
    """
    if not data.isascii():  # a file, though perhaps not a picture
        return data
    if data.lstrip()[:5].lower() == b"data:":
        head = _DATA_URI.match(data[:256])
        if head is None:
            raise RequestError(name, "must be a data: URI of a picture in base64")
        data = data[head.end() :]
    packed = data.translate(None, b" \t\r\n").rstrip(b"=")
    try:
        return base64.b64decode(packed + b"=" * (-len(packed) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise RequestError(name, "is neither a picture's URL nor valid base64") from None
