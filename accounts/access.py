"""How the rest of the code obtains accounts: what a person may do, and the rows that they may see."""

from __future__ import annotations

from django.contrib.auth.models import AnonymousUser
from django.db.models import Exists, OuterRef, Q, QuerySet

from accounts.models import Agent, Membership, User
from accounts.scim.models import ScimUser
from controlplane.authority import NO_AUTHORITY, Authority, Role
from controlplane.tenancy import every_tenant


def colleagues() -> QuerySet[User]:
    """The people with a role in the tenants in scope."""
    return User.objects.filter(pk__in=Membership.objects.values("user"))


def suspended_agents() -> QuerySet[Agent]:
    """The agents in scope whose sponsor has left: inactive, or without a role in the agent's tenant."""
    has_role = Membership.objects.filter(user=OuterRef("sponsor"), tenant=OuterRef("tenant"))
    has_left = Q(sponsor__is_active=False) | ~Exists(has_role)
    agents: QuerySet[Agent] = Agent.objects.filter(has_left, sponsor__isnull=False)
    return agents


def departed_people() -> QuerySet[ScimUser]:
    """The people whom the directories of the tenants in scope have deactivated or deleted."""
    people: QuerySet[ScimUser] = ScimUser.objects.filter(is_active=False)
    return people


def inactive_people() -> QuerySet[User]:
    """Those whose accounts the operators have deactivated, in whichever tenant they were."""
    return User.objects.filter(is_active=False)


def authority_for(user: User | AnonymousUser) -> Authority:
    """The roles of an active user in active tenants; nobody else has any."""
    if not isinstance(user, User) or not user.is_active:
        return NO_AUTHORITY
    with every_tenant():
        rows = Membership.objects.filter(user=user, tenant__is_active=True).values_list("tenant_id", "role")
        roles = {tenant_id: Role(role) for tenant_id, role in rows}
    return Authority(roles=roles, is_operator=user.is_superuser)
