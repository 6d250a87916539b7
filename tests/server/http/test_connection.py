"""Connections of clients that send nothing, or too much, or do not read: they keep no other client out."""

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress

import pytest
from fastapi import Response

from server.http.connection import ConnectionLimits
from server.http.sending import MAX_LARGE_PER_PATH
from tests.support.served import (
    PATIENCE_S,
    FakeEngine,
    PictureHost,
    Serve,
    Served,
    answer,
    body,
    eventually,
    server_for,
)

pytest_plugins = ["tests.support.served_fixtures"]

V1 = "/v1/sdxl-inpaint"
LOCAL = "Host: 127.0.0.1"
LARGE = bytes(range(256)) * 100_000  # 25 MB
BRIEF_S = 0.3


@pytest.fixture(scope="module")
def brief(tmp_path_factory: pytest.TempPathFactory, picture_host: PictureHost) -> Iterator[Served]:
    """Serve with few connections and short deadlines, and a route with a large answer."""
    limits = ConnectionLimits(
        connections=8, head_s=BRIEF_S, rest_s=BRIEF_S, rest_bytes=10**6, write_s=BRIEF_S
    )
    with server_for(tmp_path_factory.mktemp("brief"), picture_host, limits=limits) as served:
        _add_large(served)
        yield served


def _add_large(served: Served) -> None:
    async def large() -> Response:
        return Response(LARGE, media_type="image/png")

    served.app.add_api_route("/large", large)
    served.app.add_api_route("/large/{name}", large)


def connected(served: Served, *, receive_bytes: int = 0) -> socket.socket:
    """Return a connection on which nothing was sent; ``receive_bytes`` makes the client's buffer small."""
    connection = socket.socket()
    if receive_bytes:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    connection.settimeout(PATIENCE_S)
    connection.connect(("127.0.0.1", served.port))
    return connection


def is_closed(connection: socket.socket) -> bool:
    """Return whether the server has closed a connection on which it sends nothing."""
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def requested(served: Served, path: str, *, method: str = "GET", receive_bytes: int = 0) -> socket.socket:
    """Return a connection with a request on it whose answer was not read."""
    connection = connected(served, receive_bytes=receive_bytes)
    connection.sendall(f"{method} {path} HTTP/1.1\r\n{LOCAL}\r\n\r\n".encode())
    return connection


def held(served: Served) -> int:
    return len(served.server.server_state.connections)


# Clients that do not send.


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\nHost: "], ids=["nothing", "half a head"])
def test_a_client_that_sends_no_request_is_dropped(brief: Served, sent: bytes) -> None:
    """An operator's server is not filled by sockets that cost their owner nothing."""
    with connected(brief) as connection:
        connection.sendall(sent)
        assert is_closed(connection)


def test_a_head_that_drips_is_dropped(brief: Served) -> None:
    """The deadline is for the whole head, not for each byte."""
    stop = threading.Event()
    with connected(brief) as connection:

        def drip() -> None:
            while not stop.wait(0.02):
                try:
                    connection.sendall(b"G")
                except OSError:
                    return

        dripping = threading.Thread(target=drip)
        dripping.start()
        assert is_closed(connection)
        stop.set()
        dripping.join()


def test_a_second_head_has_a_deadline_too(brief: Served) -> None:
    """One answered request buys no connection for ever."""
    with requested(brief, "/livez") as connection:
        eventually(lambda: connection.recv(4096).endswith(b"ok"))
        connection.sendall(b"GET /livez HTTP/1.1\r\n")
        assert is_closed(connection)


def test_a_request_may_take_longer_than_its_head(serve: Serve) -> None:
    """A caller who waits for a picture is not idle."""
    engine = FakeEngine()
    served = serve(engine, limits=ConnectionLimits(head_s=BRIEF_S, write_s=BRIEF_S))
    engine.held = True
    data = json.dumps(body()).encode()
    head = (f"POST {V1} HTTP/1.1", LOCAL, "Content-Type: application/json", f"Content-Length: {len(data)}")
    connection = served.raw(*head, send=data)
    ticket = engine.next()
    with connected(served) as other:
        assert is_closed(other)  # longer than the deadline
    served.do(engine.paint, ticket)
    assert answer(connection)[0] == 200


# Too many clients.


def test_idle_connections_give_way_to_new_ones(serve: Serve) -> None:
    """Twice as many idle sockets as the server holds keep nobody out, and those idle for longest go first."""
    served = serve(limits=ConnectionLimits(connections=50))
    with ExitStack() as stack:
        idle = [stack.enter_context(closing(connected(served))) for _ in range(100)]
        for path in ("/livez", "/readyz", "/", "/v2/sdxl-inpaint"):
            assert answer(requested(served, path))[0] == 200
        assert held(served) <= 50
        assert is_closed(idle[0])
        idle[-1].settimeout(0.01)
        with pytest.raises(TimeoutError):
            idle[-1].recv(1)


