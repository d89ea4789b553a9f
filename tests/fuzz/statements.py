"""A statement's text: it has facts, never an error; and what can be counted is a SELECT that has facts as well."""

from __future__ import annotations

from policies.engine import UNKNOWN_OPERATION
from proxyworker.postgres.counting import NotCountable, count_of
from proxyworker.postgres.understand import understand
from tests.fuzz.run import fuzz

#: Joined to more by whoever damages them: keywords, quoting, and each kind of name.
SEEDS = [
    b"SELECT a.*, count(*) FROM s.t AS a JOIN b USING (id) WHERE x = 'y' AND z IN (1, 2.5, NULL) ORDER BY 1",
    b"WITH c AS (DELETE FROM t WHERE a = 1 RETURNING *) INSERT INTO u (b) SELECT * FROM c ON CONFLICT DO NOTHING",
    b'UPDATE "T" SET a = $1, (b, c) = (SELECT d, e FROM f) FROM g WHERE g.h = "T".i RETURNING old.a',
    b"MERGE INTO t USING s ON t.i = s.i WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN INSERT VALUES (s.c)",
    b"COPY (SELECT 1) TO PROGRAM 'x'; SET search_path = a, b; DO $$ BEGIN END $$; EXECUTE s(1); DISCARD ALL",
    b"CREATE TABLE a (x int REFERENCES b CHECK (f(x) > 0)) PARTITION BY RANGE (x); DROP FUNCTION g(int) CASCADE",
    b"EXPLAIN (ANALYZE 0, FORMAT JSON) DELETE FROM t USING u WHERE E'\\'' <> U&'\\0041' OR current_user LIKE 'a'",
    b"GRANT SELECT (a) ON t TO x; ALTER TABLE t DROP COLUMN a, OWNER TO b; PREPARE p (int) AS SELECT $1::s.ty",
]


def one_input(data: bytes) -> None:
    """`data` is a text."""
    facts = understand(data.replace(b"\x00", b""))
    assert facts.operation.accesses
    assert facts.operation is UNKNOWN_OPERATION or not facts.statements or facts.operation.template
    try:
        counted = count_of(data)
    except NotCountable:
        return
    counting = understand(counted.text)
    assert counting.operation is not UNKNOWN_OPERATION
    assert counting.is_read or not facts.is_pure


if __name__ == "__main__":
    fuzz(one_input)
