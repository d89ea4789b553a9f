"""Conditions that hold for every row, as far as the text tells. A real server says whether they do."""

from __future__ import annotations

import pytest

from policies.engine import Hazard
from proxyworker.postgres.understand import understand
from proxyworker.postgres.understand.sameness import MAX_PARTS, Keys
from proxyworker.postgres.understand.truth import MAX_COMPARED
from tests.plugin.embedded import TargetPostgres

TRUE = (
    "true",
    "1 = 1",
    "'a' = 'a'",
    "1 < 2 AND 'x' <> 'y'",
    "NOT false",
    "NOT (1 = 2)",
    "1 + 1 = 2",
    "-1 < 0",
    "'1' = 1",
    "'t'::bool",
    "1::bool",
    "id = id",
    "t.id = id",
    "id IS NOT DISTINCT FROM t.id",
    "NOT id <> id",
    "id >= id",
    "id = 5 OR true",
    "id = 5 OR 1 = 1",
    "id = 5 OR (name = 'x' OR 2 > 1)",
    "id + 1 = id + 1",
    "lower(name) = lower(t.name)",
    "(id, name) = (id, name)",
    "id = 5 OR NOT id = 5",
    "id = 5 OR id <> 5",
    "id < 5 OR id >= 5",
    "id IN (1, 2) OR id NOT IN (1, 2)",
    "id BETWEEN 1 AND 2 OR id NOT BETWEEN 1 AND 2",
    "id IS NULL OR id IS NOT NULL",
    "name LIKE 'a%' OR name NOT LIKE 'a%'",
    "id IN (0, id)",
    "id = ANY (ARRAY[id, 0])",
    "1 IN (1, 2)",
    "1 NOT IN (2, 3)",
    "2 BETWEEN 1 AND 3",
    "id BETWEEN id AND id",
    "name LIKE '%'",
    "name ILIKE '%%'",
    "name ~ '.*'",
    "name ~ ''",
    "(id = id) IS TRUE",
    "(id <> id) IS NOT TRUE",
    "(1 = 2) IS FALSE",
    "(id = id) IS NOT UNKNOWN",
    "1 IS NOT NULL",
    "NULL IS NULL",
    "COALESCE(true, id = 5)",
    "EXISTS (SELECT 1)",
    "EXISTS (SELECT 1 FROM t)",
    "id IN (SELECT id FROM t)",
    "(SELECT true)",
    "(SELECT 1) = 1",
    "id = 5 OR 1 OPERATOR(pg_catalog.=) 1",
)
OTHERS = (
    "false",
    "1 = 2",
    "NULL",
    "id = 5",
    "id >= 0",
    "id = 5 AND 1 = 1",
    "id = 5 OR 1 = 2",
    "id = 5 OR name = 'x'",
    "id = 5 OR NOT id = 6",
    "id <= 5 OR id > 6",
    "id IS NOT NULL",
    "id IS DISTINCT FROM id",
    "id IN (1, 2)",
    "id NOT IN (1, 2)",
    "name LIKE 'a%'",
    "name NOT LIKE '%'",
    "name !~ '.*'",
    "random() = random()",
    "random() > 0.5 OR random() <= 0.5",
    "id = 5 IS NOT FALSE",
    "NOT EXISTS (SELECT 1)",
    "EXISTS (SELECT 1 FROM t WHERE id = 5)",
    "id IN (SELECT id FROM t LIMIT 1)",
    "id IN (SELECT other FROM t)",
    "id = other",
    "id = 5 OR NULL",
    "1 = 1 AND NOT (id = id)",
    "name = '1' OR 'a' = 'b'",
)


def is_always_true(condition: str) -> bool:
    """What the gate takes it for; and a missing WHERE is a hazard then too."""
    for statement, without in (
        (f"DELETE FROM t WHERE {condition}", Hazard.DELETE_WITHOUT_WHERE),
        (f"UPDATE t SET name = 'x' WHERE {condition}", Hazard.UPDATE_WITHOUT_WHERE),
    ):
        hazards = understand(statement.encode()).operation.hazards
        assert Hazard.WHERE_ALWAYS_TRUE not in hazards or without in hazards
    return Hazard.WHERE_ALWAYS_TRUE in hazards


@pytest.mark.parametrize("condition", TRUE)
def test_a_condition_that_holds_for_every_row_is_told(condition: str) -> None:
    assert is_always_true(condition)


@pytest.mark.parametrize("condition", OTHERS)
def test_a_condition_that_may_not_hold_is_left_alone(condition: str) -> None:
    assert not is_always_true(condition)


def test_what_is_told_is_what_a_server_says(target_postgres: TargetPostgres) -> None:
    rows = "WITH t (id, other, name) AS (VALUES (1, 2, 'x'), (5, 1, 'a b'), (6, 9, ''), (-7, 5, '1'))"
    for condition in TRUE:
        assert target_postgres.run(f"{rows} SELECT count(*) FROM t WHERE {condition}") == [(4,)], condition


@pytest.mark.parametrize(
    ("harmless", "harmful"),
    [
        ("1 = 2", "1 = 1"),
        ("id = 5 OR 1 = 2", "id = 5 OR 1 = 1"),
        ("id = 5 OR $1 = 2", "id = 5 OR 1 = 1"),
        ("id = 5 OR $1", "id = 5 OR true"),
        ("false", "true"),
        ("name LIKE 'a%'", "name LIKE '%'"),
        ("name LIKE $1", "name LIKE '%'"),
        ("id = 5 OR id <> 6", "id = 5 OR id <> 5"),
        ("id + 1 = id + 2", "id + 1 = id + 1"),
        ("id = 5 OR 'f'::bool", "id = 5 OR 't'::bool"),
        ("NULL IS NOT NULL", "1 IS NOT NULL"),
        ("id = 5 OR 1 IN (2)", "id = 5 OR 1 IN (2, 1)"),
    ],
)
def test_what_is_known_of_a_text_is_not_taken_for_one_with_other_constants(harmless: str, harmful: str) -> None:
    assert not is_always_true(harmless)
    assert is_always_true(harmful)
    assert not is_always_true(harmless)


def test_a_condition_that_no_constant_makes_true_has_a_template() -> None:
    one, other = (understand(f"DELETE FROM t WHERE id = {number}".encode()).operation for number in (5, 6))
    assert one.template == other.template
    assert Hazard.WHERE_ALWAYS_TRUE not in one.hazards


def test_a_long_condition_is_looked_at_up_to_a_bound() -> None:
    keys = Keys("t")
    keys.of([{"ColumnRef": {"fields": []}} for _ in range(MAX_PARTS + 1)], exact=True)
    assert (Keys("t").is_exhausted, keys.is_exhausted) == (False, True)
    wide = " OR ".join(f"id + {number} = other + {number}" for number in range(2 * MAX_COMPARED))
    deep = "(" * 60 + "id = 5" + " AND 1 = 1) OR id = 6" * 60
    assert not is_always_true(wide)
    assert not is_always_true(deep)
    assert is_always_true(f"{wide} OR id = id")
