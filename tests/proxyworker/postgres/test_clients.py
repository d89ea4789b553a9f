"""Ordinary clients, unchanged but for address and password: psql, psycopg, asyncpg, SQLAlchemy, pgbench."""

from __future__ import annotations

import contextlib
import hashlib
import os
import ssl
import subprocess
import threading
import time
from pathlib import Path

import asyncpg
import psycopg
import pytest
import sqlalchemy
import zstandard
from psycopg import sql

from policies.engine import Effect, Policy, Rule
from proxyworker.contract import Direction, OutcomeStatus
from proxyworker.journal import Codec
from tests.proxyworker.postgres.gate import PATIENCE_SECONDS, TOKEN, RunningGate
from tests.proxyworker.postgres.raw import RawClient, codes
from tests.proxyworker.postgres.raw import rows as rows_of
from tests.vectors.messages import COPY_DONE, SYNC, bind, describe_portal, execute, parse, query
from tests.vectors.postgres import frame


def run_psql(psql: str, gate: RunningGate, script: str, *, check: bool = True) -> str:
    done = subprocess.run(
        [psql, gate.dsn(), "-AtX", "-v", "ON_ERROR_STOP=1"],
        input=script, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0 or not check, done.stderr
    return done.stdout + done.stderr


def count_of(client: RawClient, table: str) -> int:
    (row,) = rows_of(client.ask(query(f"SELECT count(*) FROM {table}")))
    return int(row[6:])


@pytest.fixture
def table(gate: RunningGate) -> str:
    """A table of the test's own with three rows."""
    name = f"t_{time.monotonic_ns()}"
    with psycopg.connect(gate.dsn(), autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE TABLE {} (id int PRIMARY KEY, name text)").format(sql.Identifier(name)))
        connection.execute(sql.SQL("INSERT INTO {} VALUES (1, 'a'), (2, 'b'), (3, NULL)").format(sql.Identifier(name)))
    return name


# ---------------------------------------------------------------- psql


def test_psql_describes_a_table(gate: RunningGate, psql: str, table: str) -> None:
    assert "id|integer||not null|" in run_psql(psql, gate, f"\\d {table}\n")


def test_psql_copies_out_and_in(gate: RunningGate, psql: str, table: str, tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    run_psql(psql, gate, f"\\copy {table} TO '{file}' CSV\n")
    assert file.read_text() == "1,a\n2,b\n3,\n"
    file.write_text("4,d\n5,e\n")
    assert "COPY 2" in run_psql(psql, gate, f"\\copy {table} FROM '{file}' CSV\n")
    assert run_psql(psql, gate, f"SELECT count(*) FROM {table};") == "5\n"
    outcome = gate.outcome_of(f"COPY  {table} FROM STDIN CSV")
    assert (outcome.rows, outcome.tags, outcome.bytes_in) == (2, ("COPY 2",), len("4,d\n5,e\n") + 5)
    sent = [piece for piece in gate.journal.content if piece.direction is Direction.FROM_AGENT]
    assert b"4,d\n5,e\n" in b"".join(piece.data for piece in sent)


def test_a_copy_that_the_target_refuses_leaves_the_session_usable(
    gate: RunningGate, psql: str, table: str, tmp_path: Path
) -> None:
    file = tmp_path / "bad.csv"
    file.write_text("x,y\n" * 50_000)
    said = run_psql(psql, gate, f"\\set ON_ERROR_STOP 0\n\\copy {table} FROM '{file}' CSV\nSELECT 'still here';\n")
    assert "invalid input syntax" in said
    assert "still here" in said


def test_psql_watches(gate: RunningGate, psql: str) -> None:
    assert run_psql(psql, gate, "SELECT 7 \\watch i=0.05 c=3\n").split() == ["7", "7", "7"]


def test_psql_runs_several_statements_of_one_message(gate: RunningGate, psql: str) -> None:
    done = subprocess.run(
        [psql, gate.dsn(), "-AtX", "-c", "SELECT 1; SELECT 2 UNION ALL SELECT 3; SET work_mem = '1MB'"],
        capture_output=True, text=True, timeout=30, check=True,
    )  # fmt: skip
    assert done.stdout == "1\n2\n3\nSET\n"
    outcome = gate.outcome_of("SELECT 1; SELECT 2 UNION ALL SELECT 3; SET work_mem = '1MB'")
    assert (outcome.rows, outcome.tags) == (3, ("SELECT 1", "SELECT 2", "SET"))


# ---------------------------------------------------------------- psycopg 3


def test_psycopg_pipelines(gate: RunningGate, table: str) -> None:
    insert = sql.SQL("INSERT INTO {} VALUES (%s, %s)").format(sql.Identifier(table))
    with psycopg.connect(gate.dsn()) as connection, connection.pipeline():
        cursors = [connection.execute(insert, (number, str(number))) for number in range(10, 60)]
        count = connection.execute(sql.SQL("SELECT count(*) FROM {}").format(sql.Identifier(table)))
        assert count.fetchone() == (53,)
        assert [cursor.rowcount for cursor in cursors] == [1] * 50
    gate.wait_closed(2)
    inserts = [(i, o) for i, o in gate.operations if i.kind == "execute" and i.text.startswith("INSERT")]
    assert [i.parameters[0].value for i, _ in inserts] == [f"{number:04x}" for number in range(10, 60)]
    assert {o.status if o else None for _, o in inserts} == {OutcomeStatus.OK}


def test_an_error_in_a_pipeline_skips_the_rest_of_it_on_record_too(gate: RunningGate, table: str) -> None:
    insert = sql.SQL("INSERT INTO {} VALUES (%s, 'x')").format(sql.Identifier(table))
    with psycopg.connect(gate.dsn(), autocommit=True) as connection:
        with pytest.raises(psycopg.errors.UniqueViolation), connection.pipeline():
            for number in (100, 1, 101):
                connection.execute(insert, (number,))
        assert connection.execute("SELECT 'usable'").fetchone() == ("usable",)
    gate.wait_closed(2)
    statuses = [
        (o.status, o.error_code)
        for i, o in gate.operations
        if o is not None and i.kind == "execute" and i.text.startswith("INSERT")
    ]
    assert statuses == [(OutcomeStatus.OK, ""), (OutcomeStatus.ERROR, "23505"), (OutcomeStatus.ERROR, "")]


def test_psycopg_reads_by_server_cursor(gate: RunningGate) -> None:
    with psycopg.connect(gate.dsn()) as connection, connection.cursor(name="walk") as cursor:
        cursor.itersize = 100
        cursor.execute("SELECT g FROM generate_series(1, 1000) g")
        assert sum(row[0] for row in cursor) == 500_500


def test_psycopg_exchanges_binary_values(gate: RunningGate) -> None:
    value = bytes(range(256)) * 100
    with psycopg.connect(gate.dsn(), autocommit=True) as connection:
        row = connection.execute("SELECT %b::bytea, %b::int8, %b::text", (value, 2**40, "ü"), binary=True).fetchone()
    assert row == (value, 2**40, "ü")
    (intent,) = [intent for intent, _ in gate.operations if intent.parameters]
    assert intent.parameters[0].binary
    assert bytes.fromhex(intent.parameters[0].value or "") == value[: 8 * 1024]
    assert intent.parameters[0].truncated_bytes == len(value) - 8 * 1024


def test_a_long_statement_and_very_many_parameters_are_on_record_before_the_target_hears_of_them(
    gate: RunningGate, table: str
) -> None:
    values = sql.SQL(",").join([sql.SQL("(%s::int8, %s::text)")] * 30_000)
    parameters = [part for number in range(30_000) for part in (number, f"some text {number}")]
    long_text = "SELECT length('" + "y" * 300_000 + "')"
    with psycopg.connect(gate.dsn(), autocommit=True) as connection:
        rows = connection.execute(sql.SQL("SELECT count(*) FROM (VALUES {}) v").format(values), parameters).fetchone()
        assert rows == (30_000,)
        assert connection.execute(long_text).fetchone() == (300_000,)
    gate.wait_closed(2)
    # Parse and Bind are in packets of their own, so the preparation is an operation of its own.
    many, long = [(i, o) for i, o in gate.operations if o and o.bytes_in and i.kind != "prepare"]
    assert len(many[0].parameters) == 60_000
    assert sum(parameter.truncated_bytes for parameter in many[0].parameters) > 0
    assert (long[0].text_bytes, len(long[0].text)) == (len(long_text), 64 * 1024)
    assert long[1].bytes_in == len(long_text)
    assert long[1].content_in_sha256 == hashlib.sha256(long_text.encode()).digest() == long[0].text_sha256


@pytest.mark.parametrize("rows", [b"7\tx\n8\ty\n", b"9\tz\n1\tthere already\n"])
@pytest.mark.parametrize("at_once", [True, False])
def test_a_copy_by_the_extended_protocol_as_libpq_sends_it(
    gate: RunningGate, table: str, rows: bytes, at_once: bool
) -> None:
    """A Sync behind Execute, before the COPY is known to be one: the target ignores it, and answers the next."""
    begin = [parse(f"COPY {table} FROM STDIN"), bind(), describe_portal(), execute(), SYNC]
    end = [frame("d", rows), COPY_DONE, SYNC]
    fails = b"there already" in rows
    with RawClient(gate) as client:
        if at_once:
            client.send(*begin, *end)
        else:
            client.send(*begin)
            client.until(ord("G"))
            client.send(*end)
        assert codes(client.until_ready()) == (["23505"] if fails else [])
        for _ in range(2):
            assert count_of(client, table) == (3 if fails else 5)
        assert not codes(client.ask_extended(parse("SELECT 1"), bind(), execute()))
    gate.wait_closed(2)
    outcome = gate.outcome_of(f"COPY {table} FROM STDIN")
    assert (outcome.status, outcome.rows) == ((OutcomeStatus.ERROR, 0) if fails else (OutcomeStatus.OK, 2))


def test_a_copy_that_fails_before_its_first_row_leaves_the_session_usable(gate: RunningGate, table: str) -> None:
    """A trigger for the statement fails it before the target reads what the Sync is among."""
    with RawClient(gate) as client:
        body = "BEGIN RAISE 'closed today'; END"
        client.ask(query(f"CREATE FUNCTION {table}_f() RETURNS trigger LANGUAGE plpgsql AS $${body}$$"))
        client.ask(query(f"CREATE TRIGGER t BEFORE INSERT ON {table} FOR STATEMENT EXECUTE FUNCTION {table}_f()"))
        client.send(parse(f"COPY {table} FROM STDIN"), bind(), describe_portal(), execute(), SYNC)
        assert codes(client.until_ready()) == ["P0001"]
        for _ in range(2):
            assert count_of(client, table) == 3


def test_psql_copies_with_bind(gate: RunningGate, psql: str, table: str) -> None:
    script = f"COPY {table} FROM STDIN \\bind \\g\n11\tx\n12\ty\n\\.\nSELECT 'rows ' || count(*) FROM {table};\n"
    assert "rows 5" in run_psql(psql, gate, script)


def test_psycopg_copies_in_blocks(gate: RunningGate, table: str) -> None:
    with psycopg.connect(gate.dsn()) as connection, connection.cursor() as cursor:
        with cursor.copy(sql.SQL("COPY {} FROM STDIN").format(sql.Identifier(table))) as copy:
            for number in range(1000, 21_000):
                copy.write_row((number, f"name {number}"))
        with cursor.copy(sql.SQL("COPY {} TO STDOUT").format(sql.Identifier(table))) as copy:
            assert sum(1 for _ in copy.rows()) == 20_003


def test_prepared_statements_are_recorded_with_their_text(gate: RunningGate) -> None:
    with psycopg.connect(gate.dsn(), autocommit=True) as connection:
        for number in range(4):
            assert connection.execute("SELECT %s::int * 2", (number,), prepare=True).fetchone() == (number * 2,)
    gate.wait_closed(1)
    executed = [intent for intent, outcome in gate.operations if intent.kind == "execute"]
    assert [intent.text for intent in executed] == ["SELECT $1::int * 2"] * 4


def test_a_statement_prepared_in_sql_and_bound_by_protocol_is_recorded_with_its_text(gate: RunningGate) -> None:
    with psycopg.connect(gate.dsn(), autocommit=True) as connection:
        connection.execute("PREPARE secret_plan AS SELECT 11")
        result = connection.pgconn.exec_prepared(b"secret_plan", [])
        assert result.get_value(0, 0) == b"11"
        connection.execute("DEALLOCATE secret_plan")
        connection.pgconn.prepare(b"secret_plan", b"SELECT 12")
        assert connection.pgconn.exec_prepared(b"secret_plan", []).get_value(0, 0) == b"12"
        # Taken: the target refuses it, and the name keeps its meaning.
        assert connection.pgconn.prepare(b"secret_plan", b"SELECT 13").error_message
        assert connection.pgconn.exec_prepared(b"secret_plan", []).get_value(0, 0) == b"12"
    gate.wait_closed(1)
    executed = [intent.text for intent, _ in gate.operations if intent.kind == "execute"]
    assert executed == ["PREPARE secret_plan AS SELECT 11", "SELECT 12", "SELECT 12"]


def test_notices_and_notifications_reach_the_client_and_the_record(gate: RunningGate) -> None:
    notices: list[str | None] = []
    with psycopg.connect(gate.dsn(), autocommit=True) as listening:
        listening.add_notice_handler(lambda notice: notices.append(notice.message_primary))
        listening.execute("LISTEN news")
        listening.execute("DO $$ BEGIN RAISE NOTICE 'mind the gate'; END $$")
        with psycopg.connect(gate.dsn(), autocommit=True) as telling:
            telling.execute("NOTIFY news, 'it opened'")
        (notification,) = listening.notifies(timeout=PATIENCE_SECONDS, stop_after=1)
    assert notices == ["mind the gate"]
    assert notification.payload == "it opened"
    aside = [piece.data for piece in gate.journal.content if piece.op == 0]
    assert any(b"it opened" in data for data in aside)


def test_a_transaction_that_fails_at_its_commit_in_a_pipeline_is_on_record(gate: RunningGate, table: str) -> None:
    with psycopg.connect(gate.dsn(), autocommit=True) as connection:
        connection.execute(
            sql.SQL("ALTER TABLE {} ADD COLUMN boss int REFERENCES {} DEFERRABLE INITIALLY DEFERRED").format(
                sql.Identifier(table), sql.Identifier(table)
            )
        )
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            connection.execute(sql.SQL("UPDATE {} SET boss = 99 WHERE id = %s").format(sql.Identifier(table)), (1,))
    gate.wait_closed(2)
    assert "23503" in {outcome.error_code for _, outcome in gate.operations if outcome}


# ---------------------------------------------------------------- cancel and endings


@pytest.mark.parametrize("version", ["3.0", "latest"])
def test_cancel_reaches_the_right_session(gate: RunningGate, version: str) -> None:
    options = {} if version == "3.0" else {"max_protocol_version": version}
    if options and psycopg.pq.version() < 180000:
        pytest.skip("this psycopg carries a libpq before 18, which knows no protocol 3.2")
    with (
        psycopg.connect(gate.dsn(**options), autocommit=True) as other,
        psycopg.connect(gate.dsn(**options), autocommit=True) as connection,
    ):
        sleeping = threading.Event()

        def cancel_when_asleep() -> None:
            sleeping.wait(PATIENCE_SECONDS)
            connection.cancel_safe(timeout=PATIENCE_SECONDS)

        cancelling = threading.Thread(target=cancel_when_asleep)
        cancelling.start()
        with pytest.raises(psycopg.errors.QueryCanceled):
            sleeping.set()
            connection.execute("SELECT pg_sleep(60)")
        cancelling.join()
        assert connection.execute("SELECT 1").fetchone() == (1,)
        assert other.execute("SELECT 2").fetchone() == (2,)
    gate.wait_closed(2)
    kinds = [intent.kind for intent, _ in gate.operations]
    assert kinds.count("cancel") == 1


def test_a_session_that_the_target_ends_says_so(gate: RunningGate) -> None:
    with psycopg.connect(gate.dsn(), autocommit=True) as connection:
        pid = connection.execute("SELECT pg_backend_pid()").fetchone()
        with psycopg.connect(gate.dsn(), autocommit=True) as killer:
            killer.execute("SELECT pg_terminate_backend(%s)", pid)
        with pytest.raises(psycopg.OperationalError, match="terminating connection due to administrator command"):
            connection.execute("SELECT 1")


def test_a_client_that_vanishes_leaves_an_outcome_and_no_session_at_the_target(gate: RunningGate, table: str) -> None:
    connection = psycopg.connect(gate.dsn(), autocommit=True)
    connection.pgconn.send_query(f"INSERT INTO {table} SELECT 77, pg_sleep(0.3)::text".encode())
    os.close(os.dup(connection.fileno()))
    connection.close()
    gate.wait_closed(2)
    outcome = gate.outcome_of(f"INSERT INTO {table} SELECT 77, pg_sleep(0.3)::text")
    assert (outcome.status, outcome.tags) == (OutcomeStatus.OK, ("INSERT 0 1",))


def test_a_session_follows_its_policy_at_its_next_operation(gate: RunningGate) -> None:
    closed = Policy(version="test@2", rules=(Rule(name="closed", effect=Effect.DENY, agents=("*",), targets=("*",)),))
    with psycopg.connect(gate.dsn(), autocommit=True) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
        gate.call(lambda: gate.services.live.use_policy(closed))
        for statement in ("SELECT 2", "DELETE FROM pg_class"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="rule 'closed' denies reporter on shop"):
                connection.execute(statement)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT %s::int", (3,))
    gate.wait_closed(1)
    denied = [(i.decision.rule, o.status) for i, o in gate.operations[1:] if o]
    assert set(denied) == {("closed", OutcomeStatus.DENIED)}


def test_a_revoked_session_is_told_and_its_statement_is_cancelled(gate: RunningGate) -> None:
    with contextlib.closing(psycopg.connect(gate.dsn(application_name="doomed"), autocommit=True)) as connection:
        (session,) = gate.sessions
        connection.pgconn.send_query(b"SELECT pg_sleep(60)")
        gate.wait_for(lambda: bool(gate.operations))
        gate.call(lambda: gate.services.live.end([session.session_id], "an administrator ended the session"))
        result = connection.pgconn.get_result()
        assert result is not None
        assert b"an administrator ended the session" in result.error_message
    gate.wait_closed(1)
    assert gate.outcome_of("SELECT pg_sleep(60)").status is OutcomeStatus.UNKNOWN
    with psycopg.connect(gate.dsn(), autocommit=True) as watching:
        gate.wait_for(
            lambda: watching.execute(
                "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'doomed'"
            ).fetchone() == (0,)
        )  # fmt: skip


# ---------------------------------------------------------------- asyncpg, SQLAlchemy, pgbench


async def test_asyncpg_prepares_streams_and_copies(gate: RunningGate, table: str, tmp_path: Path) -> None:
    connection = await asyncpg.connect(
        host="localhost", port=gate.port, user="agent", password=TOKEN, database="shop",
        ssl=ssl.create_default_context(cafile=str(gate.ca_file)), timeout=PATIENCE_SECONDS,
    )  # fmt: skip
    try:
        assert await connection.fetchval("SELECT $1::int + 1", 41) == 42
        async with connection.transaction():
            rows = [row[0] async for row in connection.cursor("SELECT generate_series(1, 200)", prefetch=50)]
        assert rows == list(range(1, 201))
        await connection.executemany(f"INSERT INTO {table} VALUES ($1, $2)", [(n, str(n)) for n in range(500, 600)])
        await connection.copy_records_to_table(table, records=[(n, "c") for n in range(600, 650)])
        assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 153
    finally:
        await connection.close(timeout=PATIENCE_SECONDS)


def test_sqlalchemy_works(gate: RunningGate, table: str) -> None:
    engine = sqlalchemy.create_engine(
        "postgresql+psycopg://",
        creator=lambda: psycopg.connect(gate.dsn()),
    )
    try:
        with engine.begin() as connection:
            reflected = sqlalchemy.Table(table, sqlalchemy.MetaData(), autoload_with=connection)
            connection.execute(reflected.insert(), [{"id": n, "name": "s"} for n in range(700, 720)])
            count = sqlalchemy.select(sqlalchemy.func.count()).select_from(reflected)
            assert connection.execute(count).scalar() == 23
    finally:
        engine.dispose()


@pytest.mark.parametrize("mode", ["simple", "extended", "prepared"])
def test_pgbench_works(gate: RunningGate, pgbench: str, mode: str) -> None:
    environment = {
        **os.environ, "PGHOST": "localhost", "PGPORT": str(gate.port), "PGUSER": "agent", "PGPASSWORD": TOKEN,
        "PGDATABASE": "shop", "PGSSLMODE": "verify-full", "PGSSLROOTCERT": str(gate.ca_file),
    }  # fmt: skip

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [pgbench, *arguments], env=environment, capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("-i", "-q", "-s", "1")
    assert "number of failed transactions: 0 (0.000%)" in run("-M", mode, "-c", "4", "-t", "50")
    assert "number of failed transactions: 0 (0.000%)" in run("-S", "-M", mode, "-c", "4", "-t", "100")


# ---------------------------------------------------------------- bulk


def test_a_large_answer_is_on_record_in_full(gate: RunningGate) -> None:
    text = "SELECT g, repeat('x', 50) FROM generate_series(1, 100000) g"
    with psycopg.connect(gate.dsn(), autocommit=True) as connection:
        assert len(connection.execute(text).fetchall()) == 100_000
    gate.wait_closed(1)
    outcome = gate.outcome_of(text)
    assert (outcome.rows, outcome.status) == (100_000, OutcomeStatus.OK)
    shown = b""
    for piece in gate.journal.content:
        if piece.direction is Direction.TO_AGENT and piece.op == 1:
            assert piece.offset == len(shown)
            shown += zstandard.ZstdDecompressor().decompress(piece.data) if piece.codec is Codec.ZSTD else piece.data
    assert len(shown) == outcome.bytes_out
    assert hashlib.sha256(shown).digest() == outcome.content_sha256
