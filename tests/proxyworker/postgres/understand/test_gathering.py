"""What a text does with the values that it reads: how many one row can show, and what it keeps."""

from __future__ import annotations

import pytest

from proxyworker.postgres.understand.gathering import UNKNOWN, gathering_of


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        ("SELECT email FROM c", 1),
        ("SELECT lower(email), md5(email) FROM c", 1),
        ("SELECT a.email || b.email FROM c a, c b", 2),
        ("SELECT (SELECT email FROM c LIMIT 1) || (SELECT email FROM c OFFSET 1 LIMIT 1)", 2),
        ("SELECT count(*), count(DISTINCT email) FROM c", 1),
        ("SELECT min(email), max(email) FROM c", 4),
        ("SELECT lag(email) OVER () || lead(email) OVER () FROM c", 4),
        ("UPDATE c SET x = 1 WHERE email = 'x' RETURNING email", 1),
        ("EXPLAIN ANALYZE SELECT email FROM c", 1),
        ("SELECT 1", 1),
    ],
)
def test_a_row_shows_those_of_so_many_rows_at_most(text: str, rows: int) -> None:
    found = gathering_of(text.encode())
    assert (found.rows, found.gathers) == (rows, False)


def test_tables_of_with_may_double_what_they_hold_at_each_step() -> None:
    text = (
        "WITH t1 AS (SELECT a.e || b.e AS e FROM c a, c b), t2 AS (SELECT a.e || b.e AS e FROM t1 a, t1 b),"
        " t3 AS (SELECT a.e || b.e AS e FROM t2 a, t2 b) SELECT a.e || b.e FROM t3 a, t3 b"
    )
    assert gathering_of(text.encode()).rows >= 2**4


@pytest.mark.parametrize(
    "text",
    [
        "SELECT string_agg(email, ',') FROM c",
        "SELECT array_agg(c) FROM c",
        "SELECT json_agg(email) FROM c",
        "SELECT JSON_ARRAYAGG(email) FROM c",
        "SELECT JSON_OBJECTAGG(id : email) FROM c",
        "SELECT ARRAY(SELECT email FROM c)",
        "SELECT public.lower(email) FROM c",
        "SELECT own_function(email) FROM c",
        "SELECT * FROM query_to_xml('SELECT * FROM c', true, true, '')",
        "WITH RECURSIVE t AS (SELECT email FROM c UNION SELECT e || email FROM t, c) SELECT * FROM t",
        "DECLARE k CURSOR FOR SELECT string_agg(email, ',') FROM c",
        "SELEKT",
    ],
)
def test_a_row_may_show_any_number(text: str) -> None:
    assert gathering_of(text.encode()).gathers


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("SELECT email FROM c", set()),
        ("DELETE FROM c WHERE email = 'x' RETURNING *", set()),
        ("INSERT INTO c (email) VALUES ('x') RETURNING email", set()),
        ("INSERT INTO s SELECT email FROM c", {"*"}),
        ("INSERT INTO s VALUES ((SELECT email FROM c))", {"*"}),
        ("INSERT INTO c (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET name = c.email", {"email"}),
        ("UPDATE c SET visits = visits + 1 WHERE email = 'x'", {"visits"}),
        ("UPDATE c SET name = lower(email)", {"email"}),
        ("UPDATE s SET x = (SELECT email FROM c)", {"*", "email"}),
        ("UPDATE s SET (x, y) = (SELECT c.* FROM c)", {"*"}),
        ("CREATE TABLE s AS SELECT email FROM c", {"*"}),
        ("CREATE MATERIALIZED VIEW s AS SELECT email FROM c", {"*"}),
        ("CREATE VIEW s AS SELECT email FROM c", {"*"}),
        ("SELECT email INTO s FROM c", {"*"}),
        ("COPY (SELECT email FROM c) TO '/tmp/x'", {"*"}),
        ("COPY (SELECT email FROM c) TO PROGRAM 'x'", {"*"}),
        ("COPY c TO STDOUT", set()),
        ("WITH w AS (INSERT INTO s SELECT email FROM c RETURNING 1) SELECT 1", {"*"}),
        ("PREPARE p AS INSERT INTO s SELECT email FROM c", {"*"}),
        ("MERGE INTO s USING c ON true WHEN MATCHED THEN UPDATE SET x = c.email", {"*"}),
    ],
)
def test_what_is_kept_elsewhere(text: str, kept: set[str]) -> None:
    assert kept <= gathering_of(text.encode()).kept
    assert bool(kept) == bool(gathering_of(text.encode()).kept)


@pytest.mark.parametrize(
    ("text", "constant"),
    [
        ("SELECT email, 1, now(), count(*), 'x' || 'y' FROM c", {1, 2, 3, 4}),
        ("SELECT row_number() OVER (ORDER BY email), $1, (SELECT 1) FROM c", set()),
        ("SELECT 1, * FROM c", set()),
        ("SELECT 1 FROM c UNION SELECT length(email) FROM c", set()),
        ("SELECT 1; SELECT email FROM c", set()),
        ("DELETE FROM c RETURNING 1", set()),
    ],
)
def test_what_says_nothing_of_a_row_is_known_where_that_is_certain(text: str, constant: set[int]) -> None:
    assert gathering_of(text.encode()).constant == constant


def test_what_cannot_be_read_is_taken_for_the_worst() -> None:
    assert gathering_of(b"SELEKT \xff") == UNKNOWN
