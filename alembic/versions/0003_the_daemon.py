"""What the daemon and the command line tell each other: pauses, requests, the next attempt."""

from __future__ import annotations

import sqlalchemy as sa

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

NUMBERS = (
    "next_attempt_ms",
    "paused_at_ms",
    "paused_until_ms",
    "resumed_at_ms",
    "wanted_at_ms",
    "turn_ms",
    "turn_admitted",
    "vanished_at_ms",
)
TEXTS = ("hint", "paused_by", "pause_reason", "wanted_by")


def upgrade() -> None:
    """Add the columns, empty."""
    for name in NUMBERS:
        op.add_column("replicator_peers", sa.Column(name, sa.BigInteger()))
    for name in TEXTS:
        op.add_column("replicator_peers", sa.Column(name, sa.Text()))


def downgrade() -> None:
    """Drop the columns."""
    for name in (*NUMBERS, *TEXTS):
        op.drop_column("replicator_peers", name)
