"""The tables of keys, of the append-only ledger and of requests."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_ENDS = sa.text("kind IN ('settle', 'refund')")

_APPEND_ONLY = {
    "sqlite": (
        "CREATE TRIGGER ledger_no_update BEFORE UPDATE ON ledger"
        " BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END",
        "CREATE TRIGGER ledger_no_delete BEFORE DELETE ON ledger"
        " BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END",
    ),
    "postgresql": (
        "CREATE FUNCTION ledger_refuses() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'the ledger is append-only' USING ERRCODE = 'restrict_violation'; END $$",
        "CREATE TRIGGER ledger_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger"
        " FOR EACH STATEMENT EXECUTE FUNCTION ledger_refuses()",
    ),
}


def upgrade() -> None:
    """Create the tables and the triggers that keep the ledger append-only."""
    _keys()
    _ledger()
    _requests()
    for statement in _APPEND_ONLY[op.get_bind().dialect.name]:
        op.execute(statement)


def _keys() -> None:
    op.create_table(
        "keys",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("name", sa.String, nullable=False),
        sa.Column("secret_sha256", sa.String, nullable=False),
        sa.Column("scopes", sa.JSON, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("expires_at", sa.Double),
        sa.Column("revoked_at", sa.Double),
        sa.Column("balance_micro", sa.BigInteger, nullable=False),
        sa.CheckConstraint("balance_micro >= 0", name="balance_not_negative"),
    )


def _ledger() -> None:
    op.create_table(
        "ledger",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer, "sqlite"), primary_key=True),
        sa.Column("key_id", sa.String, sa.ForeignKey("keys.id"), nullable=False),
        sa.Column("request_id", sa.String),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("amount_micro", sa.BigInteger, nullable=False),
        sa.Column("note", sa.String, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.UniqueConstraint("request_id", "kind", name="ledger_once_per_kind"),
    )
    op.create_index(
        "ledger_one_end", "ledger", ["request_id"], unique=True, sqlite_where=_ENDS, postgresql_where=_ENDS
    )
    op.create_index("ledger_by_key", "ledger", ["key_id"])


def _requests() -> None:
    op.create_table(
        "requests",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("key_id", sa.String, nullable=False),
        sa.Column("mode", sa.String, nullable=False),
        sa.Column("state", sa.String, nullable=False),
        sa.Column("fields", sa.JSON, nullable=False),
        sa.Column("seeds", sa.JSON, nullable=False),
        sa.Column("cost_micro", sa.BigInteger, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("started_at", sa.Double),
        sa.Column("ended_at", sa.Double),
        sa.Column("error", sa.JSON(none_as_null=True)),
        sa.Column("error_status", sa.Integer),
        sa.Column("outputs", sa.JSON, nullable=False),
        sa.Column("inference_s", sa.Double),
        sa.Column("idempotency_sha256", sa.String),
        sa.Column("body_digest", sa.String, nullable=False),
        sa.Column("picture_token", sa.String),
        sa.Column("expired", sa.Boolean, nullable=False),
        sa.Column("has_pictures", sa.Boolean, nullable=False),
        sa.UniqueConstraint("key_id", "idempotency_sha256", name="requests_once_per_idempotency_key"),
    )
    op.create_index("requests_by_state", "requests", ["state"])
    op.create_index("requests_by_end", "requests", ["ended_at"])
