"""How a policy is applied: pure, total, default deny.

The order of rules never matters: a matching deny wins over a required approval, which wins over a matching allow, and
no match is a deny. An operation is as good as its worst access.
"""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import Final

import msgspec

from policies.engine.model import Approval, Effect, Limit, Mask, Policy, Rule, Scope
from policies.engine.operation import (
    ALL_COLUMNS,
    GRAVE_HAZARDS,
    NOTHING,
    UNRESOLVED,
    Access,
    Kind,
    Operation,
    Target,
)

#: The rule a decision names when no rule matched.
DEFAULT_DENY: Final = "default deny"


class Principal(msgspec.Struct, frozen=True):
    """Who asks. `name` is unique within the tenant."""

    id: str
    name: str
    groups: tuple[str, ...] = ()
    #: How it proved itself: "issued_token" or "oidc".
    authenticated_by: str = ""
    #: The person on whose behalf the agent acts, where known: an e-mail address, or what their provider calls them.
    on_behalf_of: str = ""
    #: Who handed the task on, hop by hop, the nearest first: the name of an agent of the tenant, or `actor:` and what
    #: its provider calls it.
    actors: tuple[str, ...] = ()
    #: What else its provider said of it and the tenant wants kept, such as its repository.
    labels: dict[str, str] = {}
    #: The e-mail address of the person who answers for the agent.
    sponsor: str = ""


class Obligation(msgspec.Struct, frozen=True, omit_defaults=True):
    """What has to be done with an allowed operation, by a rule: one of `limit`, `mask` and `filter` is set.

    `object` and `columns` say of what, for masks and filters.
    """

    rule: str
    limit: Limit | None = None
    mask: Mask | None = None
    filter: str = ""
    object: str = ""
    columns: tuple[str, ...] = ()


