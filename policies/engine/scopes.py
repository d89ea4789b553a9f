"""Who has to be allowed, and which rules speak of them on a target."""

from __future__ import annotations

from policies.engine.model import Policy, Rule, Scope
from policies.engine.operation import Target
from policies.engine.patterns import matcher, matches_any
from policies.engine.principal import Principal


def parties(policy: Policy, principal: Principal) -> tuple[str, ...]:
    """All who need to be allowed. Rights are the intersection of all who are behind the agent.

    The agent and each agent of the tenant that handed the task on need an allowing rule of their own, by their own
    groups, claims and sponsor. The person,
    `person:<address>`, and other actors, `actor:<name>`, need one once the policy names them anywhere; a denying rule
    for them, or for `*`, always counts.
    """
    person = f"person:{principal.on_behalf_of}" if principal.on_behalf_of else ""
    behind = [party for party in (*principal.actors, person) if party and _is_bound(policy, party)]
    return tuple(dict.fromkeys((principal.name, *behind)))


def rules_for(policy: Policy, principal: Principal, party: str, target: Target) -> tuple[Rule, ...]:
    """The rules whose subjects and targets, and whose policy's, take them in."""
    return tuple(
        rule
        for rule in policy.rules
        if _is_in_scope(rule, principal, party, target)
        and (rule.within is None or _is_in_scope(rule.within, principal, party, target))
    )


def names_party(patterns: tuple[str, ...], party: str, *, by_any: bool = True) -> bool:
    """Whoever is no agent is named under their prefix, or by `*`: a pattern for agents never takes in a person."""
    prefix, colon, _ = party.partition(":")
    if not colon and by_any:
        return matches_any(patterns, party)
    meant = [
        pattern
        for pattern in patterns
        if (by_any and pattern == "*") or (pattern != "*" and (not colon or pattern.startswith(f"{prefix}:")))
    ]
    return matches_any(tuple(meant), party)


def _is_bound(policy: Policy, party: str) -> bool:
    """True when the party needs an allowing rule: an agent always, others once a rule or a scope names them."""
    return ":" not in party or any(
        names_party(rule.agents, party, by_any=False)
        or (rule.within is not None and names_party(rule.within.agents, party, by_any=False))
        for rule in policy.rules
    )


def _is_in_scope(scope: Scope, principal: Principal, party: str, target: Target) -> bool:
    known = principal.known_of(party)
    return (
        (not scope.targets or matcher(scope.targets)(target.name))
        and (not scope.agents or names_party(scope.agents, party))
        and (not scope.groups or any(map(matcher(scope.groups), known.groups)))
        and (not scope.sponsors or matches_any(scope.sponsors, known.sponsor))
        and (not scope.environments or matches_any(scope.environments, target.environment))
        and all(is_labelled(known.labels, name, text) for name, text in scope.claims.items())
        and all(is_labelled(target.labels, name, text) for name, text in scope.target_labels.items())
    )


def is_labelled(labels: dict[str, str], name: str, pattern: str) -> bool:
    return matches_any((pattern,), labels.get(name, ""))
