"""Request bodies, JSON or multipart, as flat dictionaries of fields, with limits on size, time and count.

Of a form's fields with one name the first counts, as for OpenAI, whose mask belongs to the first picture; a
name that ends with ``[]``, as ``image[]``, is a list of all of them.
"""

import json
from collections.abc import AsyncIterator

from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from inpaint.errors import BusyError, RequestError, shown
from server.errors import ContentTypeError, EncodingError, TooLargeError
from server.service.parts import Parts
from server.service.threads import Threads
from server.service.uploads import Upload

Fields = dict[str, object]

_MAX_FIELDS, _MAX_FILES, _MAX_MARKS, _MAX_DEPTH = 64, 8, 100_000, 32
# A form may name any of Python's codecs, and some take quadratic time.
_CHARSETS = (b"utf-8", b"utf8", b"us-ascii", b"iso-8859-1")
_ON_LOOP_BYTES = 16_384  # larger JSON is parsed in a thread, since it would block the event loop


async def fields_of(request: Request, parts: Parts, upload: Upload) -> Fields:
    """Read a request's body and return its fields, within the server's limits.

    Raises:
        TooLargeError: the body is larger than the server reads.
        ContentTypeError: it is neither JSON nor a form.
        EncodingError: it is compressed.
        RequestError: it did not arrive in time, or is not what its content type says.
        BusyError: too many bodies arrive or are in memory.
    """
    settings = parts.settings
    body = await read_body(
        request, upload, max_bytes=settings.max_body_bytes, timeout_s=settings.body_timeout_s
    )
    return await parse_fields(request, body, parts.threads)


async def optional_fields_of(request: Request, parts: Parts, upload: Upload) -> Fields:
    """Return the fields of a body as :func:`fields_of` does, and none if there is no body.

    Raises:
        InpaintError: as for :func:`fields_of`.
    """
    settings = parts.settings
    body = await read_body(
        request, upload, max_bytes=settings.max_body_bytes, timeout_s=settings.body_timeout_s
    )
    return await parse_fields(request, body, parts.threads) if body else {}


async def read_body(request: Request, upload: Upload, *, max_bytes: int, timeout_s: float) -> bytes:
    """Read the whole body, and stop as soon as it is too large.

    Raises:
        TooLargeError: it is declared to be larger than ``max_bytes``, or is.
        EncodingError: it is compressed: a few bytes could be gigabytes.
        RequestError: it did not arrive within ``timeout_s`` seconds, or was cut off.
        BusyError: another key's upload got its place, or the bodies in memory are too large together.
    """
    coding = request.headers.get("content-encoding", "").strip().lower()
    if coding not in ("", "identity"):
        raise EncodingError(f"Content-Encoding: {shown(coding)} is not read here; send the body uncompressed")
    too_large = TooLargeError(f"the body must be at most {max_bytes // 10**6} MB")
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise too_large
    found = bytearray()
    try:
        async with upload.reading(timeout_s):
            async for chunk in request.stream():
                found += chunk
                if len(found) > max_bytes:
                    raise too_large
                upload.grow(len(chunk))
    except BusyError:
        request.state.hang_up = True  # as below
        raise
    except TimeoutError:
        request.state.hang_up = True  # else the rest of the body could keep the connection open for ever
        raise RequestError("body", f"did not arrive within {timeout_s:g} seconds") from None
    except ClientDisconnect:
        raise RequestError("body", "was cut off before its end") from None
    return bytes(found)


async def parse_fields(request: Request, body: bytes, threads: Threads) -> Fields:
    """Return the fields of a JSON object or of a multipart form; files as bytes.

    Raises:
        ContentTypeError: the body is neither.
        RequestError: the body is not what its content type says.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        return _json(body) if len(body) <= _ON_LOOP_BYTES else await threads.pixels(_json, body)
    if kind == "multipart/form-data":
        return await _multipart(request, body)
    raise ContentTypeError("Invalid content type")


def _json(body: bytes) -> Fields:
    # Millions of empty lists would fit, each 20 times as large once parsed. Base64 has none of these marks.
    if any(body.count(mark) > _MAX_MARKS for mark in (b",", b"[", b"{")):
        raise RequestError("body", f"has too many values: more than {_MAX_MARKS} commas or brackets")
    try:
        found = json.loads(body, parse_constant=_no_constant)
    except ValueError:
        raise RequestError("body", "is not valid JSON") from None
    except RecursionError:
        raise _too_deep() from None
    if not isinstance(found, dict):
        raise RequestError("body", "must be a JSON object")
    if _is_deep(found):
        raise _too_deep()
    return found


def _too_deep() -> RequestError:
    return RequestError("body", f"is nested deeper than {_MAX_DEPTH} lists or objects")


def _is_deep(found: Fields) -> bool:
    """Look at one level after the other: code that calls itself would end at Python's limit."""
    level: list[object] = [found]
    for _ in range(_MAX_DEPTH):
        level = [
            inner
            for value in level
            if isinstance(value, dict | list)
            for inner in (value.values() if isinstance(value, dict) else value)
        ]
    return any(isinstance(value, dict | list) for value in level)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


async def _multipart(request: Request, body: bytes) -> Fields:
    async def stream() -> AsyncIterator[bytes]:
        yield body

    _, parameters = parse_options_header(request.headers["content-type"])
    if parameters.get(b"charset", b"utf-8").lower() not in _CHARSETS:
        raise RequestError("body", "must be a multipart form encoded in UTF-8")
    # A text field may be a picture in base64, so a part may be as large as the body.
    parser = MultiPartParser(
        request.headers,
        stream(),  # type: ignore[arg-type]
        max_files=_MAX_FILES,
        max_fields=_MAX_FIELDS,
        max_part_size=len(body) + 1,
    )
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError, AssertionError):
        problem = f"is not a valid multipart form of at most {_MAX_FIELDS} fields and {_MAX_FILES} files"
        raise RequestError("body", problem) from None
    try:
        found: Fields = {}
        for name, value in form.multi_items():
            one = await value.read() if isinstance(value, UploadFile) else value
            if name.endswith("[]"):
                found.setdefault(name, []).append(one)  # type: ignore[attr-defined]
            else:
                found.setdefault(name, one)
        return found
    finally:
        await form.close()
