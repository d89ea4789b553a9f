"""Limits of distinct values, with ordinary clients through the gate to a real target: what counts, and as how much."""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import pytest

from policies.engine import Effect, Limit, LimitPer, Policy, Rule
from proxyworker.contract import OutcomeStatus
from proxyworker.postgres import cuts
from proxyworker.postgres.errors import LIMIT_EXCEEDED
from tests.plugin.embedded import TargetPostgres
from tests.proxyworker.postgres.gate import EVERYTHING, RunningGate, ScriptedControlPlane
from tests.proxyworker.postgres.raw import RawClient, codes
from tests.vectors.messages import bind, execute, function_call, parse, query

#: Names of one kind a test: the target is shared, and its catalog with it.
_numbers = itertools.count()
Few = psycopg.errors.ConfigurationLimitExceeded


@pytest.fixture(autouse=True)
def no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """A target that is slow to cancel isn't given up in a test that a busy machine runs, nor asked too early."""
    monkeypatch.setattr(cuts, "CUT_SECONDS", 60.0)
    monkeypatch.setattr(cuts, "GRACE_SECONDS", 30.0)


@pytest.fixture
def shop(target_postgres: TargetPostgres, control: ScriptedControlPlane) -> Iterator[Shop]:
    """A schema of customers and orders, the customers' e-mails labelled, at most 5 of them a day."""
    schema = f"values{next(_numbers)}"
    own: dict[str, Any] = {"user": "scram", "password": target_postgres.password, "dbname": target_postgres.database}
    with psycopg.connect(host=target_postgres.host, port=target_postgres.port, autocommit=True, **own) as admin:

        def run(text: str) -> None:
            asked: LiteralString = text.replace("shop.", f"{schema}.")
            admin.execute(asked)

        run(f"CREATE SCHEMA {schema}")
        run("CREATE TABLE shop.customers (id int PRIMARY KEY, email text, card int8, name varchar(40))")
        run(
            "INSERT INTO shop.customers SELECT g, g || '@example.com', 4000 + g, 'n' || g FROM generate_series(1, 40) g"
        )
        run("INSERT INTO shop.customers VALUES (100, NULL, NULL, 'nobody')")
        run("CREATE TABLE shop.orders (id int, customer int)")
        run("INSERT INTO shop.orders SELECT g, 1 + g % 3 FROM generate_series(1, 30) g")
        run("CREATE VIEW shop.book AS SELECT id, lower(email) AS mail FROM shop.customers")
        run("CREATE VIEW shop.names AS SELECT id, name FROM shop.customers")
        run("CREATE VIEW shop.all_mails AS SELECT string_agg(email, ',') AS mails FROM shop.customers")
        control.labelled = {f"{schema}.customers.email": ("email", "pii"), f"{schema}.customers.card": ("card", "pii")}
        control.rules = (EVERYTHING, few(5))
        try:
            yield Shop(control, schema, run)
        finally:
            run(f"DROP SCHEMA {schema} CASCADE")


def few(distinct: int, *labels: str, name: str = "few", **limit: Any) -> Rule:
    """A limit on values for everybody."""
    counted = Limit(**{"distinct": distinct, "labels": labels or ("email",), **limit})
    return Rule(name=name, effect=Effect.LIMIT, agents=("*",), targets=("*",), limit=counted)


class Shop:
    """The schema behind the gate. `admin` runs a text on the target itself."""

    def __init__(self, control: ScriptedControlPlane, schema: str, admin: Callable[[str], None]) -> None:
        self.control = control
        self.schema = schema
        self.admin = admin

    def used(self, distinct: int = 5) -> int:
        """How many values count as shown."""
        return self.control.budgets.distinct("few", Limit(distinct=distinct, labels=("email",)))

    def ask(self, connection: psycopg.Connection, text: str, *values: Any, **options: Any) -> list[tuple[Any, ...]]:
        """What the gate shows."""
        asked: LiteralString = text.replace("shop.", f"{self.schema}.")
        return connection.execute(asked, values or None, **options).fetchall()


def connected(gate: RunningGate, **options: Any) -> psycopg.Connection:
    """A client."""
    return psycopg.connect(gate.dsn(), autocommit=True, **options)


