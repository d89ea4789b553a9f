"""How other code obtains policies."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import Final
from uuid import UUID

import msgspec
from django.db.models import Q, QuerySet

from accounts.models import Membership, User
from controlplane.authority import ROLE_POWERS, Power
from policies import engine
from policies.documents import PolicyDocument, parse_document
from policies.engine.columns import join_column, labels_asked_for
from policies.models import OPEN_STATES, Policy, PolicyDraft, PolicyVersion
from targets.access import labelled_columns
from targets.models import Target

#: Longer version strings are replaced by a digest: they stand in every decision.
MAX_VERSION_CHARACTERS: Final = 120
#: The version of a tenant without a published policy.
NO_POLICY: Final = "none"
#: Versions whose rules a process keeps: what is in force for some tenants at once.
MAX_PARSED_VERSIONS: Final = 64


def effective_policy(
    tenant_id: UUID, *, instead: Mapping[UUID, PolicyDocument] = MappingProxyType({})
) -> engine.Policy:
    """All rules of the tenant's active policies, as they are published now. Rules are named "policy/rule".

    The version names what it is made of ("agents@3+support@1"), or is a digest of that when it is long. `instead`:
    what policies, by id, shall say for once, such as a draft; they count as active then, and their version is "draft".
    """
    names: list[str] = []
    rules: list[engine.Rule] = []
    meant = Policy.objects.filter(Q(is_active=True) | Q(pk__in=list(instead)), tenant=tenant_id).order_by("name")
    for policy_id, name, version_id, number in meant.values_list("pk", "name", "current", "current__number"):
        if policy_id in instead:
            names.append(f"{name}@draft")
            rules += _named_rules(instead[policy_id], name)
        elif version_id is not None:
            names.append(f"{name}@{number}")
            rules += _rules_of_version(version_id, name)
    made = engine.Policy(version=_version("+".join(names)), rules=tuple(rules))
    labels = labels_asked_for(made)
    return msgspec.structs.replace(made, labelled=_labelled(tenant_id, labels)) if labels else made


@lru_cache(maxsize=MAX_PARSED_VERSIONS)
def _rules_of_version(version_id: UUID, policy_name: str) -> tuple[engine.Rule, ...]:
    """The rules of a version, which never change: read and parsed once in a process. In its tenant's scope."""
    return _named_rules(PolicyVersion.objects.get(pk=version_id).document, policy_name)


def _named_rules(document: PolicyDocument, policy_name: str) -> tuple[engine.Rule, ...]:
    parsed = parse_document(document, version=policy_name)
    return tuple(msgspec.structs.replace(rule, name=f"{policy_name}/{rule.name}") for rule in parsed.rules)


def _labelled(tenant_id: UUID, labels: frozenset[str]) -> dict[str, dict[str, tuple[str, ...]]]:
    return {
        target: {join_column(*column): found for column, found in columns.items()}
        for target, columns in labelled_columns(tenant_id, labels).items()
    }


def effective_version(tenant_id: UUID) -> str:
    """The version of `effective_policy` alone, without reading a rule."""
    active = Policy.objects.filter(is_active=True, tenant=tenant_id, current__isnull=False).order_by("name")
    return _version("+".join(f"{name}@{number}" for name, number in active.values_list("name", "current__number")))


def describe_target(target: Target) -> engine.Target:
    """The target as rules see it."""
    return engine.Target(
        name=target.name, protocol=target.protocol, environment=target.environment, labels=dict(target.labels)
    )


def open_drafts(policy: Policy) -> QuerySet[PolicyDraft]:
    """The policy's drafts that may still become versions, newest first."""
    drafts: QuerySet[PolicyDraft] = policy.drafts.filter(state__in=OPEN_STATES).select_related("author", "base")
    return drafts.order_by("-updated_at")


def own_draft(policy: Policy, person: User) -> PolicyDraft | None:
    """The open draft that the person works on."""
    return open_drafts(policy).filter(author=person).first()


def why_not_review(draft: PolicyDraft, person: User) -> str:
    """Why the person may not review it; empty when they may."""
    if draft.author_id == person.pk:
        return "nobody reviews their own draft"
    if not holds_power(person, Power.APPROVE, tenant_id=draft.tenant_id):
        return f"{person} has no role that approves in this tenant"
    return ""


def people_who_review(draft: PolicyDraft) -> list[str]:
    """The addresses of all who may review it now. In its scope."""
    holders = _holders(Power.APPROVE, tenant_id=draft.tenant_id).exclude(user=draft.author_id)
    return list(holders.order_by("user__email").values_list("user__email", flat=True))


def holds_power(person: User, power: Power, *, tenant_id: UUID) -> bool:
    """Whether the person is active and their role in the tenant has the power, as of now."""
    return bool(_holders(power, tenant_id=tenant_id).filter(user=person).exists())


def _holders(power: Power, *, tenant_id: UUID) -> QuerySet[Membership]:
    roles = [role for role, powers in ROLE_POWERS.items() if power in powers]
    holders: QuerySet[Membership] = Membership.objects.filter(user__is_active=True, tenant=tenant_id, role__in=roles)
    return holders


def _version(names: str) -> str:
    if len(names) <= MAX_VERSION_CHARACTERS:
        return names or NO_POLICY
    return f"sha256:{hashlib.sha256(names.encode()).hexdigest()}"
