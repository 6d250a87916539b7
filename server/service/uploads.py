"""The uploads: bodies that are being read, and the memory that bodies take until they are answered.

A slow upload costs its client nothing, so uploads have limits of their own and take no place of requests
that are painted. When the limit is reached, a key with few uploads gets the place of the oldest one of the
key that has most, so that the slow uploads of a few keys keep nobody out.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from inpaint.errors import BusyError

_RETRY_AFTER_S = 5.0
_FULL = "the server is reading as many requests as it can; try again"
_EVICTED = "this upload was ended, because it was slow and the server had to read others; send it again"


class Upload:
    """The body of one request, while it arrives and until it is answered."""

    def __init__(self, uploads: "Uploads", key_id: str) -> None:
        self.key_id = key_id
        self.size_bytes = 0
        self._uploads = uploads
        self._evicted = False
        self._deadline: asyncio.Timeout | None = None

    @asynccontextmanager
    async def reading(self, timeout_s: float) -> AsyncIterator[None]:
        """Read the body in the block; the upload's place is free afterwards, its memory is not.

        Raises:
            TimeoutError: the block took longer than ``timeout_s`` seconds.
            BusyError: another key got the place.
        """
        try:
            async with asyncio.timeout(timeout_s) as self._deadline:
                if self._evicted:
                    raise TimeoutError
                yield
        except TimeoutError:
            if self._evicted:
                raise BusyError(_EVICTED, _RETRY_AFTER_S) from None
            raise
        finally:
            self._deadline = None
            self._uploads.leave(self)

    def grow(self, size_bytes: int) -> None:
        """Count bytes that have arrived.

        Raises:
            BusyError: the bodies in memory are too large together.
        """
        self.size_bytes += size_bytes
        self._uploads.make_memory_for(self)

    def evict(self) -> None:
        """End the reading of this body."""
        self._evicted = True
        if self._deadline is not None and not self._deadline.expired():
            self._deadline.reschedule(0.0)


class Uploads:
    """The uploads of every key, within limits. Every method is for the event loop."""

    def __init__(self, max_uploads: int, max_bytes: int) -> None:
        """Set the limits: uploads at the same time, and the bytes of all bodies in memory."""
        self._max_uploads, self._max_bytes = max_uploads, max_bytes
        self._reading: dict[Upload, None] = {}  # in order of arrival
        self._in_memory: set[Upload] = set()

    @contextmanager
    def upload(self, key_id: str) -> Iterator[Upload]:
        """Count the block as a request whose body arrives in it, and is in memory until its end.

        Raises:
            BusyError: too many are being read, and this key has its share of them.
        """
        self._make_place_for(key_id)
        upload = Upload(self, key_id)
        self._reading[upload] = None
        self._in_memory.add(upload)
        try:
            yield upload
        finally:
            self.leave(upload)
            self._in_memory.discard(upload)

    def leave(self, upload: Upload) -> None:
        """Free the place of an upload that was read."""
        self._reading.pop(upload, None)

    def _make_place_for(self, key_id: str) -> None:
        if len(self._reading) < self._max_uploads:
            return
        uploads = Counter(upload.key_id for upload in self._reading)
        ((greediest, most),) = uploads.most_common(1)
        if most <= uploads[key_id] + 1:  # the other key would have fewer than this one afterwards
            raise BusyError(_FULL, _RETRY_AFTER_S)
        self._evict_oldest(greediest)

    def make_memory_for(self, upload: Upload) -> None:
        """Evict uploads of keys that take more memory than this one's, until all bodies fit again.

        Raises:
            BusyError: none takes more.
        """
        while self._size_bytes > max(self._max_bytes, upload.size_bytes):  # one that is alone always fits
            sizes = Counter[str]()
            for other in self._reading:
                sizes[other.key_id] += other.size_bytes
            ((greediest, most),) = sizes.most_common(1)
            if most <= sizes[upload.key_id]:
                raise BusyError(_FULL, _RETRY_AFTER_S)
            self._evict_oldest(greediest)

    @property
    def _size_bytes(self) -> int:
        return sum(upload.size_bytes for upload in self._in_memory)

    def _evict_oldest(self, key_id: str) -> None:
        oldest = next(upload for upload in self._reading if upload.key_id == key_id)
        self.leave(oldest)
        self._in_memory.discard(oldest)
        oldest.evict()
