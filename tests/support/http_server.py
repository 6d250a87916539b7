"""A small HTTP server on loopback for the length of a block."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[int]:
    """Serve with ``handler`` on a free port of 127.0.0.1, and give the port; the server ends with the block.

    Its thread is a daemon: a run that is interrupted ends, too.
    """
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        run = {"poll_interval": 0.02}
        thread = threading.Thread(target=server.serve_forever, kwargs=run, daemon=True)
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()
