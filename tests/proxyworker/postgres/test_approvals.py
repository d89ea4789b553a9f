"""Statements that wait for somebody's yes: held and deferred, with ordinary clients, in both protocols."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any, LiteralString, TypeVar

import asyncpg
import psycopg
import pytest
from psycopg import sql

from policies.engine import Approval, ApprovalMode, Effect, Policy, Rule
from proxyworker.contract import ApprovalState, AskPreview, OperationApproval, OutcomeStatus
from proxyworker.gate import approve
from proxyworker.postgres import agent_stream
from tests.plugin.embedded import TargetPostgres
from tests.proxyworker.postgres.gate import EVERYTHING, PATIENCE_SECONDS, TOKEN, URL, RunningGate, ScriptedControlPlane

T = TypeVar("T")
GRANTED, REJECTED, EXPIRED = ApprovalState.GRANTED, ApprovalState.REJECTED, ApprovalState.EXPIRED


def ask_first(mode: ApprovalMode = ApprovalMode.HOLD, *, hold_seconds: int = 0) -> tuple[Rule, ...]:
    """Everything may pass, but somebody has to say yes to updates and deletes."""
    approval = Approval(flow="dba", mode=mode, hold_seconds=hold_seconds)
    return (
        EVERYTHING,
        Rule(
            name="ask first", effect=Effect.REQUIRE_APPROVAL, agents=("*",), targets=("*",),
            operations=("update", "delete"), approval=approval,
        ),
    )  # fmt: skip


@pytest.fixture
def control(control: ScriptedControlPlane) -> ScriptedControlPlane:
    control.rules = ask_first()
    return control


@pytest.fixture
def table(target_postgres: TargetPostgres) -> Iterator[str]:
    """A table of the test's own with three rows, made behind the gate's back."""
    name = f"held_{time.monotonic_ns()}"
    with psycopg.connect(target_postgres.superuser_dsn, autocommit=True) as connection:
        named = sql.Identifier(name)
        connection.execute(sql.SQL("CREATE TABLE {} (id int PRIMARY KEY, name text)").format(named))
        connection.execute(sql.SQL("INSERT INTO {} SELECT g, 'n' || g FROM generate_series(1, 3) g").format(named))
        connection.execute(sql.SQL("GRANT ALL ON {} TO PUBLIC").format(named))
        connection.execute(sql.SQL("ANALYZE {}").format(named))
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


@contextmanager
def running(gate: RunningGate, function: Callable[[], T]) -> Iterator[Future[T]]:
    """The function in a thread: a client that waits. What still waits when the test fails is ended."""
    with ThreadPoolExecutor(1) as pool:
        try:
            yield pool.submit(function)
        except BaseException:
            gate.call(lambda: gate.services.live.end([], "the test has failed"))
            raise


def states(gate: RunningGate) -> list[ApprovalState]:
    return [record.state for record in gate.of(OperationApproval)]


def delete(table: str) -> sql.Composed:
    return sql.SQL("DELETE FROM {} WHERE id = %s").format(sql.Identifier(table))


def delete_one(gate: RunningGate, table: str) -> int:
    with psycopg.connect(gate.dsn(), autocommit=True) as connection:
        return connection.execute(delete(table), (1,)).rowcount


# ------------------------------------------------------------ held, and decided


def test_psql_waits_with_a_notice_and_goes_on_when_it_is_approved(
    gate: RunningGate, psql: str, table: str, count: Callable[[], int]
) -> None:
    command = [psql, gate.dsn(), "-AtX", "-c", f"DELETE FROM {table} WHERE id < 3"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        (approval_id,) = gate.held()
        assert process.stderr is not None
        notice = process.stderr.readline()
        assert f"waits for approval {approval_id}: {URL}{approval_id}" in notice
        assert count() == 3
        gate.decide(approval_id, GRANTED)
        out, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert (process.returncode, out) == (0, "DELETE 2\n"), err
    gate.wait_closed(1)
    asked = gate.control.approvals[approval_id][0]
    assert (asked.intent.kind, asked.intent.text) == ("query", f"DELETE FROM {table} WHERE id < 3")
    assert asked.intent.decision.rule == "ask first"
    assert [(one.kind, one.object) for one in asked.operation.accesses] == [("delete", table), ("select", table)]
    kinds = [type(record).__name__ for record in gate.journal.records]
    assert kinds[-4:] == ["OperationIntent", "OperationApproval", "OperationOutcome", "SessionClosed"]
    assert states(gate) == [GRANTED]
    assert gate.outcome_of(asked.intent.text).status is OutcomeStatus.OK


@pytest.mark.parametrize(
    ("state", "code", "words"),
    [
        (REJECTED, "42501", "was rejected: not on a Friday"),
        (EXPIRED, "42501", "was not decided in time: not on a Friday"),
        (ApprovalState.VOID, "42501", "is void: not on a Friday"),
    ],
)
@pytest.mark.parametrize("is_extended", [False, True])
def test_what_is_not_granted_is_refused_with_its_reason(
    gate: RunningGate,
    table: str,
    count: Callable[[], int],
    state: ApprovalState,
    code: str,
    words: str,
    is_extended: bool,
) -> None:
    def run() -> None:
        with psycopg.connect(gate.dsn(), autocommit=True) as connection:
            with pytest.raises(psycopg.Error, match=words) as caught:
                if is_extended:
                    connection.execute(delete(table), (1,))
                else:
                    connection.execute(sql.SQL("DELETE FROM {} WHERE id = 1").format(sql.Identifier(table)))
            assert caught.value.sqlstate == code
            assert connection.execute("SELECT 'usable'").fetchone() == ("usable",)

    with running(gate, run) as done:
        (approval_id,) = gate.held()
        gate.decide(approval_id, state, "not on a Friday")
        done.result(PATIENCE_SECONDS)
    assert count() == 3
    assert states(gate) == [state]
    gate.wait_closed(1)
    denied = [outcome for _, outcome in gate.operations if outcome and outcome.status is OutcomeStatus.DENIED]
    assert [outcome.error_code for outcome in denied] == [code]


def test_nobody_decides_within_the_seconds_that_the_rule_gives(
    control: ScriptedControlPlane, gate: RunningGate, table: str, count: Callable[[], int]
) -> None:
    control.rules = ask_first(hold_seconds=1)
    with (
        psycopg.connect(gate.dsn(), autocommit=True) as connection,
        pytest.raises(psycopg.errors.QueryCanceled, match="was not decided in time: nobody decided within 1 seconds"),
    ):
        connection.execute(delete(table), (1,))
    (approval_id,) = gate.held()
    assert control.withdrawn == {approval_id: "nobody decided within 1 seconds"}
    assert (states(gate), count()) == ([EXPIRED], 3)


async def test_asyncpg_waits_for_a_statement_with_values(
    gate: RunningGate, table: str, count: Callable[[], int]
) -> None:
    context = ssl.create_default_context(cafile=str(gate.ca_file))
    connection = await asyncpg.connect(
        host="localhost", port=gate.port, user="agent", database="shop", password=TOKEN, ssl=context
    )
    try:
        notices: list[str] = []
        connection.add_log_listener(lambda _, message: notices.append(str(message)))
        waiting = asyncio.create_task(connection.execute(f"DELETE FROM {table} WHERE id = $1", 2))
        (approval_id,) = await asyncio.to_thread(gate.held)
        assert [one.value for one in gate.control.approvals[approval_id][0].intent.parameters] == ["00000002"]
        await asyncio.to_thread(gate.decide, approval_id, GRANTED)
        assert await waiting == "DELETE 1"
        assert any(approval_id in notice for notice in notices)
        assert await connection.fetchval("SELECT 7") == 7
    finally:
        await connection.close()
    assert count() == 2


def test_a_pipeline_waits_in_the_middle_and_answers_in_order(
    gate: RunningGate, table: str, count: Callable[[], int]
) -> None:
    def run() -> list[Any]:
        with psycopg.connect(gate.dsn(), autocommit=True) as connection, connection.pipeline():
            first = connection.execute("SELECT %s::int", (1,))
            held = connection.execute(delete(table), (1,))
            last = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table)))
            return [first.fetchone(), held.rowcount, last.fetchone()]

    with running(gate, run) as done:
        (approval_id,) = gate.held()
        assert count() == 3
        gate.decide(approval_id, GRANTED)
        assert done.result(PATIENCE_SECONDS) == [(1,), 1, (2,)]


def test_what_waits_behind_a_failure_in_its_pipeline_is_not_asked_for(
    gate: RunningGate, table: str, count: Callable[[], int]
) -> None:
    with psycopg.connect(gate.dsn(), autocommit=True) as connection:
        with pytest.raises(psycopg.errors.DivisionByZero), connection.pipeline():
            connection.execute("SELECT 1 / %s::int", (0,))
            connection.execute(delete(table), (1,))
        assert connection.execute("SELECT 'usable'").fetchone() == ("usable",)
    assert (gate.control.approvals, states(gate), count()) == ({}, [], 3)
    gate.wait_closed(1)
    (outcome,) = [o for i, o in gate.operations if o and i.kind == "execute" and i.text.startswith("DELETE")]
    assert outcome.error_message.startswith("not executed")


def test_a_statement_waits_within_its_transaction(gate: RunningGate, table: str, count: Callable[[], int]) -> None:
    def run() -> int:
        with psycopg.connect(gate.dsn()) as connection:
            connection.execute(sql.SQL("INSERT INTO {} VALUES (9, 'x')").format(sql.Identifier(table)))
            held = connection.execute(delete(table), (1,)).rowcount
            connection.rollback()
            return held

    with running(gate, run) as done:
        gate.decide(gate.held()[0], GRANTED)
        assert done.result(PATIENCE_SECONDS) == 1
    assert count() == 3


def test_a_prepared_statement_waits_each_time_and_never_when_it_is_prepared(gate: RunningGate, table: str) -> None:
    def run() -> list[int]:
        with psycopg.connect(gate.dsn(), autocommit=True) as connection:
            connection.execute(
                sql.SQL("PREPARE gone (int) AS DELETE FROM {} WHERE id = $1").format(sql.Identifier(table))
            )
            assert gate.control.approvals == {}
            by_sql = connection.execute("EXECUTE gone (1)").rowcount
            by_protocol = [connection.execute(delete(table), (key,), prepare=True).rowcount for key in (2, 3)]
            return [by_sql, *by_protocol]

    with running(gate, run) as done:
        for number in (1, 2, 3):
            gate.decide(gate.held(number)[-1], GRANTED)
        assert done.result(PATIENCE_SECONDS) == [1, 1, 1]
    asked = [one[0] for one in gate.control.approvals.values()]
    assert ("delete", table) in [(access.kind, access.object) for access in asked[0].operation.accesses]
    assert len({one.digest for one in asked}) == 3


def test_rows_fetched_in_several_goes_need_one_approval(gate: RunningGate, table: str) -> None:
    async def run() -> list[int]:
        context = ssl.create_default_context(cafile=str(gate.ca_file))
        connection = await asyncpg.connect(
            host="localhost", port=gate.port, user="agent", database="shop", password=TOKEN, ssl=context
        )
        try:
            async with connection.transaction():
                query = f"SELECT id FROM {table} WHERE id > $1"
                return [row["id"] async for row in connection.cursor(query, 0, prefetch=1)]
        finally:
            await connection.close()

    gate.control.rules = (
        EVERYTHING,
        Rule(
            name="ask", effect=Effect.REQUIRE_APPROVAL, agents=("*",), targets=("*",), operations=("select",),
            objects=(table,), approval=Approval(flow="dba"),
        ),
    )  # fmt: skip
    with running(gate, lambda: asyncio.run(run())) as done:
        gate.decide(gate.held()[0], GRANTED)
        assert done.result(PATIENCE_SECONDS) == [1, 2, 3]
    assert len(gate.control.approvals) == 1


def test_fifty_wait_at_once(gate: RunningGate, table: str, count: Callable[[], int]) -> None:
    async def one(context: ssl.SSLContext, key: int) -> str:
        connection = await asyncpg.connect(
            host="localhost", port=gate.port, user="agent", database="shop", password=TOKEN, ssl=context
        )
        try:
            return str(await connection.execute(f"UPDATE {table} SET name = 'seen' WHERE id = {key % 3 + 1}"))
        finally:
            await connection.close()

    async def all_of_them() -> list[str | BaseException]:
        context = ssl.create_default_context(cafile=str(gate.ca_file))
        return await asyncio.gather(*(one(context, key) for key in range(50)), return_exceptions=True)

    with running(gate, lambda: asyncio.run(all_of_them())) as done:
        for number, approval_id in enumerate(gate.held(50)):
            gate.decide(approval_id, REJECTED if number % 10 == 0 else GRANTED)
        said = done.result(PATIENCE_SECONDS)
    assert said.count("UPDATE 1") == 45
    assert sum(isinstance(one, asyncpg.InsufficientPrivilegeError) for one in said) == 5
    gate.wait_closed(50)
    assert sorted(states(gate)) == [GRANTED] * 45 + [REJECTED] * 5


# ------------------------------------------------------------ deferred


def test_a_deferred_statement_is_refused_and_passes_once_it_is_granted(
    control: ScriptedControlPlane, gate: RunningGate, table: str, count: Callable[[], int]
) -> None:
    control.rules = ask_first(ApprovalMode.DEFER)
    with psycopg.connect(gate.dsn(), autocommit=True) as connection:
        with pytest.raises(psycopg.errors.InsufficientPrivilege, match="this needs an approval") as caught:
            connection.execute(delete(table), (1,))
        (approval_id,) = gate.held()
        assert URL + approval_id in str(caught.value)
        assert "exactly the same statement" in (caught.value.diag.message_hint or "")
        control.standing_grants.add(control.approvals[approval_id][0].digest)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):  # another value
            connection.execute(delete(table), (2,))
        with pytest.raises(psycopg.errors.InsufficientPrivilege):  # another search path, perhaps another table
            connection.execute("SET search_path = public, pg_catalog")
            connection.execute(delete(table), (1,))
    with psycopg.connect(gate.dsn(), autocommit=True) as another:
        assert another.execute(delete(table), (1,)).rowcount == 1
        with pytest.raises(psycopg.errors.InsufficientPrivilege):  # once
            another.execute(delete(table), (1,))
    assert count() == 2
    assert states(gate) == [ApprovalState.PENDING] * 3 + [GRANTED, ApprovalState.PENDING]


def test_the_control_plane_may_take_no_request(control: ScriptedControlPlane, gate: RunningGate, table: str) -> None:
    control.refuses_approvals = True
    with (
        psycopg.connect(gate.dsn(), autocommit=True) as connection,
        pytest.raises(psycopg.errors.InsufficientPrivilege, match="rejected: there is no flow of that name"),
    ):
        connection.execute(delete(table), (1,))


# ------------------------------------------------------------ withdrawn


def test_cancelling_withdraws_the_request_and_keeps_the_session(
    gate: RunningGate, table: str, count: Callable[[], int]
) -> None:
    with psycopg.connect(gate.dsn(), autocommit=True) as connection:

        def run() -> None:
            with pytest.raises(psycopg.errors.QueryCanceled, match="was withdrawn: the agent cancelled it"):
                connection.execute(delete(table), (1,))

        with running(gate, run) as done:
            (approval_id,) = gate.held()
            connection.cancel_safe()
            done.result(PATIENCE_SECONDS)
        assert connection.execute("SELECT 'usable'").fetchone() == ("usable",)
        gate.decide(approval_id, GRANTED)
        assert connection.execute("SELECT 'still'").fetchone() == ("still",)
    assert (states(gate), count()) == ([ApprovalState.WITHDRAWN], 3)
    assert list(gate.control.withdrawn) == [approval_id]


def test_leaving_withdraws_the_request(gate: RunningGate, psql: str, table: str, count: Callable[[], int]) -> None:
    command = [psql, gate.dsn(), "-AtX", "-c", f"DELETE FROM {table}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        (approval_id,) = gate.held()
        process.kill()
        process.communicate(timeout=PATIENCE_SECONDS)
    gate.wait_closed(1)
    assert gate.control.withdrawn == {approval_id: "the agent closed the connection"}
    gate.decide(approval_id, GRANTED)
    assert (states(gate), count()) == ([ApprovalState.WITHDRAWN], 3)
    assert gate.outcome_of(f"DELETE FROM {table}").status is OutcomeStatus.DENIED


def test_a_session_that_is_ended_withdraws_its_request(gate: RunningGate, table: str) -> None:
    def run() -> None:
        with pytest.raises(psycopg.OperationalError, match="a person said so"):
            delete_one(gate, table)

    with running(gate, run) as done:
        (approval_id,) = gate.held()
        gate.call(lambda: gate.services.live.end([], "a person said so"))
        done.result(PATIENCE_SECONDS)
    gate.wait_closed(1)
    assert gate.control.withdrawn == {approval_id: "a person said so"}


def test_waiting_is_not_idling_but_a_grant_still_expires(gate: RunningGate, table: str) -> None:
    with running(gate, partial(delete_one, gate, table)) as done:
        (approval_id,) = gate.held()
        (live,) = gate.services.live._sessions.values()
        soon, late = time.time(), time.time() + 7200
        in_two_hours = time.monotonic() + 7200
        assert gate.call(lambda: live.reason_to_end(now=soon, loop_now=in_two_hours)) == ""
        assert "expired" in gate.call(lambda: live.reason_to_end(now=late, loop_now=in_two_hours))
        gate.decide(approval_id, GRANTED)
        assert done.result(PATIENCE_SECONDS) == 1


def test_an_agent_that_sends_on_and_on_is_read_up_to_a_bound(
    gate: RunningGate, table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_stream, "HELD_BACKLOG_BYTES", 64 * 1024)

    def run() -> list[int]:
        with psycopg.connect(gate.dsn(), autocommit=True) as connection, connection.pipeline():
            connection.execute(delete(table), (1,))
            cursors = [connection.execute("SELECT length(%s::text)", ("x" * 10_000,)) for _ in range(200)]
            return [row[0] for cursor in cursors if (row := cursor.fetchone())]

    with running(gate, run) as done:
        (approval_id,) = gate.held()
        gate.decide(approval_id, GRANTED)
        assert done.result(PATIENCE_SECONDS) == [10_000] * 200


# ------------------------------------------------------------ links and policies that change


def test_after_a_lost_link_the_gate_asks_again(gate: RunningGate, table: str, count: Callable[[], int]) -> None:
    with running(gate, partial(delete_one, gate, table)) as done:
        (approval_id,) = gate.held()
        gate.control.has_link = False
        gate.call(gate.approvals.linked)  # as it comes, it is lost again
        gate.control.granted.add(approval_id)
        gate.control.has_link = True
        gate.call(gate.approvals.linked)
        assert done.result(PATIENCE_SECONDS) == 1
    first, again = gate.control.approvals[approval_id]
    assert (first.intent, first.digest) == (again.intent, again.digest)
    assert (states(gate), count()) == ([GRANTED], 2)


def test_without_a_link_nobody_can_be_asked(
    gate: RunningGate, table: str, count: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(approve, "ASK_SECONDS", 0.05)
    with psycopg.connect(gate.dsn(), autocommit=True) as connection:
        gate.control.has_link = False
        with pytest.raises(psycopg.errors.QueryCanceled, match="the control plane can't be asked"):
            connection.execute(delete(table), (1,))
    assert count() == 3


def test_what_is_withdrawn_without_a_link_is_said_when_there_is_one(gate: RunningGate, table: str) -> None:
    with psycopg.connect(gate.dsn(), autocommit=True) as connection:

        def run() -> None:
            with pytest.raises(psycopg.errors.QueryCanceled):
                connection.execute(delete(table), (1,))

        with running(gate, run) as done:
            (approval_id,) = gate.held()
            gate.control.has_link = False
            connection.cancel_safe()
            done.result(PATIENCE_SECONDS)
    assert gate.control.withdrawn == {}
    gate.control.has_link = True
    gate.call(gate.approvals.linked)
    assert gate.control.withdrawn == {approval_id: "the agent cancelled it"}


@pytest.mark.parametrize(
    ("rules", "words"),
    [((), "no rule allows"), (ask_first(), "the policy changed while this waited"), ((EVERYTHING,), "")],
)
def test_a_grant_counts_under_the_policy_that_it_was_asked_under(
    gate: RunningGate, table: str, count: Callable[[], int], rules: tuple[Rule, ...], words: str
) -> None:
    def run() -> str:
        try:
            with psycopg.connect(gate.dsn(), autocommit=True) as connection:
                connection.execute(delete(table), (1,))
        except psycopg.errors.InsufficientPrivilege as error:
            return str(error)
        return ""

    with running(gate, run) as done:
        (approval_id,) = gate.held()
        gate.call(lambda: gate.services.live.use_policy(Policy(version="test@2", rules=rules)))
        gate.decide(approval_id, GRANTED)
        said = done.result(PATIENCE_SECONDS)
    assert words in said
    assert count() == (3 if words else 2)


# ------------------------------------------------------------ previews


def previewed(gate: RunningGate, number: int) -> tuple[bool, int | None, str]:
    gate.wait_for(lambda: len(gate.control.previews) >= number)
    preview = gate.control.previews[number - 1]
    return preview.exact, preview.rows, preview.problem


def test_the_approver_sees_what_would_be_touched(gate: RunningGate, table: str, count: Callable[[], int]) -> None:
    def run() -> int:
        with psycopg.connect(gate.dsn(), autocommit=True) as connection:
            update = sql.SQL("UPDATE public.{} SET name = %s WHERE id > %s AND name LIKE 'n%%'").format(
                sql.Identifier(table)
            )
            return connection.execute(update, ("x", 1), binary=True).rowcount

    with running(gate, run) as done:
        (approval_id,) = gate.held()
        exact, rows, problem = previewed(gate, 1)
        assert (exact, problem) == (False, "")
        assert rows is not None
        assert rows >= 1
        assert '"Node Type": "ModifyTable"' in gate.control.previews[0].plan
        gate.call(lambda: gate.approvals.preview_asked(AskPreview(approval_id, exact=True)))
        assert previewed(gate, 2) == (True, 2, "")
        gate.decide(approval_id, GRANTED)
        assert done.result(PATIENCE_SECONDS) == 2


FUNCTION: LiteralString = """
    CREATE SEQUENCE IF NOT EXISTS preview_calls;
    CREATE OR REPLACE FUNCTION preview_effect(a int) RETURNS bool IMMUTABLE LANGUAGE plpgsql AS
    $$ BEGIN PERFORM nextval('preview_calls'); RETURN true; END $$;
    CREATE OR REPLACE VIEW preview_view AS SELECT 1 AS id WHERE preview_effect(1);
    GRANT ALL ON SEQUENCE preview_calls TO PUBLIC; GRANT ALL ON preview_view TO PUBLIC"""


@pytest.mark.parametrize(
    ("condition", "estimate", "exact"),
    [
        ("preview_effect(1)", "it calls functions", "it calls functions"),
        ("id IN (SELECT id FROM preview_view)", "", "it reads views"),
        ("id = nextval('preview_calls')", "it calls functions", "it calls functions"),
        ("1 = 1 / 0", "the target refused: division by zero (22012)", "the target refused: division by zero (22012)"),
    ],
)
def test_a_preview_runs_nothing_that_could_have_an_effect(
    gate: RunningGate, target_postgres: TargetPostgres, table: str, condition: str, estimate: str, exact: str
) -> None:
    target_postgres.run(FUNCTION)
    before = target_postgres.run("SELECT last_value, is_called FROM preview_calls")
    with psycopg.connect(gate.dsn(), autocommit=True) as connection:

        def run() -> None:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(sql.SQL("DELETE FROM {} WHERE {}").format(sql.Identifier(table), sql.SQL(condition)))

        with running(gate, run) as done:
            (approval_id,) = gate.held()
            assert estimate in previewed(gate, 1)[2]
            gate.call(lambda: gate.approvals.preview_asked(AskPreview(approval_id, exact=True)))
            assert exact in previewed(gate, 2)[2]
            gate.decide(approval_id, REJECTED)
            done.result(PATIENCE_SECONDS)
    if "view" not in condition:
        assert target_postgres.run("SELECT last_value, is_called FROM preview_calls") == before


def test_a_preview_says_what_it_can_not_tell(gate: RunningGate, table: str) -> None:
    with psycopg.connect(gate.dsn(), autocommit=True) as connection:
        connection.execute("SET search_path = public")

        def run() -> None:
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(delete(table), (1,))

        with running(gate, run) as done:
            (approval_id,) = gate.held()
            assert "changed what names lead to" in previewed(gate, 1)[2]
            gate.decide(approval_id, REJECTED)
            done.result(PATIENCE_SECONDS)
    gate.wait_closed(1)
    gate.call(lambda: gate.approvals.preview_asked(AskPreview(approval_id, exact=True)))
    assert previewed(gate, 2) == (True, None, "it doesn't wait any more, or its session has ended")
