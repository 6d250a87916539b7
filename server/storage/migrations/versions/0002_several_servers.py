"""Several servers with one database: their heartbeats, and each request's server, step and cancellation."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add the columns; existing requests belong to no live server, so that the next one takes them over."""
    op.create_table(
        "servers",
        sa.Column("id", sa.String, primary_key=True),
        sa.Column("beats", sa.BigInteger, nullable=False),
    )
    with op.batch_alter_table("requests") as requests:
        requests.add_column(sa.Column("server_id", sa.String, nullable=False, server_default=""))
        requests.add_column(sa.Column("step", sa.Integer, nullable=False, server_default="0"))
        requests.add_column(sa.Column("cancel_asked", sa.Boolean, nullable=False, server_default=sa.false()))
