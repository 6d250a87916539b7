"""The order that a dialect passes to the service: a request with pictures that are not yet fetched."""

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, TypeVar
from urllib.parse import unquote_to_bytes

from PIL import Image

from inpaint.errors import RequestError
from inpaint.images.formats import known_refusal

Format = Literal["jpeg", "png", "webp"]
Answer = Literal["files", "boxes"]

_MAX_URL_CHARACTERS = 8192
_SCHEME = re.compile(r"\s*([a-zA-Z][a-zA-Z0-9+.-]*):")
# A picture's URL in our answers, after the server's address.
_PICTURE = re.compile(
    r"/v2/requests/(?P<id>[0-9a-f]{32})/images/(?P<number>\d{1,3})\?token=(?P<token>[\w-]{1,100})", re.ASCII
)
_QUOTES = ("'", '"')
_NO_PICTURE = "must be an http(s) URL, a data: URI or base64 of a picture"
_MAX_HEAD = 1024  # bytes of a data: URI before its comma
_MAX_ESCAPES = 300_000  # %XX in a data: URI that is not base64
_SAME_SHAPE = 0.02  # by which the ratio of the sides of pictures of one shape may differ, as a part


@dataclass(frozen=True, slots=True)
class Url:
    """The URL of a picture; only ``server.fetch.fetcher`` opens it."""

    text: str = field(repr=False)  # may contain a signature, so it must never reach a log


@dataclass(frozen=True, slots=True)
class Stored:
    """A picture that this server painted, named by the URL in its answer; the token replaces a key."""

    request_id: str
    number: int
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Blank:
    """The picture of a request that sends none: grey, and repainted as a whole."""

    width: int
    height: int


Source = Url | Stored | bytes
Sides = tuple[int, int, int, int]  # left, top, right, bottom


@dataclass(frozen=True, slots=True, eq=False)
class Given:
    """The decoded pictures of an order, upright and in the modes of their files, and its settings."""

    image: Image.Image
    mask: Image.Image | None
    settings: Mapping[str, object]


Adapt = Callable[[Given], Given]


@dataclass(frozen=True, slots=True)
class Order:
    """A request in the engine's words.

    ``settings`` are fields of ``InpaintRequest``, all but its two pictures. ``extend`` is the number of
    pixels that the picture grows on each side before it is painted; the mask then has the size of the picture
    before that, and may be missing. ``adapt`` is what a dialect makes of the decoded pictures before they are
    checked against each other: its mask is one in which white is repainted. ``size`` is the (width, height)
    in which the painted pictures are answered, or that ``adapt`` gives the picture, if not its own. With
    ``keep_shape`` it counts only for a picture of its shape.
    """

    image: Source | Blank = field(repr=False)
    mask: Source | None = field(repr=False)
    settings: Mapping[str, object]
    output_format: Format = "jpeg"
    quality: int = 95
    extend: Sides | None = None
    adapt: Adapt | None = field(default=None, repr=False)
    size: tuple[int, int] | None = None
    keep_shape: bool = False
    answer: Answer = "files"  # keep whole files, or the painted boxes, of which files are made when asked for
    model: str | None = None  # that paints it, by its name; None: the server's first
    metadata: bool | None = None  # write into the pictures how they were made; None: the server's setting

    @property
    def has_urls(self) -> bool:
        """True if a picture must be fetched."""
        return isinstance(self.image, Url) or isinstance(self.mask, Url)

    def resized(self, picture: tuple[int, int]) -> tuple[int, int] | None:
        """Return the size in which a picture of this (width, height) is answered; None for its own."""
        if self.size is None or not self.keep_shape:
            return self.size
        (width, height), (w, h) = picture, self.size
        return self.size if abs(width * h - w * height) <= _SAME_SHAPE * w * height else None

    def own(self, base_url: str) -> "Order":
        """Return the order with the URLs of our own pictures recognised, those below ``base_url``."""
        return replace(self, image=own(self.image, base_url), mask=own(self.mask, base_url))


AnySource = TypeVar("AnySource", bound=Source | Blank | None)


