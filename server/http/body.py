"""The bytes of a request body to a flat dictionary of fields, under caps, whatever the content type."""

import asyncio
import json
from collections.abc import AsyncIterator

from python_multipart.multipart import parse_options_header
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from inpaint.errors import RequestError
from server.errors import ContentTypeError, TooLargeError
from server.settings import Settings

Fields = dict[str, object]

_MAX_FIELDS, _MAX_FILES, _MAX_MARKS = 64, 8, 100_000
# A form may name any of Python's codecs, and some take time that is the square of the text's length.
_CHARSETS = (b"utf-8", b"utf8", b"us-ascii", b"iso-8859-1")
_ON_LOOP_BYTES = 16_384  # JSON up to this size is parsed at once; more would hold up everybody else


async def fields_of(request: Request, settings: Settings) -> Fields:
    """The fields of a request's body, under the server's caps.

    Raises:
        TooLargeError: the body is.
        ContentTypeError: neither JSON nor a form.
        RequestError: it did not arrive, or is not what its content type says.
    """
    body = await read_body(request, max_bytes=settings.max_body_bytes, timeout_s=settings.body_timeout_s)
    return await parse_fields(request, body)


async def read_body(request: Request, *, max_bytes: int, timeout_s: float) -> bytes:
    """The whole body, capped while it arrives.

    Raises:
        TooLargeError: more than ``max_bytes``, said or sent.
        RequestError: it did not arrive in ``timeout_s`` seconds, or broke off.
    """
    too_large = TooLargeError(f"the body must be at most {max_bytes // 10**6} MB")
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > max_bytes:
        raise too_large
    found = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            async for chunk in request.stream():
                found += chunk
                if len(found) > max_bytes:
                    raise too_large
    except TimeoutError:
        request.state.hang_up = True  # else the rest of it could keep the connection for ever
        raise RequestError("body", f"did not arrive within {timeout_s:g} seconds") from None
    except ClientDisconnect:
        raise RequestError("body", "broke off before its end") from None
    return bytes(found)


async def parse_fields(request: Request, body: bytes) -> Fields:
    """The fields of a JSON object or of a multipart form; files as bytes.

    Raises:
        ContentTypeError: neither of the two.
        RequestError: it is not what its content type says.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        return _json(body) if len(body) <= _ON_LOOP_BYTES else await asyncio.to_thread(_json, body)
    if kind == "multipart/form-data":
        return await _multipart(request, body)
    raise ContentTypeError("Invalid content type")


def _json(body: bytes) -> Fields:
    # Millions of empty lists would fit, each 20 times as large once parsed. Pictures have no such marks.
    if any(body.count(mark) > _MAX_MARKS for mark in (b",", b"[", b"{")):
        raise RequestError("body", "holds too many values")
    try:
        found = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        raise RequestError("body", "is not valid JSON") from None
    if not isinstance(found, dict):
        raise RequestError("body", "must be a JSON object")
    return found


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


async def _multipart(request: Request, body: bytes) -> Fields:
    async def stream() -> AsyncIterator[bytes]:
        yield body

    _, parameters = parse_options_header(request.headers["content-type"])
    if parameters.get(b"charset", b"utf-8").lower() not in _CHARSETS:
        raise RequestError("body", "must be a multipart form in UTF-8")
    # A text field may hold a picture as base64, so a part may be as large as the body.
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
        raise RequestError("body", "is not a valid multipart form") from None
    try:
        return {
            name: await value.read() if isinstance(value, UploadFile) else value
            for name, value in form.items()
        }
    finally:
        await form.close()
