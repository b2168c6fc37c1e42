"""The first tables: peers, positions, dead letters, clock, events."""

from __future__ import annotations

import sqlalchemy as sa

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the tables."""
    op.create_table(
        "replicator_peers",
        sa.Column("node_id", sa.Text(), primary_key=True),
        sa.Column("number", sa.BigInteger(), nullable=False, unique=True),
        sa.Column("state", sa.Text(), nullable=False, server_default="catching_up"),
        sa.Column("reason", sa.Text()),
        sa.Column("detail", sa.Text()),
        sa.Column("since_ms", sa.BigInteger()),
        sa.Column("last_attempt_ms", sa.BigInteger()),
        sa.Column("last_success_ms", sa.BigInteger()),
        sa.Column("caught_up_ms", sa.BigInteger()),
        sa.Column("failures", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("not_before_ms", sa.BigInteger()),
        sa.Column("pages", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("admitted", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("duplicates", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("rejected", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("commit_number", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("holder_host", sa.Text()),
        sa.Column("holder_pid", sa.BigInteger()),
        sa.Column("holder_command", sa.Text()),
        sa.Column("holder_since_ms", sa.BigInteger()),
    )
    op.create_table(
        "replicator_cursors",
        sa.Column("node_id", sa.Text(), primary_key=True),
        sa.Column("stream", sa.Text(), primary_key=True),
        sa.Column("frontier", sa.Text()),
        sa.Column("settled", sa.Text()),
        sa.Column("origin_time_ms", sa.BigInteger()),
        sa.Column("origin_time_at_ms", sa.BigInteger()),
    )
    op.create_table(
        "replicator_checkpoints",
        sa.Column("node_id", sa.Text(), primary_key=True),
        sa.Column("stream", sa.Text(), primary_key=True),
        sa.Column("position", sa.Text(), primary_key=True),
        sa.Column("kept_at_ms", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "replicator_dead_letters",
        sa.Column("node_id", sa.Text(), primary_key=True),
        sa.Column("stream", sa.Text(), primary_key=True),
        sa.Column("entry_id", sa.Text(), primary_key=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("payload", sa.Text()),
        sa.Column("payload_hash", sa.Text(), nullable=False),
        sa.Column("generation", sa.Text(), nullable=False),
        sa.Column("first_seen_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("last_seen_at_ms", sa.BigInteger(), nullable=False),
        sa.Column("times_seen", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "status IN ('open','resolved','discarded')", name="replicator_dead_letters_status"
        ),
    )
    op.create_index(
        "replicator_dead_letters_seen", "replicator_dead_letters", ["node_id", "last_seen_at_ms"]
    )
    op.create_table(
        "replicator_clock",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("wall_ms", sa.BigInteger(), nullable=False),
        sa.Column("counter", sa.BigInteger(), nullable=False),
        sa.CheckConstraint("id = 1", name="replicator_clock_one_row"),
    )
    op.create_table(
        "replicator_events",
        sa.Column("id", sa.Integer(), primary_key=True, autoincrement=True),
        sa.Column("node_id", sa.Text(), nullable=False),
        sa.Column("at_ms", sa.BigInteger(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
    )
    op.create_index("replicator_events_peer", "replicator_events", ["node_id", "id"])


def downgrade() -> None:
    """Drop the tables."""
    for table in (
        "replicator_events",
        "replicator_clock",
        "replicator_dead_letters",
        "replicator_checkpoints",
        "replicator_cursors",
        "replicator_peers",
    ):
        op.drop_table(table)
