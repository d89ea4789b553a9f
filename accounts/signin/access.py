"""What one's own page shows: one's sign-ins, one's roles, and where each role came from."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from django.db.models import QuerySet

from accounts.federation.models import FederatedIdentity, RoleMapping
from accounts.models import Membership
from accounts.scim.models import ScimMember, ScimUser
from accounts.signin.models import SignIn
from controlplane.authority import Role
from controlplane.tenancy import every_tenant

#: On one page. Few people have a role in more than a handful of tenants.
MAX_ROLES: Final = 100
#: Of a role's groups; whoever is in more of them learns nothing by the rest.
MAX_GROUPS: Final = 20


@dataclass(frozen=True, slots=True)
class HeldRole:
    """A person's role in a tenant, and who gave it, in words."""

    tenant: str
    role: str
    origin: str


def own(rows: QuerySet[SignIn], current: SignIn) -> QuerySet[SignIn]:
    """Of these, the person's own; in a session through a provider, those through it: it vouches for no more."""
    mine = rows.filter(user=current.user_id)
    return mine if current.provider_id is None else mine.filter(provider=current.provider_id)


def roles_of(current: SignIn) -> list[HeldRole]:
    """The roles that this session has; through a provider, that in its tenant. Needs no scope."""
    with every_tenant():
        rows = Membership.objects.filter(user=current.user_id, tenant__is_active=True)
        if current.tenant_id is not None:
            rows = rows.filter(tenant=current.tenant_id)
        held = list(rows.select_related("tenant", "given_by")[:MAX_ROLES])
        by_provider = _provider_groups(held, user_id=current.user_id)
        by_directory = _directory_groups(held, user_id=current.user_id)
    return [
        HeldRole(
            tenant=one.tenant.name,
            role=Role(one.role).label,
            origin=_origin(one, by_provider=by_provider, by_directory=by_directory),
        )
        for one in held
    ]


def _origin(
    membership: Membership, *, by_provider: Mapping[UUID, list[str]], by_directory: Mapping[UUID, list[str]]
) -> str:
    provider = membership.given_by
    if provider is not None:
        return _named(f"by {provider.name}", by_provider.get(provider.pk, []))
    if membership.tenant_id in by_directory:
        return _named("by the directory (SCIM)", by_directory[membership.tenant_id])
    return "given by hand"


def _named(origin: str, groups: Collection[str]) -> str:
    shown = ", ".join(sorted(groups)[:MAX_GROUPS])
    return f"{origin}, for {'group' if len(groups) == 1 else 'groups'} {shown}" if shown else origin


def _provider_groups(held: Collection[Membership], *, user_id: UUID) -> dict[UUID, list[str]]:
    """By provider: the groups, of those that it sent last, which give the role that is held."""
    roles = {one.given_by_id: one.role for one in held if one.given_by_id is not None}
    identities = FederatedIdentity.objects.filter(user=user_id, provider__in=roles)
    sent = dict(identities.values_list("provider", "groups"))
    found: dict[UUID, list[str]] = {}
    for provider_id, group, role in RoleMapping.objects.filter(provider__in=roles).values_list(
        "provider", "group", "role"
    ):
        if role == roles[provider_id] and group in sent.get(provider_id, ()):
            found.setdefault(provider_id, []).append(group)
    return found


def _directory_groups(held: Collection[Membership], *, user_id: UUID) -> dict[UUID, list[str]]:
    """By tenant whose directory gave the role: its groups of the person which give it."""
    roles = {one.tenant_id: one.role for one in held if one.given_by_id is None}
    gave = ScimUser.objects.filter(user=user_id, tenant__in=roles, has_given_role=True).values_list("tenant", flat=True)
    found: dict[UUID, list[str]] = {tenant_id: [] for tenant_id in gave}
    for tenant_id, group, role in ScimMember.objects.filter(member__user=user_id, tenant__in=found).values_list(
        "tenant", "group__display_name", "group__role"
    ):
        if role == roles[tenant_id]:
            found[tenant_id].append(group)
    return found
