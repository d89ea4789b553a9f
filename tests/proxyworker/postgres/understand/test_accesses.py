"""What statements are understood to do: kinds, objects, columns, hazards."""

from __future__ import annotations

import pglast.ast
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.engine import UNKNOWN_OPERATION, Hazard
from proxyworker.postgres.understand import Facts, understand
from proxyworker.postgres.understand.catalog import CATALOG_RELATIONS
from proxyworker.postgres.understand.functions import HARMLESS_FUNCTIONS, PURE_FUNCTIONS, ROW_FUNCTIONS
from proxyworker.postgres.understand.kinds import NO_STATEMENTS, STATEMENT_KINDS
from tests.plugin.embedded import TargetPostgres

QUERIES = {"SelectStmt", "InsertStmt", "UpdateStmt", "DeleteStmt", "MergeStmt"}


MERGE = """
    MERGE INTO t USING s ON t.i = s.i WHEN MATCHED AND s.k THEN DELETE WHEN MATCHED THEN UPDATE SET a = s.b
    WHEN NOT MATCHED THEN INSERT (a) VALUES (s.c)"""


def facts_of(text: str) -> Facts:
    facts = understand(text.encode())
    assert facts.operation is not UNKNOWN_OPERATION, text
    return facts


def accesses(text: str) -> set[str]:
    """Each as `kind object(columns)`."""
    return {
        f"{one.kind} {one.object or '-'}" + (f"({','.join(sorted(one.columns))})" if one.columns else "")
        for one in facts_of(text).operation.accesses
    }


def hazards(text: str) -> set[str]:
    return set(facts_of(text).operation.hazards)


