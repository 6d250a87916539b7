"""The listening socket of the HTTP server, and how many connections it may hold."""

import resource
import socket
from contextlib import suppress
from pathlib import Path

import pytest

from server.settings import Settings
from server.uvicorn_server import listen, max_connections


def test_answers_do_not_wait_for_acknowledgements(tmp_path: Path) -> None:
    """Without TCP_NODELAY every answer would take 40 ms longer."""
    with (
        listen(Settings(data=tmp_path, port=0)) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize(
    ("soft", "hard", "asked", "held"),
    [
        (1024, 524_288, 4096, 1024),
        (1024, resource.RLIM_INFINITY, 4096, 1024),
        (256, 1024, 1024, 768),
        (65_536, 65_536, None, 1024),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, None, 1024),
    ],
)
def test_connections_never_take_the_last_open_file(
    soft: int, hard: int, asked: int | None, held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a free file the server accepts no connection, and idle ones could not give way to it."""
    set_to: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: set_to.append(limits))
    assert max_connections() == held
    assert set_to == ([] if asked is None else [(asked, hard)])


@pytest.mark.skipif(not hasattr(socket, "TCP_NOTSENT_LOWAT"), reason="this system has no such option")
def test_the_system_buffers_little_for_a_client_that_does_not_read(tmp_path: Path) -> None:
    """Linux would hold 4 MB for each download that nobody reads, outside of the process's own memory."""
    with (
        listen(Settings(data=tmp_path, port=0)) as listener,
        socket.create_connection(listener.getsockname()) as client,
        listener.accept()[0] as accepted,
    ):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        accepted.setblocking(False)
        sent = 0
        with suppress(BlockingIOError):
            while sent < 10_000_000:
                sent += accepted.send(bytes(65_536))
        assert sent < 1_000_000
