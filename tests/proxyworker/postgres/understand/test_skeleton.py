"""Texts of one skeleton are the same statement with other values: what is known of one holds for all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxyworker.postgres.understand import reader, understand
from proxyworker.postgres.understand.skeleton import MAX_SKELETON_BYTES, literals_of, skeleton_of

#: Places for values, in statements that hang on them and in such that don't.
STATEMENTS = (
    "SELECT a FROM t WHERE b = {} AND c > {}",
    "SELECT a FROM t WHERE b IN ({}, {}) LIMIT {}",
    "INSERT INTO t VALUES ({}, {},{})",
    "UPDATE t SET a = {}, b = 'x' WHERE c <= {};",
    "DELETE FROM t WHERE d = date {}",
    "SELECT set_config({}, {}, true)",
    "SELECT float({}) {}",
    "SELECT {} ::numeric({}, {})",
    "SELECT interval {} second({})",
    "SELECT {} 'a' {}, e{}, E{}, U&{}, 1.{}",
    "SELECT {}\n{} /* {} */ -- {}",
    "SELECT '{}', \"{}\", $${}$$",
    "FETCH {} FROM c",
    "EXECUTE s ({}, {})",
    "PREPARE s AS SELECT {}",
    "COMMENT ON TABLE t IS {}",
    "SET work_mem = {}",
    "SELECT pg_read_file({})",
    "SELECT nextval({}), f({})",
)
VALUES = st.one_of(
    st.integers(0, 999_999_999).map(str),
    st.sampled_from(
        (
            "0", "007", "-1", "12345678901", "1e5", "0x1f", "24", "53", "'", "''", "'a'", "'it''s'", "'\\'", "'a' 'b'",
            "'{}'", "'role'", "'5 , 6'", "E'\\n'", "'ä'", "$1", "NULL", "x", "a = 5", "5)", "(5", "'x' , 5", "*/ 5 /*",
        )
    ),
)  # fmt: skip


@given(statement=st.sampled_from(STATEMENTS), values=st.lists(VALUES, min_size=12, max_size=12))
def test_what_is_known_by_a_skeleton_is_what_reading_the_text_tells(statement: str, values: list[str]) -> None:
    places = statement.count("{}")
    first, second = (statement.format(*values[start : start + places]).encode() for start in (0, 6))
    understand(first)
    assert understand(second) == reader._read(second)


def test_texts_that_differ_in_values_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    known = understand(b"SELECT skeleton FROM t WHERE a = 1 AND b = 'x'")
    monkeypatch.setattr(reader, "_read", lambda _: pytest.fail("it was read"))
    assert understand(b"SELECT skeleton FROM t WHERE a = 99 AND b = 'y z'") is known


@pytest.mark.parametrize(
    "text",
    [
        b"SELECT skeleton_of_float(1), float(24) '1'",
        b"SELECT skeleton_of_negative, -5 = 5, - 5",
        b"SELECT skeleton_of_comment /* = 5 */",
        b"SELECT skeleton_of_dollars, $$ 5 $$",
        b"SELECT skeleton_of_escapes, E' 5 '",
        b"SELECT skeleton_of_continued, 'a' \n 'b' ",
    ],
)
def test_a_text_whose_literals_are_no_constants_says_nothing_of_others(text: bytes) -> None:
    understand(text)
    assert reader._kept_skeletons.get(skeleton_of(text)) is None


def test_a_skeleton_is_the_text_without_its_literals() -> None:
    text = b"SELECT a1, 'x', 12 FROM t WHERE b=5 AND c<'y' AND d = 1.5 AND e = 1234567890"
    assert skeleton_of(text) == (
        b"SELECT a1, \x00s, \x00i FROM t WHERE b=\x00i AND c<\x00s AND d = 1.5 AND e = 1234567890"
    )
    assert [text[place : place + 1] for place in sorted(literals_of(text))] == [b"'", b"1", b"5", b"'"]


def test_a_text_that_is_long_or_not_plain_has_no_skeleton() -> None:
    assert skeleton_of(b"SELECT 1".ljust(MAX_SKELETON_BYTES + 1)) == b""
    assert skeleton_of("SELECT 'ä', 1".encode()) == b""
