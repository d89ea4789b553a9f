"""What a text says of itself: whether it reads only, and which names it makes and drops."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyworker.postgres.statements import MAX_CLASSIFIED_BYTES, NameChange, is_read, name_changes

DROP_ALL = (NameChange(None, None),)


@pytest.mark.parametrize(
    "text",
    [
        "SELECT 1",
        "",
        "SHOW ALL",
        "SELECT count(*), lower(name) FROM customers WHERE id = $1 GROUP BY 2 ORDER BY 1 LIMIT 5",
        "SELECT pg_catalog.lower('A')",
        "WITH a AS (SELECT 1) SELECT * FROM a JOIN b USING (id)",
        "SELECT 1; SELECT 2",
        """SELECT '"InsertStmt":', '"funcname":[{"String":{"sval":"evil"}}]'""",
        "SELECT '\"lockingClause\\\":' -- DELETE FROM t",
        "TABLE customers",
        "VALUES (1)",
    ],
)
def test_these_only_read(text: str) -> None:
    assert is_read(text.encode())


@pytest.mark.parametrize(
    "text",
    [
        "DELETE FROM t",
        "INSERT INTO t VALUES (1)",
        "WITH gone AS (DELETE FROM t RETURNING *) SELECT * FROM gone",
        "SELECT * INTO t2 FROM t",
        "SELECT * FROM t FOR UPDATE",
        "SELECT nextval('s')",
        "SELECT pg_sleep(1)",
        "SELECT lower(nextval('s')::text)",
        "SELECT * FROM generate_series(1, 2), pg_terminate_backend(1)",
        "SELECT public.lower('a')",
        "SELECT lower.evil()",
        'SELECT lower."evil]"()',
        'SELECT lower."evil\\x"()',
        'SELECT lower."evil""]"()',
        "SELECT \"LOWER\"('a')",
        "SELECT shop.pg_catalog.lower('a')",
        "EXPLAIN ANALYZE SELECT 1",
        "COPY t TO STDOUT",
        "SET a = 1",
        "BEGIN",
        "CALL lower('a')",
        "DO 'BEGIN END'",
        "SELECT 1; DROP TABLE t",
        "DECLARE c CURSOR FOR SELECT 1",
        "EXECUTE s1",
        "no SQL",
        "SELECT '",
    ],
)
def test_these_may_have_effects(text: str) -> None:
    assert not is_read(text.encode())


def test_what_is_too_long_or_in_no_encoding_may_have_effects() -> None:
    text = b"SELECT 1 --"
    assert is_read(text.ljust(MAX_CLASSIFIED_BYTES, b"-"))
    assert not is_read(text.ljust(MAX_CLASSIFIED_BYTES + 1, b"-"))
    assert not is_read(b"SELECT '\xff'")


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("SELECT 1", ()),
        ("SELECT 'prepare to discard'", ()),
        ("PREPARE s1 AS SELECT 1", (NameChange(b"s1", b"PREPARE s1 AS SELECT 1"),)),
        ('PREPARE "S""1" AS SELECT 1', (NameChange(b'S"1', b'PREPARE "S""1" AS SELECT 1'),)),
        ("DEALLOCATE s1", (NameChange(b"s1", None),)),
        ("DEALLOCATE PREPARE S1", (NameChange(b"s1", None),)),
        ('DEALLOCATE "all"', (NameChange(b"all", None),)),
        ("deallocate all", DROP_ALL),
        ("DISCARD ALL", DROP_ALL),
        ("DISCARD PLANS", ()),
        ("DISCARD TEMP", ()),
        ("SELECT 1; DEALLOCATE a /* PREPARE */; DEALLOCATE b", (NameChange(b"a", None), NameChange(b"b", None))),
        ("PREPARE TRANSACTION 'x'", ()),
        ("PREPARE s1 AS", DROP_ALL),
        ("DE/**/ALLOCATE", ()),
    ],
)
def test_a_text_makes_and_drops_names(text: str, changes: tuple[NameChange, ...]) -> None:
    assert name_changes(text.encode()) == changes


def test_a_text_that_can_not_be_read_and_mentions_names_drops_all() -> None:
    assert name_changes(b"DEALLOCATE s1; SELECT '\xff'") == DROP_ALL
    assert name_changes(b"DEALLOCATE s1".ljust(MAX_CLASSIFIED_BYTES + 1)) == DROP_ALL
    assert name_changes(b"SELECT '\xff'") == ()


@pytest.mark.parametrize(
    ("opening", "closing"), [("(", ")"), ("NOT ", ""), ("ARRAY[", "]"), ("+ ", ""), ("1+", ""), ("1 UNION SELECT ", "")]
)
def test_a_deeply_nested_text_does_not_take_the_process_with_it(opening: str, closing: str) -> None:
    # In a process of its own: an overflow of the C stack is no exception.
    program = f"""
from proxyworker.postgres.statements import MAX_CLASSIFIED_BYTES, is_read, name_changes
for depth in (MAX_CLASSIFIED_BYTES // 10, MAX_CLASSIFIED_BYTES // 2 - 20, 500_000):
    text = b"SELECT 'prepare', " + {opening.encode()!r} * depth + b"1" + {closing.encode()!r} * depth
    is_read(text[:MAX_CLASSIFIED_BYTES]), is_read(text), name_changes(text)
    name_changes(text[:MAX_CLASSIFIED_BYTES])
"""
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


@given(
    st.one_of(st.text().map(str.encode), st.binary()), st.sampled_from([b"", b"PREPARE a AS ", b"discard ", b"SELECT "])
)
def test_any_text_is_classified(rest: bytes, start: bytes) -> None:
    text = start + rest.replace(b"\x00", b"")
    assert is_read(text) in (True, False)
    assert isinstance(name_changes(text), tuple)