def test_every_statement_of_the_grammar_has_a_kind() -> None:
    names = {name for name in dir(pglast.ast) if name.endswith("Stmt")}
    assert names - QUERIES - NO_STATEMENTS == set(STATEMENT_KINDS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {"select -"}),
        ("SELECT 1", {"select -"}),
        ("SELECT count(*) FROM t", {"select t"}),
        ("SELECT a, b AS c FROM s.t WHERE d > 5 ORDER BY c", {"select s.t(a,b,d)"}),
        ("SELECT a FROM t GROUP BY b HAVING max(c) > 1 LIMIT 5", {"select t(a,b,c)"}),
        ("SELECT * FROM t", {"select t(*)"}),
        ("TABLE t", {"select t(*)"}),
        ("SELECT t FROM t", {"select t(*)"}),
        ("SELECT x.email FROM customers x", {"select customers(email)"}),
        ("SELECT public.customers.email FROM public.customers", {"select public.customers(email)"}),
        ("SELECT email(c) FROM customers c", {"select customers(*)", "call email()"}),
        ("SELECT row_to_json(c) FROM customers c", {"select customers(*)"}),
        # A field, or the function of that name.
        ("SELECT (c).email FROM customers c", {"select customers(*)", "call email()"}),
        ("SELECT c.to_jsonb FROM customers c", {"select customers(*)"}),
        ("SELECT public.customers.array_agg FROM public.customers", {"select public.customers(*)"}),
        ("SELECT (5).refund", {"call refund()"}),
        ("SELECT (a.b[1]).refund.x FROM a", {"select a(b)", "call refund()", "call x()"}),
        ("SELECT g.refund FROM generate_series(1, 5) g", {"call refund()"}),
        ("SELECT generate_series.refund FROM generate_series(1, 5)", {"call refund()"}),
        ("SELECT (SELECT g.refund) FROM generate_series(1, 5) g", {"call refund()"}),
        (
            "SELECT (jsonb_each(a)).key, e.value, u.b, g.g FROM t, jsonb_each(t.a) e, unnest(t.c) u(b), f() g",
            {"select t(a,c)", "call f()"},
        ),
        ("SELECT r.a FROM json_to_recordset('[]') AS r(a int)", {"select -"}),
        ("INSERT INTO t (a[refund(1)]) VALUES (1)", {"insert t(a)", "call refund()"}),
        ("INSERT INTO t (a[(SELECT b FROM u)]) VALUES (1)", {"insert t(a)", "select t(b)", "select u(b)"}),
        ("SELECT a FROM t ORDER BY a USING OPERATOR(evil.<)", {"select t(a)", "call evil.<()"}),
        ("SELECT a OPERATOR(evil.=) ANY (SELECT b FROM u) FROM t", {"select t(a,b)", "select u(b)", "call evil.=()"}),
        ("SELECT x FROM customers AS c(x, y)", {"select customers(*)"}),
        ("SELECT c.a, o.b FROM c JOIN o USING (id)", {"select c(a,id)", "select o(b,id)"}),
        ("SELECT a FROM c, o", {"select c(a)", "select o(a)"}),
        ("SELECT c.a FROM c NATURAL JOIN o", {"select c(*)", "select o(*)"}),
        ("SELECT j.* FROM (c JOIN o ON c.id = o.id) AS j", {"select c(*)", "select o(*)"}),
        ("SELECT s.a FROM (SELECT a FROM t) s", {"select t(a)"}),
        ("SELECT a FROM t WHERE EXISTS (SELECT 1 FROM u WHERE u.x = t.y)", {"select t(a,y)", "select u(x)"}),
        ("SELECT t.a FROM t, LATERAL (SELECT u.b FROM u WHERE u.c = t.d) l", {"select t(a,d)", "select u(b,c)"}),
        ("SELECT 1 FROM t TABLESAMPLE system (5)", {"select t", "call system()"}),
        ("WITH a AS (SELECT x FROM t) SELECT * FROM a", {"select t(x)"}),
        ("WITH customers AS (SELECT * FROM customers) SELECT * FROM customers", {"select customers(*)"}),
        ("WITH RECURSIVE c AS (SELECT 1 UNION SELECT * FROM c) SELECT * FROM c", {"select -"}),
        ("WITH c AS (SELECT 1) SELECT * FROM public.c", {"select public.c(*)"}),
        ("WITH c AS (SELECT 1) DELETE FROM c WHERE true", {"delete c"}),
        ("WITH d AS (DELETE FROM t RETURNING a) SELECT * FROM d", {"delete t", "select t(a)"}),
        ("SELECT a FROM t UNION SELECT b FROM u ORDER BY 1", {"select t(a)", "select u(b)"}),
        ("SELECT * FROM t FOR UPDATE", {"select t(*)", "lock t"}),
        ("SELECT a INTO n FROM t", {"select t(a)", "ddl n"}),
        ("INSERT INTO t (a, b) VALUES (1, 2)", {"insert t(a,b)"}),
        ("INSERT INTO t VALUES (1)", {"insert t(*)"}),
        ("INSERT INTO t (a) SELECT b FROM u", {"insert t(a)", "select u(b)"}),
        ("INSERT INTO t (a) VALUES (1) RETURNING b", {"insert t(a)", "select t(b)"}),
        (
            "INSERT INTO t (a) VALUES (1) ON CONFLICT (k) DO UPDATE SET b = excluded.b WHERE t.c",
            {"insert t(a)", "update t(b)", "select t(c,k)"},
        ),
        ("UPDATE t SET a = 1 WHERE b = 2", {"update t(a)", "select t(b)"}),
        ("UPDATE t x SET a = x.c FROM u WHERE u.id = x.id", {"update t(a)", "select t(c,id)", "select u(id)"}),
        ("UPDATE t SET (a, b) = (SELECT c, d FROM u)", {"update t(a,b)", "select t(c,d)", "select u(c,d)"}),
        ("DELETE FROM t WHERE a = 1", {"delete t", "select t(a)"}),
        ("DELETE FROM t USING u WHERE t.a = u.b RETURNING *", {"delete t", "select t(*)", "select u(*)"}),
        (
            MERGE,
            {"merge t", "update t(a)", "delete t", "insert t(a)", "select t(i)", "select s(b,c,i,k)"},
        ),
        ("TRUNCATE a.b, c", {"truncate a.b", "truncate c"}),
        ("COPY t (a) TO STDOUT", {"copy_out t(a)", "select t(a)"}),
        ("COPY t FROM STDIN", {"copy_in t(*)", "insert t(*)"}),
        ("COPY (SELECT a FROM t) TO STDOUT", {"copy_out -", "select t(a)"}),
        ("EXPLAIN SELECT a FROM t", {"explain -", "explain t(a)"}),
        ("EXPLAIN (ANALYZE off) DELETE FROM t", {"explain -", "explain t"}),
        ("EXPLAIN (ANALYZE 0) DELETE FROM t", {"explain -", "explain t"}),
        ("EXPLAIN (ANALYZE) DELETE FROM t", {"explain -", "delete t"}),
        ("EXPLAIN ANALYZE VERBOSE DELETE FROM t", {"explain -", "delete t"}),
        ("EXPLAIN SELECT refund(1)", {"explain -", "call refund()"}),
        ("PREPARE s AS DELETE FROM t", {"prepared -"}),
        ("EXECUTE s(1)", {"prepared -"}),
        ("DECLARE c CURSOR FOR SELECT a FROM t", {"cursor -", "select t(a)"}),
        ("FETCH ALL FROM c", {"cursor -"}),
        ("CREATE TABLE n AS SELECT a FROM t", {"ddl n", "select t(a)"}),
        ("CREATE VIEW v AS SELECT a FROM t", {"ddl v", "select t(a)"}),
        ("CREATE TABLE a (x int REFERENCES b)", {"ddl a", "ddl b"}),
        ("CREATE SCHEMA s CREATE TABLE t (x int)", {"ddl ?", "ddl t"}),
        ("ALTER TABLE s.t ADD COLUMN x int DEFAULT f()", {"ddl s.t", "call f()"}),
        ("DROP TABLE s.t, u", {"ddl s.t", "ddl u"}),
        ("DROP TRIGGER g ON s.t", {"ddl s.t"}),
        ("DROP SCHEMA s", {"ddl ?"}),
        ("DROP FUNCTION s.f(int)", {"ddl s.f()"}),
        ("COMMENT ON COLUMN s.t.c IS 'x'", {"ddl s.t"}),
        ("CREATE RULE r AS ON INSERT TO a DO INSTEAD DELETE FROM b", {"ddl a", "delete b"}),
        ("GRANT SELECT ON t TO bob", {"grant t"}),
        ("GRANT SELECT ON ALL TABLES IN SCHEMA s TO bob", {"grant ?"}),
        ("CREATE ROLE r", {"grant ?"}),
        ("DO $$ BEGIN END $$", {"do ?"}),
        ("CALL s.p((SELECT a FROM t))", {"call s.p()", "select t(a)"}),
        ("SELECT s.f(a) FROM t", {"call s.f()", "select t(a)"}),
        ("SELECT a OPERATOR(s.+) b FROM t", {"call s.+()", "select t(a,b)"}),
        ("SELECT lower(a), now(), nextval('s') FROM t", {"select t(a)"}),
        ("LOCK TABLE a, b", {"lock a", "lock b"}),
        ("VACUUM", {"maintenance ?"}),
        ("ANALYZE t", {"maintenance t"}),
        ("SET work_mem = '1MB'", {"set -"}),
        ("SET TRANSACTION READ ONLY", {"transaction -"}),
        ("BEGIN", {"transaction -"}),
        ("SHOW all", {"show -"}),
        ("LISTEN x", {"listen -"}),
        ("SELECT * FROM pg_class", {"select pg_catalog.pg_class(*)"}),
        ('SELECT * FROM "public.secret"', {'select "public.secret"(*)'}),
        ('SELECT * FROM "*"', {'select "*"(*)'}),
        ("SELECT 1; DELETE FROM t WHERE a = 1", {"delete t", "select t(a)"}),
    ],
)
def test_what_is_done_to_what(text: str, expected: set[str]) -> None:
    assert accesses(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SELECT a FROM t", set()),
        ("UPDATE t SET a = 1", {Hazard.UPDATE_WITHOUT_WHERE}),
        ("UPDATE t SET a = 1 WHERE 1 = 1", {Hazard.UPDATE_WITHOUT_WHERE, Hazard.WHERE_ALWAYS_TRUE}),
        ("UPDATE t SET a = 1 WHERE false", {Hazard.UPDATE_WITHOUT_WHERE}),
        ("UPDATE t SET a = 1 WHERE CURRENT OF c", set()),
        ("DELETE FROM t", {Hazard.DELETE_WITHOUT_WHERE}),
        ("DELETE FROM t WHERE true OR 'a' = 'a'", {Hazard.DELETE_WITHOUT_WHERE, Hazard.WHERE_ALWAYS_TRUE}),
        ("DELETE FROM t WHERE a = a", {Hazard.DELETE_WITHOUT_WHERE, Hazard.WHERE_ALWAYS_TRUE}),
        (
            "WITH u AS (UPDATE t SET a = 1 WHERE a = 2 OR t.a <> 2 RETURNING 1) SELECT 1",
            {Hazard.UPDATE_WITHOUT_WHERE, Hazard.WHERE_ALWAYS_TRUE},
        ),
        ("EXPLAIN DELETE FROM t WHERE a = a", set()),
        (
            "MERGE INTO t USING (SELECT 1) s ON true WHEN MATCHED THEN DELETE",
            {Hazard.DELETE_WITHOUT_WHERE, Hazard.WHERE_ALWAYS_TRUE},
        ),
        (
            "MERGE INTO t USING (SELECT 1) s ON false WHEN NOT MATCHED BY SOURCE THEN DELETE",
            {Hazard.DELETE_WITHOUT_WHERE},
        ),
        ("MERGE INTO t USING s ON true WHEN MATCHED AND t.a = 1 THEN UPDATE SET a = 2", set()),
        ("MERGE INTO t USING s ON t.a = s.a WHEN MATCHED THEN DELETE", set()),
        ("DELETE FROM t WHERE a = 1", set()),
        ("WITH d AS (DELETE FROM t RETURNING 1) SELECT 1", {Hazard.DELETE_WITHOUT_WHERE}),
        ("EXPLAIN DELETE FROM t", set()),
        ("SELECT 1; SELECT 2", {Hazard.MULTI_STATEMENT}),
        ("CREATE TABLE t (a int)", {Hazard.SCHEMA_CHANGE}),
        ("DROP TABLE t", {Hazard.SCHEMA_CHANGE, Hazard.DROP}),
        ("ALTER TABLE t DROP COLUMN a", {Hazard.SCHEMA_CHANGE, Hazard.DROP}),
        ("ALTER TABLE t OWNER TO bob", {Hazard.SCHEMA_CHANGE, Hazard.GRANT}),
        ("DROP EXTENSION x", {Hazard.SCHEMA_CHANGE, Hazard.DROP, Hazard.EXTENSION}),
        ("GRANT SELECT ON t TO bob", {Hazard.GRANT}),
        ("GRANT admin TO bob", {Hazard.GRANT, Hazard.ROLE_CHANGE}),
        ("SET ROLE admin", {Hazard.ROLE_CHANGE}),
        ("SET SESSION AUTHORIZATION bob", {Hazard.ROLE_CHANGE}),
        ("RESET ROLE", set()),
        ("COPY t TO PROGRAM 'x'", {Hazard.COPY_PROGRAM}),
        ("COPY t FROM '/etc/passwd'", {Hazard.SERVER_FILE}),
        ("SELECT pg_read_file('x')", {Hazard.SERVER_FILE}),
        ("SELECT x.dblink_exec('y')", {Hazard.DBLINK}),
        ("CREATE SERVER s FOREIGN DATA WRAPPER w", {Hazard.SCHEMA_CHANGE, Hazard.DBLINK}),
        ("SELECT lo_import('/x')", {Hazard.SERVER_FILE, Hazard.LARGE_OBJECT}),
        ("SELECT pg_terminate_backend(1)", {Hazard.SUPERUSER_FUNCTION}),
        ("CREATE EXTENSION e", {Hazard.SCHEMA_CHANGE, Hazard.EXTENSION}),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE c AS 'x'", {Hazard.SCHEMA_CHANGE, Hazard.UNTRUSTED_LANGUAGE}),
        ("CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'", {Hazard.SCHEMA_CHANGE}),
        ("DO LANGUAGE plpythonu 'x'", {Hazard.DYNAMIC_SQL, Hazard.UNTRUSTED_LANGUAGE}),
        ("SELECT query_to_xml('SELECT 1', true, true, '')", {Hazard.DYNAMIC_SQL}),
        ("ALTER SYSTEM SET x = 1", {Hazard.SYSTEM_SETTING}),
        ("SET standard_conforming_strings = off", {Hazard.SYSTEM_SETTING}),
        ("SET standard_conforming_strings = on", set()),
        ("SET client_encoding = 'SJIS'", {Hazard.SYSTEM_SETTING}),
        ("SET NAMES 'utf8'", set()),
        ("SET session_replication_role = replica", {Hazard.SYSTEM_SETTING}),
        ("SET search_path = x", {Hazard.SEARCH_PATH}),
        ("SELECT set_config('search_path', '', false)", {Hazard.SEARCH_PATH}),
        ("SELECT set_config('application_name', 'x', false)", set()),
        (
            "SELECT set_config('search' || '_path', 'x', false)",
            {Hazard.SEARCH_PATH, Hazard.SYSTEM_SETTING, Hazard.ROLE_CHANGE},
        ),
        ("SELECT * FROM pg_stats", {Hazard.CATALOG}),
        ("SELECT * FROM information_schema.tables", {Hazard.CATALOG}),
        ("LOCK t", {Hazard.LOCK_TABLE}),
        ("SELECT pg_sleep(1)", {Hazard.SLEEP}),
    ],
)
def test_what_is_dangerous(text: str, expected: set[str]) -> None:
    assert hazards(text) == expected


