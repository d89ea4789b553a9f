"""Full names of columns, and which of them a limit counts."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.engine import parse_policy
from policies.engine.columns import counted_columns, join_column, labels_asked_for, split_column

PART = st.text(st.characters(categories=("L", "N", "P", "S", "Zs")), min_size=1, max_size=12).filter(str.isprintable)
RULE: dict[str, Any] = {"name": "r", "effect": "limit", "agents": ["*"], "targets": ["*"]}


@given(schema=PART, table=PART, column=PART)
def test_a_name_that_was_put_together_comes_apart_again(schema: str, table: str, column: str) -> None:
    assert split_column(join_column(schema, table, column)) == (schema, table, column)


@pytest.mark.parametrize("name", ["", "a", "a.b", "a.b.", "a.b.c.d", "A.b.c", "a.*.c", 'a."b.c', "a.b.c ", 'a."".c'])
def test_what_names_no_column_is_none(name: str) -> None:
    assert split_column(name) is None


def test_a_limit_counts_the_columns_it_names_and_those_with_its_labels_on_that_target() -> None:
    limit = {"distinct": 5, "labels": ["email"], "columns": ["public.a.b"]}
    policy = parse_policy("v", [RULE | {"limit": limit}, RULE | {"name": "q", "limit": {"rows": 1}}])
    assert labels_asked_for(policy) == {"email"}
    labelled = {"shop": {"public.c.mail": ("email", "pii"), "public.c.ssn": ("pii",)}, "hr": {"x.y.z": ("email",)}}
    policy = msgspec.structs.replace(policy, labelled=labelled)
    asked = policy.rules[0].limit
    assert asked is not None
    assert counted_columns(asked, policy, "shop") == {"public.a.b", "public.c.mail"}
    assert counted_columns(asked, policy, "other") == {"public.a.b"}
