"""Nothing of a masked column reaches a client: this gate can't mask yet, so whatever may show one is refused."""

from __future__ import annotations

import time
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

from policies.engine import Effect, Mask, Rule
from tests.plugin.embedded import TargetPostgres
from tests.proxyworker.postgres.gate import RunningGate, ScriptedControlPlane, endpoint_of
from tests.proxyworker.postgres.raw import RawClient, codes, rows
from tests.vectors.messages import describe_portal, execute, parse, query
from tests.vectors.postgres import frame
from tests.vectors.postgres_masking import CASES, SECRETS, SETUP, USEFUL

OPERATIONS = ("select", "insert", "update", "delete", "copy_out", "explain", "transaction", "cursor", "prepared")
RULES = (
    Rule(name="work", effect=Effect.ALLOW, operations=OPERATIONS, objects=("public.people", "public.orders")),
    Rule(name="privacy", effect=Effect.MASK, objects=("public.people",), columns=("ssn", "email"), mask=Mask()),
)
#: How a statement is sent: by the simple protocol, or by the extended one with its results as text or binary.
SIMPLE, TEXT, BINARY = "simple", "text", "binary"
#: Cases of our own: a value in the detail of an error, functions called as fields, names that hide names.
FURTHER = [
    ("check violation", "UPDATE people SET salary = -1 WHERE id = 1"),
    ("not null violation", "UPDATE people SET id = NULL WHERE id = 1"),
    ("key in use", "DELETE FROM people WHERE id = 1"),
    ("upsert into a check", "INSERT INTO people (id, salary) VALUES (1, 1) ON CONFLICT (id) DO UPDATE SET salary = -1"),
    ("row as a field", "SELECT p.to_jsonb FROM people p"),
    ("row as a field of a qualified name", "SELECT public.people.array_agg FROM public.people"),
    ("row in parentheses", "SELECT (p).ssn FROM people p"),
    ("any value of rows", "SELECT p.any_value FROM people p"),
    ("joined alias", "SELECT j.ssn FROM (people p JOIN orders o ON true) AS j"),
    ("unknown qualifier", "SELECT x.y FROM people p, LATERAL (SELECT p.*) x(a, b, y)"),
    ("prepared", "PREPARE s AS SELECT ssn FROM people; EXECUTE s"),
    ("excluded", "INSERT INTO people (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET note = people.ssn RETURNING note"),
    ("laundered by a column", "UPDATE people SET note = ssn RETURNING note"),
    ("conflict as an oracle", "INSERT INTO people (id, ssn) VALUES (9, '123-45-6789') ON CONFLICT DO NOTHING"),
    ("another schema", "SELECT note FROM evil.people"),
    ("inherited", "SELECT ssn FROM people_archive"),
    ("statistics", "SELECT most_common_vals FROM pg_stats WHERE tablename = 'people'"),
    ("search path", "SET search_path = evil; SELECT note FROM people"),
    ("unreadable", "SELECT ssn FROM people -- " + "x" * 1_100_000),
    ("sorted by what is not shown", "SELECT id FROM people ORDER BY ssn"),
    ("sorted by an alias within", "SELECT id AS ssn FROM people ORDER BY ssn || ''"),
    ("distinct", "SELECT DISTINCT ON (ssn) id FROM people"),
]


@pytest.fixture(scope="module")
def database(target_postgres: TargetPostgres) -> Iterator[str]:
    """A database of its own, for the cases name their tables."""
    name = f"masked_{time.monotonic_ns()}"
    with psycopg.connect(target_postgres.superuser_dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        with psycopg.connect(target_postgres.superuser_dsn, dbname=name, autocommit=True) as inside:
            inside.execute(SETUP)
            inside.execute("GRANT ALL ON SCHEMA public, evil TO PUBLIC")
            inside.execute("GRANT ALL ON ALL TABLES IN SCHEMA public, evil TO PUBLIC; ANALYZE people")
        yield name
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def control(control: ScriptedControlPlane, target_postgres: TargetPostgres, database: str) -> ScriptedControlPlane:
    control.endpoint = endpoint_of(target_postgres, database=database)
    control.rules = RULES
    return control


def ask(client: RawClient, text: str, how: str) -> list[tuple[int, bytes]]:
    if how == SIMPLE:
        return client.ask(query(text))
    formats = b"\0\1\0\1" if how == BINARY else b"\0\0"
    return client.ask_extended(parse(text), frame("B", b"\0\0" + b"\0\0\0\0" + formats), describe_portal(), execute())


@pytest.mark.parametrize("how", [SIMPLE, TEXT, BINARY])
def test_no_masked_value_reaches_a_client(gate: RunningGate, how: str) -> None:
    for name, text in CASES + FURTHER:
        with RawClient(gate) as client:
            assert codes(ask(client, text, how)), f"{name} was not refused"
            ask(client, "ROLLBACK", how)
            assert [row[-1:] for row in rows(ask(client, "SELECT '7'", how))] == [b"7"], f"{name} broke the session"
            for secret in SECRETS:
                assert secret.encode() not in client.received, f"{name} showed {secret}"


@pytest.mark.parametrize("how", [SIMPLE, TEXT])
def test_what_leaves_masked_columns_out_works(gate: RunningGate, how: str) -> None:
    with RawClient(gate) as client:
        for text, expected in USEFUL:
            found = [tuple(fields_of(row)) for row in rows(ask(client, text, how))]
            assert found == expected, text
        for text in ("UPDATE people SET note = 'x' WHERE id = 3", "INSERT INTO people (id, name) VALUES (7, 'Eve')"):
            assert not codes(ask(client, "BEGIN", how) + ask(client, text, how) + ask(client, "ROLLBACK", how)), text


def fields_of(row: bytes) -> list[str]:
    fields, at = [], 2
    for _ in range(int.from_bytes(row[:2], "big")):
        size = int.from_bytes(row[at : at + 4], "big")
        fields.append(row[at + 4 : at + 4 + size].decode())
        at += 4 + size
    return fields
