"""A second implementation of what policies mean: every rule asked in turn, nothing compiled, indexed or kept.

It shares with the engine what a policy is, and nothing of how it is applied; conditions are Python functions here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fnmatch import fnmatchcase

from policies.engine import Access, Effect, Hazard, Operation, Policy, Principal, Rule, Scope, Target
from policies.engine.operation import GRAVE_HAZARDS

#: What the conditions of random policies mean. None: the condition has no answer.
CONDITIONS: dict[str, Callable[[Principal, Operation, datetime, str], bool | None]] = {
    "": lambda *_: True,
    '"ops" in agent.groups': lambda principal, *_: "ops" in principal.groups,
    'operation.verb == "select"': lambda _p, operation, *_: operation.verb == "select",
    "size(operation.objects) > 1": lambda _p, operation, *_: (
        len({one.object for one in operation.accesses if one.object}) > 1
    ),
    'operation.text.contains("x")': lambda _p, _o, _n, text: "x" in text,
    "time.hour < 12": lambda _p, _o, now, _t: now.hour < 12,
    'agent.claims.nope == "x"': lambda *_: None,
}
#: Windows likewise: `hours` of UTC.
WINDOWS: dict[tuple[str, ...], Callable[[datetime], bool]] = {
    ("08:00-16:00",): lambda now: 8 <= now.hour < 16,
    ("22:00-06:00", "12:00-13:00"): lambda now: now.hour >= 22 or now.hour < 6 or now.hour == 12,
}

#: Rules are asked a deny first, then in this order, and among equals by name.
_ASKED = (Effect.DENY, Effect.ALLOW, Effect.REQUIRE_APPROVAL, Effect.MASK, Effect.LIMIT, Effect.FILTER)


@dataclass
class Verdict:
    """The parts of a decision that mean something."""

    effect: Effect
    #: The rule that the decision cites; the empty text is the default deny.
    rule: str = ""
    approving: set[str] = field(default_factory=set)
    flows: set[str] = field(default_factory=set)
    obligations: set[tuple[str, str, tuple[str, ...]]] = field(default_factory=set)


def decide(
    policy: Policy, principal: Principal, target: Target, operation: Operation, *, now: float, text: str
) -> Verdict:
    """What the engine has to find."""
    verdict = Verdict(Effect.ALLOW)
    moment = datetime.fromtimestamp(now, UTC)
    for party in _parties(policy, principal):
        for access in operation.accesses:
            denied = _weigh(policy, principal, party, target, operation, access, moment, text, verdict)
            if denied is not None:
                return Verdict(Effect.DENY, rule=denied)
    if verdict.approving:
        verdict.effect, verdict.rule = Effect.REQUIRE_APPROVAL, min(verdict.approving)
    return verdict if operation.accesses else Verdict(Effect.DENY)


def _weigh(
    policy: Policy,
    principal: Principal,
    party: str,
    target: Target,
    operation: Operation,
    access: Access,
    now: datetime,
    text: str,
    verdict: Verdict,
) -> str | None:
    """The rule that denies, or none at all (""). None: it passes, on the terms that are noted."""
    meant = [
        rule
        for rule in policy.rules
        if _in_scope(rule, principal, party, target)
        and (rule.within is None or _in_scope(rule.within, principal, party, target))
        and (rule.when is None or WINDOWS[rule.when.hours](now))
    ]
    meant.sort(key=lambda rule: (_ASKED.index(rule.effect), rule.name))
    touching = [rule for rule in meant if rule.effect is not Effect.ALLOW and _touches(rule, operation, access)]
    covering = [rule for rule in meant if _covers(rule, operation, access)]
    answers = {rule.name: CONDITIONS[rule.condition](principal, operation, now, text) for rule in touching + covering}
    for rule in touching + covering:
        if answers[rule.name] is None or (rule.effect is Effect.DENY and answers[rule.name]):
            return rule.name
    applying = [rule for rule in touching if answers[rule.name]]
    letting = [rule.name for rule in covering if answers[rule.name]]
    if not letting:
        return ""
    verdict.rule = verdict.rule or letting[0]
    for rule in applying:
        if rule.approval is not None:
            verdict.approving.add(rule.name)
            verdict.flows.add(rule.approval.flow)
        elif rule.effect is Effect.MASK:
            columns = tuple(name for name in access.columns if _matches(rule.columns, name))
            verdict.obligations.add((rule.name, access.object, rule.columns if "*" in access.columns else columns))
        elif rule.effect is Effect.FILTER:
            verdict.obligations.add((rule.name, access.object, ()))
        else:
            verdict.obligations.add((rule.name, "", ()))
    return None


def _parties(policy: Policy, principal: Principal) -> list[str]:
    person = [f"person:{principal.on_behalf_of}"] if principal.on_behalf_of else []
    scopes = [scope for rule in policy.rules for scope in (rule, rule.within) if scope is not None]
    named = [one for scope in scopes for one in scope.agents if ":" in one]
    behind = [
        party for party in (*principal.actors, *person) if ":" not in party or any(_names(one, party) for one in named)
    ]
    return [principal.name, *behind]


def _names(pattern: str, party: str) -> bool:
    return pattern.startswith(party[: party.index(":") + 1]) and fnmatchcase(party, pattern)


def _in_scope(scope: Scope, principal: Principal, party: str, target: Target) -> bool:
    if ":" in party:
        is_meant = any(one == "*" or _names(one, party) for one in scope.agents)
    else:
        is_meant = _matches(scope.agents, party)
    return (
        (not scope.agents or is_meant)
        and (not scope.groups or any(_matches(scope.groups, group) for group in principal.groups))
        and (not scope.sponsors or _matches(scope.sponsors, principal.sponsor))
        and (not scope.targets or _matches(scope.targets, target.name))
        and (not scope.environments or _matches(scope.environments, target.environment))
        and all(fnmatchcase(principal.labels.get(name, ""), one) for name, one in scope.claims.items())
        and all(fnmatchcase(target.labels.get(name, ""), one) for name, one in scope.target_labels.items())
    )


def _covers(rule: Rule, operation: Operation, access: Access) -> bool:
    if rule.effect not in (Effect.ALLOW, Effect.REQUIRE_APPROVAL):
        return False
    if not (_matches(rule.operations, access.kind) if rule.operations else access.kind != "unknown"):
        return False
    if not _covers_hazards(rule, set(operation.hazards)) or not _covers_object(rule, access):
        return False
    if not rule.columns or "*" in rule.columns:
        return True
    return all(column != "*" and _matches(rule.columns, column) for column in access.columns)


def _covers_hazards(rule: Rule, hazards: set[str]) -> bool:
    if "*" in rule.hazards:
        return True
    if not rule.hazards:
        return hazards <= set(Hazard) - GRAVE_HAZARDS
    return all(hazard in set(Hazard) and _matches(rule.hazards, hazard) for hazard in hazards)


def _covers_object(rule: Rule, access: Access) -> bool:
    if not rule.objects or "*" in rule.objects or not access.object:
        return True
    if access.object == "?":
        return False
    say = _qualify if ":" not in access.kind else str
    return any(fnmatchcase(say(access.object), say(one)) for one in rule.objects)


def _touches(rule: Rule, operation: Operation, access: Access) -> bool:
    if rule.operations and access.kind not in ("unknown", "do") and not _matches(rule.operations, access.kind):
        return False
    if (
        rule.hazards
        and "unparsed" not in operation.hazards
        and not any(_matches(rule.hazards, hazard) for hazard in operation.hazards)
    ):
        return False
    if rule.columns and not any(one == "*" or _matches(rule.columns, one) for one in access.columns):
        return False
    if not rule.objects or "*" in rule.objects or access.object == "?":
        return True
    return any(_means(pattern, access) for pattern in rule.objects) if access.object else False


def _means(pattern: str, access: Access) -> bool:
    name = access.object
    if fnmatchcase(name, pattern):
        return True
    if ":" in access.kind:
        return False
    if "." in name:
        return "." not in pattern and fnmatchcase(name.partition(".")[2], pattern)
    return fnmatchcase(name, pattern.rpartition(".")[2])


def _qualify(name: str) -> str:
    if "." in name:
        return name
    return f"pg_catalog.{name}" if name.startswith("pg_") else f"public.{name}"


def _matches(patterns: tuple[str, ...], name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