@pytest.mark.parametrize("options", [{}, {"prepare": True}, {"binary": True}, {"prepare": True, "binary": True}])
def test_each_value_counts_once_however_often_it_is_shown(gate: RunningGate, shop: Shop, options: Any) -> None:
    with connected(gate) as connection:
        for _ in range(3):
            rows = shop.ask(connection, "SELECT id, email FROM shop.customers WHERE id <= %s", 3, **options)
            assert rows == [(g, f"{g}@example.com") for g in (1, 2, 3)]
        assert shop.used() == 3
        shop.ask(connection, "SELECT email FROM shop.customers WHERE id IN (1, 2, 4, 5)", **options)
        assert shop.used() == 5
        with pytest.raises(Few, match=r"the limit of 5 distinct values of email per day for the agent is used up"):
            shop.ask(connection, "SELECT email FROM shop.customers WHERE id = 6", **options)
        shop.ask(connection, "SELECT email FROM shop.customers WHERE id <= 5", **options)
    assert shop.used() == 5


def test_the_row_that_would_be_one_too_many_is_not_shown_and_the_session_goes_on(
    gate: RunningGate, shop: Shop, psql: str
) -> None:
    text = f"SELECT email FROM {shop.schema}.customers ORDER BY id"
    command = (psql, "-X", "-A", "-t", gate.dsn(), "-c", text, "-c", "SELECT 'still here'")
    told = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert "still here" in told.stdout
    assert "ERROR:  Narrowgate: the statement was cut off: the limit of 5 distinct values of email" in told.stderr
    assert "Left: 0 of 5. Values shown before may be shown again. It resets at " in told.stderr
    gate.wait_closed(1)
    outcome = gate.outcome_of(text)
    assert (outcome.status, outcome.error_code, outcome.rows) == (OutcomeStatus.ERROR, LIMIT_EXCEEDED, 5)
    assert shop.used() == 5


def test_an_answer_of_many_reads_is_cut_at_the_row_too(gate: RunningGate, shop: Shop) -> None:
    shop.control.rules = (EVERYTHING, few(10_000))
    shop.admin("INSERT INTO shop.customers SELECT g, g || '@example.com', g FROM generate_series(1000, 30000) g")
    with connected(gate) as connection:
        with pytest.raises(Few):
            shop.ask(connection, "SELECT email, repeat('x', 50) FROM shop.customers")
        assert connection.execute("SELECT 1").fetchone() == (1,)
    gate.wait_closed(1)
    [outcome] = [outcome for intent, outcome in gate.operations if "repeat" in intent.text]
    assert outcome is not None
    assert outcome.rows == 10_001  # one customer has none
    assert shop.used(10_000) == 10_000


def test_what_goes_on_after_its_limit_is_cancelled(
    gate: RunningGate, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cuts, "GRACE_SECONDS", 0.01)
    # Made row by row, and a thousand times what a busy machine sends until it is cancelled.
    numbers = "SELECT 1 + generate_series(1, 1000000000) % 40 AS id"
    text = f"SELECT c.email FROM ({numbers}) g CROSS JOIN LATERAL (SELECT email FROM shop.customers WHERE id = g.id) c"
    with connected(gate) as connection:
        with pytest.raises(Few):
            shop.ask(connection, text)
        assert connection.execute("SELECT 1").fetchone() == (1,)
    gate.wait_closed(1)
    [outcome] = [outcome for intent, outcome in gate.operations if "LATERAL" in intent.text]
    assert outcome is not None
    assert (outcome.rows, shop.used()) == (5, 5)


def test_what_holds_no_labelled_value_is_free(gate: RunningGate, shop: Shop) -> None:
    with connected(gate) as connection:
        for text in (
            "SELECT id, name FROM shop.customers",
            "SELECT count(*), max(name), string_agg(name, ',') FROM shop.customers",
            "SELECT o.id, upper(c.name) FROM shop.orders o JOIN shop.customers c ON c.id = o.customer",
            "SELECT * FROM shop.names",
            "SELECT email FROM shop.customers WHERE id = 100",
            "SELECT relname FROM pg_class",
        ):
            shop.ask(connection, text)
        assert shop.used() == 0