@contextmanager
def full(served: Served, engine: FakeEngine, count: int) -> Iterator[None]:
    """Keep ``count`` connections busy."""
    engine.held = True
    data = json.dumps(body()).encode()
    head = (f"POST {V1} HTTP/1.1", LOCAL, "Content-Type: application/json", f"Content-Length: {len(data)}")
    with ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(closing(served.raw(*head, send=data)))
        tickets = [engine.next() for _ in range(count)]
        yield
        for ticket in tickets:
            served.do(engine.paint, ticket)


def test_probes_get_through_when_every_connection_is_busy(serve: Serve) -> None:
    """Kubernetes must not restart a server because it is in use; others are told when to come back."""
    engine = FakeEngine()
    served = serve(engine, limits=ConnectionLimits(connections=4))
    with full(served, engine, 4):
        for path in ("/livez", "/readyz"):
            assert answer(requested(served, path))[0] == 200
        status, headers, text = answer(requested(served, "/"))
        assert (status, headers["connection"]) == (503, "close")
        assert int(headers["retry-after"]) >= 1
        assert "connections" in json.loads(text)["error"]
    eventually(lambda: answer(requested(served, "/"))[0] == 200)


def test_clients_that_do_not_read_give_way_too(serve: Serve) -> None:
    """A file of the page, asked for a thousand times and never read, needs no key either."""
    served = serve(limits=ConnectionLimits(connections=4))
    _add_large(served)
    with ExitStack() as stack:
        for name in "abcd":
            connection = requested(served, f"/large/{name}", receive_bytes=4096)
            stack.enter_context(closing(connection)).recv(1)
        eventually(lambda: answer(requested(served, "/"))[0] == 200)
        assert held(served) <= 5


# Clients that send on after their answer.

REFUSED = {
    "403": [f"POST {V1} HTTP/1.1", "Host: evil.example", "Content-Length: 900000000"],
    "404": ["POST /nowhere HTTP/1.1", LOCAL, "Content-Length: 900000000"],
    "405": ["POST /livez HTTP/1.1", LOCAL, "Content-Length: 900000000"],
    "413": [f"POST {V1} HTTP/1.1", LOCAL, "Content-Length: 900000000", "Content-Type: application/json"],
    "chunks": ["POST /nowhere HTTP/1.1", LOCAL, "Transfer-Encoding: chunked"],
}


@pytest.mark.parametrize("lines", REFUSED.values(), ids=REFUSED)
def test_a_refused_body_is_not_read_for_ever(brief: Served, lines: list[str]) -> None:
    """A caller without a key cannot send hundreds of megabytes after the answer."""
    with brief.raw(*lines) as connection:
        head = connection.recv(4096)
        assert b"connection: close" in head.lower()
        assert sent_before_it_ends(connection) < 20_000_000


def sent_before_it_ends(connection: socket.socket, at_most: int = 50_000_000) -> int:
    """Send until the server resets the connection, and return how much that was."""
    sent = 0
    with suppress(ConnectionError):
        while sent < at_most:
            sent += connection.send(b"a" * 65_536)
    return sent


def test_a_refused_body_that_does_not_come_is_not_waited_for(brief: Served) -> None:
    """The rest of a body has a deadline, too."""
    with brief.raw(*REFUSED["404"]):
        eventually(lambda: held(brief) == 1)
        eventually(lambda: held(brief) == 0)


def test_the_answer_reaches_a_client_that_is_still_sending(serve: Serve) -> None:
    """A client with a wrong key and a picture of 3 MB reads 401 instead of "connection reset"."""
    served = serve()
    served.key()
    head = [f"POST {V1} HTTP/1.1", LOCAL, "x-api-key: wrong", "Content-Length: 3000000"]
    with served.raw(*head) as connection:
        connection.recv(1, socket.MSG_PEEK)  # the answer is there, and the client has not read it
        for _ in range(30):
            connection.sendall(b"a" * 100_000)
        assert answer(connection)[0] == 401


def test_a_body_that_was_read_keeps_the_connection(brief: Served) -> None:
    """A refused field costs no new connection."""
    data = b'{"image": 1}'
    head = [f"POST {V1} HTTP/1.1", LOCAL, "Content-Type: application/json", f"Content-Length: {len(data)}"]
    status, headers, _ = answer(brief.raw(*head, send=data))
    assert status == 400
    assert "connection" not in headers


# Clients that do not read.


def test_an_answer_that_is_not_read_is_held_in_pieces_and_not_for_long(brief: Served) -> None:
    """A stranger with a picture's URL cannot fill the server's memory with downloads."""
    with requested(brief, "/large", receive_bytes=4096):
        eventually(lambda: held(brief) == 1)
        [connection] = list(brief.server.server_state.connections)
        eventually(lambda: connection.flow.write_paused or held(brief) == 0)
        assert connection.transport.get_write_buffer_size() < 200_000
        eventually(lambda: held(brief) == 0)


