"""The event streams that are open: how many, whose, and until when."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress

from sse_starlette import EventSourceResponse
from starlette.types import Receive, Scope, Send

from inpaint.errors import BusyError
from server.errors import RateError
from server.storage.keys import Keys

_MAX_STREAMS = 512
_PER_REQUEST = 2  # streams of a key for each request that it may have under way: its page may be open twice
_CHECK_S = 2.0  # between two looks at whether a key was revoked


class Streams:
    """The places of event streams, bounded for each key and altogether; for the event loop."""

    def __init__(self, keys: Keys, *, max_in_flight_per_key: int) -> None:
        """Start without streams.

        Args:
            keys: of the database.
            max_in_flight_per_key: requests; a key may have twice as many streams.
        """
        self._keys = keys
        self._max_per_key = _PER_REQUEST * max_in_flight_per_key
        self._open: Counter[str] = Counter()  # by key
        self._watchers: dict[str, asyncio.Task[None]] = {}  # by key; done once the key was revoked

    @contextmanager
    def place(self, key_id: str) -> Iterator[set[asyncio.Task[None]]]:
        """Count the block as an open stream, and yield the task that is done once its key was revoked.

        Args:
            key_id: of the caller; without a key, ``""``, only the total is bounded.

        Raises:
            RateError: the key has as many as it may have.
            BusyError: the server has.
        """
        if key_id and self._open[key_id] >= self._max_per_key:
            problem = f"this key has {self._max_per_key} event streams open already; close one of them"
            raise RateError(problem, _CHECK_S)
        if self._open.total() >= _MAX_STREAMS:
            raise BusyError("the server has too many event streams open; ask for the status instead", 5.0)
        self._open[key_id] += 1
        if key_id and key_id not in self._watchers:
            self._watchers[key_id] = asyncio.create_task(self._until_revoked(key_id))
        try:
            yield {self._watchers[key_id]} if key_id else set()
        finally:
            self._open[key_id] -= 1
            if not self._open[key_id]:
                del self._open[key_id]
                if key_id:
                    self._watchers.pop(key_id).cancel()

    async def _until_revoked(self, key_id: str) -> None:
        active = True
        while active:
            await asyncio.sleep(_CHECK_S)
            with suppress(BusyError):  # a database that does not answer revokes nothing
                active = await asyncio.to_thread(self._keys.active, key_id)


class EventStream(EventSourceResponse):
    """The answer to one listener, which has a place among the server's streams while it is sent."""

    def __init__(self, events: AsyncIterator[bytes], streams: Streams, key_id: str) -> None:
        super().__init__(events)
        self._streams, self._key_id = streams, key_id

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream until it has ended, or the key was revoked.

        Raises:
            RateError: the key has too many streams open.
            BusyError: the server has.
        """
        with self._streams.place(self._key_id) as revoked:
            sending = asyncio.create_task(super().__call__(scope, receive, send))
            try:
                await asyncio.wait({sending, *revoked}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                ended = sending.done()
                if not ended:
                    sending.cancel()
                    await asyncio.wait({sending})
            if ended:
                await sending  # raises what went wrong
            else:
                await send({"type": "http.response.body"})
