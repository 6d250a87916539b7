"""Every setting of the server: one class, read once from ``INPAINT_*`` and the flags of ``inpaint serve``."""

import ipaddress
import logging
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from platformdirs import user_data_path
from pydantic import Field, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from inpaint.errors import RequestError, shown
from inpaint.weights.prediction import Prediction
from server.models import Models

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Grace = Annotated[float, Field(ge=0, allow_inf_nan=False)]  # seconds, and none is allowed
Bytes = Annotated[int, Field(ge=1)]


class Settings(BaseSettings):
    """The settings that an operator may change; seconds, bytes and pixels are in the names."""

    model_config = SettingsConfigDict(env_prefix="INPAINT_", frozen=True, extra="ignore")

    # The address, and who may use it.
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    public_url: str | None = None  # of this server for its clients; default: the request's host
    trusted_proxies: str = "127.0.0.1"  # proxies whose X-Forwarded-* headers are believed, as for uvicorn
    cors_origins: tuple[str, ...] = ()
    no_auth: bool = False  # require no key, even on addresses that other machines can reach
    allowed_hosts: tuple[str, ...] = ()  # with no_auth: this server's names on the internet, for its clients
    page: bool = True  # serve the page to paint masks on, at /

    # The model and the engines.
    model: str = "demo"  # or several with commas between them, each with workers of its own
    device: str = "auto"
    dtype: str = "auto"
    memory: str = "auto"
    precision: str = "exact"  # or "fp8"
    without: tuple[str, ...] = ()  # optimizations of ``inpaint.fast`` to leave out
    few_step_lora: Path | None = None  # a LoRA that paints in 4 to 8 steps
    predicts: Prediction | None = None  # what the model predicts, if it does not say so itself
    loras: Path | None = None  # folder of the LoRAs that requests may name; default: in the models folder
    warm_up: bool = True  # at the first start, measure how long pictures take; kept in ``data``
    max_rows: int = Field(8, ge=1)
    # Processes with an engine each, at least one for each model; 0: one engine in the HTTP process.
    workers: int = Field(1, ge=0)
    min_workers: int | None = Field(None, ge=0)  # in a cluster: the fewest while there is little work
    ingress_replicas: int = Field(2, ge=1)  # in a cluster: HTTP processes
    hang_s: Seconds = 120.0  # a worker that has work and makes no progress for this long is killed
    max_attempts: int = Field(2, ge=1)  # of a request whose worker dies while painting it
    # A worker without work for this long ends and frees its GPU; the next request waits for another to load.
    idle_unload_s: Seconds | None = None

    # Storage.
    data: Path = Field(default_factory=lambda: user_data_path("inpaint"))
    database_url: str | None = None  # default: SQLite in ``data``
    blobs_url: str | None = None  # default: a folder in ``data``; any fsspec URL
    # If servers share a database, the others take over the requests of one that is silent for this long.
    lease_s: Seconds = 15.0
    requests_ttl_s: Seconds = 3600.0
    pictures_ttl_s: Seconds = 7 * 86400.0
    max_stored_bytes_per_key: Bytes = 20_000_000_000  # inputs and pictures of v2, until they expire
    metadata: bool = False  # write prompt and settings into pictures, unless their request decides

    # Limits on requests.
    max_body_bytes: Bytes = 60_000_000  # two pictures of 20 MB in base64, and some text
    body_timeout_s: Seconds = 60.0
    max_waiting: int = Field(64, ge=1)  # requests that are accepted and not yet being painted
    max_in_flight_per_key: int = Field(16, ge=1)
    max_uploads: int = Field(64, ge=1)  # bodies that are being read at the same time
    max_upload_bytes: Bytes = 500_000_000  # of all bodies in memory, from their first byte until their answer
    # Of all requests in this process: width × height × (2 + samples, + 1 with alpha), about 3 bytes each.
    max_decoded_pixels: int = Field(400_000_000, ge=1)
    rate: str = "600/minute"  # per key, in the notation of the ``limits`` library
    rates_url: str = "async+memory://"  # or ``async+redis://…``
    # A v1 request that would take longer is refused; one that does all the same ends with 504.
    deadline_s: Seconds = 300.0
    # A request that would take this many times as long as it would alone is refused.
    max_slowdown: float | None = Field(None, ge=1, allow_inf_nan=False)
    drain_s: Grace = 120.0
    segmind_lenient: bool = False  # clamp numbers and replace unknown schedulers instead of refusing them

    # Fetching callers' URLs.
    fetch_timeout_s: Seconds = 15.0
    fetch_max_bytes: Bytes = 20_000_000
    fetch_per_key: int = Field(8, ge=1)  # at the same time
    fetch_redirects: int = Field(0, ge=0, le=3)
    fetch_ports: tuple[Annotated[int, Field(ge=1, le=65535)], ...] = (80, 443)
    fetch_hosts: tuple[str, ...] = ()  # if not empty, no other host is fetched from
    fetch_denied_networks: tuple[str, ...] = ()  # in addition to those that are not public

    # Prices.
    metering: bool = False
    price: float = Field(
        0.001, ge=0, allow_inf_nan=False
    )  # credits for one step of one megapixel of one sample in one box

    log_level: str = "INFO"
    log_format: Literal["auto", "json", "lines"] = "auto"  # auto: lines on a terminal
    telemetry: bool = False  # send OpenTelemetry traces to OTEL_EXPORTER_OTLP_ENDPOINT

    @field_validator("public_url")
    @classmethod
    def _has_a_scheme_and_a_host(cls, url: str | None) -> str | None:
        if url is not None and not _is_web_url(url):
            raise ValueError(f"must be a URL such as https://paint.example.org, not {shown(url)}")
        return url

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if origin != "*" and not (_is_web_url(origin) and not urlsplit(origin).path):
                raise ValueError(f"must be origins such as https://app.example.org, not {shown(origin)}")
        return origins

    @field_validator("trusted_proxies")
    @classmethod
    def _are_addresses(cls, proxies: str) -> str:
        for proxy in proxies.split(","):
            try:
                if proxy.strip() not in ("", "*"):
                    ipaddress.ip_network(proxy.strip(), strict=False)
            except ValueError:
                raise ValueError(
                    f"must be addresses or networks with commas between them, or *, not {shown(proxy)}"
                ) from None
        return proxies

    @field_validator("model")
    @classmethod
    def _are_models(cls, model: str) -> str:
        Models.parse(model)
        return model

    @field_validator("predicts")
    @classmethod
    def _is_about_one_model(cls, predicts: Prediction | None, info: ValidationInfo) -> Prediction | None:
        if predicts is not None and _several(info):
            raise ValueError(
                "is about one model, and several are served; import the one that does not say it itself with "
                "`inpaint models import --predicts`"
            )
        return predicts

    @field_validator("workers")
    @classmethod
    def _one_process_has_one_model(cls, workers: int, info: ValidationInfo) -> int:
        if workers == 0 and _several(info):
            raise ValueError(
                "0 paints in the server's own process, which holds one model; to serve several, let each "
                "have a worker"
            )
        return workers

    @field_validator("idle_unload_s")
    @classmethod
    def _only_a_process_can_be_unloaded(cls, idle_s: float | None, info: ValidationInfo) -> float | None:
        if idle_s is not None and info.data.get("workers") == 0:
            raise ValueError("ends idle worker processes, so it cannot work with workers 0; set workers to 1")
        return idle_s

    @field_validator("fetch_denied_networks")
    @classmethod
    def _networks_are_networks(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        for network in networks:
            ipaddress.ip_network(network)
        return networks

    @cached_property
    def on_loopback(self) -> bool:
        """True if only this machine can reach the address that the server listens on."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    @cached_property
    def models(self) -> Models:
        """The models that are served, by their names."""
        return Models.parse(self.model)

    @cached_property
    def workers_of(self) -> Mapping[str, Sequence[int]]:
        """The numbers of each model's workers; an engine in this process counts as worker 0."""
        return self.models.workers(self.workers)

    @cached_property
    def database(self) -> str:
        """The database's URL for SQLAlchemy."""
        return self.database_url or f"sqlite:///{self.data / 'inpaint.db'}"

    @cached_property
    def blobs(self) -> str:
        """The URL of the pictures' folder, for fsspec."""
        return self.blobs_url or (self.data.absolute() / "pictures").as_uri()


def _several(info: ValidationInfo) -> bool:
    return "model" in info.data and Models.parse(info.data["model"]).several


def _is_web_url(url: str) -> bool:
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    plain = not parts.query and not parts.fragment and not parts.username
    return parts.scheme in ("http", "https") and bool(parts.hostname) and plain and port != 0


def read_settings(flags: Mapping[str, object]) -> Settings:
    """Read the settings from flags and variables.

    Args:
        flags: settings by name; they take precedence over ``INPAINT_*`` variables.

    Raises:
        RequestError: names the first setting that is wrong.
    """
    try:
        settings = Settings(**flags)  # type: ignore[arg-type]
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]) if first["loc"] else "settings"
        setting = f"--{name.replace('_', '-')}" if name in flags else f"INPAINT_{name.upper()}"
        problem = str(first["msg"]).removeprefix("Value error, ").replace("Input should", "must", 1)
        raise RequestError(setting, f"{problem[:1].lower()}{problem[1:]}") from None
    except SettingsError as error:  # a variable that should be a list
        name = str(error).split('"')[1].upper()
        raise RequestError(f"INPAINT_{name}", 'must be a JSON list such as ["a", "b"] or [80, 443]') from None
    if settings.log_level.upper() not in logging.getLevelNamesMapping():
        levels = "DEBUG, INFO, WARNING or ERROR"
        raise RequestError("--log-level", f"must be {levels}, not {settings.log_level!r}")
    return settings
