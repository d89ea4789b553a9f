"""Authority: what each role may do, where, and what the ORM then shows."""

from __future__ import annotations

from itertools import pairwise
from uuid import uuid4

import pytest
from django.http import HttpRequest
from django_scopes import ScopeError, get_scope, scope

from accounts.models import Agent, Tenant
from controlplane.authority import NO_AUTHORITY, ROLE_POWERS, Authority, Power, Role, authority_of

ACME, GLOBEX = uuid4(), uuid4()


def test_every_role_may_read_and_each_next_one_no_less() -> None:
    ordered = [ROLE_POWERS[role] for role in (Role.VIEWER, Role.AUDITOR, Role.APPROVER, Role.ADMIN, Role.OWNER)]
    assert all(lower < higher for lower, higher in pairwise(ordered))
    assert set(ROLE_POWERS) == set(Role)


def test_a_power_holds_in_its_tenant_only() -> None:
    authority = Authority(roles={ACME: Role.ADMIN, GLOBEX: Role.VIEWER})
    assert authority.may(Power.MANAGE, ACME)
    assert not authority.may(Power.MANAGE, GLOBEX)
    assert not authority.may(Power.MANAGE, uuid4())
    assert authority.may(Power.MANAGE)
    assert authority.tenant_ids(Power.MANAGE) == (ACME,)
    assert set(authority.tenant_ids(Power.READ)) == {ACME, GLOBEX}


def test_nobody_may_anything_in_a_tenant_and_nor_does_an_operator_without_a_role() -> None:
    assert not any(NO_AUTHORITY.may(power, ACME) or NO_AUTHORITY.may(power) for power in Power)
    operator = Authority(roles={GLOBEX: Role.VIEWER}, is_operator=True)
    assert not any(operator.may(power, ACME) for power in Power)
    assert operator.may(Power.READ, GLOBEX)


def test_a_request_without_authority_has_none() -> None:
    request = HttpRequest()
    assert authority_of(request) is NO_AUTHORITY
    request.authority = "everything"  # type: ignore[attr-defined]
    assert authority_of(request) is NO_AUTHORITY


@pytest.mark.django_db
def test_the_orm_shows_the_tenants_of_the_authority_and_without_one_raises() -> None:
    acme, globex = (Tenant.objects.create(slug=slug, name=slug) for slug in ("acme", "globex"))
    for tenant in (acme, globex):
        with scope(tenant=tenant):
            Agent(tenant=tenant, name="reporter").save()
    with pytest.raises(ScopeError):
        Agent.objects.count()
    with Authority(roles={acme.pk: Role.VIEWER}).scope():
        assert [agent.tenant for agent in Agent.objects.all()] == [acme]
    with NO_AUTHORITY.scope():
        assert not Agent.objects.exists()
    with Authority(is_operator=True).scope():
        assert not Agent.objects.exists()
    assert "tenant" not in get_scope()
