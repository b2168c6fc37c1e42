"""How the tombstones of each peer stand, beside its facts."""

from __future__ import annotations

import sqlalchemy as sa

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TEXTS = ("reason", "detail", "hint")
TIMES = (
    "since_ms",
    "next_attempt_ms",
    "not_before_ms",
    "last_attempt_ms",
    "caught_up_ms",
    "token_not_after_ms",
)


def upgrade() -> None:
    """Create the table, empty."""
    op.create_table(
        "replicator_streams",
        sa.Column("node_id", sa.Text(), nullable=False),
        sa.Column("stream", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False, server_default="catching_up"),
        *(sa.Column(name, sa.Text()) for name in TEXTS),
        sa.Column("failures", sa.BigInteger(), nullable=False, server_default="0"),
        *(sa.Column(name, sa.BigInteger()) for name in TIMES),
        sa.PrimaryKeyConstraint("node_id", "stream"),
    )


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("replicator_streams")
