"""The admin of targets, policies and sessions: every page, in and out of the tenant; buttons; secrets."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.contrib import admin
from django_scopes import scope

from controlplane.authority import Role
from sessions.ingest import append_records
from sessions.models import AgentSession, Operation
from targets.access import open_secret
from targets.models import Credential, JoinToken
from tests.sessions.conftest import Site
from tests.sessions.people import MANAGERS, furnish, person, signed_in
from tests.sessions.records import JournalScript, approval, intent, opened

APPS = {
    "target": "targets",
    "credential": "targets",
    "proxyworker": "targets",
    "jointoken": "targets",
    "columnlabel": "targets",
    "policy": "policies",
    "policyversion": "policies",
    "approvalflow": "policies",
    "approvalrequest": "policies",
    "approvalgrant": "policies",
    "agentsession": "agent_sessions",
    "operation": "agent_sessions",
    "sessionrefusal": "agent_sessions",
    "journalbatch": "agent_sessions",
    "contentsegment": "agent_sessions",
}


@pytest.fixture
def rows(acme: Site) -> dict[str, Any]:
    """One of acme's rows for each page."""
    return furnish(acme)


def url(model: str, *rest: object) -> str:
    """A page of this model."""
    return "/".join(["/admin", APPS[model], model, *(str(part) for part in rest), ""])


@pytest.mark.parametrize("model", list(APPS))
def test_every_page_opens_in_the_tenant_and_nowhere_else(
    acme: Site, globex: Site, rows: dict[str, Any], model: str
) -> None:
    own, foreign = signed_in(person(acme.tenant, Role.OWNER)), signed_in(person(globex.tenant, Role.OWNER))
    assert own.get(url(model)).status_code == 200
    assert own.get(url(model), {"q": "SELECT"}).status_code == 200
    assert own.get(url(model, rows[model].pk, "change")).status_code == 200
    assert f"{rows[model].pk}/change" not in foreign.get(url(model)).content.decode()
    assert foreign.get(url(model, rows[model].pk, "change")).status_code == 404


@pytest.mark.parametrize("model", ["agentsession", "operation", "sessionrefusal", "journalbatch", "contentsegment"])
def test_the_record_has_no_form_and_no_way_to_delete(acme: Site, rows: dict[str, Any], model: str) -> None:
    client = signed_in(person(acme.tenant, Role.OWNER))
    assert 'name="_save"' not in client.get(url(model, rows[model].pk, "change")).content.decode()
    assert client.post(url(model, rows[model].pk, "change"), {"state": "closed"}).status_code == 403
    assert client.post(url(model, rows[model].pk, "delete"), {"post": "yes"}).status_code == 403
    assert client.get(url(model, "add")).status_code == 403


def test_a_sessions_page_shows_each_statement_with_its_outcome(acme: Site, rows: dict[str, Any]) -> None:
    client = signed_in(person(acme.tenant, Role.AUDITOR))
    page = client.get(url("agentsession", rows["agentsession"].pk, "change")).content.decode()
    assert "SELECT &#x27;&lt;b&gt;bold&lt;/b&gt;&#x27;, $1" in page
    assert "<b>bold</b>" not in page
    for shown in ("O&#x27;Hara", "NULL", "42P01", "unknown outcome", "4 statements", "it may have been done", "500 µs"):
        assert shown in page


@pytest.mark.parametrize(
    ("query", "shown", "hidden"), [({"q": "orders"}, "DELETE", "SELECT 4"), ({"status": "error"}, "nope", "DELETE")]
)
def test_statements_of_a_session_are_searched_and_filtered(
    acme: Site, rows: dict[str, Any], query: dict[str, str], shown: str, hidden: str
) -> None:
    client = signed_in(person(acme.tenant, Role.AUDITOR))
    page = client.get(url("agentsession", rows["agentsession"].pk, "change"), query).content.decode()
    assert shown in page
    assert hidden not in page


def test_sessions_are_found_by_what_was_said_in_them(acme: Site, rows: dict[str, Any]) -> None:
    client = signed_in(person(acme.tenant, Role.AUDITOR))
    for term, found in (("FROM nope", True), ("reporter", True), ("something else", False)):
        page = client.get(url("agentsession"), {"q": term}).content.decode()
        assert (str(rows["agentsession"].pk) in page) is found


def test_operations_are_filtered_by_unknown_outcome(acme: Site, rows: dict[str, Any]) -> None:
    page = signed_in(person(acme.tenant, Role.AUDITOR)).get(url("operation"), {"status__exact": "unknown"})
    assert "DELETE FROM orders" in page.content.decode()
    assert "nope" not in page.content.decode()


