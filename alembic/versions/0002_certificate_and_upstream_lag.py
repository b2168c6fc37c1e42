"""What a peer's answers say of it: when its certificate ends, how far behind it is itself."""

from __future__ import annotations

import sqlalchemy as sa

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

COLUMNS = ("certificate_not_after_ms", "upstream_lag_ms", "upstream_lag_at_ms")


def upgrade() -> None:
    """Add the columns, empty."""
    for name in COLUMNS:
        op.add_column("replicator_peers", sa.Column(name, sa.BigInteger()))


def downgrade() -> None:
    """Drop the columns."""
    for name in COLUMNS:
        op.drop_column("replicator_peers", name)
