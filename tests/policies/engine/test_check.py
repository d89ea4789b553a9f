"""Policies that say something other than they seem to."""

from __future__ import annotations

from typing import Any

import pytest

from policies.engine import Known, Target, check_policy, parse_policy

ALL: dict[str, Any] = {"effect": "allow", "agents": ["*"], "targets": ["*"]}
DENY: dict[str, Any] = {**ALL, "effect": "deny"}
ASK: dict[str, Any] = {**ALL, "effect": "require_approval", "approval": {"flow": "dba"}}
KNOWN = Known(
    agents=frozenset({"reporter"}),
    groups=frozenset({"ops"}),
    sponsors=frozenset({"ada@acme.example"}),
    people=frozenset({"ada@acme.example", "ada-at-okta"}),
    targets={
        "shop": Target(name="shop", environment="prod", labels={"tier": "1"}),
        "lab": Target(name="lab", environment="test"),
        "api": Target(name="api", protocol="http", environment="prod"),
    },
    flows={"dba": 2, "nobody": 0},
    now=1_782_900_000.0,
)


def findings(*rules: dict[str, Any], within: Any = None, known: Known = KNOWN) -> list[tuple[str, str]]:
    """Field and problem of each."""
    named = [{"name": f"r{index}", **rule} for index, rule in enumerate(rules)]
    found = check_policy(parse_policy("", named, within=within), known=known)
    assert all(one.fix for one in found)
    return [(one.field, one.problem) for one in found]


@pytest.mark.parametrize(
    ("rule", "field", "problem"),
    [
        ({"agents": ["repoter"]}, "agents", "there is no agent 'repoter'"),
        ({"groups": ["opps"]}, "groups", "no agent is in the group 'opps'"),
        ({"sponsors": ["bob@acme.example"]}, "sponsors", "there is no person 'bob@acme.example'"),
        ({"targets": ["shop", "shpo"]}, "targets", "there is no target 'shpo'"),
        ({"environments": ["prodd"]}, "environments", "no target has the environment 'prodd'"),
        ({"target_labels": {"teir": "1"}}, "target_labels", "no target has the label 'teir'"),
        ({"targets": ["shop"], "environments": ["test"]}, "targets", "shop never have the environment"),
        ({"targets": ["api"], "operations": ["select"]}, "operations", "never happen on targets that speak http"),
        ({"targets": ["shop"], "operations": ["http:*"]}, "operations", "never happen on targets that speak postgres"),
        ({"condition": "1 > 2"}, "condition", "is never true"),
        ({"when": {"until": "2026-01-01"}}, "when.until", "is over"),
        ({**DENY, "operations": ["http:*"], "hazards": ["drop"]}, "hazards", "never occur"),
        ({**DENY, "hazards": ["none"]}, "hazards", "what no operation has"),
        ({**ASK, "approval": {"flow": "dbas"}}, "approval.flow", "there is no approval flow 'dbas'"),
        ({**ASK, "approval": {"flow": "nobody"}}, "approval.flow", "nobody can approve by 'nobody'"),
    ],
)
def test_a_rule_that_can_never_do_what_it_says_is_found(rule: dict[str, Any], field: str, problem: str) -> None:
    found = findings({**ALL, **rule})
    assert [one for one in found if one[0] == f"rules[0].{field}" and problem in one[1]], found


@pytest.mark.parametrize(
    "rule",
    [
        {"agents": ["reporter", "future-*", "person:ada@acme.example", "person:bob@x.example", "actor:chat"]},
        {"groups": ["ops"], "sponsors": ["*@acme.example"], "targets": ["new-*"]},
        {"environments": ["prod"], "target_labels": {"tier": "1"}},
        {"target_labels": {"fork": ""}},
        {"targets": ["shop", "api"], "operations": ["select", "http:get"]},
        {"condition": "agent.name == 'x'", "when": {"until": "2030-01-01"}},
        ASK,
    ],
)
def test_a_rule_that_may_match_is_left_alone(rule: dict[str, Any]) -> None:
    assert findings({**ALL, **rule}) == []


def test_names_are_not_checked_where_nothing_is_known_of_them() -> None:
    assert findings({**ASK, "agents": ["anybody"], "targets": ["anything"]}, known=Known()) == []


@pytest.mark.parametrize(
    ("one", "other", "found"),
    [
        (DENY, {**ALL, "operations": ["select"]}, "has no effect: 'r0' denies all of it"),
        ({**DENY, "objects": ["hr.*"]}, {**ALL, "operations": ["select"], "objects": ["hr.pay"]}, "has no effect"),
        ({**DENY, "objects": ["hr.*"]}, {**ALL, "operations": ["select"], "objects": ["public.pay"]}, ""),
        ({**DENY, "columns": ["ssn"]}, {**ALL, "columns": ["ssn"]}, ""),
        ({**DENY, "hazards": ["drop"]}, ALL, ""),
        ({**DENY, "when": {"days": ["mon"]}}, ALL, ""),
        ({**DENY, "condition": "agent.name == 'x'"}, ALL, ""),
        (DENY, {**DENY, "objects": ["hr.*"]}, "says nothing that 'r0' doesn't say"),
        (ALL, {**ALL, "operations": ["select"]}, "says nothing"),
        (ALL, ALL, "says nothing"),
        (ALL, {**ALL, "operations": ["*"]}, ""),
        (ALL, {**ALL, "hazards": ["server_file"]}, ""),
        ({**ALL, "hazards": ["*"]}, {**ALL, "hazards": ["server_file"]}, "says nothing"),
        ({**ALL, "objects": ["customers"]}, {**ALL, "objects": ["public.customers"]}, ""),
        ({**ALL, "objects": ["public.*"]}, {**ALL, "objects": ["public.customers"]}, "says nothing"),
        ({**ALL, "targets": ["s*"]}, {**ALL, "targets": ["shop"]}, "says nothing"),
        ({**ALL, "targets": ["shop"]}, {**ALL, "targets": ["s*"]}, ""),
        (ALL, {**ALL, "agents": ["person:ada@acme.example"]}, ""),
        (ASK, {**ASK, "operations": ["ddl"]}, "says nothing"),
        (ASK, ALL, ""),
    ],
)
def test_a_rule_in_the_shadow_of_another_is_found(one: dict[str, Any], other: dict[str, Any], found: str) -> None:
    told = findings(one, other)
    later = [problem for field, problem in told if field == "rules[1]"]
    assert (len(later) == 1 and found in later[0]) if found else not later, told


def test_a_rule_outside_the_policys_scope_is_found() -> None:
    assert findings({**ALL, "targets": ["lab"]}, within={"targets": ["shop"]}, known=Known()) == [
        ("rules[0].targets", "are all outside the policy's scope, so the rule never holds"),
    ]
    assert findings({**ALL, "targets": ["*"]}, within={"targets": ["shpo"]})[0][0] == "scope.targets"