class Decision(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was decided and why. `help` says what the asker could do about it.

    `effect` is ALLOW, DENY or REQUIRE_APPROVAL, which `approval` then describes. `obligations` hold for what is allowed
    or approved; a gate that can't carry one out refuses.
    """

    effect: Effect
    policy_version: str
    rule: str
    reason: str
    help: str = ""
    approval: Approval | None = None
    obligations: tuple[Obligation, ...] = ()


class SessionPolicy:
    """A policy for one principal on one target: what can be told before any operation is known is told once."""

    def __init__(self, policy: Policy, *, principal: Principal, target: Target) -> None:
        self._policy = policy
        self._principal = principal
        self._target = target
        self._parties = _parties(policy, principal)
        self._rules = {party: _rules_for(policy, principal, party, target) for party in self._parties}

    @property
    def version(self) -> str:
        """The policy's."""
        return self._policy.version

    def admits(self, *, now: float) -> Decision:  # noqa: ARG002 - time windows are asked with each operation
        """Whether a session may start: some rule could allow something, and no rule denies everything. Never raises."""
        admitted = [self._admit(party) for party in self._parties]
        return next((decision for decision in admitted if decision.effect is Effect.DENY), admitted[0])

    def decide(self, operation: Operation, *, now: float, text: str = "") -> Decision:  # noqa: ARG002
        """Decide on an operation at `now` (seconds since the epoch). Never raises: what fails is a deny."""
        worst: Decision | None = None
        for party in self._parties:
            for access in operation.accesses:
                decision = self._decide_access(party, operation, access)
                if worst is None or _RANK[decision.effect] > _RANK[worst.effect]:
                    worst = decision
        return worst if worst is not None else self._default_deny(self._principal.name)

    def _admit(self, party: str) -> Decision:
        admitting: Rule | None = None
        for rule in self._rules[party]:
            if rule.effect is Effect.DENY and not (
                rule.operations or rule.objects or rule.columns or rule.hazards or rule.when or rule.condition
            ):
                return self._denied(rule, party)
            if rule.effect in (Effect.ALLOW, Effect.REQUIRE_APPROVAL):
                admitting = admitting or rule
        return self._allowed(admitting) if admitting is not None else self._default_deny(party)

    def _decide_access(self, party: str, operation: Operation, access: Access) -> Decision:
        allowed: Rule | None = None
        approval: Rule | None = None
        for rule in self._rules[party]:
            if rule.effect is Effect.ALLOW:
                if allowed is None and _covers(rule, operation, access):
                    allowed = rule
            elif _touches(rule, operation, access):
                if rule.effect is Effect.DENY:
                    return self._denied(rule, party)
                if rule.effect is Effect.REQUIRE_APPROVAL:
                    approval = approval or rule
        if approval is not None:
            return self._decision(
                approval,
                Effect.REQUIRE_APPROVAL,
                f"rule {approval.name!r} requires an approval",
                approval=approval.approval,
            )
        return self._allowed(allowed) if allowed is not None else self._default_deny(party)

    def _denied(self, rule: Rule, party: str) -> Decision:
        return self._decision(
            rule,
            Effect.DENY,
            f"rule {rule.name!r} denies {party} on {self._target.name}",
            what_helps="This rule has to change before the operation can pass; retrying will not help.",
        )

    def _allowed(self, rule: Rule) -> Decision:
        return self._decision(rule, Effect.ALLOW, f"rule {rule.name!r} allows it")

    def _decision(
        self, rule: Rule, effect: Effect, reason: str, *, what_helps: str = "", approval: Approval | None = None
    ) -> Decision:
        return Decision(
            effect=effect,
            policy_version=self._policy.version,
            rule=rule.name,
            reason=rule.reason or reason,
            help=what_helps,
            approval=approval,
        )

    def _default_deny(self, party: str) -> Decision:
        target = self._target.name
        return Decision(
            effect=Effect.DENY,
            policy_version=self._policy.version,
            rule=DEFAULT_DENY,
            reason=f"no rule allows {party} on {target}",
            help=f"Ask an administrator for a policy rule that allows {_noun(party)} on target {target}.",
        )


_RANK: Final = {Effect.ALLOW: 0, Effect.REQUIRE_APPROVAL: 1, Effect.DENY: 2}


def _parties(policy: Policy, principal: Principal) -> tuple[str, ...]:
    """All who need to be allowed. Rights are the intersection of all who are behind the agent.

    The agent and each agent of the tenant that handed the task on need an allowing rule of their own. The person,
    `person:<address>`, and other actors, `actor:<name>`, need one once the policy names them anywhere; a denying rule
    for them, or for `*`, always counts.
    """
    person = f"person:{principal.on_behalf_of}" if principal.on_behalf_of else ""
    behind = [party for party in (*principal.actors, person) if party and _is_bound(policy, party)]
    return (principal.name, *behind)


def _is_bound(policy: Policy, party: str) -> bool:
    """True when the party needs an allowing rule: an agent always, others once a rule names them."""
    return ":" not in party or any(_names(rule.agents, party, by_any=False) for rule in policy.rules)


def _rules_for(policy: Policy, principal: Principal, party: str, target: Target) -> tuple[Rule, ...]:
    return tuple(
        rule
        for rule in policy.rules
        if _in_scope(rule, principal, party, target)
        and (rule.within is None or _in_scope(rule.within, principal, party, target))
    )


def _in_scope(scope: Scope, principal: Principal, party: str, target: Target) -> bool:
    return (
        (not scope.agents or _names(scope.agents, party))
        and (not scope.groups or any(_matches(scope.groups, group) for group in principal.groups))
        and (not scope.sponsors or _matches(scope.sponsors, principal.sponsor))
        and all(fnmatchcase(principal.labels.get(name, ""), text) for name, text in scope.claims.items())
        and (not scope.targets or _matches(scope.targets, target.name))
        and (not scope.environments or _matches(scope.environments, target.environment))
        and all(fnmatchcase(target.labels.get(name, ""), text) for name, text in scope.target_labels.items())
    )


def _covers(rule: Rule, operation: Operation, access: Access) -> bool:
    """Whether an allowing rule covers all of the access, and every hazard of the operation."""
    if not _is_of_kind(rule, access):
        return False
    if rule.hazards != ("*",):
        uncovered = set(operation.hazards) - set(rule.hazards)
        if uncovered & GRAVE_HAZARDS or (rule.hazards and uncovered):
            return False
    if rule.objects and access.object != NOTHING and not _matches(rule.objects, access.object):
        return False  # UNRESOLVED included: no pattern but `*` and `?` takes it in
    return not rule.columns or all(_matches(rule.columns, column) for column in access.columns)


def _touches(rule: Rule, operation: Operation, access: Access) -> bool:
    """Whether a rule that restricts matches some of the access."""
    if not _is_of_kind(rule, access):
        return False
    if (
        rule.hazards
        and not (rule.hazards == ("*",) and operation.hazards)
        and not set(rule.hazards) & set(operation.hazards)
    ):
        return False
    if rule.objects and access.object != UNRESOLVED and not _matches(rule.objects, access.object):
        return False
    return not rule.columns or any(column == ALL_COLUMNS or _matches(rule.columns, column) for column in access.columns)


def _is_of_kind(rule: Rule, access: Access) -> bool:
    if rule.operations:
        return _matches(rule.operations, access.kind)
    return access.kind != Kind.UNKNOWN or rule.effect is not Effect.ALLOW


def _names(patterns: tuple[str, ...], party: str, *, by_any: bool = True) -> bool:
    """Whoever is no agent is named under their prefix, or by `*`: a pattern for agents never takes in a person."""
    prefix, colon, _ = party.partition(":")
    meant = patterns if not colon else (one for one in patterns if one == "*" or one.startswith(f"{prefix}:"))
    return any(fnmatchcase(party, pattern) for pattern in meant if by_any or pattern != "*")


def _noun(party: str) -> str:
    return party if ":" in party else f"agent {party}"


def _matches(patterns: tuple[str, ...], name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
