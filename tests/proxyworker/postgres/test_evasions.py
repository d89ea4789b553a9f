"""Attempts to get around the gate by what PostgreSQL itself makes of names, calls and settings."""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator

import msgspec
import psycopg
import pytest
from psycopg import sql

from policies.engine import Approval, ApprovalMode, Effect, Limit, LimitPer, Rule
from proxyworker.contract import OperationIntent
from proxyworker.postgres.understand.fastpath import KNOWN_FUNCTIONS
from tests.plugin.embedded import TargetPostgres
from tests.proxyworker.postgres.gate import EVERYTHING, RunningGate, ScriptedControlPlane
from tests.proxyworker.postgres.raw import RawClient, codes, rows
from tests.vectors.messages import bind, close_statement, describe_statement, execute, parse, query
from tests.vectors.postgres import frame

ASK_FIRST = Rule(
    name="ask first", effect=Effect.REQUIRE_APPROVAL, agents=("*",), targets=("*",),
    operations=("update", "delete"), approval=Approval(flow="dba"),
)  # fmt: skip
#: Everything but what is grave.
ORDINARY = Rule(name="ordinary", effect=Effect.ALLOW, agents=("*",), targets=("*",))


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


# ------------------------------------------------------------ what is called


def call(oid: int, *values: bytes) -> bytes:
    sizes = b"".join(len(value).to_bytes(4, "big") + value for value in values)
    return frame("F", struct.pack("!IHH", oid, 0, len(values)) + sizes + b"\0\0")


def number_of(target: TargetPostgres, signature: str) -> int:
    ((oid,),) = target.run(f"SELECT '{signature}'::regprocedure::oid::int")
    return int(oid)


def test_a_function_that_is_called_by_its_number_may_be_any(
    control: ScriptedControlPlane, gate: RunningGate, target_postgres: TargetPostgres
) -> None:
    control.rules = (ORDINARY,)
    dangerous = number_of(target_postgres, "set_config(text,text,boolean)")
    with RawClient(gate) as client:
        assert codes(client.ask(call(dangerous, b"search_path", b"evil", b"t"))) == ["42501"]
        assert b"evil" not in rows(client.ask(query("SHOW search_path")))[0]
    understood = gate.of(OperationIntent)[0].operation
    assert understood is not None
    assert {"server_file", "role_change", "search_path", "dblink"} <= set(understood.hazards)


def test_a_rule_for_large_objects_lets_them_be_called_by_number(
    control: ScriptedControlPlane, gate: RunningGate, target_postgres: TargetPostgres
) -> None:
    control.rules = (ORDINARY, Rule(name="large", effect=Effect.ALLOW, operations=("call",), hazards=("large_object",)))
    with RawClient(gate) as client:
        client.ask(query("BEGIN"))
        assert not codes(client.ask(call(number_of(target_postgres, "lo_creat(int)"), b"-1")))
        assert codes(client.ask(call(number_of(target_postgres, "lo_import(text)"), b"/etc/passwd"))) == ["42501"]
        client.ask(query("ROLLBACK"))
    names = {name: oid for oid, name in KNOWN_FUNCTIONS.items()}
    listed = "', '".join(names)
    found = target_postgres.run(
        "SELECT proname, oid::int FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace"
        f" AND proname IN ('{listed}')"
    )
    assert dict(found) == names


@pytest.mark.parametrize(
    "function",
    ["query_to_xml('SELECT name FROM {}', true, false, '')", "table_to_xml('{}', true, false, '')",
     "ts_stat('SELECT to_tsvector(name) FROM {}')", "pg_catalog.query_to_xml('TABLE {}', true, false, '')"],
)  # fmt: skip
@pytest.mark.parametrize("effect", [Effect.DENY, Effect.MASK])
def test_a_query_that_is_given_as_text_reads_nothing_that_a_rule_keeps_back(
    control: ScriptedControlPlane, gate: RunningGate, table: str, function: str, effect: Effect
) -> None:
    control.rules = (ORDINARY, Rule(name="kept", effect=effect, operations=("select",), objects=(f"public.{table}",)))
    with RawClient(gate) as client:
        said = client.ask(query(f"SELECT * FROM {function.format(table)}"))
        assert (codes(said), rows(said)) == (["42501"], [])
    control.rules = (ORDINARY,)
    with RawClient(gate) as client:
        assert rows(client.ask(query(f"SELECT * FROM {function.format(table)}")))


def test_a_condition_on_the_text_is_asked_of_what_is_executed(
    control: ScriptedControlPlane, gate: RunningGate, table: str
) -> None:
    prepares = Rule(name="prepares", effect=Effect.ALLOW, operations=("prepared",))
    reads = Rule(name="reads", effect=Effect.ALLOW, condition="!operation.text.contains('name')")
    control.rules = (prepares, reads)
    with RawClient(gate) as client:
        for column, refused in (("id", []), ("name", ["42501"])):
            client.ask(query(f"PREPARE {column}s AS SELECT {column} FROM {table}"))
            assert codes(client.ask(query(f"EXECUTE {column}s"))) == refused
            assert codes(client.ask_extended(parse(f"EXECUTE {column}s"), bind(), execute())) == refused


