"""The end of a connection whose client is still sending: answered, closed for writing, read for a moment."""

import asyncio
from collections.abc import Callable
from typing import Any


class LingeringTransport:
    """A transport whose ``close`` may wait until the client has read the answer.

    A socket that is closed while unread bytes arrive is reset, and a reset discards the unread part of the
    answer (RFC 9112, 9.6). So the sending side is closed first, and what arrives is dropped.
    """

    def __init__(self, transport: asyncio.Transport, unread: Callable[[], bool]) -> None:
        """Wrap a transport.

        Args:
            transport: asyncio's own.
            unread: says whether the client is expected to send more of its request.
        """
        self._transport, self._unread = transport, unread
        self.lingering = False
        self.dropped_bytes = 0

    def close(self) -> None:
        """Close it, or begin to linger; the protocol limits for how long."""
        if self.lingering:
            return
        if self._unread() and self._transport.can_write_eof() and not self._transport.is_closing():
            self.lingering = True
            self._transport.write_eof()  # after what is still to be written
            self._transport.resume_reading()
        else:
            self._transport.close()

    def is_closing(self) -> bool:
        """Return whether nothing more may be written."""
        return self.lingering or self._transport.is_closing()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)
