"""What a text says of itself: whether it reads only, which names it makes and drops; and that no text breaks it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.engine import UNKNOWN_OPERATION
from proxyworker.postgres.understand import Facts, reader, understand
from proxyworker.postgres.understand.tree import MAX_UNDERSTOOD_BYTES

DROP_ALL = ((None, None),)


def is_read(text: bytes) -> bool:
    return understand(text).is_read


def name_changes(text: bytes) -> tuple[tuple[bytes | None, bytes | None], ...]:
    return tuple((change.name, change.text) for change in understand(text).changes)


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


def test_what_is_too_long_or_in_no_encoding_is_unknown() -> None:
    text = b"SELECT 1 --"
    assert is_read(text.ljust(MAX_UNDERSTOOD_BYTES, b"-"))
    assert understand(text.ljust(MAX_UNDERSTOOD_BYTES + 1, b"-")).operation is UNKNOWN_OPERATION
    assert understand(b"SELECT '\xff'").operation is UNKNOWN_OPERATION
    assert not is_read(b"SELECT '\xff'")


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("SELECT 1", ()),
        ("SELECT 'prepare to discard'", ()),
        ("PREPARE s1 AS SELECT 1", ((b"s1", b"PREPARE s1 AS SELECT 1"),)),
        ('PREPARE "S""1" AS SELECT 1', ((b'S"1', b'PREPARE "S""1" AS SELECT 1'),)),
        ("DEALLOCATE s1", ((b"s1", None),)),
        ("DEALLOCATE PREPARE S1", ((b"s1", None),)),
        ('DEALLOCATE "all"', ((b"all", None),)),
        ("deallocate all", DROP_ALL),
        ("DISCARD ALL", DROP_ALL),
        ("DISCARD PLANS", ()),
        ("DISCARD TEMP", ()),
        ("SELECT 1; DEALLOCATE a /* PREPARE */; DEALLOCATE b", ((b"a", None), (b"b", None))),
        ("PREPARE TRANSACTION 'x'", ()),
        ("PREPARE s1 AS", DROP_ALL),
        ("DE/**/ALLOCATE", ()),
    ],
)
def test_a_text_makes_and_drops_names(text: str, changes: tuple[tuple[bytes | None, bytes | None], ...]) -> None:
    assert name_changes(text.encode()) == changes


def test_a_text_that_can_not_be_read_and_mentions_names_drops_all() -> None:
    assert name_changes(b"DEALLOCATE s1; SELECT '\xff'") == DROP_ALL
    assert name_changes(b"DEALLOCATE s1".ljust(MAX_UNDERSTOOD_BYTES + 1)) == DROP_ALL
    assert name_changes(b"SELECT '\xff'") == ()


def test_what_is_prepared_has_facts_of_its_own() -> None:
    (change,) = understand(b"PREPARE s1 AS DELETE FROM t").changes
    assert change.facts is not None
    assert change.facts.operation.verb == "delete"
    assert understand(b"PREPARE s1 AS DELETE FROM t").operation.verb == "prepared"


def test_facts_are_kept_within_their_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    kept: reader._Kept[bytes] = reader._Kept()
    shapes: reader._Kept[str] = reader._Kept()
    monkeypatch.setattr(reader, "_kept_shapes", shapes)
    monkeypatch.setattr(reader, "_kept", kept)
    monkeypatch.setattr(reader, "skeleton_of", lambda _: b"")
    monkeypatch.setattr(reader, "KEPT_TEXTS", 2)
    monkeypatch.setattr(reader, "KEPT_BYTES", 40)
    first = understand(b"SELECT 1")
    assert understand(b"SELECT 1") is first
    understand(b"SELECT 2")
    understand(b"SELECT 3")
    assert understand(b"SELECT 1") is not first
    understand(b"SELECT 4".ljust(39))
    assert [text for text in (b"SELECT 1", b"SELECT 3") if kept.get(text) is not None] == []
    monkeypatch.setattr(reader, "MAX_KEPT_TEXT_BYTES", 8)
    assert understand(b"SELECT 55") is not understand(b"SELECT 55")


def test_texts_that_differ_in_constants_share_their_facts_unless_constants_matter() -> None:
    assert understand(b"SELECT a FROM t WHERE b = 1") is understand(b"SELECT a FROM t  WHERE b = 'x'")
    for one, other in (
        (b"SET ROLE a", b"SET ROLE b"),
        (b"SELECT set_config('role', 'a', true)", b"SELECT set_config('x.y', 'a', true)"),
        (b"PREPARE s1 AS SELECT 1", b"PREPARE s1 AS SELECT 2"),
        (b"SELECT refund(1)", b"SELECT refund(2)"),
        (b"EXECUTE s1(1)", b"EXECUTE s1(2)"),
    ):
        assert understand(one) is not understand(other)


def test_a_large_insert_is_understood() -> None:
    rows = ",".join(f"({number}, 'name {number} \\ \" {{}}', NULL)" for number in range(20_000))
    facts = understand(f"INSERT INTO public.t (a, b, c) VALUES {rows}".encode())
    assert [(one.kind, one.object, one.columns) for one in facts.operation.accesses] == [
        ("insert", "public.t", ("a", "b", "c"))
    ]


NESTINGS = pytest.mark.parametrize(
    ("opening", "closing"),
    [
        ("(", ")"), ("NOT ", ""), ("ARRAY[", "]"), ("+ ", ""), ("1+", ""), ("1 UNION SELECT ", ""), ("(SELECT ", ")"),
        ("", "::int"), ("f(", ")"), ("CASE WHEN true THEN 1 ELSE ", " END"), ("1 AND ", ""), ("ROW(1,", ")"),
        ("x.", "y"), ("(SELECT * FROM ", ")"), ("t JOIN ", " ON true"),
    ],
)  # fmt: skip


@NESTINGS
def test_a_deeply_nested_text_does_not_take_the_process_with_it(opening: str, closing: str) -> None:
    # In a process of its own: an overflow of the C stack is no exception.
    program = f"""
from proxyworker.postgres.understand import understand
from proxyworker.postgres.counting import NotCountable, count_of
opening, closing = {opening.encode()!r}, {closing.encode()!r}
for start in (b"SELECT 'prepare', ", b"DELETE FROM t WHERE "):
    for depth in (100, 240, 300, 900, 3_000, 9_000, 30_000, 500_000):
        text = start + opening * depth + b"1" + closing * depth
        understand(text)
        understand(text[:1_000_000])
        try:
            count_of(text)
        except NotCountable:
            pass
"""
    root = Path(__file__).parents[4]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, timeout=100, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_hundred_levels_and_very_many_arms_are_understood() -> None:
    assert understand(b"SELECT " + b"1+" * 100 + b"a FROM t").operation is not UNKNOWN_OPERATION
    assert understand(b"SELECT a FROM t" + b" UNION ALL SELECT b FROM u" * 300).operation is not UNKNOWN_OPERATION
    assert understand(b"SELECT 1+" * 5_000 + b"1").operation is UNKNOWN_OPERATION


@given(
    st.one_of(st.text().map(str.encode), st.binary()), st.sampled_from([b"", b"PREPARE a AS ", b"discard ", b"SELECT "])
)
def test_any_text_has_facts(rest: bytes, start: bytes) -> None:
    assert isinstance(understand(start + rest.replace(b"\x00", b"")), Facts)