@pytest.mark.parametrize(
    ("text", "used"),
    [
        ("SELECT c.email AS other FROM shop.customers c WHERE id = 1", 1),
        ("SELECT * FROM shop.customers WHERE id IN (1, 2)", 2),
        ("SELECT e FROM (SELECT email AS e FROM shop.customers WHERE id = 1) x", 1),
        ("SELECT a.email, b.email FROM shop.customers a, shop.customers b WHERE a.id = 1 AND b.id IN (1, 2)", 2),
        ("SELECT o.id, c.email FROM shop.orders o JOIN shop.customers c ON c.id = o.customer WHERE c.id < 3", 2),
        ("WITH x AS (SELECT email FROM shop.customers WHERE id < 4) SELECT * FROM x", 3),
        ("SELECT lower(email) FROM shop.customers WHERE id = 1", 1),
        ("SELECT lower(email) FROM shop.customers WHERE id IN (1, 1, 2)", 2),
        ("SELECT 'x' || email FROM shop.customers WHERE id = 1", 1),
        ("SELECT c FROM shop.customers c WHERE id = 1", 1),
        ("SELECT a.email || b.email FROM shop.customers a JOIN shop.customers b ON b.id = a.id + 1 WHERE a.id = 1", 2),
        ("SELECT max(email) FROM shop.customers", 2),
        ("SELECT email, now(), 1 + 1, repeat('x', 5) FROM shop.customers WHERE id IN (1, 2)", 2),
        ("SELECT email, length(name) FROM shop.customers WHERE id IN (1, 2)", 4),
        ("SELECT email FROM shop.customers WHERE id = 1 UNION SELECT email FROM shop.customers WHERE id = 2", 4),
        ("SELECT mail FROM shop.book WHERE id IN (1, 2)", 2),
        ("DELETE FROM shop.customers WHERE id = 1 RETURNING email", 1),
        ("UPDATE shop.customers SET name = 'x' WHERE id = 1 RETURNING email", 1),
    ],
)
def test_what_is_made_of_values_counts_for_all_that_it_may_show(
    gate: RunningGate, shop: Shop, text: str, used: int
) -> None:
    shop.control.rules = (EVERYTHING, few(40))
    with connected(gate) as connection:
        shop.ask(connection, text)
        shop.ask(connection, text, prepare=True)
    assert used <= shop.used(40) <= 2 * used


@pytest.mark.parametrize(
    "text",
    [
        "SELECT string_agg(email, ',') FROM shop.customers",
        "SELECT array_agg(c) FROM shop.customers c",
        "SELECT ARRAY(SELECT email FROM shop.customers)",
        "SELECT json_agg(c) FROM shop.customers c",
        "SELECT * FROM shop.all_mails",
        "SELECT most_common_vals FROM pg_stats",
        "WITH RECURSIVE x(n, e) AS (SELECT 1, '' UNION SELECT n+1, e || email FROM x, shop.customers) SELECT e FROM x",
        "INSERT INTO shop.orders SELECT id, length(email) FROM shop.customers",
        "UPDATE shop.customers SET name = email",
        "CREATE TABLE shop.copy AS SELECT * FROM shop.customers",
        "SELECT email INTO shop.copy FROM shop.customers",
        "CREATE VIEW shop.v AS SELECT email FROM shop.customers",
        "DECLARE c CURSOR WITH HOLD FOR SELECT string_agg(email, ',') FROM shop.customers",
        "PREPARE p AS SELECT string_agg(email, ',') FROM shop.customers; EXECUTE p",
    ],
)
def test_what_could_show_any_number_or_keep_them_elsewhere_is_refused(gate: RunningGate, shop: Shop, text: str) -> None:
    with connected(gate) as connection:
        with pytest.raises(Few, match="rule 'few' limits distinct values of email, and "):
            shop.ask(connection, text)
        assert connection.execute("SELECT 1").fetchone() == (1,)
    assert shop.used() == 0


def test_copy_counts_each_row(gate: RunningGate, shop: Shop) -> None:
    shown = 0
    text: LiteralString = f"COPY {shop.schema}.customers TO STDOUT"
    with connected(gate) as connection, connection.cursor() as cursor:
        with pytest.raises(Few), cursor.copy(text) as copy:
            for _ in copy:
                shown += 1
        with cursor.copy(text.replace("customers", "orders")) as copy:
            assert sum(1 for _ in copy) == 30
    assert (shown, shop.used()) == (5, 5)


