"""The parts of a server process that the service works with."""

from dataclasses import dataclass

from server.engines.client import EngineClient
from server.fetch.fetcher import Fetcher
from server.observe.metrics import Metrics
from server.service.limits import Limiter
from server.service.threads import Threads
from server.settings import Settings
from server.storage.blobs import Blobs
from server.storage.database import Database
from server.storage.keys import Keys
from server.storage.ledger import Ledger
from server.storage.peers import Peers
from server.storage.requests import Store


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts that the service works with."""

    settings: Settings
    client: EngineClient
    database: Database
    peers: Peers
    keys: Keys
    ledger: Ledger
    store: Store
    blobs: Blobs
    fetcher: Fetcher
    limiter: Limiter
    metrics: Metrics
    threads: Threads
