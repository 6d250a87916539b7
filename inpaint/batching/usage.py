"""Counts of requests by latent size on one machine: what is worth compiling for, and in which order."""

import threading
from collections.abc import Sequence
from typing import Any

from inpaint.batching.cost_record import count
from inpaint.batching.work import Bucket

_SIZES = 64  # remembered; the rarest is forgotten
_REQUESTS = 10_000  # counted; then all counts are halved, so that new habits show
_OFTEN = 0.1  # share of all requests from which a size counts as frequent


class Usage:
    """Counts of requests by latent size. Every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[tuple[int, int], int] = {}  # (h, w)

    def add(self, bucket: Bucket) -> None:
        """Count a request."""
        size = bucket.h, bucket.w
        with self._lock:
            if size not in self._counts and len(self._counts) >= _SIZES:
                del self._counts[min(self._counts, key=self._counts.__getitem__)]
            self._counts[size] = self._counts.get(size, 0) + 1
            if sum(self._counts.values()) > _REQUESTS:
                self._counts = {size: n // 2 for size, n in self._counts.items() if n > 1}

    def ordered(self, buckets: Sequence[Bucket]) -> tuple[Sequence[Bucket], int]:
        """Return ``buckets``, the most frequent first, and the number of those that are frequent, at least 1.

        Equally frequent ones keep their order; before the first request, all do.
        """
        with self._lock:
            counts, total = dict(self._counts), sum(self._counts.values())
        shares = {bucket: counts.get((bucket.h, bucket.w), 0) / max(total, 1) for bucket in buckets}
        often = sum(share >= _OFTEN for share in shares.values())
        return sorted(buckets, key=lambda bucket: -shares[bucket]), max(often, 1)

    def to_rows(self) -> list[list[int]]:
        """Return a row for each size, [h, w, requests], which :meth:`from_rows` reads."""
        with self._lock:
            return [[h, w, n] for (h, w), n in self._counts.items()]

    @classmethod
    def from_rows(cls, rows: Any) -> "Usage":
        """Read the rows of a file.

        Raises:
            ValueError: a value is wrong; or TypeError: the rows have another form.
        """
        usage = cls()
        usage._counts = {(count(h), count(w)): count(n) for h, w, n in rows}
        return usage