def test_cursors_show_values_as_select_does(gate: RunningGate, shop: Shop) -> None:
    with psycopg.connect(gate.dsn()) as connection:
        name: LiteralString = "c"
        with connection.cursor(name) as cursor:
            text: LiteralString = f"SELECT email FROM {shop.schema}.customers ORDER BY id"
            cursor.execute(text)
            assert len(cursor.fetchmany(2)) == 2
            assert shop.used() == 2
            assert len(cursor.fetchmany(3)) == 3
            with pytest.raises(Few):
                cursor.fetchmany(1)
        connection.rollback()
    assert shop.used() == 5


def test_a_table_made_anew_counts_by_its_rows(gate: RunningGate, shop: Shop) -> None:
    with connected(gate) as connection:
        shop.ask(connection, "SELECT email FROM shop.customers WHERE id = 1")
        shop.admin("DROP TABLE shop.customers CASCADE")
        shop.admin("CREATE TABLE shop.customers (id int, email text)")
        shop.admin("INSERT INTO shop.customers SELECT g, '1@example.com' FROM generate_series(1, 40) g")
        with pytest.raises(Few, match="every row of this counts as a new value"):
            shop.ask(connection, "SELECT email FROM shop.customers")
        assert shop.used() == 5


def test_a_column_made_anew_counts_by_its_rows(gate: RunningGate, shop: Shop) -> None:
    with connected(gate) as connection:
        shop.ask(connection, "SELECT email FROM shop.customers WHERE id = 1")
        shop.admin("ALTER TABLE shop.customers DROP COLUMN email CASCADE")
        shop.admin("ALTER TABLE shop.customers ADD COLUMN email text DEFAULT 'x'")
        with pytest.raises(Few):
            shop.ask(connection, "SELECT email FROM shop.customers")


def test_partitions_and_parents_show_the_same_values(gate: RunningGate, shop: Shop) -> None:
    shop.admin("CREATE TABLE shop.people (n int, email text)")
    shop.admin("CREATE TABLE shop.members (extra int) INHERITS (shop.people)")
    shop.admin("INSERT INTO shop.members SELECT g, g || '@x', 1 FROM generate_series(1, 3) g")
    shop.control.rules = (EVERYTHING, few(5, columns=(f"{shop.schema}.members.email",)))
    with connected(gate) as connection:
        shop.ask(connection, "SELECT email FROM shop.people")
        shop.ask(connection, "SELECT email, extra FROM shop.members")
    assert shop.used() == 3


@pytest.mark.parametrize(
    "text",
    [
        "SELECT email::int FROM shop.customers WHERE id = 7",
        "SELECT string_agg(email, ',')::int FROM shop.customers",
        "DELETE FROM shop.customers WHERE email::int = 1",
        "SELECT mails::int FROM shop.all_mails",
        "COPY (SELECT email::int FROM shop.customers) TO STDOUT",
    ],
)
@pytest.mark.parametrize("is_prepared", [False, True])
def test_no_error_quotes_a_value(gate: RunningGate, shop: Shop, text: str, is_prepared: bool) -> None:
    with RawClient(gate) as client:
        asked = text.replace("shop.", f"{shop.schema}.")
        answer = client.ask_extended(parse(asked), bind(), execute()) if is_prepared else client.ask(query(asked))
        assert codes(answer) == ["22P02"]
        assert b"@example.com" not in client.received
        assert not codes(client.ask(query("SELECT 1")))
    assert shop.used() == 0


def test_no_notice_quotes_a_value(gate: RunningGate, shop: Shop) -> None:
    raising = "BEGIN RAISE NOTICE '%', (SELECT string_agg(email, ',') FROM shop.customers); END"
    with RawClient(gate) as client:
        client.ask(query(f"DO $${raising}$$".replace("shop.", f"{shop.schema}.")))
        client.ask(query("SELECT 1"))
        assert b"@example.com" not in client.received


