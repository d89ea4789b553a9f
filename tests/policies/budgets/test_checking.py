"""Limits that are refused at save."""

from __future__ import annotations

from typing import Any

import pytest

from policies.budgets.checking import findings_of_limits
from policies.engine import Target, parse_policy

LIMIT: dict[str, Any] = {"name": "few", "effect": "limit", "agents": ["*"], "targets": ["*"]}


@pytest.mark.parametrize(
    ("rule", "field"),
    [
        ({"limit": {"sessions": 5}, "operations": ["select"]}, "sessions"),
        ({"limit": {"sessions": 5, "rows": 3}, "when": {"days": ["mon"]}}, "sessions"),
        ({"limit": {"sessions": 5}}, ""),
        ({"limit": {"rows": 5, "statement_seconds": 3}, "operations": ["select"]}, ""),
    ],
)
def test_what_nobody_could_keep_is_refused_with_its_field(rule: dict[str, Any], field: str) -> None:
    findings = list(findings_of_limits(parse_policy("v", [LIMIT | rule])))
    assert [finding.field for finding in findings] == ([f"rules[0].limit.{field}"] if field else [])


def test_a_label_that_no_column_of_the_rules_targets_has_is_refused_with_those_there_are() -> None:
    rule = LIMIT | {"targets": ["shop"], "limit": {"distinct": 5, "labels": ["email", "card"]}}
    targets = {name: Target(name=name) for name in ("shop", "hr")}
    labels = {"shop": frozenset({"email"}), "hr": frozenset({"card"})}
    [finding] = findings_of_limits(parse_policy("v", [rule]), targets, labels)
    assert finding.field == "rules[0].limit.labels"
    assert "'card'" in finding.problem
    assert "email" in finding.fix
    assert not list(findings_of_limits(parse_policy("v", [rule | {"targets": ["*"]}]), targets, labels))
