"""An engine client with several models: a client of its own for each.

Each model has its own workers, and so its own queue: costs, forecasts, fairness between keys and the search
for a request that kills workers are what they are on a server with that model alone. A model that is still
being loaded, or cannot be, does not keep the others waiting.
"""

import asyncio
import logging
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from inpaint.errors import InpaintError
from inpaint.request import InpaintRequest
from server.engines.client import ANY_TIME, EngineClient, Health, Terms, Ticket

_log = logging.getLogger(__name__)
_SUMS = ("waiting", "running", "restarts", "row_steps", "unet_calls", "images", "out_of_memory")


class Fleet:
    """Several models; see :class:`server.engines.client.EngineClient`.

    Args:
        clients: by the names of their models, the first of which paints what names none. A client whose
            start fails may become ready later.
    """

    def __init__(self, clients: Mapping[str, EngineClient]) -> None:
        self._clients = clients
        self._default = next(iter(clients))
        self._starting: list[asyncio.Task[InpaintError | None]] = []

    async def start(self) -> None:
        """Load every model; return once the first is ready, while the others are still being loaded.

        Raises:
            InpaintError: none can be loaded; that of the first.
        """
        self._starting = [asyncio.create_task(self._start(*each)) for each in self._clients.items()]
        pending = set(self._starting)
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            if any(task.result() is None for task in done):
                return
        error = self._starting[0].result()
        assert error is not None
        raise error

    async def _start(self, name: str, client: EngineClient) -> InpaintError | None:
        try:
            await client.start()
        except InpaintError as error:
            _log.error("model %s is not loaded: %s", name, error)
            return error
        _log.info("model %s is ready", name)
        return None

    async def close(self, drain_s: float) -> None:
        """Take no more, wait at most ``drain_s`` seconds for what is under way, then stop everything."""
        for task in self._starting:
            task.cancel()
        await asyncio.gather(*self._starting, return_exceptions=True)
        await asyncio.gather(*(client.close(drain_s) for client in self._clients.values()))

    async def submit(self, request: InpaintRequest, terms: Terms = ANY_TIME) -> Ticket:
        """Queue a request for the model that ``terms`` name."""
        return await self._clients[terms.model or self._default].submit(request, terms)

    def health(self) -> Health:
        """Return the state of each model, and of all: ready if one is, with the sums of their counts."""
        models = {name: client.health() for name, client in self._clients.items()}
        first = models[self._default]
        ready = any(health.ready for health in models.values())
        reasons = [f"{name}: {health.reason}" for name, health in models.items() if health.reason]
        return Health(
            ready=ready,
            reason="" if ready else "; ".join(reasons),
            native_size=first.native_size,
            in_channels=first.in_channels,
            backlog_s=max(health.backlog_s for health in models.values()),
            steps=_steps(models),
            failed=all(health.failed for health in models.values()),
            models=models,
            **{name: sum(getattr(health, name) for health in models.values()) for name in _SUMS},
        )


def client_of(models: Sequence[str], client: Callable[[str], EngineClient]) -> EngineClient:
    """Return one client for these models: that of the only one, or a fleet of theirs."""
    clients = {name: client(name) for name in models}
    return Fleet(clients) if len(clients) > 1 else clients[models[0]]


def _steps(models: Mapping[str, Health]) -> Mapping[str, tuple[int, int]]:
    """Return the UNet calls and microseconds of all models, by the rows in a call."""
    calls, micros = Counter[str](), Counter[str]()
    for health in models.values():
        for rows, (count, us) in health.steps.items():
            calls[rows] += count
            micros[rows] += us
    return {rows: (calls[rows], micros[rows]) for rows in calls}