def own(source: AnySource, base_url: str) -> AnySource | Stored:
    """Return a URL below ``base_url`` that names a picture of ours as that picture, all else unchanged."""
    if not isinstance(source, Url) or not source.text.startswith(base_url.rstrip("/") + "/"):
        return source
    found = _PICTURE.fullmatch(source.text[len(base_url.rstrip("/")) :])
    return Stored(found["id"], int(found["number"]), found["token"]) if found else source


def source(name: str, value: object) -> Source:
    """Read a picture as clients send it: an http(s) URL, a data: URI, plain base64, or a file part's bytes.

    Base64 stays encoded: :func:`decode_source` decodes it, outside the event loop.

    Raises:
        RequestError: the field ``name`` is none of these.
    """
    if isinstance(value, bytes):
        return value
    if not isinstance(value, str) or not value.strip():
        raise RequestError(name, _NO_PICTURE)
    value = _unquoted(value)
    text = _unquoted(value.strip())
    scheme = _SCHEME.match(text[:64])
    if scheme is None:
        return text.encode("ascii", "replace")
    if scheme[1].lower() in ("http", "https"):
        if len(value) > _MAX_URL_CHARACTERS:
            raise RequestError(name, f"must be a URL of at most {_MAX_URL_CHARACTERS} characters")
        return Url(value)  # white space around it included, by which it is refused
    if scheme[1].lower() == "data":
        return text.encode("ascii", "replace")
    raise RequestError(name, _NO_PICTURE)


def _unquoted(text: str) -> str:
    """Return a text without the quotes of JSON within JSON."""
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in _QUOTES
    return text[1:-1] if quoted else text


def decode_source(name: str, data: bytes) -> bytes:
    """Return a file's bytes, from the bytes themselves or from base64 with or without ``data:``.

    The label of a data: URI is not looked at: browsers write ``application/octet-stream``, or none, for a
    file whose ending they do not know. What the bytes are is found when they are decoded.

    Raises:
        RequestError: a data: URI without a comma, or text that is not base64.
    """
    if not data.isascii():  # a file, though perhaps not a picture
        return data
    packed = data.lstrip()
    if packed[:5].lower() == b"data:":
        head, comma, packed = packed.partition(b",")
        if not comma or len(head) > _MAX_HEAD:
            raise RequestError(name, "must be a data: URI such as data:image/png;base64,… with a picture")
        if not head.rstrip().lower().endswith(b";base64"):
            return _unescaped(name, packed)
    elif packed[:7].lower() == b"base64,":
        packed = packed[7:]
    try:
        return _from_base64(packed)
    except (binascii.Error, ValueError):
        if known_refusal(data):  # text that is a file, such as an SVG drawing; the decoder names it
            return data
        raise RequestError(name, "is neither a picture's URL nor valid base64") from None


def _from_base64(packed: bytes) -> bytes:
    """Decode base64 of either alphabet, with white space, without padding, or escaped as in URLs."""
    if b"%" in packed:  # not unquote_to_bytes, which makes an object of each of 10 million escapes
        for escaped, plain in _ESCAPED:
            packed = packed.replace(escaped, plain).replace(escaped.lower(), plain)
    packed = packed.translate(_URL_ALPHABET, b" \t\r\n").rstrip(b"=")
    return base64.b64decode(packed + b"=" * (-len(packed) % 4), validate=True)


def _unescaped(name: str, text: bytes) -> bytes:
    """Return what a data: URI without base64 stands for: bytes, some of them as ``%XX``."""
    if text.count(b"%") > _MAX_ESCAPES:
        raise RequestError(name, "must be a data: URI in base64")
    return unquote_to_bytes(text)


_URL_ALPHABET = bytes.maketrans(b"-_", b"+/")
_ESCAPED = (
    (b"%2B", b"+"),
    (b"%2F", b"/"),
    (b"%3D", b"="),
    (b"%2D", b"-"),
    (b"%5F", b"_"),
    (b"%0D", b""),
    (b"%0A", b""),
    (b"%20", b""),
)
