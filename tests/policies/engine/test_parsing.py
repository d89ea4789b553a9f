"""Documents: what is refused, with the path of the field and what would be right."""

from __future__ import annotations

from typing import Any

import pytest

from policies.engine import Approval, ApprovalMode, Effect, Limit, Mask, PolicyError, When, parse_policy
from policies.engine.model import MAX_CONDITIONS, MAX_RULES

RULE: dict[str, Any] = {"name": "r", "effect": "allow", "agents": ["*"], "targets": ["*"]}
ASK: dict[str, Any] = {"effect": "require_approval", "approval": {"flow": "dba"}}
LIMIT: dict[str, Any] = {"effect": "limit", "limit": {"rows": 1}}


@pytest.mark.parametrize(
    ("fields", "field", "fix"),
    [
        ({"effect": "denny"}, "effect", "One of allow, deny, require_approval"),
        ({"effect": None}, "effect", "One of allow"),
        ({"operatons": []}, "operatons", "Did you mean operations?"),
        ({"within": {"agents": ["*"]}}, "within", "scope"),
        ({"name": " "}, "name", "decisions cite it"),
        ({"name": "a\nb"}, "name", ""),
        ({"name": "x" * 101}, "name", "100"),
        ({"name": 3}, "name", ""),
        ({"agents": []}, "agents", '"*" for all'),
        ({"agents": "reporter"}, "agents", ""),
        ({"agents": ["ok", "a b"]}, "agents[1]", "Letters"),
        ({"agents": ["x"] * 501}, "agents", "500"),
        ({"groups": [""]}, "groups[0]", ""),
        ({"targets": []}, "targets", '"*" for all'),
        ({"environments": ["prod uction"]}, "environments[0]", ""),
        ({"claims": {"": "x"}}, "claims", ""),
        ({"claims": {"repo": "\x00"}}, "claims.repo", ""),
        ({"target_labels": {"tier": " x"}}, "target_labels.tier", ""),
        ({"operations": ["selct"]}, "operations[0]", "select"),
        ({"operations": ["select", "ftp:*"]}, "operations[1]", ""),
        ({"hazards": ["drop", "drp"]}, "hazards[1]", "drop"),
        ({"objects": [""]}, "objects[0]", ""),
        ({"objects": ["a\tb"]}, "objects[0]", "printable"),
        ({"columns": ["x" * 201]}, "columns[0]", "200"),
        ({"when": {}}, "when", ""),
        ({"when": {"days": ["mon", "tues"]}}, "when.days[1]", "tue"),
        ({"when": {"days": ["mon", "mon"]}}, "when.days[1]", "once"),
        ({"when": {"hours": ["9-17"]}}, "when.hours[0]", "09:00-17:30"),
        ({"when": {"hours": ["09:00-17:00", "24:00-06:00"]}}, "when.hours[1]", "09:00-17:30"),
        ({"when": {"hours": ["09:00-09:00"]}}, "when.hours[0]", "whole day"),
        ({"when": {"hours": ["00:00-24:00"]}}, "when.hours[0]", "whole day"),
        ({"when": {"days": ["mon"], "timezone": "Mars/Olympus"}}, "when.timezone", "Europe/Berlin"),
        ({"when": {"days": ["mon"], "timezone": "../../etc/passwd"}}, "when.timezone", ""),
        ({"when": {"days": ["mon"], "timezone": "Europe"}}, "when.timezone", ""),
        ({"when": {"since": "yesterday"}}, "when.since", "2026-11-23"),
        ({"when": {"since": "2026-11-23T10:00:30"}}, "when.since", "full minutes"),
        ({"when": {"since": "2026-W48-1"}}, "when.since", ""),
        ({"when": {"since": "2026-11-23", "until": "2026-11-23"}}, "when.until", ""),
        ({"when": {"since": 20261123}}, "when.since", ""),
        ({"when": {"hour": ["09:00-10:00"]}}, "when.hour", "Did you mean hours?"),
        ({"condition": "agent.nmae == 'x'"}, "condition", "agent has name"),
        ({"reason": "x" * 501}, "reason", ""),
        ({"reason": "\x1b[2J"}, "reason", ""),
        ({"effect": "require_approval"}, "approval", "flow"),
        (ASK | {"approval": {}}, "approval.flow", ""),
        (ASK | {"approval": {"flow": "DBA team"}}, "approval.flow", "Small letters"),
        (ASK | {"approval": {"flow": "dba", "mode": "wait"}}, "approval.mode", "One of hold, defer"),
        (ASK | {"approval": {"flow": "dba", "hold_seconds": -1}}, "approval.hold_seconds", ""),
        (ASK | {"approval": {"flow": "dba", "hold_seconds": 86_401}}, "approval.hold_seconds", "86400"),
        (ASK | {"approval": {"flow": "dba", "mode": "defer", "hold_seconds": 5}}, "approval.hold_seconds", ""),
        ({"approval": {"flow": "dba"}}, "approval", "require_approval"),
        ({"mask": {"method": "null"}}, "mask", "effect: mask"),
        ({"limit": {"rows": 5}}, "limit", "effect: limit"),
        ({"filter": "true"}, "filter", "effect: filter"),
        ({"effect": "mask"}, "columns", '"*" for all'),
        ({"effect": "mask", "columns": ["a"], "mask": {"method": "rot13"}}, "mask.method", "redact"),
        ({"effect": "mask", "columns": ["a"], "mask": {"method": None}}, "mask.method", "quotes"),
        ({"effect": "limit"}, "limit", "rows"),
        (LIMIT | {"limit": {"per": "hour"}}, "limit", "operations"),
        (LIMIT | {"limit": {"rows": -1}}, "limit.rows", ""),
        (LIMIT | {"limit": {"rows": 2**60}}, "limit.rows", ""),
        (LIMIT | {"limit": {"rows": 1, "per": "year"}}, "limit.per", "month"),
        (LIMIT | {"limit": {"distinct": 5}}, "limit.labels", "labels: [email]"),
        (LIMIT | {"limit": {"distinct": 5, "labels": ["E-Mail"]}}, "limit.labels[0]", "Small letters"),
        (LIMIT | {"limit": {"distinct": 5, "columns": ["email"]}}, "limit.columns[0]", "schema.table.column"),
        (LIMIT | {"limit": {"distinct": 100_001, "labels": ["a"]}}, "limit.distinct", "At most"),
        (LIMIT | {"limit": {"rows": 5, "labels": ["a"]}}, "limit.labels", "distinct"),
        (LIMIT | {"columns": ["email"], "limit": {"distinct": 5, "labels": ["a"]}}, "columns", "limit.columns"),
        (LIMIT | {"operations": ["select"], "limit": {"distinct": 5, "labels": ["a"]}}, "operations", "however"),
        ({"effect": "filter", "objects": ["a"]}, "filter", "predicate"),
        ({"effect": "filter", "filter": "x = 1"}, "objects", ""),
        ({"effect": "filter", "filter": "x" * 1001, "objects": ["a"]}, "filter", ""),
    ],
)
def test_what_is_wrong_is_refused_with_its_field_and_a_fix(fields: dict[str, Any], field: str, fix: str) -> None:
    with pytest.raises(PolicyError) as refused:
        parse_policy("p@1", [RULE | {"name": "fine"}, RULE | fields])
    assert refused.value.field == f"rules[1].{field}"
    assert fix in refused.value.fix
    assert refused.value.problem


