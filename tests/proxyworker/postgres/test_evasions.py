"""Attempts to get around the gate by what PostgreSQL itself makes of names, calls and settings."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import psycopg
import pytest
from psycopg import sql

from policies.engine import Approval, Effect, Rule
from tests.plugin.embedded import TargetPostgres
from tests.proxyworker.postgres.gate import EVERYTHING, RunningGate, ScriptedControlPlane
from tests.proxyworker.postgres.raw import RawClient, codes, rows
from tests.vectors.messages import bind, close_statement, describe_statement, execute, parse, query
from tests.vectors.postgres import frame

ASK_FIRST = Rule(
    name="ask first", effect=Effect.REQUIRE_APPROVAL, agents=("*",), targets=("*",),
    operations=("update", "delete"), approval=Approval(flow="dba"),
)  # fmt: skip


@pytest.fixture
def control(control: ScriptedControlPlane) -> ScriptedControlPlane:
    control.rules = (EVERYTHING, ASK_FIRST)
    control.refuses_approvals = True
    return control


@pytest.fixture
def table(target_postgres: TargetPostgres) -> Iterator[str]:
    """A table of the test's own with three rows."""
    name = f"evaded_{time.monotonic_ns()}"
    with psycopg.connect(target_postgres.superuser_dsn, autocommit=True) as connection:
        named = sql.Identifier(name)
        connection.execute(sql.SQL("CREATE TABLE {} (id int PRIMARY KEY, name text)").format(named))
        connection.execute(sql.SQL("INSERT INTO {} SELECT g, 'n' || g FROM generate_series(1, 3) g").format(named))
        connection.execute(sql.SQL("GRANT ALL ON {} TO PUBLIC").format(named))
        yield name
        connection.execute(sql.SQL("DROP TABLE {}").format(named))


@pytest.fixture
def count(target_postgres: TargetPostgres, table: str) -> Callable[[], int]:
    """The rows that the table has, seen past the gate."""

    def rows() -> int:
        with psycopg.connect(target_postgres.superuser_dsn, autocommit=True) as connection:
            found = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table))).fetchone()
        assert found is not None
        return int(found[0])

    return rows


# ------------------------------------------------------------ names that are one to the target


@pytest.mark.parametrize(("one", "other"), [("a" * 63 + "x", "a" * 63 + "y"), ("a" * 63, "a" * 64)])
def test_a_name_means_what_the_target_keeps_of_it(
    gate: RunningGate, table: str, count: Callable[[], int], one: str, other: str
) -> None:
    with RawClient(gate) as client:
        assert not codes(client.ask_extended(parse("SELECT 1", other), describe_statement(one)))
        assert not codes(client.ask_extended(close_statement(one)))
        assert not codes(client.ask_extended(parse(f"DELETE FROM {table}", one)))
        assert codes(client.ask_extended(bind(other), execute())) == ["42501"]
        # Made by one protocol, executed by the other.
        client.ask(query(f"DEALLOCATE {other}"))
        assert not codes(client.ask(query(f"PREPARE {one} AS DELETE FROM {table}")))
        assert codes(client.ask_extended(bind(other), execute())) == ["42501"]
        assert codes(client.ask(query(f"EXECUTE {other}"))) == ["42501"]
    assert count() == 3


@pytest.mark.parametrize("kind", [b"P%s\0SELECT 1\0\0\0", b"B\0%s\0\0\0\0\0\0\0", b"DS%s\0", b"CS%s\0"])
def test_a_name_that_the_target_may_write_otherwise_is_refused(gate: RunningGate, kind: bytes) -> None:
    with RawClient(gate, client_encoding="LATIN1") as client:
        message = kind % (b"\xe9" * 40)  # and with one more it would be the same in a database of UTF-8
        assert codes(client.ask_extended(frame(message[:1].decode(), message[1:]))) == ["08P01"]


def test_a_statement_of_sql_whose_name_is_not_ascii_is_not_known(
    gate: RunningGate, table: str, count: Callable[[], int]
) -> None:
    with RawClient(gate) as client:
        client.ask(query("PREPARE é AS SELECT 1"), query("DEALLOCATE É"))
        client.until_ready()
        assert not codes(client.ask(query(f"PREPARE É AS DELETE FROM {table}")))
        for name in ("é", "É"):
            assert codes(client.ask(query(f"EXECUTE {name}"))) == ["42501"]
        assert [row[-1:] for row in rows(client.ask(query("SELECT 7")))] == [b"7"]
    assert count() == 3
