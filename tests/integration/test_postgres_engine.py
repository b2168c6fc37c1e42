"""Opening a node's database in PostgreSQL: what is refused, in which words, and the schema."""

from __future__ import annotations

from contextlib import closing

import pytest
from sqlalchemy import text

from stigmem_replicator.errors import ExitCode, LocalError, Reason
from stigmem_replicator.store import migrations
from stigmem_replicator.store.engine import open_database, reading, writing
from stigmem_replicator.store.own_models import OwnBase
from tests.nodes.database import PostgresDatabase
from tests.nodes.environment import node_environment
from tests.nodes.ports import free_port
from tests.nodes.postgres import PostgresServer, migrate

SHORT_S = 2.0


def refused(server: PostgresServer, url: str, schema: str = "public") -> LocalError:
    with pytest.raises(LocalError) as caught:
        open_database(url, timeout_s=SHORT_S, schema=schema).close()
    error = caught.value
    assert error.exit_code is ExitCode.CONFIGURATION
    assert server.password not in f"{error.message} {error.hint}"
    return error


def test_a_missing_database_is_told(postgres_server: PostgresServer) -> None:
    """A wrong name is told with it, and no database is made."""
    error = refused(postgres_server, postgres_server.url("no_such_one"))
    assert error.reason is Reason.DATABASE_FAILED
    assert "no_such_one" in error.message


def test_a_server_that_does_not_answer_is_told(postgres_server: PostgresServer) -> None:
    """Nobody listens on the port: the message says where was asked."""
    port = free_port()
    error = refused(postgres_server, postgres_server.url(port=port))
    assert error.reason is Reason.DATABASE_FAILED
    assert str(port) in error.message


def test_a_wrong_password_is_told_without_it(postgres_server: PostgresServer) -> None:
    """The server's refusal is passed on, and no password with it."""
    url = postgres_server.url().replace(postgres_server.password, "wr0ng-passw0rd")
    error = refused(postgres_server, url)
    assert error.reason is Reason.DATABASE_FAILED
    assert "wr0ng-passw0rd" not in f"{error.message} {error.hint}"


def test_a_url_that_is_none_is_told(postgres_server: PostgresServer) -> None:
    """What libpq cannot read is refused without repeating it: it may hold a password."""
    error = refused(postgres_server, f"postgresql://me:{postgres_server.password}@host:port/x")
    assert error.reason is Reason.DATABASE_FAILED


@pytest.mark.parametrize("node", ["postgres"], indirect=True)
@pytest.mark.parametrize("schema", ["elsewhere", "information_schema"])
def test_a_schema_without_the_nodes_tables_is_refused(
    node: PostgresDatabase, postgres_server: PostgresServer, schema: str
) -> None:
    """The tables of another schema of the same database are not taken for the node's."""
    error = refused(postgres_server, node.location, schema)
    assert error.reason is Reason.DATABASE_NOT_A_NODE
    assert schema in error.message


def test_key_value_pairs_are_read_as_the_node_reads_them(
    node_url: str, postgres_server: PostgresServer
) -> None:
    """A DSN of libpq's other form opens the same database."""
    name = node_url.rsplit("/", 1)[1]
    server = f"host=127.0.0.1 port={postgres_server.port} user=stigmem"
    dsn = f"{server} password={postgres_server.password} dbname={name}"
    with closing(open_database(dsn, timeout_s=SHORT_S)) as database:
        assert postgres_server.password not in database.name


@pytest.fixture
def node_url(postgres_server: PostgresServer) -> str:
    return postgres_server.node_database(node_environment())


def test_two_nodes_in_one_database_do_not_meet(
    node_url: str, postgres_server: PostgresServer
) -> None:
    """Each schema has its own tables of ours and its own write lock."""
    migrate(node_environment(), node_url, "second")
    one = open_database(node_url, timeout_s=SHORT_S)
    two = open_database(node_url, timeout_s=SHORT_S, schema="second")
    with closing(one), closing(two):
        assert migrations.upgrade(two)
        with reading(one) as connection:
            assert migrations.current(connection) is None
        with writing(one), writing(two) as connection:
            connection.execute(text("INSERT INTO node_meta (key, value) VALUES ('k', 'second')"))
    ours = set(OwnBase.metadata.tables)
    assert ours <= PostgresDatabase(node_url, "second").tables()
    assert not ours & PostgresDatabase(node_url).tables()
    assert PostgresDatabase(node_url).query("SELECT * FROM node_meta") == []
    postgres_server.drop_database(node_url)
