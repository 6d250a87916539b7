"""The tables of the database: keys, the ledger of their credits, requests, and servers.

Money is whole micro-credits, time Unix seconds. ``migrations/`` builds these tables; a test compares the two.
Text that a caller chose is stored in JSON columns, because Postgres refuses NUL in plain text and neither
database accepts half a surrogate pair.
"""

from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Named,
    Table,
    TypedColumns,
    UniqueConstraint,
    false,
    text,
)

metadata = MetaData()


class _Keys(TypedColumns):
    id: Named[str] = Column(primary_key=True)
    name: Named[str]
    secret_sha256: Named[str]
    scopes: Named[list[str]] = Column(JSON)
    created_at: Named[float]
    expires_at: Named[float | None]
    revoked_at: Named[float | None]
    balance_micro: Named[int] = Column(BigInteger)


class _Ledger(TypedColumns):
    id: Named[int] = Column(BigInteger().with_variant(Integer, "sqlite"), primary_key=True)
    key_id: Named[str] = Column(ForeignKey("keys.id"))
    request_id: Named[str | None]  # no foreign key: requests expire, entries stay
    kind: Named[str]  # add, reserve, settle, refund
    amount_micro: Named[int] = Column(BigInteger)
    note: Named[str]
    created_at: Named[float]


class _Requests(TypedColumns):
    id: Named[str] = Column(primary_key=True)
    key_id: Named[str]  # no foreign key: "" on an open server
    mode: Named[str]
    state: Named[str]
    fields: Named[dict[str, Any]] = Column(JSON)
    seeds: Named[list[int]] = Column(JSON)
    cost_micro: Named[int] = Column(BigInteger)
    attempts: Named[int]
    created_at: Named[float]
    started_at: Named[float | None]
    ended_at: Named[float | None]
    error: Named[str | None] = Column(JSON(none_as_null=True))
    error_status: Named[int | None]
    outputs: Named[list[dict[str, Any]]] = Column(JSON)
    inference_s: Named[float | None]
    idempotency_sha256: Named[str | None]
    body_digest: Named[str]
    picture_token: Named[str | None]
    expired: Named[bool]  # the record is gone; the row keeps the owner of its pictures until they go too
    has_pictures: Named[bool]
    server_id: Named[str] = Column(server_default="")  # the server that paints it
    step: Named[int] = Column(server_default="0")  # denoising steps so far, for other servers to report
    cancel_asked: Named[bool] = Column(server_default=false())  # by a client of another server
    stored_bytes: Named[int] = Column(BigInteger, server_default="0")  # of its files in the picture store


class _Servers(TypedColumns):
    id: Named[str] = Column(primary_key=True)
    beats: Named[int] = Column(BigInteger)  # heartbeats: grows as long as the server lives


# This check is a second safeguard: the debit has the same condition and raises CreditsError first.
keys = Table("keys", metadata, _Keys, CheckConstraint("balance_micro >= 0", name="balance_not_negative"))

ledger = Table(
    "ledger",
    metadata,
    _Ledger,
    UniqueConstraint("request_id", "kind", name="ledger_once_per_kind"),
    Index(
        "ledger_one_end",  # a request is settled or refunded, never both
        "request_id",
        unique=True,
        sqlite_where=text("kind IN ('settle', 'refund')"),
        postgresql_where=text("kind IN ('settle', 'refund')"),
    ),
    Index("ledger_by_key", "key_id"),
)

requests = Table(
    "requests",
    metadata,
    _Requests,
    UniqueConstraint("key_id", "idempotency_sha256", name="requests_once_per_idempotency_key"),
    Index("requests_by_state", "state"),
    Index("requests_by_end", "ended_at"),
    Index(
        "requests_stored_by_key",  # holds all that a sum for one key needs
        "key_id",
        "stored_bytes",
        sqlite_where=text("stored_bytes > 0"),
        postgresql_where=text("stored_bytes > 0"),
    ),
)

servers = Table("servers", metadata, _Servers)
