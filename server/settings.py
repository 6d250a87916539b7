"""Every setting of the server: one class, read once from ``INPAINT_*`` and the flags of ``inpaint serve``."""

import ipaddress
from functools import cached_property
from pathlib import Path

from platformdirs import user_data_path
from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """What an operator may change. Seconds, bytes and pixels are in the names."""

    model_config = SettingsConfigDict(env_prefix="INPAINT_", frozen=True, extra="ignore")

    # where it listens
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    public_url: str | None = None  # of this server as its clients see it; else the request's own host
    trusted_proxies: str = "127.0.0.1"  # whose forwarded headers count, as uvicorn's forwarded-allow-ips
    cors_origins: tuple[str, ...] = ()
    no_auth: bool = False  # also listen elsewhere than on loopback without a key
    page: bool = True  # the page to paint masks on, at /

    # what paints
    model: str = "demo"
    device: str = "auto"
    dtype: str = "auto"
    memory: str = "auto"
    precision: str = "exact"  # or "fp8"
    without: tuple[str, ...] = ()  # optimizations of ``inpaint.fast`` to leave out
    few_step_lora: Path | None = None  # a LoRA that paints in 4 to 8 steps
    loras: Path | None = None  # folder of the LoRA files that requests may name; else in the models folder
    warm_up: bool = True  # measure at the first start what pictures cost here; kept in ``data``
    max_rows: int = Field(8, ge=1)
    workers: int = Field(1, ge=0)  # processes with an engine each; 0: in the API process
    min_workers: int | None = Field(None, ge=0)  # in a cluster: as few as this while there is little to do
    ingress_replicas: int = Field(2, ge=1)  # in a cluster: HTTP processes
    hang_s: float = 120.0  # a worker with work and without progress for so long is killed
    max_attempts: int = Field(2, ge=1)  # of a request whose worker dies under it
    # A worker without work for so long frees its GPU; the next request waits until it is loaded again.
    idle_unload_s: float | None = Field(None, gt=0)

    # where things are kept
    data: Path = Field(default_factory=lambda: user_data_path("inpaint"))
    database_url: str | None = None  # default: SQLite in ``data``
    blobs_url: str | None = None  # default: a folder in ``data``; any fsspec URL
    # Of several servers with one database: one silent for so long is dead, and others take its requests over.
    lease_s: float = Field(15.0, gt=0)
    requests_ttl_s: float = 3600.0
    pictures_ttl_s: float = 7 * 86400.0
    metadata: bool = False  # pictures say how they were made, where their request does not say whether

    # how much is let in
    max_body_bytes: int = 60_000_000  # two pictures of 20 MB as base64, and some text
    body_timeout_s: float = 60.0
    max_waiting: int = Field(64, ge=1)  # requests accepted and not yet painting
    max_in_flight_per_key: int = Field(16, ge=1)
    rate: str = "600/minute"  # per key, in the words of the ``limits`` library
    rates_url: str = "async+memory://"  # or ``async+redis://…``
    deadline_s: float = Field(300.0, gt=0)  # a v1 request is painted within it, or refused at once
    max_slowdown: float | None = Field(None, ge=1)  # and within so many times what it would take alone
    drain_s: float = 120.0
    segmind_lenient: bool = False  # clamp numbers and unknown schedulers instead of refusing them

    # fetching the caller's URLs
    fetch_timeout_s: float = 15.0
    fetch_max_bytes: int = 20_000_000
    fetch_per_key: int = Field(8, ge=1)  # fetches under way at once
    fetch_redirects: int = Field(0, ge=0, le=3)
    fetch_ports: tuple[int, ...] = (80, 443)
    fetch_hosts: tuple[str, ...] = ()  # if any: no other host is fetched from
    fetch_denied_networks: tuple[str, ...] = ()  # beside those that are not public

    # what it costs
    metering: bool = False
    price: float = Field(0.001, ge=0)  # credits for one step of one megapixel of one sample

    log_level: str = "INFO"
    telemetry: bool = False  # traces for OpenTelemetry; OTEL_EXPORTER_OTLP_ENDPOINT says where to

    @field_validator("idle_unload_s")
    @classmethod
    def _only_a_process_can_be_unloaded(cls, idle_s: float | None, info: ValidationInfo) -> float | None:
        if idle_s is not None and info.data.get("workers") == 0:
            raise ValueError("needs a worker process, which alone frees all its memory; not with workers 0")
        return idle_s

    @field_validator("fetch_denied_networks")
    @classmethod
    def _networks_are_networks(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        for network in networks:
            ipaddress.ip_network(network)
        return networks

    @cached_property
    def on_loopback(self) -> bool:
        """Whether nobody but this machine can reach the address it listens on."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @cached_property
    def database(self) -> str:
        """The database's URL for SQLAlchemy."""
        return self.database_url or f"sqlite:///{self.data / 'inpaint.db'}"

    @cached_property
    def blobs(self) -> str:
        """The URL of the folder that holds pictures, for fsspec."""
        return self.blobs_url or (self.data.absolute() / "pictures").as_uri()
