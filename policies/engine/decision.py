"""How a policy is applied: pure, total, default deny.

The order of rules never matters: a matching deny wins over a matching allow, and no match is a deny.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

import msgspec

from policies.engine.model import Effect, Policy, Rule

__all__ = ["DEFAULT_DENY", "Decision", "Effect", "Principal", "decide"]

#: The rule a decision names when no rule matched.
DEFAULT_DENY = "default deny"


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


class Decision(msgspec.Struct, frozen=True):
    """What was decided and why. `help` says what the asker could do about it."""

    effect: Effect
    policy_version: str
    rule: str
    reason: str
    help: str = ""


def decide(policy: Policy, *, principal: Principal, target: str) -> Decision:
    """Decide what `principal` may do on the target of that name. Never raises.

    Rights are the intersection of all who are behind it. The agent and each agent of the tenant that handed the task on
    need an allowing rule of their own. The person, `person:<address>`, and other actors, `actor:<name>`, need one once
    the policy names them anywhere; a denying rule for them, or for `*`, always counts.
    """
    decision = _decide_for(policy, principal.name, target)
    person = f"person:{principal.on_behalf_of}" if principal.on_behalf_of else ""
    for party in (*principal.actors, person):
        if decision.effect is not Effect.ALLOW:
            break
        if party and _is_bound(policy, party):
            behind = _decide_for(policy, party, target)
            decision = decision if behind.effect is Effect.ALLOW else behind
    return decision


def _decide_for(policy: Policy, party: str, target: str) -> Decision:
    allowed_by: Rule | None = None
    for rule in policy.rules:
        if not (_names(rule.agents, party) and _matches(rule.targets, target)):
            continue
        if rule.effect is Effect.DENY:
            return Decision(
                effect=Effect.DENY,
                policy_version=policy.version,
                rule=rule.name,
                reason=rule.reason or f"rule {rule.name!r} denies {party} on {target}",
                help="This rule has to change before the operation can pass; retrying will not help.",
            )
        allowed_by = allowed_by or rule
    if allowed_by is None:
        return Decision(
            effect=Effect.DENY,
            policy_version=policy.version,
            rule=DEFAULT_DENY,
            reason=f"no rule allows {party} on {target}",
            help=f"Ask an administrator for a policy rule that allows {_noun(party)} on target {target}.",
        )
    return Decision(
        effect=Effect.ALLOW,
        policy_version=policy.version,
        rule=allowed_by.name,
        reason=allowed_by.reason or f"rule {allowed_by.name!r} allows it",
    )


def _is_bound(policy: Policy, party: str) -> bool:
    """True when the party needs an allowing rule: an agent always, others once a rule names them."""
    return ":" not in party or any(_names(rule.agents, party, by_any=False) for rule in policy.rules)


def _names(patterns: tuple[str, ...], party: str, *, by_any: bool = True) -> bool:
    """Whoever is no agent is named under their prefix, or by `*`: a pattern for agents never takes in a person."""
    prefix, colon, _ = party.partition(":")
    meant = patterns if not colon else (one for one in patterns if one == "*" or one.startswith(f"{prefix}:"))
    return any(fnmatchcase(party, pattern) for pattern in meant if by_any or pattern != "*")


def _noun(party: str) -> str:
    return party if ":" in party else f"agent {party}"


def _matches(patterns: tuple[str, ...], name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
