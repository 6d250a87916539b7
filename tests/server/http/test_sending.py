"""Answers in pieces: the same headers and bytes, whatever the application sends."""

import asyncio
from typing import Any

import pytest

from server.http.sending import MAX_LARGE_BYTES, PIECE_BYTES, SendingMiddleware

Message = dict[str, Any]


def sent(*messages: Message) -> list[Message]:
    """Return what leaves the middleware when the application sends ``messages``."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        for message in messages:
            await send(message)

    found: list[Message] = []

    async def send(message: Any) -> None:
        found.append(message)

    async def receive() -> Any:
        return {"type": "http.disconnect"}

    asyncio.run(SendingMiddleware(application)({"type": "http", "method": "GET", "path": "/"}, receive, send))
    return found


def start(length: int) -> Message:
    return {
        "type": "http.response.start",
        "status": 200,
        "headers": [(b"content-length", str(length).encode())],
    }


@pytest.mark.parametrize(
    "length", [0, 1, PIECE_BYTES, PIECE_BYTES + 1, 2 * PIECE_BYTES, 3_000_001], ids="{} bytes".format
)
@pytest.mark.parametrize("more", [False, True])
def test_the_bytes_are_the_same_in_pieces(length: int, more: bool) -> None:
    """A picture that was cut into pieces is still that picture, and ends where it ended."""
    data = bytes(i % 251 for i in range(length))
    first, *pieces = sent(start(length), {"type": "http.response.body", "body": data, "more_body": more})
    assert first == start(length)
    assert b"".join(piece["body"] for piece in pieces) == data
    assert max(len(piece["body"]) for piece in pieces) <= PIECE_BYTES
    assert [piece["more_body"] for piece in pieces] == [True] * (len(pieces) - 1) + [more]


def test_answers_of_more_than_half_a_gigabyte_altogether_are_refused() -> None:
    """Downloads of many pictures cannot fill the memory either."""
    length = MAX_LARGE_BYTES + 1
    first, *rest = sent(start(length), {"type": "http.response.body", "body": b"a"})
    assert first["status"] == 503
    assert (b"retry-after", b"2") in first["headers"]
    assert len(rest) == 1
    assert rest[0]["body"] != b"a"
