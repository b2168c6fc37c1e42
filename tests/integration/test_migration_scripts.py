"""The migration scripts themselves, with rows in the tables, on both kinds of database."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from stigmem_replicator.store.own_models import HEAD_REVISION
from tests import check_migrations
from tests.check_migrations import problems_in
from tests.nodes.postgres import PostgresServer

NEXT = f"{int(HEAD_REVISION) + 1:04}"
CARELESS = f"""
import sqlalchemy as sa
from alembic import op

revision, down_revision, branch_labels, depends_on = "{NEXT}", "{HEAD_REVISION}", None, None


def upgrade():
    op.drop_table("replicator_clock")
    op.create_table("replicator_clock", sa.Column("id", sa.Integer(), primary_key=True))
    op.create_table("replicator_more", sa.Column("id", sa.Integer(), primary_key=True))


def downgrade():
    pass
"""


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'scratch.db'}"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    made = server.create_database()
    yield made
    server.drop_database(made)


def test_they_make_what_the_models_say_and_keep_what_is_in_the_tables(url: str) -> None:
    """Up and down, twice, with rows everywhere: no row is lost on the way up, nothing is left."""
    assert problems_in(url) == []


def test_a_careless_script_is_told(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A script that drops rows, leaves a table behind and differs from the models is found out."""
    scripts = tmp_path / "alembic"
    shutil.copytree(check_migrations.SCRIPTS, scripts)
    (scripts / "versions" / f"{NEXT}_careless.py").write_text(CARELESS)
    ends = check_problem(url, scripts, monkeypatch, head=HEAD_REVISION)
    assert f"the scripts end at {NEXT}" in ends
    found = check_problem(url, scripts, monkeypatch, head=NEXT)
    assert f"upgrade to {NEXT} loses rows of replicator_clock" in found
    assert "downgrade leaves replicator_more" in found
    assert "models and scripts differ" in found


def check_problem(url: str, scripts: Path, monkeypatch: pytest.MonkeyPatch, *, head: str) -> str:
    """What is found, in one text, when the scripts are elsewhere and end at another revision."""
    with monkeypatch.context() as patch:
        patch.setattr(check_migrations, "SCRIPTS", scripts)
        patch.setattr(check_migrations, "HEAD_REVISION", head)
        return "; ".join(problems_in(url))
