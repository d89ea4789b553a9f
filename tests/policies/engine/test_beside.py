"""What is worth knowing of a policy that applies together with others."""

from __future__ import annotations

from typing import Any

import pytest

from policies.engine import Known, Policy, parse_policy
from policies.engine.beside import MAX_NAMED, check_beside

ALL: dict[str, Any] = {"effect": "allow", "agents": ["*"], "targets": ["*"]}
READ: dict[str, Any] = {
    **ALL,
    "agents": ["reporter"],
    "targets": ["shop"],
    "operations": ["select"],
    "objects": ["hr.*"],
}
DENY: dict[str, Any] = {**ALL, "effect": "deny"}


def policy_of(name: str, *rules: dict[str, Any], within: Any = None) -> Policy:
    """Its rules are named r0, r1 …, under the policy's name."""
    return parse_policy("", [{"name": f"{name}/r{n}", **rule} for n, rule in enumerate(rules)], within=within)


def told(policy: Policy, others: Policy, known: Known | None = None) -> list[tuple[str, str]]:
    """Field and problem of each."""
    found = check_beside(policy, others, known=known or Known())
    assert all(one.fix for one in found)
    return [(one.field, one.problem) for one in found]


@pytest.mark.parametrize(
    ("deny", "scope"),
    [
        (DENY, None),
        ({**DENY, "objects": ["hr.*"]}, None),
        ({**DENY, "targets": ["s*"]}, None),
        ({**DENY, "agents": [], "targets": []}, {"agents": ["report*"], "targets": ["shop"]}),
        (DENY, {"agents": ["reporter"]}),
    ],
)
def test_a_rule_that_a_deny_of_another_policy_takes_all_effect_from_is_told_from_both_sides(
    deny: dict[str, Any], scope: Any
) -> None:
    mine, other = policy_of("mine", ALL, READ), policy_of("other", deny, within=scope)
    assert ("rules[1]", "has no effect: 'other/r0' denies all of it") in told(mine, other)
    assert [field for field, problem in told(other, mine) if "'mine/r1'" in problem] == ["rules[0]"]


@pytest.mark.parametrize(
    ("deny", "scope"),
    [
        ({**DENY, "objects": ["public.*"]}, None),
        ({**DENY, "agents": ["writer"]}, None),
        ({**DENY, "when": {"days": ["mon"]}}, None),
        (DENY, {"targets": ["lab"]}),
        (DENY, {"environments": ["prod"]}),
        (ALL, None),
    ],
)
def test_a_rule_that_keeps_some_effect_is_left_alone(deny: dict[str, Any], scope: Any) -> None:
    mine, other = policy_of("mine", READ), policy_of("other", deny, within=scope)
    assert told(mine, other) == told(other, mine) == []


def test_the_scope_of_the_policy_that_is_looked_at_counts_as_its_rules_own() -> None:
    mine = policy_of(
        "mine", {"effect": "allow", "operations": ["select"]}, within={"agents": ["a"], "targets": ["lab"]}
    )
    other = policy_of("other", {**DENY, "targets": ["lab"]})
    assert [field for field, _ in told(mine, other)] == ["rules[0]"]


def test_of_many_rules_that_a_deny_takes_effect_from_some_are_named() -> None:
    others = policy_of("other", *({**READ, "objects": [f"hr.t{number}"]} for number in range(MAX_NAMED + 1)))
    ((field, problem),) = told(policy_of("mine", DENY), others)
    assert field == "rules[0]"
    assert problem.count("other/r") == MAX_NAMED
    assert problem.endswith("and others")


def test_a_person_whom_nobody_knows_is_told_and_one_whom_a_provider_names_is_not() -> None:
    named = {**READ, "agents": ["person:ada", "person:adda", "person:a*", "reporter"]}
    known = Known(people=frozenset({"ada"}))
    nobody = policy_of("other")
    assert told(policy_of("mine", named), nobody, known) == [
        ("rules[0].agents", "nobody who is known here is called 'adda'")
    ]
    assert told(policy_of("mine", named), nobody) == []
