"""The listening socket."""

import socket
from pathlib import Path

from server.settings import Settings
from server.uvicorn_server import listen


def test_answers_do_not_wait_for_acknowledgements(tmp_path: Path) -> None:
    """Every caller: 40 ms an answer, else."""
    with (
        listen(Settings(data=tmp_path, port=0)) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
