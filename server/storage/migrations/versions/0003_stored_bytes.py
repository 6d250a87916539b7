"""The bytes that the stored pictures of each request take, so that each key has a limit of them."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"

_STORED = sa.text("stored_bytes > 0")


def upgrade() -> None:
    """Add the column and its index; pictures that are there already count nothing until they expire."""
    with op.batch_alter_table("requests") as requests:
        requests.add_column(sa.Column("stored_bytes", sa.BigInteger, nullable=False, server_default="0"))
    op.create_index(
        "requests_stored_by_key",
        "requests",
        ["key_id", "stored_bytes"],
        sqlite_where=_STORED,
        postgresql_where=_STORED,
    )
