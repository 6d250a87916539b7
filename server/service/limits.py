"""The limits of one key: requests per minute, requests under way, and fetches at the same time.

Rates are counted in memory or, for several servers, in Redis; requests under way and fetches in this process.
"""

import asyncio
import math
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from limits import RateLimitItem, parse_many
from limits.aio.storage import Storage
from limits.aio.strategies import MovingWindowRateLimiter
from limits.errors import ConfigurationError, StorageError
from limits.storage import storage_from_string

from inpaint.errors import BusyError, RequestError
from server.errors import RateError
from server.settings import Settings


@dataclass(frozen=True, slots=True)
class RateState:
    """The rest of a key's rate after this request."""

    remaining: int  # requests that the key may still make now
    reset_at: float  # Unix seconds when that number grows again


class Limiter:
    """The limits of every key. Every method is for one event loop."""

    def __init__(self, settings: Settings) -> None:
        """Read the settings, and connect to nothing yet.

        Raises:
            RequestError: ``rate`` or ``rates_url`` is invalid.
        """
        self._items = _items(settings.rate)
        # The moving window is exact, so that a caller that waits as Retry-After says is admitted.
        self._rates = MovingWindowRateLimiter(_storage(settings.rates_url))
        self._max_in_flight = settings.max_in_flight_per_key
        self._max_fetches = settings.fetch_per_key
        self._in_flight: Counter[str] = Counter()
        self._fetching: dict[str, _Fetches] = {}

    async def check_rate(self, key_id: str) -> RateState:
        """Count one request, and return the rest of the key's rate.

        Raises:
            RateError: this key made too many requests.
            BusyError: the store that counts them is unreachable.
        """
        try:
            states = [await self._hit(item, key_id) for item in self._items]
        except StorageError as error:
            raise BusyError("the server cannot count requests at the moment; try again", 5.0) from error
        return min(states, key=lambda state: state.remaining)

    async def _hit(self, item: RateLimitItem, key_id: str) -> RateState:
        allowed = await self._rates.hit(item, key_id)
        reset_at, remaining = await self._rates.get_window_stats(item, key_id)
        if not allowed:
            wait_s = max(reset_at - time.time(), 0.0)
            raise RateError(
                f"this key may make {item.amount} requests per {item.get_expiry()} seconds;"
                f" try again in {max(1, math.ceil(wait_s))} s",
                wait_s,
            )
        return RateState(remaining, reset_at)

    @contextmanager
    def slot(self, key_id: str) -> Iterator[None]:
        """Count the block as one of the requests that a key has under way.

        Raises:
            RateError: the key has as many as it may have.
        """
        if self._in_flight[key_id] >= self._max_in_flight:
            problem = f"this key has {self._max_in_flight} requests under way already; wait for one of them"
            raise RateError(problem, 1.0)
        self._in_flight[key_id] += 1
        try:
            yield
        finally:
            self._in_flight[key_id] -= 1
            if not self._in_flight[key_id]:
                del self._in_flight[key_id]  # else every key that ever called would stay here

    @asynccontextmanager
    async def fetches(self, key_id: str) -> AsyncIterator[None]:
        """Run the block as one of the key's fetches, after waiting if too many are under way."""
        fetches = self._fetching.setdefault(key_id, _Fetches(asyncio.Semaphore(self._max_fetches)))
        fetches.users += 1
        try:
            async with fetches.free:
                yield
        finally:
            fetches.users -= 1
            if not fetches.users:
                del self._fetching[key_id]


@dataclass(slots=True)
class _Fetches:
    """The fetches of one key."""

    free: asyncio.Semaphore
    users: int = 0  # requests that fetch or wait for it


def _items(rate: str) -> list[RateLimitItem]:
    try:
        return parse_many(rate)
    except ValueError as error:
        raise RequestError(
            "INPAINT_RATE", f"must be like 600/minute or 10/second;600/minute, not {rate!r}"
        ) from error


def _storage(url: str) -> Storage:
    options: dict[str, str | float] = {}
    if "redis" in url:  # defaults that the URL may override, as ``?socket_timeout=3``
        options = {"implementation": "redispy", "socket_timeout": 1.0, "socket_connect_timeout": 1.0}
    try:
        storage = storage_from_string(url, wrap_exceptions=True, **options)
    except ConfigurationError as error:
        hint = "; run: pip install 'sdxl-inpaint[redis]'" if "redis" in url else ""
        raise RequestError("INPAINT_RATES_URL", f"cannot be used{hint}") from error
    if not isinstance(storage, Storage):
        raise RequestError(
            "INPAINT_RATES_URL", "must begin with async+, as async+memory:// or async+redis://host"
        )
    return storage
