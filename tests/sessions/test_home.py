"""The admin's first page: what each role is told, and what a tenant that is new is told to do."""

from __future__ import annotations

import pytest
from django.utils import timezone
from django_scopes import scope

from accounts import actions
from accounts.models import Tenant, User
from controlplane.authority import Role
from sessions.killing.actions import kill
from sessions.models import Operation, OperationStatus
from tests.sessions.conftest import Site
from tests.sessions.people import furnish, person, signed_in


@pytest.fixture
def busy(acme: Site) -> Site:
    """A tenant with a session, a denied statement, a refused attempt and a request that waits."""
    session = furnish(acme)["agentsession"]
    with scope(tenant=acme.tenant):
        Operation.objects.filter(session=session).update(at=timezone.now())
        denied = {"status": OperationStatus.DENIED, "effect": "deny", "reason": "rows <b>are</b> named"}
        Operation.objects.filter(session=session, op=3).update(**denied)
    return acme


def home(user: User) -> str:
    """The page as they see it."""
    return signed_in(user).get("/admin/").content.decode()


def test_whoever_may_read_the_record_sees_what_goes_on(busy: Site) -> None:
    page = home(person(busy.tenant, Role.AUDITOR))
    for told in ("Sessions now", "At work now", "reporter on shop", "from 127.0.0.1:50000", "payroll is for people"):
        assert told in page
    assert "rows &lt;b&gt;are&lt;/b&gt; named" in page
    assert "Waiting for you" not in page


def test_whoever_may_approve_sees_what_waits_for_them(busy: Site) -> None:
    page = home(person(busy.tenant, Role.APPROVER))
    assert "Waiting for you" in page
    assert "1 for you" in page
    assert "DELETE FROM orders WHERE note = &#x27;&lt;b&gt;bold" in page


def test_a_viewer_sees_the_set_up_and_nothing_of_the_record(busy: Site) -> None:
    page = home(person(busy.tenant, Role.VIEWER))
    for told in ("Workers", "Agents", "Targets", "Policies"):
        assert told in page
    for hidden in ("At work now", "payroll is for people", "rows &lt;b&gt;", "127.0.0.1:50000"):
        assert hidden not in page


def test_nobody_sees_another_tenants_doings(busy: Site, globex: Site) -> None:
    page = home(person(globex.tenant, Role.OWNER))
    for hidden in ("from 127.0.0.1:50000", "payroll is for people", "rows &lt;b&gt;", "Waiting for you"):
        assert hidden not in page
    assert "No agent has a session at the moment." in page


def test_what_is_stopped_is_told_first(busy: Site) -> None:
    owner = person(busy.tenant, Role.OWNER)
    with scope(tenant=busy.tenant):
        kill(busy.agent, acting_user=owner, reason="it runs wild")
    page = home(owner)
    assert "Agent reporter is stopped" in page
    assert "it runs wild" in page


def test_a_new_tenant_is_told_what_is_missing_and_a_complete_one_is_not(acme: Site) -> None:
    new = Tenant.objects.create(slug="new", name="New")
    owner, viewer = person(new, Role.OWNER), person(new, Role.VIEWER)
    assert "Before the first agent can be let in" in home(owner)
    assert "Before the first agent can be let in" not in home(viewer)
    assert "Before the first agent can be let in" not in home(person(acme.tenant, Role.OWNER))


def test_whoever_has_no_role_is_told_so(db: None) -> None:
    nobody = actions.save_user(User(email="nobody@acme.example"), acting_user=None)
    operator = actions.save_user(User(email="operator@acme.example", is_superuser=True), acting_user=None)
    assert "You have no role in any tenant yet" in home(nobody)
    assert "As an operator you make and close" in home(operator)
