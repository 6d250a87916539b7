"""Uploads: slow ones take no place of those who paint, and a few keys keep nobody out."""

import asyncio
import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from inpaint.errors import BusyError
from server.service.uploads import Upload, Uploads
from tests.support.served import PATIENCE_S, Serve, Served, answer, body, eventually

pytest_plugins = ["tests.support.served_fixtures"]

V1, V2 = "/v1/sdxl-inpaint", "/v2/sdxl-inpaint"


@pytest.fixture
def connections() -> Iterator[ExitStack]:
    """Close the connections that a test leaves open."""
    with ExitStack() as stack:
        yield stack


def slow(served: Served, key: str, *, sent: bytes = b"{", size: int = 150_000) -> socket.socket:
    """Begin an upload, and go on with it never."""
    head = (f"POST {V2} HTTP/1.1", "Host: 127.0.0.1", f"x-api-key: {key}", "Content-Type: application/json")
    return served.raw(*head, f"Content-Length: {size}", send=sent)


def reading(served: Served) -> list[Upload]:
    return list(served.running.service._uploads._reading)


def test_slow_uploads_take_no_place_of_those_who_paint(serve: Serve, connections: ExitStack) -> None:
    """Five keys with sixteen slow uploads each made the server full for everybody else."""
    served = serve(max_waiting=1, max_rows=1, workers=0)
    key = served.key()
    for _ in range(4):
        connections.enter_context(slow(served, key))
    eventually(lambda: len(reading(served)) == 4)
    with served.calling(key=served.key()) as other:
        assert other.post(V1, json=body()).status_code == 200


def test_a_key_with_few_uploads_takes_a_place_of_one_with_most(serve: Serve, connections: ExitStack) -> None:
    """The oldest upload of the greediest key is answered with 503, and its connection is closed."""
    served = serve(max_uploads=5)
    greedy, modest, other = served.key(), served.key(), served.key()
    kept = [connections.enter_context(slow(served, key)) for key in (modest, modest)]
    eventually(lambda: len(reading(served)) == 2)
    oldest = connections.enter_context(slow(served, greedy))
    eventually(lambda: len(reading(served)) == 3)
    kept += [connections.enter_context(slow(served, greedy)) for _ in range(2)]
    eventually(lambda: len(reading(served)) == 5)
    with served.calling(key=other) as client:
        assert client.post(V1, json=body()).status_code == 200
    status, headers, data = answer(oldest)
    assert (status, headers["connection"]) == (503, "close")
    assert int(headers["retry-after"]) >= 1
    assert "slow" in json.loads(data)["error"]
    assert len(reading(served)) == 4, "one was enough"


def test_five_keys_with_sixteen_slow_uploads_each_keep_nobody_out(
    serve: Serve, connections: ExitStack
) -> None:
    """The defaults allow it, and every one of the five would be within its own limits."""
    served = serve()
    for key in [served.key() for _ in range(5)]:
        for _ in range(16):
            connections.enter_context(slow(served, key))
    eventually(lambda: len(reading(served)) == served.settings.max_uploads)
    with served.calling(key=served.key()) as sixth:
        assert [sixth.post(path, json=body()).status_code for path in (V1, V2, V1)] == [200] * 3


def test_bodies_in_memory_are_limited_together(serve: Serve, connections: ExitStack) -> None:
    """A key that sends little gets the memory of one that sends much and does not finish."""
    served = serve(max_upload_bytes=200_000)
    greedy, other = served.key(), served.key()
    large = connections.enter_context(slow(served, greedy, sent=b" " * 149_000))
    eventually(lambda: sum(upload.size_bytes for upload in reading(served)) == 149_000)
    with served.calling(key=other) as client:
        assert client.post(V1, json=body(x="x" * 60_000)).status_code == 200
    assert answer(large)[0] == 503


def test_a_large_body_beyond_the_memory_is_503(serve: Serve, connections: ExitStack) -> None:
    """The key that takes most memory is the one that is refused."""
    served = serve(max_upload_bytes=100_000)
    connections.enter_context(slow(served, served.key(), sent=b" " * 30_000))
    eventually(lambda: sum(upload.size_bytes for upload in reading(served)) == 30_000)
    with served.calling(key=served.key()) as client:
        refused = client.post(V1, json=body(x="x" * 90_000))
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        assert client.post(V1, json=body()).status_code == 200


# The rule, without HTTP.


def test_a_newcomer_gets_no_place_from_keys_that_have_no_more_than_it() -> None:
    """Else two keys with one upload each would end each other's for ever."""
    uploads = Uploads(2, 100)
    with uploads.upload("a"), uploads.upload("b"):
        for key in ("a", "b", "c"):
            with pytest.raises(BusyError, match="as many requests as it can"), uploads.upload(key):
                pytest.fail("a third upload was let in")
    with uploads.upload("a"), uploads.upload("a"), uploads.upload("c"):
        pass
    assert not uploads._reading
    assert not uploads._in_memory


def test_a_body_takes_memory_until_it_is_answered() -> None:
    """Its place among uploads is free when it has arrived; its bytes are still there."""

    async def check() -> None:
        uploads = Uploads(1, 100)
        with uploads.upload("a") as first:
            async with first.reading(PATIENCE_S):
                first.grow(80)
            with uploads.upload("b") as second, pytest.raises(BusyError):
                async with second.reading(PATIENCE_S):
                    second.grow(30)
        with uploads.upload("b") as third:
            async with third.reading(PATIENCE_S):
                third.grow(130)  # alone, and larger than the limit

    asyncio.run(check())


def test_an_upload_that_lost_its_place_ends_although_nothing_arrives() -> None:
    """Its client may send nothing more, so waiting for the next byte would be waiting for ever."""

    async def read(upload: Upload) -> None:
        async with upload.reading(2 * PATIENCE_S):
            await asyncio.Event().wait()

    async def check() -> None:
        uploads = Uploads(2, 100)
        with uploads.upload("a") as oldest, uploads.upload("a"):
            task = asyncio.create_task(read(oldest))
            await asyncio.sleep(0)
            with uploads.upload("b"), pytest.raises(BusyError, match="slow"):
                await asyncio.wait_for(task, PATIENCE_S)

    asyncio.run(check())


def test_an_upload_that_lost_its_place_before_it_was_read_ends_too() -> None:
    """The place may be lost between admission and the first byte."""

    async def check() -> None:
        uploads = Uploads(2, 100)
        with (
            uploads.upload("a") as oldest,
            uploads.upload("a"),
            uploads.upload("b"),
            pytest.raises(BusyError),
        ):
            async with oldest.reading(PATIENCE_S):
                pytest.fail("it was read")

    asyncio.run(check())
