"""Attempts to have something executed that policy denies, or that nobody has approved. Each would fail if it fell."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import msgspec
import psycopg
import pytest
from psycopg import sql

from policies.engine import Approval, ApprovalMode, Effect, Policy, Rule
from proxyworker.contract import ApprovalDecided, ApprovalState
from tests.plugin.embedded import TargetPostgres
from tests.proxyworker.postgres.gate import EVERYTHING, RunningGate, ScriptedControlPlane
from tests.proxyworker.postgres.raw import RawClient, codes, rows
from tests.vectors.messages import FLUSH, SYNC, bind, close_portal, close_statement, execute, parse, query
from tests.vectors.postgres import frame

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


# ------------------------------------------------------------ while something is held


@pytest.mark.parametrize("is_extended", [False, True])
def test_what_is_sent_behind_a_held_statement_neither_passes_nor_changes_it(
    gate: RunningGate, table: str, count: Callable[[], int], is_extended: bool
) -> None:
    with RawClient(gate) as client:
        if is_extended:
            client.send(parse(f"DELETE FROM {table} WHERE id = 1", "s1"), bind("s1", "p1"), execute("p1"))
        else:
            client.send(query(f"DELETE FROM {table} WHERE id = 1"))
        (approval_id,) = gate.held()
        # Other meanings for the names, and more of the same: nothing of it is looked at yet.
        client.send(close_portal("p1"), close_statement("s1"), parse(f"DELETE FROM {table}", "s1"))
        client.send(bind("s1", "p1"), execute("p1"), SYNC)
        assert count() == 3
        gate.decide(approval_id, ApprovalState.GRANTED)
        second = gate.held(2)[1]
        assert [one.intent.text for one in gate.control.approvals[second]] == [f"DELETE FROM {table}"]
        gate.decide(second, ApprovalState.REJECTED)
        for _ in range(1 if is_extended else 2):
            client.until_ready()
        assert count() == 2


def test_a_grant_for_what_is_not_held_lets_nothing_pass(
    gate: RunningGate, table: str, count: Callable[[], int]
) -> None:
    with RawClient(gate) as client:
        for approval_id in ("", "approval-1", f"approval-{gate.sessions[0].session_id}-1"):
            gate.decide(approval_id, ApprovalState.GRANTED)
        client.send(query(f"DELETE FROM {table} WHERE id = 1"))
        (approval_id,) = gate.held()
        gate.decide("approval-1", ApprovalState.GRANTED)
        gate.decide(approval_id, ApprovalState.REJECTED)
        assert codes(client.until_ready()) == ["42501"]
        gate.decide(approval_id, ApprovalState.GRANTED)  # again, when it is too late
        client.send(query(f"DELETE FROM {table} WHERE id = 2"))
        gate.decide(approval_id, ApprovalState.GRANTED)
        gate.decide(gate.held(2)[1], ApprovalState.REJECTED)
        assert codes(client.until_ready()) == ["42501"]
    assert count() == 3


@pytest.mark.parametrize("ending", ["cancelled", "left", "policy changed", "ended"])
def test_of_a_grant_and_what_comes_in_the_same_instant_the_worse_counts(
    gate: RunningGate, table: str, count: Callable[[], int], ending: str
) -> None:
    with RawClient(gate) as client:
        client.send(query(f"DELETE FROM {table}"))
        (approval_id,) = gate.held()
        (live,) = gate.services.live._sessions.values()

        def at_once() -> None:
            match ending:
                case "cancelled":
                    live.cancel()  # type: ignore[attr-defined]
                case "left":
                    live.agent_side.connection_lost(None)  # type: ignore[attr-defined]
                case "policy changed":
                    live.use_policy(Policy(version="test@2", rules=gate.control.rules))
                case "ended":
                    live.end("a person said so")
            gate.approvals.decided(ApprovalDecided(approval_id, ApprovalState.GRANTED, ""))

        gate.call(at_once)
        client.until_ready()
        gate.call(lambda: gate.services.live.end([], "the test is over"))
        gate.wait_closed(1)
    assert count() == 3


def test_one_deferred_grant_is_good_for_one_of_two_sessions(
    control: ScriptedControlPlane, gate: RunningGate, table: str, count: Callable[[], int]
) -> None:
    approval = Approval(flow="dba", mode=ApprovalMode.DEFER)
    control.rules = (EVERYTHING, msgspec.structs.replace(ASK_FIRST, approval=approval))
    statement = query(f"DELETE FROM {table} WHERE id IN (SELECT min(id) FROM {table})")
    with RawClient(gate) as one, RawClient(gate) as other:
        assert codes(one.ask(statement)) == ["42501"]
        control.standing_grants.add(control.approvals[gate.held()[0]][0].digest)
        one.send(statement)
        other.send(statement)
        assert sorted(map(codes, (one.until_ready(), other.until_ready()))) == [[], ["42501"]]
    assert count() == 2


def test_a_grant_is_for_the_search_path_that_the_session_began_with(
    control: ScriptedControlPlane, gate: RunningGate, table: str, count: Callable[[], int]
) -> None:
    approval = Approval(flow="dba", mode=ApprovalMode.DEFER)
    control.rules = (EVERYTHING, msgspec.structs.replace(ASK_FIRST, approval=approval))
    statement = query(f"DELETE FROM {table}")
    with RawClient(gate, options="-csearch_path=pg_catalog,public") as elsewhere, RawClient(gate) as plain:
        assert codes(elsewhere.ask(statement)) == ["42501"]
        asked = control.approvals[gate.held()[0]][0]
        assert not asked.operation.template
        control.standing_grants.add(asked.digest)
        assert codes(plain.ask(statement)) == ["42501"]
        assert count() == 3
        assert codes(elsewhere.ask(statement)) == []
    assert count() == 0


# ------------------------------------------------------------ portals and cursors


def test_a_portal_is_what_it_was_after_a_flush(control: ScriptedControlPlane, gate: RunningGate, table: str) -> None:
    with RawClient(gate) as client:
        client.send(parse(f"SELECT id FROM {table}"), bind("", "p"), execute("p", 1), FLUSH)
        gate.wait_for(lambda: len(gate.operations) == 1 and b"s\0\0\0\4" in client.peek())
        no_more = (EVERYTHING, Rule(name="no", effect=Effect.DENY, objects=(table,)))
        gate.call(lambda: gate.services.live.use_policy(Policy(version="test@2", rules=no_more)))
        said = client.ask_extended(execute("p", 1))
        assert codes(said) == ["42501"]
        assert len(rows(said)) == 1  # that of before


@pytest.mark.parametrize("fetch", ["FETCH ALL FROM c", "MOVE NEXT FROM c", "FETCH c"])
@pytest.mark.parametrize("is_held", [False, True])
def test_a_cursor_shows_nothing_that_a_later_policy_denies(
    gate: RunningGate, table: str, fetch: str, is_held: bool
) -> None:
    with RawClient(gate) as client:
        client.ask(query("BEGIN"))
        hold = "WITH HOLD" if is_held else ""
        assert not codes(client.ask(query(f"DECLARE c CURSOR {hold} FOR SELECT id FROM {table}")))
        if is_held:
            client.ask(query("COMMIT"))
        assert len(rows(client.ask(query("FETCH c")))) == 1
        no_more = (EVERYTHING, Rule(name="no", effect=Effect.DENY, objects=(table,)))
        gate.call(lambda: gate.services.live.use_policy(Policy(version="test@2", rules=no_more)))
        said = client.ask(query(fetch))
        assert (codes(said), rows(said)) == (["42501"], [])
        assert not codes(client.ask(query("CLOSE c")))


# ------------------------------------------------------------ settings, and mixed verdicts


def test_a_text_right_behind_a_setting_is_not_read_by_the_old_one(
    control: ScriptedControlPlane, gate: RunningGate, table: str, count: Callable[[], int]
) -> None:
    control.refuses_approvals = True
    # With the setting off a string ends at the second quote, and the DELETE is no part of it.
    text = f"SELECT '\\', '; DELETE FROM {table} --'"
    hidden = "DO $$ BEGIN EXECUTE 'SET standard_' || 'conforming_strings = off'; END $$"
    with RawClient(gate) as client:
        client.send(query(hidden), query(text))
        client.until_ready()
        client.until_ready()
    with RawClient(gate) as client:
        client.ask_extended(parse(hidden), bind(), execute(), parse(text, "s1"), bind("s1"), execute())
    assert count() == 3


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 1; DELETE FROM {}", "DELETE FROM {}; SELECT 1", "BEGIN; DELETE FROM {}; COMMIT",
        "WITH d AS (DELETE FROM {} RETURNING *) SELECT 1", "COPY (DELETE FROM {} RETURNING *) TO STDOUT",
        "EXPLAIN ANALYZE DELETE FROM {}", "PREPARE d AS DELETE FROM {}; EXECUTE d",
        "PREPARE e AS DELETE FROM {}; EXECUTE e; DEALLOCATE e; PREPARE e AS SELECT 1",
        'DELETE FROM "{}"', "DeLeTe/**/FrOm\t{}--", "DELETE FROM ONLY public.{} AS x", "DELETE FROM shop.public.{}",
        "MERGE INTO {} t USING (SELECT 1) s ON true WHEN MATCHED THEN DELETE",
        "INSERT INTO {} VALUES (1, 'x') ON CONFLICT (id) DO UPDATE SET name = 'gone'",
        "DELETE FROM {} -- \udcff", "DELETE FROM {} --" + "x" * 1_100_000,
    ],
)  # fmt: skip
def test_no_way_of_writing_it_passes_unapproved(
    control: ScriptedControlPlane, gate: RunningGate, table: str, target_postgres: TargetPostgres, text: str
) -> None:
    control.refuses_approvals = True
    statement = frame("Q", text.format(table).encode("utf-8", "surrogateescape") + b"\0")
    with RawClient(gate) as client:
        assert codes(client.ask(statement)) == ["42501"]
        assert len(rows(client.ask(query("SELECT 7")))) == 1
    with psycopg.connect(target_postgres.superuser_dsn) as connection:
        found = connection.execute(sql.SQL("SELECT name FROM {} ORDER BY id").format(sql.Identifier(table))).fetchall()
    assert found == [("n1",), ("n2",), ("n3",)]