@pytest.mark.parametrize("role", list(Role))
def test_only_managers_end_a_session(acme: Site, rows: dict[str, Any], role: Role) -> None:
    client = signed_in(person(acme.tenant, role))
    where = url("agentsession", rows["agentsession"].pk, "end")
    if role in MANAGERS:
        assert client.get(where).status_code == 200
    assert client.post(where, {"reason": "enough"}).status_code == (302 if role in MANAGERS else 403)
    with scope(tenant=acme.tenant):
        assert (AgentSession.objects.get().end_reason == "enough") is (role in MANAGERS)


def test_a_closed_session_has_no_button(acme: Site, rows: dict[str, Any]) -> None:
    with scope(tenant=acme.tenant):
        AgentSession.objects.update(state="closed")
    page = signed_in(person(acme.tenant, Role.OWNER)).get(url("agentsession", rows["agentsession"].pk, "change"))
    assert "End the session" not in page.content.decode()


def test_a_secret_is_typed_in_and_never_shown(acme: Site, rows: dict[str, Any]) -> None:
    client = signed_in(person(acme.tenant, Role.ADMIN))
    where = url("credential", rows["credential"].pk, "change")
    assert client.post(where, {"username": "gate2", "secret": ""}).status_code == 302
    with scope(tenant=acme.tenant):
        assert open_secret(Credential.objects.get()) == "acme-upstream-secret"
    assert client.post(where, {"username": "gate2", "secret": "typed-in-secret"}).status_code == 302
    with scope(tenant=acme.tenant):
        credential = Credential.objects.get()
    assert (open_secret(credential), credential.username) == ("typed-in-secret", "gate2")
    pages = [client.get(page).content.decode() for page in (where, url("credential"), url("target"), "/admin/")]
    pages.append(client.get("/admin/ledger/ledgerentry/").content.decode())
    for page in pages:
        assert "typed-in-secret" not in page
        assert credential.sealed_secret not in page


def test_a_viewer_is_offered_no_field_for_the_secret(acme: Site, rows: dict[str, Any]) -> None:
    page = signed_in(person(acme.tenant, Role.VIEWER)).get(url("credential", rows["credential"].pk, "change"))
    assert page.status_code == 200
    assert 'name="secret"' not in page.content.decode()


def test_a_join_token_is_shown_once_in_the_admin(acme: Site, rows: dict[str, Any]) -> None:
    client = signed_in(person(acme.tenant, Role.ADMIN))
    form = {"tenant": str(acme.tenant.pk), "worker_name": "edge-9", "lifetime_seconds": "900"}
    page = client.post(url("jointoken", "issue"), form)
    found = re.search(r"ngj_[0-9a-f]{16}_([0-9a-f]{64})", page.content.decode())
    assert found is not None
    with scope(tenant=acme.tenant):
        token = JoinToken.objects.get(worker_name="edge-9")
    for shown in (url("jointoken"), url("jointoken", token.pk, "change")):
        assert found[1] not in client.get(shown).content.decode()
    assert client.post(url("jointoken", token.pk, "revoke")).status_code == 302
    with scope(tenant=acme.tenant):
        token.refresh_from_db()
    assert token.revoked_at is not None


def test_all_pages_are_registered() -> None:
    registered = {model._meta.model_name for model in admin.site._registry}
    assert set(APPS) <= registered


def test_a_session_shows_what_waits_for_approval_and_what_became_of_the_rest(acme: Site, rows: dict[str, Any]) -> None:
    session, request = rows["agentsession"], rows["approvalrequest"]
    journal = JournalScript()
    journal.write(opened(str(session.pk)), intent(str(session.pk), 9, "DELETE FROM x"), approval(str(session.pk), 9))
    append_records(acme.linked, journal.whole())
    auditor = signed_in(person(acme.tenant, Role.AUDITOR))
    page = auditor.get(url("agentsession", session.pk, "change")).content.decode()
    assert f"/approvals/{request.pk}/" in page
    assert "delete on shop" in page
    assert "approved by ada@acme.example" in page
    with scope(tenant=acme.tenant):
        operation = Operation.objects.get(op=9)
    told = auditor.get(f"/api/v1/operations/{operation.pk}/").json()
    assert (told["approval_state"], told["approval_id"]) == ("granted", str(operation.approval_id))
    assert "granted</a>" in auditor.get(url("operation", operation.pk, "change")).content.decode()


def test_a_list_is_called_what_it_lists_and_says_what_is_searched_and_what_would_be_there(acme: Site) -> None:
    page = signed_in(person(acme.tenant, Role.OWNER)).get(url("sessionrefusal")).content.decode()
    assert re.search(r"<title>\s*Refused attempts \| Narrowgate\s*</title>", page)
    assert "Agent, target, address, or words of the reason" in page
    assert "No refused attempts yet" in page
    nothing = signed_in(person(acme.tenant, Role.ADMIN)).get(url("target"), {"q": "unheard-of"}).content.decode()
    assert "Nothing here matches" in nothing