# ------------------------------------------------------------ what an approval hangs on


@pytest.fixture
def deferring(control: ScriptedControlPlane) -> ScriptedControlPlane:
    approval = Approval(flow="dba", mode=ApprovalMode.DEFER)
    control.rules = (EVERYTHING, msgspec.structs.replace(ASK_FIRST, approval=approval))
    control.refuses_approvals = False
    return control


def send_all(client: RawClient, *texts: str) -> None:
    for text in texts:
        assert not codes(client.ask(query(text))), text


def grant_last(gate: RunningGate) -> None:
    gate.control.standing_grants.add(gate.control.approvals[gate.held()[-1]][0].digest)


OWN = "SET app.tenant = 'other'"
ELSEWHERE = "SET search_path = pg_catalog, public"
#: What the session does before a statement is asked for, and before it is sent again: either has another meaning then.
MOVES: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
    ((), (OWN,)),
    ((), ("SELECT set_config('app.tenant', 'other', false)",)),
    ((OWN,), ("RESET app.tenant",)),
    ((OWN,), ("SET app.tenant TO DEFAULT",)),
    ((OWN,), ("RESET ALL",)),
    ((OWN,), ("DISCARD ALL",)),
    (("BEGIN", OWN), ("ROLLBACK",)),
    (("BEGIN", OWN), ("COMMIT",)),
    (("BEGIN", "SAVEPOINT s", OWN), ("ROLLBACK TO s",)),
    ((ELSEWHERE,), ("RESET search_path",)),
    (("BEGIN", "SET LOCAL search_path = pg_catalog, public"), ("COMMIT",)),
    (("SET ROLE NONE",), ("RESET ROLE",)),
]


@pytest.mark.parametrize(("before", "after"), MOVES)
@pytest.mark.usefixtures("deferring")
def test_a_grant_is_for_the_settings_under_which_it_was_asked(
    gate: RunningGate, table: str, count: Callable[[], int], before: tuple[str, ...], after: tuple[str, ...]
) -> None:
    statement = query(f"DELETE FROM {table}")
    with RawClient(gate) as client:
        send_all(client, *before)
        assert codes(client.ask(statement)) == ["42501"]
        grant_last(gate)
        send_all(client, *after)
        assert codes(client.ask(statement)) == ["42501"]
    assert count() == 3


@pytest.mark.parametrize("before", [(OWN,), (ELSEWHERE,), ("BEGIN", OWN, "COMMIT"), ("BEGIN", OWN, "ROLLBACK")])
@pytest.mark.usefixtures("deferring")
def test_a_grant_is_good_in_another_session_that_has_done_the_same(
    gate: RunningGate, table: str, count: Callable[[], int], before: tuple[str, ...]
) -> None:
    statement = query(f"DELETE FROM {table}")
    with RawClient(gate) as one, RawClient(gate) as other:
        for client in (one, other):
            send_all(client, *before)
        assert codes(one.ask(statement)) == ["42501"]
        grant_last(gate)
        send_all(other, "BEGIN", "SELECT 1", "COMMIT")
        assert not codes(other.ask(statement))
    assert count() == 0


@pytest.mark.usefixtures("deferring")
def test_what_fails_or_ends_within_a_pipeline_counts_too(
    gate: RunningGate, table: str, count: Callable[[], int]
) -> None:
    deleting = (parse(f"DELETE FROM {table}"), bind(), execute())
    moving = (parse("SELECT 1"), bind(), execute(), parse(OWN), bind(), execute())
    with RawClient(gate) as client:
        assert codes(client.ask_extended(*moving, *deleting)) == ["42501"]  # it is set while this waits
        grant_last(gate)
    with RawClient(gate) as client:
        failing = (parse("SELECT 1 / (random() * 0)::int"), bind(), execute())
        assert codes(client.ask_extended(*moving, *failing)) == ["22012"]  # it is not
        assert codes(client.ask_extended(*deleting)) == ["42501"]
    assert count() == 3


@pytest.mark.usefixtures("deferring")
def test_a_table_that_hides_another_counts_however_its_schema_is_written(
    gate: RunningGate, table: str, count: Callable[[], int]
) -> None:
    statement = query(f"DELETE FROM {table}")
    with RawClient(gate) as client:
        send_all(client, "CREATE TEMP TABLE other ()")
        assert codes(client.ask(statement)) == ["42501"]
        grant_last(gate)
        (row,) = rows(client.ask(query("SELECT nspname FROM pg_namespace WHERE oid = pg_my_temp_schema()")))
        send_all(client, f"CREATE TABLE {row[6:].decode()}.{table} (id int)")
        assert codes(client.ask(statement)) == ["42501"]
    assert count() == 3


@pytest.mark.usefixtures("deferring")
def test_a_grant_is_for_the_settings_that_the_session_began_with(
    gate: RunningGate, table: str, count: Callable[[], int]
) -> None:
    statement = query(f"DELETE FROM {table}")
    with RawClient(gate) as plain, RawClient(gate, options="-c app.tenant=other") as other:
        assert codes(plain.ask(statement)) == ["42501"]
        grant_last(gate)
        assert codes(other.ask(statement)) == ["42501"]
    assert count() == 3


