"""How other code obtains policies."""

from __future__ import annotations

import hashlib
from typing import Final
from uuid import UUID

import msgspec

from policies import engine
from policies.models import Policy
from targets.models import Target

#: Longer version strings are replaced by a digest: they stand in every decision.
MAX_VERSION_CHARACTERS: Final = 120
#: The version of a tenant without a published policy.
NO_POLICY: Final = "none"


def effective_policy(tenant_id: UUID) -> engine.Policy:
    """All rules of the tenant's active policies, as they are published now. Rules are named "policy/rule".

    The version names what it is made of ("agents@3+support@1"), or is a digest of that when it is long.
    """
    names: list[str] = []
    rules: list[engine.Rule] = []
    active = Policy.objects.filter(tenant_id=tenant_id, is_active=True)
    for policy in active.select_related("current").order_by("name"):
        if policy.current is None:
            continue
        names.append(f"{policy.name}@{policy.current.number}")
        parsed = engine.parse_policy(names[-1], policy.current.rules)
        rules += (msgspec.structs.replace(rule, name=f"{policy.name}/{rule.name}") for rule in parsed.rules)
    return engine.Policy(version=_version("+".join(names)), rules=tuple(rules))


def describe_target(target: Target) -> engine.Target:
    """The target as rules see it."""
    return engine.Target(
        name=target.name, protocol=target.protocol, environment=target.environment, labels=dict(target.labels)
    )


def _version(names: str) -> str:
    if len(names) <= MAX_VERSION_CHARACTERS:
        return names or NO_POLICY
    return f"sha256:{hashlib.sha256(names.encode()).hexdigest()}"
