"""Each statement decided on by what it does, with ordinary clients."""

from __future__ import annotations

import subprocess

import psycopg
import pytest

from policies.engine import Effect, Rule
from proxyworker.contract import OutcomeStatus
from tests.plugin.embedded import TargetPostgres
from tests.proxyworker.postgres.gate import RunningGate, ScriptedControlPlane


@pytest.fixture
def control(control: ScriptedControlPlane, target_postgres: TargetPostgres) -> ScriptedControlPlane:
    """An analyst: may read some columns of one table, with what an ordinary client needs around it."""
    target_postgres.run("DROP TABLE IF EXISTS public.people")
    target_postgres.run("CREATE TABLE public.people AS SELECT 1 AS id, 'Ada' AS name, 'ada@acme.example' AS email")
    target_postgres.run("GRANT ALL ON public.people TO PUBLIC")
    control.rules = (
        Rule(
            name="session", effect=Effect.ALLOW, agents=("*",), targets=("*",),
            operations=("set", "show", "transaction", "cursor", "prepared"),
        ),
        Rule(
            name="names", effect=Effect.ALLOW, agents=("*",), targets=("*",),
            operations=("select", "copy_out", "explain"), objects=("public.people",), columns=("id", "name"),
        ),
    )  # fmt: skip
    return control


ALLOWED = (
    "SELECT 1", "SELECT id, name FROM people", "SELECT p.name FROM public.people p WHERE p.id = 1", "BEGIN; COMMIT",
    "SELECT count(*) FROM people", "EXPLAIN SELECT name FROM people", "COPY people (name) TO STDOUT",
    "WITH p AS (SELECT name FROM people) SELECT * FROM p", "SHOW search_path", "SET work_mem = '1MB'", "",
)  # fmt: skip
DENIED = (
    "SELECT * FROM people", "SELECT email FROM people", "SELECT people FROM people",
    "SELECT name FROM people WHERE email > 'a'",
    "TABLE people", "COPY people TO STDOUT", "UPDATE people SET name = 'x' WHERE id = 1", "DELETE FROM people",
    "SELECT name FROM people; DROP TABLE people", "SELECT name FROM people, pg_class", "DO $$ BEGIN END $$",
    "SELECT row_to_json(p) FROM people p", "SELECT x FROM people AS p(i, n, x)", "SELECT pg_read_file('/etc/passwd')",
    "SELECT query_to_xml('TABLE people', true, true, '')", "EXPLAIN ANALYZE DELETE FROM people",
    "SELEC name FROM people",
    "COPY (SELECT name FROM people) TO PROGRAM 'cat'", "CREATE VIEW v AS SELECT name FROM people", "EXECUTE unheard_of",
    "SET ROLE postgres", "SELECT name FROM people FOR UPDATE", "SELECT email FROM (SELECT * FROM people) p",
)  # fmt: skip


def test_psql_may_do_what_the_rules_say_and_hears_why_not(gate: RunningGate, psql: str) -> None:
    script = "".join(f"{text};\n" for text in (*ALLOWED, *DENIED))
    done = subprocess.run(
        [psql, gate.dsn(), "-AtX"], input=script, capture_output=True, text=True, timeout=60, check=True
    )
    gate.wait_closed(1)
    status = {intent.text.rstrip(";"): outcome.status for intent, outcome in gate.operations if outcome is not None}
    singly = [part for text in (*ALLOWED, *DENIED) for part in text.split("; ") if part]  # psql sends one at a time
    refused = {text for text in singly if status[text] is OutcomeStatus.DENIED}
    assert refused == {*DENIED, "DROP TABLE people"} - {"SELECT name FROM people; DROP TABLE people"}
    assert "ERROR:  Narrowgate: " in done.stderr
    assert "ada@acme.example" not in done.stdout + done.stderr


@pytest.mark.parametrize("text", DENIED)
def test_the_same_holds_for_the_extended_protocol(gate: RunningGate, text: str) -> None:
    with psycopg.connect(gate.dsn(), autocommit=True) as connection:
        result = connection.pgconn.exec_params(text.encode(), [])
        assert result.error_field(psycopg.pq.DiagnosticField.SQLSTATE) == b"42501"
        assert connection.execute("SELECT name FROM people").fetchone() == ("Ada",)


def test_what_is_understood_is_on_record(gate: RunningGate) -> None:
    with psycopg.connect(gate.dsn(), autocommit=True) as connection:
        connection.execute("SELECT name FROM people")
        connection.execute("SELECT 1")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("DELETE FROM people")
    understood = [intent.operation for intent, _ in gate.operations]
    assert understood[0] is not None
    assert [tuple(one) for one in [(a.kind, a.object, a.columns) for a in understood[0].accesses]] == [
        ("select", "people", ("name",))
    ]
    assert understood[1] is None  # nothing beyond its text
    assert understood[2] is not None
    assert understood[2].hazards == ("delete_without_where",)


UNREAD = (
    ("SELEC name FROM people", 'syntax error at or near "SELEC" (character 1)', "Correct the statement"),
    ("SELECT name FROM", "syntax error at end of input", "Correct the statement"),
    (f"SELEC {'x' * 70_000}", "it is too long", "smaller statements"),
    (f"SELECT {'NOT ' * 3_000}true", "this statement can't be read", "end it"),
)


@pytest.mark.parametrize(("text", "problem", "help_"), UNREAD)
def test_a_statement_that_cant_be_read_is_refused_with_the_parsers_words(
    control: ScriptedControlPlane, gate: RunningGate, text: str, problem: str, help_: str
) -> None:
    never = Rule(name="never", effect=Effect.DENY, agents=("*",), targets=("*",), hazards=("drop",), reason="no drops")
    control.rules = (*control.rules, never)
    with psycopg.connect(gate.dsn(), autocommit=True) as connection, pytest.raises(psycopg.Error) as refused:
        connection.execute(text.encode())
    said = refused.value.diag
    assert said.sqlstate == "42501"
    assert said.message_primary is not None and problem in said.message_primary  # noqa: PT018  # one thing
    assert "no drops" not in said.message_primary
    assert said.message_hint is not None and help_ in said.message_hint  # noqa: PT018
