"""Attempts to have something executed that policy denies, or that nobody has approved. Each would fail if it fell."""

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
from tests.vectors.messages import SYNC, bind, close_statement, execute, parse

ASK_FIRST = Rule(
    name="ask first", effect=Effect.REQUIRE_APPROVAL, agents=("*",), targets=("*",),
    operations=("update", "delete"), approval=Approval(flow="dba"),
)  # fmt: skip


@pytest.fixture
def control(control: ScriptedControlPlane) -> ScriptedControlPlane:
    control.rules = (EVERYTHING, ASK_FIRST)
    return control


@pytest.fixture
def table(target_postgres: TargetPostgres) -> Iterator[str]:
    """A table of the test's own with three rows."""
    name = f"bypassed_{time.monotonic_ns()}"
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


def skipped_parse(name: str, text: str) -> tuple[bytes, ...]:
    """A failure, with a Parse of the name behind it that the target therefore skips."""
    closing = (close_statement(name),) if name else ()
    failing = (parse("SELECT 1 / (random() * 0)::int", "failing"), bind("failing"), execute())
    return (*failing, *closing, parse(text, name), SYNC)


@pytest.mark.parametrize("name", ["", "s1"])
@pytest.mark.parametrize("times", [1, 2])
def test_a_name_keeps_its_meaning_when_the_parse_of_a_harmless_text_is_skipped(
    control: ScriptedControlPlane, gate: RunningGate, table: str, count: Callable[[], int], name: str, times: int
) -> None:
    control.refuses_approvals = True
    with RawClient(gate) as client:
        client.ask_extended(parse(f"DELETE FROM {table}", name))
        skipped = skipped_parse(name, "SELECT 1") * times
        client.send(*skipped, bind(name), execute(), SYNC)
        said = [client.until_ready() for _ in range(times + 1)]
        assert codes(said[0]) == ["22012"]
        assert codes(said[-1]) == ["42501"]
        assert count() == 3
        # Once it is answered, it is known.
        (row,) = rows(client.ask_extended(parse("SELECT 7"), bind(), execute()))
        assert row.endswith(b"7")


def test_pipelines_of_unnamed_statements_are_not_in_doubt(gate: RunningGate) -> None:
    with RawClient(gate) as client:
        one = [part for number in (1, 2) for part in (parse(f"SELECT {number}"), bind(), execute())]
        client.send(*one, SYNC, *one, SYNC)
        for _ in range(2):
            assert [row[-1:] for row in rows(client.until_ready())] == [b"1", b"2"]