@pytest.mark.parametrize(
    ("text", "moves"),
    [
        ("SELECT lower(a), nextval('s') FROM t", False),
        ("SELECT pg_advisory_lock(1)", False),
        ("SELECT refund(1)", True),
        ("CALL refund(1)", True),
        ("DO ''", True),
        ("SET search_path = x", True),
        ("SET statement_timeout = 0", False),
        ("CREATE TABLE t (a int)", False),
        ("CREATE TEMP TABLE t (a int)", True),
        ("CREATE VIEW pg_temp.t AS SELECT 1", True),
        ("SELECT 1 AS a INTO TEMP t", True),
    ],
)
def test_what_may_lead_names_elsewhere(text: str, moves: bool) -> None:
    assert facts_of(text).moves_names is moves


def test_very_many_columns_are_all_and_very_many_tables_are_unknown() -> None:
    assert accesses("SELECT " + ",".join(f"c{n}" for n in range(300)) + " FROM t") == {"select t(*)"}
    assert understand(b"SELECT 1 FROM " + b",".join(b"t%d" % n for n in range(600))).operation is UNKNOWN_OPERATION


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ("SELECT a FROM t WHERE b = 1", "select  a from t where b = 'x'", True),
        ("SELECT a FROM t WHERE b = 1", "SELECT a FROM t WHERE b = $1", True),
        ("SELECT a FROM t WHERE b IN (1, 2)", "SELECT a FROM t WHERE b IN (3)", True),
        ("INSERT INTO t (a) VALUES (1)", "INSERT INTO t (a) VALUES (1), (2)", True),
        ("DELETE FROM t1 WHERE b = 1", "DELETE FROM t2 WHERE b = 1", False),
        ("DELETE FROM t WHERE b = 1", "DELETE FROM t WHERE b > 1", False),
        ("SELECT refund(1)", "SELECT refund(2)", False),
        ("SELECT pg_terminate_backend(1)", "SELECT pg_terminate_backend(2)", False),
        ("SELECT query_to_xml('a', true, true, '')", "SELECT query_to_xml('b', true, true, '')", False),
        ("SET ROLE a", "SET ROLE b", False),
        ("SELECT f(1), " + "'x', " * 5_000 + "1", "SELECT f(2), " + "'x', " * 5_000 + "1", False),
        ("SELECT a FROM t WHERE b IN (" + "1, " * 5_000 + "2)", "SELECT a FROM t WHERE b IN (3)", True),
        ("DROP TABLE a", "DROP TABLE b", False),
        ("SELECT '{\"A_Const\":{}}' FROM t", "SELECT 1 FROM t", True),
        ("SELECT " + "NOT " * 120 + "a FROM t", "SELECT " + "NOT " * 120 + "b FROM t", False),
    ],
)
def test_texts_with_the_same_meaning_have_the_same_template(one: str, other: str, is_same: bool) -> None:
    templates = [facts_of(text).operation.template for text in (one, other)]
    assert (templates[0] == templates[1]) is is_same
    assert all(len(template) == 32 for template in templates)


