"""Limits, with ordinary clients through the gate to a real target: what passes, what is cut, what the agent is told."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest

from policies.engine import Approval, ApprovalMode, Effect, Limit, LimitPer, Rule
from proxyworker.contract import OutcomeStatus
from proxyworker.gate import meter
from proxyworker.postgres import cuts
from proxyworker.postgres.errors import LIMIT_EXCEEDED
from tests.proxyworker.postgres.gate import EVERYTHING, RunningGate, ScriptedControlPlane

#: Far more than passes a limit of the tests, and more than a socket holds.
PLENTY: LiteralString = "SELECT g, repeat('x', 100) FROM generate_series(1, 2000000) g"
#: What one read of the target's socket holds at most, in rows of `PLENTY`.
READ_ROWS = 256 * 1024 // 100


def limited(**limit: Any) -> Rule:
    """A limit on everything."""
    return Rule(name="few", effect=Effect.LIMIT, agents=("*",), targets=("*",), limit=Limit(**limit))


@pytest.fixture(autouse=True)
def no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A target that is slow to cancel isn't given up in a test that a busy machine runs."""
    monkeypatch.setattr(cuts, "CUT_SECONDS", 60.0)


@contextmanager
def connected(gate: RunningGate, **options: Any) -> Iterator[psycopg.Connection]:
    """A client."""
    with psycopg.connect(gate.dsn(), autocommit=True, **options) as connection:
        yield connection


def passes(connection: psycopg.Connection, statement: LiteralString = "SELECT 1", bound: int = 200) -> int:
    """How often it passes before a limit says no."""
    for passed in range(bound):
        try:
            connection.execute(statement)
        except psycopg.errors.ConfigurationLimitExceeded:
            return passed
    raise AssertionError("no limit says no")


def test_so_many_operations_and_then_a_no_that_says_when_it_resets(
    gate: RunningGate, control: ScriptedControlPlane
) -> None:
    control.rules = (EVERYTHING, limited(operations=3))
    with connected(gate) as connection:
        assert passes(connection) == 3
        with pytest.raises(psycopg.Error) as refused:
            connection.execute("SELECT 'one too many'")
    assert "the limit of 3 operations per day for the agent is used up (rule 'few')" in str(refused.value)
    hint = refused.value.diag.message_hint
    assert hint is not None
    assert hint.startswith("Left: 0 of 3 operations. It resets at ")
    gate.wait_closed(1)
    outcome = gate.outcome_of("SELECT 'one too many'")
    assert (outcome.status, outcome.error_code) == (OutcomeStatus.DENIED, LIMIT_EXCEEDED)


@pytest.mark.parametrize("prepare", [False, True])
def test_by_the_extended_protocol_too(gate: RunningGate, control: ScriptedControlPlane, prepare: bool) -> None:
    control.rules = (EVERYTHING, limited(operations=6))
    with connected(gate) as connection:
        passed = 0
        with pytest.raises(psycopg.Error) as refused:
            for number in range(20):
                connection.execute("SELECT %s::int", (number,), prepare=prepare)
                passed += 1
    assert (passed, refused.value.sqlstate) == (6, LIMIT_EXCEEDED)


def test_a_pipeline_is_charged_in_its_order(gate: RunningGate, control: ScriptedControlPlane) -> None:
    control.rules = (EVERYTHING, limited(operations=45))
    with (
        connected(gate) as connection,
        pytest.raises(psycopg.errors.ConfigurationLimitExceeded),
        connection.pipeline() as pipeline,
    ):
        for number in range(60):
            connection.execute("SELECT %s::int", (number,))
        pipeline.sync()
    gate.wait_closed(1)
    statuses = [outcome.status for intent, outcome in gate.operations if outcome and intent.kind == "execute"]
    assert statuses[:46] == [OutcomeStatus.OK] * 45 + [OutcomeStatus.DENIED]
    assert OutcomeStatus.OK not in statuses[46:]


def test_what_is_refused_costs_nothing(gate: RunningGate, control: ScriptedControlPlane) -> None:
    never = Rule(name="never", effect=Effect.DENY, agents=("*",), targets=("*",), operations=("delete",))
    control.rules = (EVERYTHING, never, limited(operations=5))
    with connected(gate) as connection:
        for _ in range(10):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("DELETE FROM pg_class")
        assert passes(connection) == 5


