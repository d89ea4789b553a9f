"""The kill switch over REST and in the admin."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django_scopes import scope

from accounts.actions import save_user
from accounts.models import User
from controlplane.authority import Role
from sessions.killing.actions import kill
from sessions.killing.models import KillOrder
from sessions.models import AgentSession
from tests.sessions.conftest import Site
from tests.sessions.people import MANAGERS, person, signed_in

pytestmark = pytest.mark.django_db

ORDERS = "/api/v1/kill-orders/"
PAGE = "/admin/agent_sessions/killorder/"


def post(client: Client, path: str, **body: Any) -> Any:
    """As JSON."""
    return client.post(path, body, content_type="application/json")


@pytest.fixture
def manager(acme: Site) -> Client:
    """An administrator's browser."""
    return signed_in(person(acme.tenant, Role.ADMIN))


@pytest.mark.parametrize("scope_name", ["session", "agent", "target", "tenant"])
def test_rest_stops_tells_and_lifts(acme: Site, manager: Client, scope_name: str) -> None:
    session = acme.session()
    name = {"session": str(session.pk), "agent": "reporter", "target": "shop", "tenant": ""}[scope_name]
    made = post(manager, ORDERS, tenant="acme", scope=scope_name, subject=name, reason="it runs wild")
    assert made.status_code == 201
    said = made.json()
    assert (said["subject"], said["session_count"], said["alive"]) == (name or "acme", 1, 1)
    assert (said["state"], said["seconds_to_dead"], said["ordered_by"]) == ("waiting", None, "admin@acme.example")
    with scope(tenant=acme.tenant):
        AgentSession.objects.update(state="closed", closed_at=KillOrder.objects.get().ordered_at)
    detail = manager.get(f"{ORDERS}{said['id']}/").json()
    assert (detail["state"], detail["alive"], detail["seconds_to_dead"]) == ("dead", 0, 0.0)
    [killed] = detail["sessions"]
    assert (killed["session"], killed["agent"], killed["seconds_to_dead"]) == (str(session.pk), "reporter", 0.0)
    assert manager.get(ORDERS, {"lifted_at__isnull": "true"}).json()["count"] == 1
    lifted = post(manager, f"{ORDERS}{said['id']}/lift/", reason="mended")
    if scope_name == "session":
        assert lifted.status_code == 409
    else:
        assert (lifted.status_code, lifted.json()["is_in_force"]) == (200, False)


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"scope": "agent", "subject": "nobody", "reason": "x"}, 409, "subject"),
        ({"scope": "galaxy", "reason": "x"}, 400, "scope"),
        ({"scope": "tenant"}, 400, "reason"),
        ({"scope": "tenant", "reason": "x", "tenant": "globex"}, 400, "tenant"),
    ],
)
def test_a_wrong_order_is_refused_with_its_field(
    globex: Site, manager: Client, body: dict[str, str], status: int, field: str
) -> None:
    refused = post(manager, ORDERS, **body)
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (status, field)


def test_another_tenants_session_is_not_there(acme: Site, globex: Site, manager: Client) -> None:
    session = globex.session()
    refused = post(manager, ORDERS, tenant="acme", scope="session", subject=str(session.pk), reason="x")
    assert refused.status_code == 409
    where = reverse("admin:kill-switch", args=["session", session.pk])
    assert (manager.get(where).status_code, manager.post(where, {"reason": "x"}).status_code) == (404, 404)
    with scope(tenant=globex.tenant):
        assert AgentSession.objects.get().end_requested_at is None


@pytest.mark.parametrize("scope_name", ["session", "agent", "target", "tenant"])
@pytest.mark.parametrize("role", list(Role))
def test_the_button_asks_why_and_then_stops(acme: Site, role: Role, scope_name: str) -> None:
    session, client = acme.session(), signed_in(person(acme.tenant, role))
    subject: Any = {"session": session, "agent": acme.agent, "target": acme.target, "tenant": acme.tenant}[scope_name]
    where = reverse("admin:kill-switch", args=[scope_name, subject.pk])
    asked = client.get(where)
    if role not in MANAGERS:
        assert asked.status_code == client.post(where, {"reason": "x"}).status_code
        assert asked.status_code == (404 if role is Role.VIEWER else 403)
        return
    assert "1 running session will be cut off" in asked.content.decode()
    assert "This field is required" in client.post(where, {"reason": ""}).content.decode()
    done = client.post(where, {"reason": "it runs wild"}, follow=True)
    page = done.content.decode()
    assert "it runs wild" in page
    assert done["Refresh"] == "1"  # it is ending
    with scope(tenant=acme.tenant):
        order = KillOrder.objects.get()
        AgentSession.objects.update(state="closed", closed_at=order.ordered_at)
    assert (str(order.ordered_by), order.scope) == (f"{role}@acme.example", scope_name)
    settled = client.get(f"{PAGE}{order.pk}/change/")
    assert "Refresh" not in settled
    assert "0.000 s" in settled.content.decode()
    lifting = f"{PAGE}{order.pk}/lift/"
    assert ("Lift the order" in settled.content.decode()) is order.is_in_force
    if order.is_in_force:
        assert client.post(lifting, {"reason": "mended"}).status_code == 302
        with scope(tenant=acme.tenant):
            assert not KillOrder.objects.get().is_in_force


def test_a_button_leads_there_from_each_page(acme: Site, manager: Client) -> None:
    session = acme.session()
    for page, scope_name, subject in (
        ("admin:accounts_agent_change", "agent", acme.agent),
        ("admin:targets_target_change", "target", acme.target),
        ("admin:accounts_tenant_change", "tenant", acme.tenant),
    ):
        assert "Stop now" in manager.get(reverse(page, args=[subject.pk])).content.decode()
        name = page.removesuffix("_change").removeprefix("admin:").replace("_", "/")
        answer = manager.get(f"/admin/{name}/{subject.pk}/stop/")
        assert answer["Location"] == reverse("admin:kill-switch", args=[scope_name, subject.pk])
    everything = manager.get(f"{PAGE}stop-everything/")
    assert everything["Location"] == reverse("admin:kill-switch", args=["tenant", acme.tenant.pk])
    assert (
        "End the session"
        in manager.get(reverse("admin:agent_sessions_agentsession_change", args=[session.pk])).content.decode()
    )


def test_whoever_does_not_manage_the_tenant_has_no_button_to_stop_it(acme: Site, globex: Site) -> None:
    operator = save_user(User(email="root@platform.example", is_superuser=True), acting_user=None)
    page = reverse("admin:accounts_tenant_change", args=[acme.tenant.pk])
    for user in (operator, person(acme.tenant, Role.AUDITOR)):
        client = signed_in(user)
        assert "Stop now" not in client.get(page).content.decode()
        assert client.get(f"/admin/accounts/tenant/{acme.tenant.pk}/stop/").status_code in (403, 404)
    outsider = signed_in(person(globex.tenant, Role.OWNER))
    assert outsider.get(f"/admin/accounts/tenant/{acme.tenant.pk}/stop/").status_code == 404


def test_what_is_stopped_says_so_in_the_list(acme: Site, manager: Client) -> None:
    kill(acme.agent, reason="it runs wild", acting_user=None)
    page = manager.get(PAGE).content.decode()
    assert "agent reporter" in page
    assert "it runs wild" in page
    viewer = signed_in(person(acme.tenant, Role.VIEWER))
    assert "it runs wild" not in viewer.get(PAGE).content.decode()
