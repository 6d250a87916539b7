"""Event streams of many listeners, of listeners that do not read, and of keys that are revoked."""

import socket
import threading
from contextlib import ExitStack

import httpx2
import pytest
from PIL import Image

from inpaint.job import Event
from server.http.connection import ConnectionLimits
from tests.server.dialects.test_segmind_v2 import ended, submitted
from tests.support.served import FakeEngine, Serve, Served, eventually

pytest_plugins = ["tests.support.served_fixtures"]

STREAMS = "server.dialects.segmind_streams"


@pytest.fixture
def painting(serve: Serve) -> tuple[Served, FakeEngine]:
    """Serve with an engine that paints when the test says so."""
    engine = FakeEngine()
    engine.held = True
    return serve(engine, max_in_flight_per_key=1), engine


def listening(stack: ExitStack, client: httpx2.Client, request_id: str) -> httpx2.Response:
    """Open a stream."""
    return stack.enter_context(client.stream("GET", f"/v2/requests/{request_id}/events"))


def test_a_key_has_a_bounded_number_of_streams(painting: tuple[Served, FakeEngine]) -> None:
    """One key cannot take every connection; a stream that is closed makes room for another."""
    served, _ = painting
    with served.calling(key=served.key()) as client, ExitStack() as stack:
        request_id = submitted(client)
        first, second = (listening(stack, client, request_id) for _ in range(2))
        assert (first.status_code, second.status_code) == (200, 200)
        refused = client.get(f"/v2/requests/{request_id}/events")
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert "2 event streams" in refused.json()["error"]
        first.close()
        eventually(lambda: listening(stack, client, request_id).status_code == 200)
        client.delete(f"/v2/requests/{request_id}")


def test_all_keys_together_have_a_bounded_number_of_streams(
    painting: tuple[Served, FakeEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Callers without a key share the total, and others can still ask for the status."""
    monkeypatch.setattr(f"{STREAMS}._MAX_STREAMS", 3)
    served, _ = painting
    request_id = submitted(served.client)
    with ExitStack() as stack:
        for _ in range(3):
            assert listening(stack, served.client, request_id).status_code == 200
        refused = served.client.get(f"/v2/requests/{request_id}/events")
        assert (refused.status_code, "retry-after" in refused.headers) == (503, True)
        assert served.client.get(f"/v2/requests/{request_id}/status").status_code == 200
        served.client.delete(f"/v2/requests/{request_id}")


def test_a_stream_ends_when_its_key_is_revoked(
    painting: tuple[Served, FakeEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator who revokes a key expects that nothing more is shown to its holder."""
    monkeypatch.setattr(f"{STREAMS}._CHECK_S", 0.02)
    served, engine = painting
    token, other = served.key(), served.key()
    with served.calling(key=token) as client, served.calling(key=other) as rest, ExitStack() as stack:
        revoked, kept = submitted(client), submitted(rest)
        stream, stays = listening(stack, client, revoked), listening(stack, rest, kept)
        tickets = [engine.next(), engine.next()]
        served.parts.keys.revoke(token.split("_")[1])
        assert "done" not in "".join(stream.iter_lines())  # it ends, although the request has not
        for ticket in tickets:
            served.do(engine.paint, ticket)
        assert "event: done" in list(stays.iter_lines())


def test_a_preview_is_encoded_once_for_all_who_listen_and_not_on_the_loop(
    painting: tuple[Served, FakeEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A popular request does not slow the server down for everybody else."""
    encoded: list[threading.Thread] = []
    plain = Image.Image.save

    def save(self: Image.Image, *arguments: object, **options: object) -> None:
        if self.size == (4, 4):
            encoded.append(threading.current_thread())
        plain(self, *arguments, **options)  # type: ignore[arg-type]

    served, engine = painting
    request_id = submitted(served.client)
    ticket = engine.next()
    with ExitStack() as stack:
        streams = [listening(stack, served.client, request_id) for _ in range(5)]
        eventually(lambda: ticket.watchers == 5)
        monkeypatch.setattr(Image.Image, "save", save)
        served.do(engine.step, ticket, 3)
        eventually(lambda: len(encoded) >= 3)
        served.do(engine.paint, ticket)
        texts = ["\n".join(stream.iter_lines()) for stream in streams]
    assert len(set(texts)) == 1
    assert len(encoded) == texts[0].count('"preview": "data:')
    assert not any(thread is served._thread for thread in encoded)


def test_a_stream_that_is_not_read_is_ended(serve: Serve) -> None:
    """A listener that sleeps holds no connection for ever, neither while its request runs nor after."""
    engine = FakeEngine()
    engine.held = True
    served = serve(engine, limits=ConnectionLimits(write_s=0.2))
    request_id = submitted(served.client)
    ticket = engine.next()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", served.port))
        path = f"/v2/requests/{request_id}/events"
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        eventually(lambda: ticket.watchers == 1)
        noise = Image.effect_noise((256, 256), 200).convert("RGB")
        for step in range(1, 20):
            served.do(ticket.emit, Event("step", step, 100, noise))
        eventually(lambda: ticket.watchers == 0)  # it was cut off, although the request goes on
        served.do(engine.paint, ticket)
        assert ended(served.client, request_id).json()["status"] == "COMPLETED"
