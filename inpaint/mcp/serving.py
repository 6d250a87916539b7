"""The transports: standard input and output, or HTTP on this machine only."""

import asyncio
import socket
from collections.abc import Callable

import uvicorn
from mcp.server.mcpserver import MCPServer

from inpaint.errors import OutputError

HOST = "127.0.0.1"  # there are no keys: every program that reaches the port may use the folders
_GRACE_S = 5  # for calls under way when the server is stopped


def serve_stdio(server: MCPServer) -> None:
    """Serve one client on standard input and output, until the input ends."""
    asyncio.run(server.run_stdio_async())


def serve_http(server: MCPServer, port: int, started: Callable[[str], None]) -> None:
    """Serve on a port of this machine until a signal stops it; call ``started`` with the URL.

    Requests under another host's name, or from a page of another site, are refused by the SDK.

    Raises:
        OutputError: the port is in use.
    """
    with _listening(port) as listener:
        app = server.streamable_http_app(host=HOST)
        config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=_GRACE_S)
        started(f"http://{HOST}:{listener.getsockname()[1]}/mcp")
        asyncio.run(uvicorn.Server(config).serve([listener]))


def _listening(port: int) -> socket.socket:
    listener = socket.socket()
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((HOST, port))
        listener.listen()
    except OSError as error:
        listener.close()
        raise OutputError(f"port: cannot listen on {HOST}:{port}: {error.strerror}") from error
    return listener