def test_an_error_that_is_about_no_value_is_told(gate: RunningGate, shop: Shop) -> None:
    with connected(gate) as connection, pytest.raises(psycopg.errors.UndefinedColumn, match="emial"):
        shop.ask(connection, "SELECT emial FROM shop.customers")


def test_a_function_called_by_number_is_refused(gate: RunningGate, shop: Shop) -> None:
    with RawClient(gate) as client:
        assert codes(client.ask(function_call(2559))) == [LIMIT_EXCEEDED]


def test_two_gates_share_a_count_and_never_exceed_it(
    tmp_path: Path, gate: RunningGate, shop: Shop, control: ScriptedControlPlane
) -> None:
    control.rules = (EVERYTHING, few(20))
    (tmp_path / "second").mkdir()
    with RunningGate(tmp_path / "second", control) as second, ThreadPoolExecutor(4) as clients:

        def work(place: int) -> set[str]:
            seen: set[str] = set()
            with connected((gate, second)[place % 2]) as connection:
                for step in range(40):
                    try:
                        asked = 1 + (step + 10 * place) % 40
                        rows = shop.ask(connection, "SELECT email FROM shop.customers WHERE id = %s", asked)
                        seen.update(row[0] for row in rows)
                    except Few:
                        continue
            return seen

        shown = set[str]().union(*clients.map(work, range(4)))
    assert len(shown) == 20
    assert shop.used(20) == 20


def test_without_a_control_plane_what_is_new_is_refused(gate: RunningGate, shop: Shop) -> None:
    with connected(gate) as connection:
        shop.ask(connection, "SELECT email FROM shop.customers WHERE id = 1")
        shop.control.has_link = False
        with pytest.raises(Few, match="isn't known: the gate has lost its control plane"):
            shop.ask(connection, "SELECT email FROM shop.customers WHERE id = 2")
        shop.ask(connection, "SELECT name FROM shop.customers")
    assert shop.used() == 1


def test_a_session_of_its_own_starts_anew_and_asks_nobody(gate: RunningGate, shop: Shop) -> None:
    shop.control.rules = (EVERYTHING, few(2, per=LimitPer.SESSION))
    for _ in range(2):
        with connected(gate) as connection:
            shop.ask(connection, "SELECT email FROM shop.customers WHERE id <= 2")
            with pytest.raises(Few, match="A new session starts anew"):
                shop.ask(connection, "SELECT email FROM shop.customers WHERE id = 3")
    assert shop.control.budgets.counted == []


def test_labels_that_change_hold_from_the_next_statement_on(gate: RunningGate, shop: Shop) -> None:
    with connected(gate) as connection:
        shop.ask(connection, "SELECT name FROM shop.customers")
        assert shop.used() == 0
        labelled: dict[str, dict[str, tuple[str, ...]]] = {"shop": {f"{shop.schema}.customers.name": ("email",)}}
        policy = Policy(version="test@1", rules=shop.control.rules, labelled=labelled)
        gate.call(lambda: gate.services.live.use_policy(policy))
        with pytest.raises(Few):
            shop.ask(connection, "SELECT name FROM shop.customers")
        shop.ask(connection, "SELECT email FROM shop.customers")
    assert shop.used() == 5


def test_columns_of_several_labels_and_rules_are_counted_together_and_apart(gate: RunningGate, shop: Shop) -> None:
    shop.control.rules = (EVERYTHING, few(5, "pii"), few(3, "card", name="cards"))
    with connected(gate) as connection:
        shop.ask(connection, "SELECT email, card FROM shop.customers WHERE id = 1", binary=True)
        shop.ask(connection, "SELECT card FROM shop.customers WHERE id IN (1, 2)", binary=True)
        assert shop.used() == 3
        with pytest.raises(Few, match="3 distinct values of card"):
            shop.ask(connection, "SELECT card FROM shop.customers WHERE id IN (3, 4)", binary=True)


def test_redis_and_the_link_hold_no_value(gate: RunningGate, shop: Shop) -> None:
    with connected(gate) as connection:
        shop.ask(connection, "SELECT email FROM shop.customers WHERE id <= 3")
    told = b"".join(one["values"] for one in shop.control.budgets.counted)
    assert len(told) == 3 * 16
    assert b"example" not in told
