"""Sessions through the gate with psycopg: what the client sees, and what is on record."""

from __future__ import annotations

import psycopg
import pytest

from proxyworker.contract import OutcomeStatus
from tests.proxyworker.postgres.gate import RunningGate


def test_a_select_gives_its_rows_and_is_on_record(gate: RunningGate) -> None:
    with psycopg.connect(gate.dsn(application_name="reader"), autocommit=True) as connection:
        rows = connection.execute("SELECT g, 'row ' || g FROM generate_series(1, 3) g").fetchall()
    assert rows == [(1, "row 1"), (2, "row 2"), (3, "row 3")]
    gate.wait_closed(1)
    outcome = gate.outcome_of("SELECT g, 'row ' || g FROM generate_series(1, 3) g")
    assert (outcome.status, outcome.rows, outcome.tags) == (OutcomeStatus.OK, 3, ("SELECT 3",))
    assert outcome.bytes_out > 0
    (session,) = gate.sessions
    assert (session.client_name, session.target, session.principal.name) == ("reader", "shop", "reporter")
    assert session.tls.version.startswith("TLSv1.")


def test_an_error_reaches_the_agent_and_the_record(gate: RunningGate) -> None:
    with psycopg.connect(gate.dsn(), autocommit=True) as connection:
        with pytest.raises(psycopg.errors.DivisionByZero):
            connection.execute("SELECT 1/0")
        assert connection.execute("SELECT 1").fetchall() == [(1,)]
    outcome = gate.outcome_of("SELECT 1/0")
    assert (outcome.status, outcome.error_code) == (OutcomeStatus.ERROR, "22012")