def test_what_is_rejected_costs_nothing_and_what_is_deferred_neither(
    gate: RunningGate, control: ScriptedControlPlane
) -> None:
    approval = Approval(flow="dba", mode=ApprovalMode.DEFER)
    ask = Rule(
        name="ask", effect=Effect.REQUIRE_APPROVAL, agents=("*",), targets=("*",), operations=("delete",),
        approval=approval,
    )  # fmt: skip
    control.rules = (EVERYTHING, ask, limited(operations=5))
    with connected(gate) as connection:
        for _ in range(10):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute("DELETE FROM pg_class WHERE false")
        assert passes(connection) == 5


def test_what_a_limit_refuses_is_not_put_before_an_approver(gate: RunningGate, control: ScriptedControlPlane) -> None:
    ask = Rule(
        name="ask", effect=Effect.REQUIRE_APPROVAL, agents=("*",), targets=("*",), operations=("delete",),
        approval=Approval(flow="dba", mode=ApprovalMode.HOLD),
    )  # fmt: skip
    control.rules = (EVERYTHING, ask, limited(operations=2))
    with connected(gate) as connection:
        assert passes(connection) == 2
        with pytest.raises(psycopg.errors.ConfigurationLimitExceeded, match="2 operations per day"):
            connection.execute("DELETE FROM pg_class WHERE false")
    assert control.approvals == {}


@pytest.mark.parametrize("limit", [{"rows": 10_000}, {"bytes": 1_000_000}])
def test_a_statement_that_comes_to_its_limit_is_cut_and_the_session_lives_on(
    gate: RunningGate, control: ScriptedControlPlane, limit: dict[str, int]
) -> None:
    control.rules = (EVERYTHING, limited(**limit))
    with connected(gate) as connection:
        with pytest.raises(psycopg.Error) as cut:
            connection.execute(PLENTY)
        assert cut.value.sqlstate == LIMIT_EXCEEDED
        assert "the statement was cut off: the limit of" in str(cut.value)
        assert passes(connection) == 0
    gate.wait_closed(1)
    outcome = gate.outcome_of(PLENTY)
    assert (outcome.status, outcome.error_code) == (OutcomeStatus.ERROR, LIMIT_EXCEEDED)
    most = limit.get("rows", 10**9), limit.get("bytes", 10**9)
    assert outcome.rows <= most[0] + READ_ROWS
    assert outcome.bytes_out <= most[1] + 256 * 1024 + 1024


def test_copy_is_cut_as_well(gate: RunningGate, control: ScriptedControlPlane) -> None:
    control.rules = (EVERYTHING, limited(rows=10_000))
    shown = 0
    with connected(gate) as connection, connection.cursor() as cursor:
        with pytest.raises(psycopg.Error) as cut, cursor.copy(f"COPY ({PLENTY}) TO STDOUT") as copy:
            for data in copy:
                shown += bytes(data).count(b"\n")
        assert cut.value.sqlstate == LIMIT_EXCEEDED
    assert 10_000 <= shown <= 10_000 + READ_ROWS


def test_a_cut_within_a_transaction_fails_it_as_an_error_does(gate: RunningGate, control: ScriptedControlPlane) -> None:
    control.rules = (EVERYTHING, limited(bytes=1_000_000))
    with psycopg.connect(gate.dsn()) as connection:
        with pytest.raises(psycopg.Error) as cut:
            connection.execute(PLENTY, prepare=True)
        assert cut.value.sqlstate == LIMIT_EXCEEDED
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.INERROR
        connection.rollback()


def test_rows_larger_than_a_read_are_cut_at_a_row(gate: RunningGate, control: ScriptedControlPlane) -> None:
    control.rules = (EVERYTHING, limited(bytes=5_000_000))
    with connected(gate) as connection:
        with pytest.raises(psycopg.Error) as cut:
            connection.execute("SELECT repeat('x', 3000000) FROM generate_series(1, 200)")
        assert cut.value.sqlstate == LIMIT_EXCEEDED
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


