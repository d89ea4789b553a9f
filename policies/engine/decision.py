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
    #: The person on whose behalf the agent acts, where known.
    on_behalf_of: str = ""


class Decision(msgspec.Struct, frozen=True):
    """What was decided and why. `help` says what the asker could do about it."""

    effect: Effect
    policy_version: str
    rule: str
    reason: str
    help: str = ""


def decide(policy: Policy, *, principal: Principal, target: str) -> Decision:
    """Decide what `principal` may do on the target of that name. Never raises."""
    allowed_by: Rule | None = None
    for rule in policy.rules:
        if not (_matches(rule.agents, principal.name) and _matches(rule.targets, target)):
            continue
        if rule.effect is Effect.DENY:
            return Decision(
                effect=Effect.DENY,
                policy_version=policy.version,
                rule=rule.name,
                reason=rule.reason or f"rule {rule.name!r} denies {principal.name} on {target}",
                help="This rule has to change before the operation can pass; retrying will not help.",
            )
        allowed_by = allowed_by or rule
    if allowed_by is None:
        return Decision(
            effect=Effect.DENY,
            policy_version=policy.version,
            rule=DEFAULT_DENY,
            reason=f"no rule allows {principal.name} on {target}",
            help=f"Ask an administrator for a policy rule that allows agent {principal.name} on target {target}.",
        )
    return Decision(
        effect=Effect.ALLOW,
        policy_version=policy.version,
        rule=allowed_by.name,
        reason=allowed_by.reason or f"rule {allowed_by.name!r} allows it",
    )


def _matches(patterns: tuple[str, ...], name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)