READ_BY = (
    ("SET TimeZone = 'Asia/Tokyo'",),
    ("SET datestyle = 'SQL, DMY'",),
    ("SET IntervalStyle = 'sql_standard'",),
    ("SET client_encoding = 'LATIN1'",),
    ("SELECT set_config(lower('TIMEZONE'), 'Asia/Tokyo', false)",),
    ("BEGIN", "SET LOCAL TimeZone = 'Asia/Tokyo'"),
    ("SET transform_null_equals = on",),
    ("SET timezone_abbreviations = 'India'",),
)


@pytest.mark.parametrize("after", READ_BY)
@pytest.mark.usefixtures("deferring")
def test_a_grant_is_for_the_settings_by_which_the_text_was_read(
    gate: RunningGate, table: str, count: Callable[[], int], after: tuple[str, ...]
) -> None:
    statement = query(f"DELETE FROM {table} WHERE name <> '2026-11-12 00:00'::timestamptz::text")
    with RawClient(gate) as client:
        assert codes(client.ask(statement)) == ["42501"]
        grant_last(gate)
        send_all(client, *after)
        assert codes(client.ask(statement)) == ["42501"]
    assert count() == 3


@pytest.mark.parametrize("setting", ["TimeZone=Asia/Tokyo", "DateStyle=SQL\\,\\ DMY", "transform_null_equals=on"])
@pytest.mark.usefixtures("deferring")
def test_a_grant_is_for_the_settings_by_which_texts_were_read_from_the_start(
    gate: RunningGate, table: str, count: Callable[[], int], setting: str
) -> None:
    statement = query(f"DELETE FROM {table}")
    with RawClient(gate) as plain, RawClient(gate, options=f"-c {setting}") as other:
        assert codes(plain.ask(statement)) == ["42501"]
        grant_last(gate)
        assert codes(other.ask(statement)) == ["42501"]
    assert count() == 3


@pytest.mark.usefixtures("deferring")
def test_a_setting_that_is_not_told_yet_counts_within_a_pipeline(
    gate: RunningGate, table: str, count: Callable[[], int]
) -> None:
    deleting = (parse(f"DELETE FROM {table}"), bind(), execute())
    setting = (parse("SET TimeZone = 'Asia/Tokyo'"), bind(), execute())
    with RawClient(gate) as client:
        assert codes(client.ask_extended(*deleting)) == ["42501"]
        grant_last(gate)
        assert codes(client.ask_extended(*setting, *deleting)) == ["42501"]
    assert count() == 3


@pytest.mark.usefixtures("deferring")
def test_a_grant_is_good_again_once_the_settings_are_as_they_were(
    gate: RunningGate, table: str, count: Callable[[], int]
) -> None:
    statement = query(f"DELETE FROM {table}")
    with RawClient(gate) as client:
        assert codes(client.ask(statement)) == ["42501"]
        grant_last(gate)
        send_all(client, "SET TimeZone = 'Asia/Tokyo'", "SET application_name = 'other'")
        send_all(client, "BEGIN", "SET LOCAL DateStyle = 'SQL'", "ROLLBACK", "RESET TimeZone")
        assert not codes(client.ask(statement))
    assert count() == 0


@pytest.mark.parametrize("is_extended", [False, True])
@pytest.mark.usefixtures("deferring")
def test_approvers_see_the_text_of_what_is_executed(gate: RunningGate, table: str, *, is_extended: bool) -> None:
    prepared = f"PREPARE p AS DELETE FROM {table} WHERE id = 2"
    with RawClient(gate) as client:
        send_all(client, prepared)
        one = "EXECUTE p"
        client.ask_extended(parse(one), bind(), execute()) if is_extended else client.ask(query(one))
        (asked,) = gate.control.approvals[gate.held()[0]]
    assert asked.intent.text.startswith(one)
    assert prepared in asked.intent.text
    assert asked.intent.text_bytes == len(asked.intent.text.encode())
    assert one in [intent.text for intent, _ in gate.operations]  # the record has what the agent sent


# ------------------------------------------------------------ limits


@pytest.mark.parametrize("hold", ["", "WITH HOLD"])
def test_a_cursor_is_under_the_limits_of_what_it_shows(
    control: ScriptedControlPlane, gate: RunningGate, table: str, hold: str
) -> None:
    few = Rule(
        name="few", effect=Effect.LIMIT, agents=("*",), targets=("*",), operations=("select",),
        limit=Limit(per=LimitPer.SESSION, rows=1),
    )  # fmt: skip
    control.rules = (EVERYTHING, few)
    with RawClient(gate) as client:
        send_all(client, "BEGIN", f"DECLARE c CURSOR {hold} FOR SELECT id FROM {table} ORDER BY id")
        if hold:
            send_all(client, "COMMIT")
        said = client.ask(query("FETCH 2 FROM c"))  # what comes in one go may be over
        assert (codes(said), len(rows(said))) == ([], 2)
        said = client.ask(query("FETCH c"))
        assert (codes(said), len(rows(said))) == (["53400"], 0)
