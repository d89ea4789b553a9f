"""What holds for all policies and operations."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import msgspec
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.engine import (
    DEFAULT_DENY,
    Access,
    Decision,
    Effect,
    Known,
    Operation,
    Policy,
    PolicyError,
    Principal,
    SessionPolicy,
    Target,
    check_policy,
    parse_policy,
)
from policies.engine.beside import check_beside
from policies.engine.index import RuleIndex
from policies.engine.masks import PatternMasks, first_place, mask_of, places
from policies.engine.patterns import is_within, matches_any
from policies.engine.scopes import parties, rules_for
from tests.policies.engine import oracle, strategies

STRICTNESS = {Effect.ALLOW: 0, Effect.REQUIRE_APPROVAL: 1, Effect.DENY: 2}
given_a_case = given(
    policy=strategies.policies(),
    principal=strategies.principals,
    target=strategies.targets,
    operation=strategies.operations,
    now=strategies.times,
    text=strategies.texts,
)


def decide(
    policy: Policy, principal: Principal, target: Target, operation: Operation, now: float, text: str = ""
) -> Decision:
    """By a session of its own."""
    return SessionPolicy(policy, principal=principal, target=target).decide(operation, now=now, text=text)


@settings(derandomize=True, deadline=None, max_examples=300)
@given_a_case
def test_the_engine_agrees_with_a_plain_second_implementation(
    policy: Policy, principal: Principal, target: Target, operation: Operation, now: float, text: str
) -> None:
    found = decide(policy, principal, target, operation, now, text)
    wanted = oracle.decide(policy, principal, target, operation, now=now, text=text)
    flows = {one.flow for one in (found.approval, *found.further_approvals) if one is not None}
    obligations = {(one.rule, one.object, one.columns) for one in found.obligations}
    assert (found.effect, flows, obligations) == (wanted.effect, wanted.flows, wanted.obligations), found
    assert found.rule == (wanted.rule or DEFAULT_DENY), found


@settings(derandomize=True, deadline=None, max_examples=150)
@given(policy=strategies.policies(), principal=strategies.principals, target=strategies.targets)
def test_the_index_of_a_policy_finds_the_parties_and_the_rules_that_are_found_one_by_one(
    policy: Policy, principal: Principal, target: Target
) -> None:
    index = RuleIndex(policy)
    assert index.subjects.parties(principal) == parties(policy, principal)
    for party in ("reporter", "person:ada", "actor:x", "?:x"):
        found = {index.ready[place].rule.name for place in places(index.subjects.rules_for(principal, party, target))}
        assert found == {rule.name for rule in rules_for(policy, principal, party, target)}


@settings(derandomize=True, deadline=None, max_examples=100)
@given(
    document=strategies.documents(),
    deny=strategies.rules(),
    principal=strategies.principals,
    target=strategies.targets,
    operation=strategies.operations,
    now=strategies.times,
)
def test_adding_a_deny_never_widens(
    document: list[dict[str, Any]],
    deny: dict[str, Any],
    principal: Principal,
    target: Target,
    operation: Operation,
    now: float,
) -> None:
    denying = {**deny, "effect": "deny", "approval": None, "mask": None, "limit": None, "filter": ""}
    before = decide(parse_policy("", document), principal, target, operation, now)
    after = decide(parse_policy("", [*document, denying]), principal, target, operation, now)
    assert STRICTNESS[after.effect] >= STRICTNESS[before.effect]


@settings(derandomize=True, deadline=None, max_examples=100)
@given(
    document=strategies.documents(),
    principal=strategies.principals,
    target=strategies.targets,
    operation=strategies.operations,
    now=strategies.times,
    seed=st.integers(0, 1000),
)
def test_the_order_of_rules_never_matters(
    document: list[dict[str, Any]],
    principal: Principal,
    target: Target,
    operation: Operation,
    now: float,
    seed: int,
) -> None:
    shuffled = random.Random(seed).sample(document, len(document))
    one, other = (decide(parse_policy("", rules), principal, target, operation, now) for rules in (document, shuffled))
    assert one == other


@settings(derandomize=True, deadline=None, max_examples=120)
@given_a_case
def test_the_worker_decides_as_the_control_plane_does(
    policy: Policy, principal: Principal, target: Target, operation: Operation, now: float, text: str
) -> None:
    told = [
        msgspec.msgpack.decode(msgspec.msgpack.encode(policy), type=Policy),
        msgspec.json.decode(msgspec.json.encode(policy), type=Policy),
    ]
    scope = policy.rules[0].within if policy.rules else None
    document = [msgspec.to_builtins(msgspec.structs.replace(rule, within=None)) for rule in policy.rules]
    within = None if scope is None else msgspec.to_builtins(scope)
    told.append(parse_policy("p@1", yaml.safe_load(yaml.safe_dump(document)), within=within))
    told.append(parse_policy("p@1", json.loads(json.dumps(document)), within=within))
    assert all(one == policy for one in told)
    sent = msgspec.msgpack.decode(msgspec.msgpack.encode(operation), type=Operation)
    here = decide(policy, principal, target, operation, now, text)
    assert [decide(one, principal, target, sent, now, text) for one in told] == [here] * len(told)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(here), type=Decision) == here


@settings(derandomize=True, deadline=None, max_examples=120)
@given(
    policy=strategies.policies(),
    principal=strategies.principals,
    target=strategies.targets,
    asked=st.lists(st.tuples(strategies.operations, strategies.times, strategies.texts), max_size=8),
)
def test_what_was_decided_before_changes_no_decision(
    policy: Policy, principal: Principal, target: Target, asked: list[tuple[Operation, float, str]]
) -> None:
    session = SessionPolicy(policy, principal=principal, target=target)
    for operation, now, text in asked * 2:
        assert session.decide(operation, now=now, text=text) == decide(policy, principal, target, operation, now, text)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(
    document=strategies.documents(may_fail=False),
    principal=strategies.principals,
    target=strategies.targets,
    asked=st.lists(st.tuples(strategies.operations, strategies.times), min_size=1, max_size=8),
)
def test_a_rule_that_is_found_to_do_nothing_can_go(
    document: list[dict[str, Any]], principal: Principal, target: Target, asked: list[tuple[Operation, float]]
) -> None:
    policy = parse_policy("", document)
    for finding in check_policy(policy):
        if not (finding.problem.startswith(("has no effect", "says nothing"))):
            continue
        index = int(finding.field.removeprefix("rules[").removesuffix("]"))
        without = parse_policy("", document[:index] + document[index + 1 :])
        for operation, now in asked:
            if any(access.object == "" for access in operation.accesses):
                continue  # a SELECT of nothing is what such a rule may still allow
            before = decide(policy, principal, target, operation, now)
            assert decide(without, principal, target, operation, now).effect is before.effect, (finding, before)


@settings(derandomize=True, deadline=None, max_examples=150)
@given(
    one=strategies.documents(may_fail=False),
    other=strategies.documents(may_fail=False),
    scopes=st.tuples(st.sampled_from(strategies.WITHIN), st.sampled_from(strategies.WITHIN)),
    principal=strategies.principals,
    target=strategies.targets,
    asked=st.lists(st.tuples(strategies.operations, strategies.times), min_size=1, max_size=8),
)
def test_a_rule_that_another_policys_deny_shadows_can_go(
    one: list[dict[str, Any]],
    other: list[dict[str, Any]],
    scopes: tuple[Any, Any],
    principal: Principal,
    target: Target,
    asked: list[tuple[Operation, float]],
) -> None:
    mine = parse_policy("", one, within=scopes[0])
    others = parse_policy("", [{**rule, "name": f"other-{rule['name']}"} for rule in other], within=scopes[1])
    shadowed = {
        mine.rules[int(finding.field[len("rules[") : -1])].name
        for finding in check_beside(mine, others, known=Known())
        if finding.problem.startswith("has no effect")
    }
    reverse = check_beside(others, mine, known=Known())
    assert shadowed >= {name for finding in reverse for name in re.findall(r"'(r\d+)'", finding.problem)}
    together = Policy(version="", rules=mine.rules + others.rules)
    without = Policy(version="", rules=tuple(rule for rule in together.rules if rule.name not in shadowed))
    for operation, now in asked:
        if all(access.object for access in operation.accesses):
            before = decide(together, principal, target, operation, now)
            assert decide(without, principal, target, operation, now).effect is before.effect, (shadowed, before)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(
    pattern=st.text("ab.?*", max_size=6),
    wider=st.text("ab.?*", max_size=6),
    name=st.text("ab.", max_size=6),
)
def test_a_pattern_within_another_matches_nothing_else(pattern: str, wider: str, name: str) -> None:
    if is_within(pattern, wider) and matches_any((pattern,), name):
        assert matches_any((wider,), name)
    assert PatternMasks([(7, [pattern])]).find(name) == (1 << 7 if matches_any((pattern,), name) else 0)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(lists=st.lists(st.lists(st.text("ab.?*", max_size=5), max_size=3), max_size=5), name=st.text("ab.", max_size=6))
def test_lists_of_patterns_are_found_as_each_by_itself(lists: list[list[str]], name: str) -> None:
    found = PatternMasks(enumerate(lists))
    matching = [place for place, patterns in enumerate(lists) if matches_any(tuple(patterns), name)]
    assert list(places(found.find(name))) == matching
    assert list(places(found.unasked)) == [place for place, patterns in enumerate(lists) if not patterns]
    assert mask_of(matching) == found.find(name)
    assert not matching or first_place(found.find(name)) == matching[0]


_anything = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**60) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(derandomize=True, deadline=None, max_examples=100)
@given(data=st.data())
def test_a_document_is_a_policy_or_refused_with_its_field(data: st.DataObject) -> None:
    rule = data.draw(strategies.rules(name="r"))
    fields = [*rule, "when", "approval", "mask", "limit", "filter", "reason", "claims", "within", "x"]
    for name in data.draw(st.lists(st.sampled_from(fields), max_size=3)):
        rule[name] = data.draw(_anything)
    refused: PolicyError | None = None
    policy = Policy(version="")
    try:
        policy = parse_policy("", [rule], within=data.draw(st.none() | _anything))
    except PolicyError as error:
        refused = error
    assert refused is None or (refused.field.startswith(("rules", "scope")) and refused.problem and refused.fix)
    decision = decide(policy, Principal(id="1", name="reporter"), Target(name="shop"), _READ, 0.0)
    assert decision.effect in STRICTNESS


_READ = Operation(accesses=(Access("select", "public.a", ("id",)),))
