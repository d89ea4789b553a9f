"""What may stand in a rule's `filter`."""

from __future__ import annotations

import pytest

from policies.engine import parse_policy
from policies.filters import FUNCTIONS, findings_of_filters, why_no_predicate
from proxyworker.postgres.understand.functions import PURE_FUNCTIONS


@pytest.mark.parametrize(
    "text",
    [
        "region = 'eu'",
        "is_public",
        "NOT is_secret AND (region IN ('eu', 'uk') OR owner IS NULL)",
        "lower(email) LIKE '%@acme.example'",
        "created_at >= date_trunc('day', seen_at) - interval '7 days'",
        "amount BETWEEN 0 AND 100.5 AND tags @> ARRAY['public']",
        "extract(year FROM born) < 2000",
        "data ->> 'tenant' = 'acme'",
        "(region, tier) = ('eu', 1)",
        "CASE WHEN tier = 1 THEN is_public ELSE false END",
        "coalesce(is_public, false) IS TRUE",
        "id::text = '5' AND note <> 'a -- b /* c */ ; d'",
        "\"Odd name\" = 'é' AND name = E'\\n'",
        "name SIMILAR TO 'a%' OR trim(name) = ''",
        "position('a' IN name) > 0 AND substring(name FROM 1 FOR 2) = 'ab'",
        "seen_at AT TIME ZONE 'UTC' < '2026-01-01'::timestamp",
    ],
)
def test_a_condition_on_a_row_is_a_filter(text: str) -> None:
    assert why_no_predicate(text) == ""


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("region = = 'eu'", 'is no SQL: syntax error at or near "=", at character 10'),
        ("région = = 'eu'", 'is no SQL: syntax error at or near "=", at character 10'),
        ("region = 'eu", "is no SQL: unterminated quoted string"),
        ("region = 'eu' -- all of them", "has a comment, at character 15"),
        ("région = /* x */ 'eu'", "has a comment, at character 10"),
        ("région = 'é' OR count(id) > 5", "calls count(), at character 17"),
        ("region = 'eu'; DROP TABLE t", "is more than one statement"),
        ("region = 'eu' ORDER BY 1", "goes on behind the condition"),
        ("region = 'eu' LIMIT 5", "goes on behind the condition"),
        ("region = 'eu' FOR UPDATE", "goes on behind the condition"),
        ("region = 'eu' UNION SELECT 1", "goes on behind the condition"),
        ("true) OR (is_public", "is no SQL"),
        ("id IN (SELECT id FROM allowed)", "has a query of its own, at character 4"),
        ("EXISTS (SELECT 1)", "has a query of its own, at character 1"),
        ("owner = current_user", "has a value of the session or the clock, at character 9"),
        ("owner = current_setting('app.owner')", "calls current_setting(), at character 9"),
        ("is_public OR pg_sleep(5) IS NULL", "calls pg_sleep(), at character 14"),
        ("evil.lower(name) = 'x'", "calls evil.lower(), at character 1"),
        ("count(id) > 5", "calls count(), at character 1"),
        ("abs(id) OVER () > 5", "calls abs() with more than plain arguments, at character 1"),
        ("id OPERATOR(evil.=) 5", "uses the operator evil.=, at character 4"),
        ("name::regclass = 't'", "casts to regclass, at character 5"),
        ("orders.region = 'eu'", "names 'orders.region' where a column alone has to stand, at character 1"),
        ("id = $1", "has a parameter, which nobody gives, at character 6"),
        ("data['a'] = 'b'", "has a field or an element"),
        ("true", "names no column, so it is the same for every row"),
        ("1 = 1", "names no column, so it is the same for every row"),
        ("'x'", "names no column"),
        ("id + 1", "is neither true nor false, at character 4"),
        ("is_public AND name || 'x'", "is neither true nor false, at character 20"),
        ("is_public OR 5", "is neither true nor false, at character 14"),
        ("ROW(id)", "is neither true nor false, at character 1"),
        ("NOT " * 500 + "is_public", "nested"),
        ("\ud800 = 1", "is no SQL that can be read"),
    ],
)
def test_what_is_no_condition_is_refused_with_its_place(text: str, problem: str) -> None:
    assert problem in why_no_predicate(text)


def test_a_filter_is_looked_at_where_it_stands() -> None:
    rule = {"effect": "filter", "agents": ["*"], "targets": ["*"], "objects": ["public.orders"]}
    policy = parse_policy("", [{**rule, "name": "a", "filter": "ok"}, {**rule, "name": "b", "filter": "1 ="}])
    (finding,) = findings_of_filters(policy)
    assert finding.field == "rules[1].filter"
    assert finding.problem.startswith("is no SQL: syntax error at end of input")
    assert finding.fix


def test_the_functions_of_a_filter_have_no_effect() -> None:
    # The grammar makes these of LIKE … ESCAPE, EXTRACT and the like; each is immutable or stable.
    assert set() == FUNCTIONS - PURE_FUNCTIONS