def test_the_end_of_an_answer_that_is_not_read_is_not_held_for_ever(brief: Served) -> None:
    """A buffer below asyncio's high-water mark pauses nothing, and closing would wait for ever."""
    with connected(brief, receive_bytes=2048):
        eventually(lambda: held(brief) == 1)
        [protocol] = list(brief.server.server_state.connections)

        def fill() -> None:
            while not protocol.transport.get_write_buffer_size():
                protocol.transport.write(bytes(10_000))
            assert not protocol.flow.write_paused

        brief.do(fill)
        eventually(lambda: protocol.transport.is_closing())
        eventually(lambda: held(brief) == 0)


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_slow_reader_gets_every_byte(serve: Serve, version: str) -> None:
    """A phone on a bad network that reads slower than the deadline for one piece still gets its picture."""
    served = serve(limits=ConnectionLimits(write_s=1.0))
    _add_large(served)
    with connected(served, receive_bytes=65_536) as connection:
        connection.sendall(f"GET /large HTTP/{version}\r\n{LOCAL}\r\nConnection: close\r\n\r\n".encode())
        pieces = []
        while piece := connection.recv(262_144):
            pieces.append(piece)
            if len(pieces) % 100 == 0:
                threading.Event().wait(0.01)
        head, _, found = b"".join(pieces).partition(b"\r\n\r\n")
        assert f"content-length: {len(LARGE)}".encode() in head.lower()
        assert found == LARGE


def test_one_url_is_downloaded_by_few_at_a_time(serve: Serve) -> None:
    """A leaked URL holds eight pictures in memory, not a thousand; other pictures are answered meanwhile."""
    served = serve()
    _add_large(served)
    with ExitStack() as stack:
        for _ in range(MAX_LARGE_PER_PATH):
            connection = stack.enter_context(closing(requested(served, "/large", receive_bytes=4096)))
            connection.recv(1)  # its answer has begun
        status, headers, text = answer(requested(served, "/large"))
        assert (status, headers["retry-after"]) == (503, "2")
        assert "error" in json.loads(text)
        assert answer(requested(served, "/large/other"))[0] == 200
    eventually(lambda: answer(requested(served, "/large"))[0] == 200)


# The protocol.


@pytest.mark.parametrize(
    "head",
    [
        b"GARBAGE\r\n\r\n",
        b"GET /livez HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\r\n\r\n",
        b"GET / HTTP/1.1\r\n: a\r\n\r\n",
    ],
    ids=["garbage", "no host", "TLS", "no name"],
)
def test_what_is_no_http_is_refused_in_the_apis_shape(brief: Served, head: bytes) -> None:
    """A client that reads every error as JSON can read this one."""
    with connected(brief) as connection:
        connection.sendall(head)
        status, headers, text = answer(connection)
    assert (status, headers["content-type"], headers["connection"]) == (400, "application/json", "close")
    assert list(json.loads(text)) == ["error"]


@pytest.mark.parametrize("chunk", [b"0x2\r\n{}\r\n0\r\n\r\n", b"-2\r\n"], ids=["hex", "negative"])
def test_a_broken_chunk_is_refused_in_the_apis_shape(brief: Served, chunk: bytes) -> None:
    """The body breaks after its request has begun, and nothing is left under way."""
    lines = [f"POST {V1} HTTP/1.1", LOCAL, "Content-Type: application/json", "Transfer-Encoding: chunked"]
    status, headers, text = answer(brief.raw(*lines, send=chunk))
    assert (status, headers["connection"]) == (400, "close")
    assert list(json.loads(text)) == ["error"]
    eventually(lambda: not brief.server.server_state.tasks)


def test_two_lengths_are_refused_and_hide_no_second_request(brief: Served) -> None:
    """A proxy that reads the length and a server that reads chunks would see different requests."""
    lines = ["POST /v2/info HTTP/1.1", LOCAL, "Content-Length: 4", "Transfer-Encoding: chunked"]
    hidden = f"0\r\n\r\nGET /livez HTTP/1.1\r\n{LOCAL}\r\n\r\n".encode()
    with brief.raw(*lines, send=hidden) as connection, connection.makefile("rb") as file:
        found = file.read()
    assert found.startswith(b"HTTP/1.1 400 ")
    assert b"connection: close" in found.lower()
    assert b"Transfer-Encoding" in found.partition(b"\r\n\r\n")[2]
    assert found.count(b"HTTP/1.1 ") == 1


def test_an_upgrade_to_websocket_is_ignored(brief: Served) -> None:
    """A connection that has changed its protocol would be outside of every limit."""
    upgrade = ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
    assert answer(brief.raw("GET /livez HTTP/1.1", LOCAL, *upgrade, key))[0] == 200