@pytest.mark.parametrize(
    ("rules", "within", "field"),
    [
        ("rules", None, "rules"),
        ([1], None, "rules[0]"),
        ([{"effect": "allow"}], None, "rules[0].name"),
        ([RULE, RULE], None, "rules[1].name"),
        ([RULE | {"name": str(number)} for number in range(MAX_RULES + 1)], None, "rules"),
        ([RULE | {"name": str(n), "condition": "true"} for n in range(MAX_CONDITIONS + 1)], None, "rules"),
        ([RULE], ["shop"], "scope"),
        ([RULE], {"target": ["shop"]}, "scope.target"),
        ([RULE], {"targets": ["a b"]}, "scope.targets[0]"),
    ],
)
def test_a_document_that_is_no_policy_is_refused(rules: Any, within: Any, field: str) -> None:
    with pytest.raises(PolicyError) as refused:
        parse_policy("p@1", rules, within=within)
    assert refused.value.field == field


def test_a_whole_rule_is_read_as_it_is_written() -> None:
    policy = parse_policy(
        "p@7",
        [
            {
                "name": "office hours",
                "effect": "require_approval",
                "agents": ["report-*"],
                "groups": ["analysts"],
                "sponsors": ["*@acme.example"],
                "claims": {"repository": "acme/*", "fork": ""},
                "targets": ["shop"],
                "target_labels": {"tier": "1"},
                "operations": ["select", "http:*"],
                "objects": ["public.*", 'hr."Odd.Name"'],
                "columns": ["id"],
                "hazards": ["*_without_where"],
                "when": {"days": ["mon", "fri"], "hours": ["22:00-06:00"], "timezone": "Europe/Berlin"},
                "condition": "'night' in agent.groups",
                "approval": {"flow": "dba", "mode": "defer"},
                "reason": "because\nof this",
            },
            {"name": "m", "effect": "mask", "columns": ["ssn"], "mask": {"method": "last4"}},
            {"name": "l", "effect": "limit", "limit": {"per": "hour", "of": "agent_on_target", "rows": 5}},
        ],
        within={"environments": ["prod"], "agents": ["*"]},
    )
    first, mask, limit = policy.rules
    assert policy.version == "p@7"
    assert first.approval == Approval(flow="dba", mode=ApprovalMode.DEFER)
    assert first.when == When(days=("mon", "fri"), hours=("22:00-06:00",), timezone="Europe/Berlin")
    assert (mask.effect, mask.mask) == (Effect.MASK, Mask(method="last4"))
    assert isinstance(limit.limit, Limit)
    assert all(rule.within is not None and rule.within.environments == ("prod",) for rule in policy.rules)


def test_an_empty_policy_is_one() -> None:
    assert parse_policy("p@1", []).rules == ()