def test_the_lists_of_functions_and_relations_are_the_servers(target_postgres: TargetPostgres) -> None:
    volatile = {
        name
        for (name,) in target_postgres.run(
            "SELECT proname FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace"
            " AND (provolatile = 'v' OR prolang NOT IN"
            " (SELECT oid FROM pg_language WHERE lanname IN ('internal', 'sql')))"
        )
    }
    assert PURE_FUNCTIONS & volatile == set()
    assert HARMLESS_FUNCTIONS > PURE_FUNCTIONS
    of_rows = {
        name
        for (name,) in target_postgres.run(
            "SELECT proname FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND pronargs > 0"
            " AND pronargs - pronargdefaults < 2 AND prokind <> 'w' AND proargtypes[0]::regtype::text IN ('record',"
            " '\"any\"', 'anyelement', 'anynonarray', 'anycompatible', 'anycompatiblenonarray')"
            " AND prorettype NOT IN ('bigint'::regtype, 'int'::regtype, 'text'::regtype, 'regtype'::regtype)"
            " AND provariadic = 0 AND proname <> 'mode' AND prorettype <> 'oid'::regtype"
            " AND proname NOT LIKE '%\\_out' AND proname NOT LIKE '%\\_send'"
        )
    }
    assert of_rows <= ROW_FUNCTIONS
    assert {"concat", "json_build_array", "quote_literal", "record_out", "record_send"} <= ROW_FUNCTIONS
    relations = {
        name
        for (name,) in target_postgres.run(
            "SELECT relname FROM pg_class WHERE relnamespace = 'pg_catalog'::regnamespace AND relkind IN ('r', 'v')"
        )
    }
    assert relations <= CATALOG_RELATIONS


@given(st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"])), st.booleans())
def test_no_constant_is_taken_for_a_part_of_the_tree(constant: str, is_large: bool) -> None:
    quoted = "'" + constant.replace("'", "''") + "'"
    rows = ", ".join([f"({quoted}, 1, $1)"] * (300 if is_large else 1))
    facts = facts_of(f"INSERT INTO s.t (a, b, c) SELECT * FROM (VALUES {rows}) v WHERE v.column1 <> {quoted}")
    plain = facts_of("INSERT INTO s.t (a, b, c) SELECT * FROM (VALUES (1, 2, 3)) v WHERE v.column1 <> 'x'")
    assert facts.operation == plain.operation
