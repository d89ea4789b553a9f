"""Limits that are refused at save."""

from __future__ import annotations

from typing import Any

import pytest

from policies.budgets.checking import findings_of_limits
from policies.engine import parse_policy

LIMIT: dict[str, Any] = {"name": "few", "effect": "limit", "agents": ["*"], "targets": ["*"]}


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        ({"limit": {"distinct": 5}, "columns": ["email"]}, "distinct"),
        ({"limit": {"sessions": 5}, "operations": ["select"]}, "sessions"),
        ({"limit": {"sessions": 5, "rows": 3}, "when": {"days": ["mon"]}}, "sessions"),
        ({"limit": {"sessions": 5}}, ""),
        ({"limit": {"rows": 5, "statement_seconds": 3}, "operations": ["select"]}, ""),
    ],
)
def test_what_nobody_could_keep_is_refused_with_its_field(rule: dict[str, Any], field: str) -> None:
    findings = list(findings_of_limits(parse_policy("v", [LIMIT | rule])))
    assert [finding.field for finding in findings] == ([f"rules[0].limit.{field}"] if field else [])
