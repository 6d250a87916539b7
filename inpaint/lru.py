"""An LRU cache, limited by count or by size. Imports nothing of this package."""

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class LruCache(Generic[K, V]):
    """The values used last, up to a limit; for one thread at a time."""

    def __init__(self, limit: int, size_of: Callable[[V], int] = lambda _: 1) -> None:
        """Start empty.

        Args:
            limit: the largest sum of the values' sizes.
            size_of: a value's size, which must not change; if not given, each value counts 1.
        """
        self._limit = limit
        self._size_of = size_of
        self._size = 0
        self._values: OrderedDict[K, V] = OrderedDict()  # unused for longest first

    def get(self, key: K) -> V | None:
        """Return the value of ``key``, now the one used last; None if it is not held."""
        if key in self._values:
            self._values.move_to_end(key)
        return self._values.get(key)

    def put(self, key: K, value: V) -> None:
        """Hold ``value`` as the one used last, and drop those unused for longest until the rest fit.

        A value that is larger than the limit is itself dropped.
        """
        if key in self._values:
            self._size -= self._size_of(self._values.pop(key))
        self._values[key] = value
        self._size += self._size_of(value)
        while self._size > self._limit:
            _, oldest = self._values.popitem(last=False)
            self._size -= self._size_of(oldest)