@pytest.mark.parametrize("prepare", [False, True])
def test_a_statement_that_runs_too_long_is_cancelled_and_the_session_lives_on(
    gate: RunningGate, control: ScriptedControlPlane, prepare: bool
) -> None:
    control.rules = (EVERYTHING, limited(statement_seconds=1))
    began = time.monotonic()
    with connected(gate) as connection:
        with pytest.raises(psycopg.errors.QueryCanceled) as cancelled:
            connection.execute("SELECT pg_sleep(600)", prepare=prepare)
        assert "rule 'few' lets one run for 1 s" in str(cancelled.value)
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert time.monotonic() - began < 300
    gate.wait_closed(1)
    [outcome] = [outcome for intent, outcome in gate.operations if "600" in intent.text and intent.kind != "prepare"]
    assert outcome is not None
    assert (outcome.status, outcome.error_code) == (OutcomeStatus.ERROR, "57014")


def test_a_short_statement_runs_under_a_time_limit(gate: RunningGate, control: ScriptedControlPlane) -> None:
    control.rules = (EVERYTHING, limited(statement_seconds=1))
    with connected(gate) as connection:
        for number in range(20):
            assert connection.execute("SELECT %s::int", (number,)).fetchone() == (number,)
    assert gate.call(lambda: len(gate.services.budgets._pools)) == 0


def test_a_limit_per_session_starts_anew_with_each(gate: RunningGate, control: ScriptedControlPlane) -> None:
    control.rules = (EVERYTHING, limited(operations=2, per=LimitPer.SESSION))
    for _ in range(2):
        with connected(gate) as connection:
            assert passes(connection) == 2
    assert control.budgets.asked == []


def test_without_a_control_plane_what_is_limited_is_refused_and_the_rest_passes(
    gate: RunningGate, control: ScriptedControlPlane, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = Rule(
        name="few", effect=Effect.LIMIT, agents=("*",), targets=("*",), operations=("select",),
        limit=Limit(operations=100),
    )  # fmt: skip
    control.rules = (EVERYTHING, few)
    with connected(gate) as connection:
        control.has_link = False
        with pytest.raises(psycopg.Error, match="isn't known: the gate has lost its control plane"):
            connection.execute("SELECT 1")
        connection.execute("SHOW server_version")
        control.has_link = True
        [pool] = gate.services.budgets._pools.values()
        monkeypatch.setattr(pool, "_quiet_until", 0.0)
        connection.execute("SELECT 1")


def test_two_gates_share_a_budget_and_never_exceed_it(
    tmp_path: Path, gate: RunningGate, control: ScriptedControlPlane
) -> None:
    control.rules = (EVERYTHING, limited(operations=100))
    (tmp_path / "second").mkdir()
    with RunningGate(tmp_path / "second", control) as second, ThreadPoolExecutor(4) as clients:

        def work(through: RunningGate) -> int:
            with connected(through) as connection:
                return passes(connection)

        passed = sum(clients.map(work, (gate, second, gate, second)))
    assert 100 - 2 * 100 // meter.SHARE <= passed <= 100
    assert control.budgets.spent("few", Limit(operations=100)).operations == passed


def test_two_gates_exceed_a_limit_of_rows_by_one_read_of_each_running_statement(
    tmp_path: Path, gate: RunningGate, control: ScriptedControlPlane
) -> None:
    control.rules = (EVERYTHING, limited(rows=20_000))
    (tmp_path / "second").mkdir()
    with RunningGate(tmp_path / "second", control) as second, ThreadPoolExecutor(4) as clients:

        def work(through: RunningGate) -> None:
            with connected(through) as connection, pytest.raises(psycopg.Error) as cut:
                connection.execute(PLENTY)
            assert cut.value.sqlstate == LIMIT_EXCEEDED

        list(clients.map(work, (gate, second, gate, second)))
        second.wait_closed(2)
        gate.wait_closed(2)
        shown = sum(outcome.rows for one in (gate, second) for _, outcome in one.operations if outcome is not None)
    assert shown <= 20_000 + 4 * READ_ROWS
    print(f"\n{shown:,} of 20,000 rows were shown by four statements at once", end="")


def test_psql_says_it_in_words(gate: RunningGate, control: ScriptedControlPlane, psql: str) -> None:
    control.rules = (EVERYTHING, limited(rows=5_000))
    command = (psql, "-X", gate.dsn(), "-c", PLENTY)
    told = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert "ERROR:  Narrowgate: the statement was cut off: the limit of 5,000 rows per day" in told.stderr
    assert "It resets at" in told.stderr
