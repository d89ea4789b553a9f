"""REST of targets, policies and sessions: who may do what, as a table; tenants that don't see each other; secrets."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client
from django_scopes import scope, scopes_disabled

from controlplane.authority import Role
from controlplane.ledger.models import LedgerEntry
from policies.models import PolicyVersion
from sessions.models import AgentSession
from targets.access import open_secret
from targets.actions import enrol_worker
from targets.models import Credential, JoinToken, Target
from tests.sessions.conftest import AT, Site
from tests.sessions.people import AUDITORS, MANAGERS, furnish, person, signed_in

ENDPOINTS = {
    "target": "targets",
    "credential": "credentials",
    "proxyworker": "workers",
    "jointoken": "join-tokens",
    "policy": "policies",
    "policyversion": "policy-versions",
    "agentsession": "sessions",
    "operation": "operations",
    "sessionrefusal": "session-refusals",
    "journalbatch": "journal-batches",
    "contentsegment": "content-segments",
}
RECORD = ("agentsession", "operation", "sessionrefusal", "journalbatch", "contentsegment")
TARGET = {"name": "archive", "host": "db2.internal", "database": "archive"}
RULES = [{"name": "all", "effect": "allow", "agents": ["*"], "targets": ["archive*"]}]

#: Method, model, what follows the row (None: the collection), body, and the status for managers.
WRITES: list[tuple[str, str, str | None, Any, int]] = [
    ("post", "target", None, TARGET, 201),
    ("patch", "target", "", {"is_active": False}, 200),
    ("patch", "credential", "", {"username": "other"}, 200),
    ("delete", "credential", "", None, 204),
    ("patch", "proxyworker", "", {"is_active": False}, 200),
    ("post", "jointoken", None, {"worker_name": "edge-3"}, 201),
    ("post", "jointoken", "revoke/", None, 200),
    ("post", "policy", None, {"name": "night"}, 201),
    ("patch", "policy", "", {"is_active": False}, 200),
    ("post", "policy", "publish/", {"rules": RULES, "message": "more"}, 201),
    ("post", "agentsession", "end/", {"reason": "enough"}, 202),
]


@pytest.fixture
def rows(acme: Site) -> dict[str, Any]:
    """One of acme's rows for each endpoint."""
    return furnish(acme)


def url(rows: dict[str, Any], model: str, more: str | None = "") -> str:
    """The row's URL, or with None that of its collection."""
    base = f"/api/v1/{ENDPOINTS[model]}/"
    return base if more is None else f"{base}{rows[model].pk}/{more}"


def send(client: Client, method: str, where: str, body: Any) -> int:
    """The status of the answer."""
    status: int = getattr(client, method)(where, body, content_type="application/json").status_code
    return status


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("model", list(ENDPOINTS))
def test_the_setup_is_for_every_role_and_the_record_for_auditors(
    acme: Site, rows: dict[str, Any], role: Role, model: str
) -> None:
    client = signed_in(person(acme.tenant, role))
    may_read = model not in RECORD or role in AUDITORS
    assert client.get(url(rows, model)).status_code == (200 if may_read else 404)
    assert client.get(url(rows, model, None)).json()["count"] == (
        0 if not may_read else 4 if model == "operation" else 1
    )


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize(("method", "model", "more", "body", "status"), WRITES)
def test_only_managers_change_anything(
    acme: Site, rows: dict[str, Any], role: Role, method: str, model: str, more: str | None, body: Any, status: int
) -> None:
    client = signed_in(person(acme.tenant, role))
    answered = send(client, method, url(rows, model, more), body)
    if role in MANAGERS:
        assert answered == status
    else:
        assert answered in {403, 404}


@pytest.mark.parametrize("model", list(ENDPOINTS))
def test_a_neighbour_finds_nothing(globex: Site, rows: dict[str, Any], model: str) -> None:
    client = signed_in(person(globex.tenant, Role.OWNER))
    assert client.get(url(rows, model)).status_code == 404
    listed = client.get(url(rows, model, None)).json()["results"]
    assert str(rows[model].pk) not in [str(row["id"]) for row in listed]


@pytest.mark.parametrize(("method", "model", "more", "body", "_status"), [row for row in WRITES if row[2] is not None])
def test_a_neighbour_changes_nothing(
    globex: Site, rows: dict[str, Any], method: str, model: str, more: str, body: Any, _status: int
) -> None:
    assert send(signed_in(person(globex.tenant, Role.OWNER)), method, url(rows, model, more), body) == 404


@pytest.mark.parametrize("model", RECORD)
def test_the_record_is_not_written(acme: Site, rows: dict[str, Any], model: str) -> None:
    client = signed_in(person(acme.tenant, Role.OWNER))
    for method in ("put", "patch", "delete"):
        assert send(client, method, url(rows, model), {}) in {403, 405}
    assert send(client, "post", url(rows, model, None), {}) in {403, 405}


def test_a_secret_goes_in_and_never_comes_out(acme: Site, rows: dict[str, Any]) -> None:
    client = signed_in(person(acme.tenant, Role.ADMIN))
    made = client.post(url(rows, "target", None), TARGET, content_type="application/json").json()
    body = {"target": made["id"], "username": "gate", "secret": " a spaced secret "}
    answers = [client.post(url(rows, "credential", None), body, content_type="application/json")]
    where = f"/api/v1/credentials/{answers[0].json()['id']}/"
    answers.append(client.patch(where, {"username": "gate2"}, content_type="application/json"))
    answers += [client.get(where), client.get(url(rows, "credential", None))]
    assert [answer.status_code for answer in answers] == [201, 200, 200, 200]
    with scope(tenant=acme.tenant):
        credential = Credential.objects.get(pk=answers[0].json()["id"])
        told = str(list(LedgerEntry.objects.values()))
    assert (open_secret(credential), credential.username) == (" a spaced secret ", "gate2")
    for text in (*(answer.content.decode() for answer in answers), told):
        assert "spaced secret" not in text
        assert credential.sealed_secret not in text


def test_a_credential_needs_a_secret_at_first_and_stays_with_its_target(acme: Site, rows: dict[str, Any]) -> None:
    client = signed_in(person(acme.tenant, Role.ADMIN))
    made = client.post(url(rows, "target", None), TARGET, content_type="application/json").json()
    body = {"target": made["id"], "username": "gate"}
    bare = client.post(url(rows, "credential", None), body, content_type="application/json")
    assert (bare.status_code, bare.json()["errors"][0]["field"]) == (409, "secret")
    moved = client.patch(url(rows, "credential"), {"target": made["id"]}, content_type="application/json")
    assert (moved.status_code, moved.json()["errors"][0]["field"]) == (400, "target")


def test_a_credential_is_not_hung_on_another_tenants_target(acme: Site, globex: Site, rows: dict[str, Any]) -> None:
    client = signed_in(person(acme.tenant, Role.ADMIN))
    body = {"target": str(globex.target.pk), "username": "gate", "secret": "x"}
    refused = client.post(url(rows, "credential", None), body, content_type="application/json")
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (400, "target")


def test_a_join_token_is_shown_once_and_works(acme: Site, rows: dict[str, Any]) -> None:
    client = signed_in(person(acme.tenant, Role.ADMIN))
    body = {"worker_name": "edge-3", "lifetime_seconds": 600}
    made = client.post(url(rows, "jointoken", None), body, content_type="application/json")
    token = made.json()["token"]
    assert "no-store" in made.headers["Cache-Control"]
    assert token not in client.get(f"/api/v1/join-tokens/{made.json()['id']}/").content.decode()
    with scopes_disabled():
        row = JoinToken.objects.get(pk=made.json()["id"])
        assert row.digest not in made.content.decode()
        worker = enrol_worker(join_token=token, name="edge-3", public_key=b"k" * 32, now=row.created_at)
    assert worker.tenant_id == acme.tenant.pk


def test_a_target_with_history_is_not_deleted_and_one_without_is(acme: Site, rows: dict[str, Any]) -> None:
    client = signed_in(person(acme.tenant, Role.ADMIN))
    kept = client.delete(url(rows, "target"))
    assert (kept.status_code, "Deactivate" in kept.json()["detail"]) == (409, True)
    made = client.post(url(rows, "target", None), TARGET, content_type="application/json").json()
    assert client.delete(f"/api/v1/targets/{made['id']}/").status_code == 204
    with scope(tenant=acme.tenant):
        assert Target.objects.get() == acme.target


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": "Shop_1"}, "name"),
        ({"name": "shop"}, ""),
        ({"port": 0}, "port"),
        ({"tls_mode": "prefer"}, "tls_mode"),
        ({"labels": "text"}, "labels"),
    ],
)
def test_a_wrong_target_is_refused_with_its_field(acme: Site, rows: dict[str, Any], body: Any, field: str) -> None:
    client = signed_in(person(acme.tenant, Role.ADMIN))
    refused = client.post(url(rows, "target", None), {**TARGET, **body}, content_type="application/json")
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (400, field)


def test_publishing_makes_the_next_version_and_names_what_is_wrong(acme: Site, rows: dict[str, Any]) -> None:
    client = signed_in(person(acme.tenant, Role.ADMIN))
    where = url(rows, "policy", "publish/")
    made = client.post(where, {"rules": RULES, "message": "more"}, content_type="application/json")
    assert (made.json()["number"], made.json()["author"]) == (2, "admin@acme.example")
    assert client.get(url(rows, "policy")).json()["rules"] == RULES
    refused = client.post(where, {"rules": [{**RULES[0], "agents": []}]}, content_type="application/json")
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (400, "rules[0].agents")
    with scope(tenant=acme.tenant):
        assert PolicyVersion.objects.count() == 2


def test_ending_a_session_is_written_down_and_answered_at_once(acme: Site, rows: dict[str, Any]) -> None:
    client = signed_in(person(acme.tenant, Role.ADMIN))
    answer = client.post(url(rows, "agentsession", "end/"), {"reason": "enough"}, content_type="application/json")
    assert (answer.status_code, answer.json()["end_reason"], answer.json()["state"]) == (202, "enough", "live")
    with scope(tenant=acme.tenant):
        session = AgentSession.objects.get()
        AgentSession.objects.update(state="closed")
    assert session.end_requested_by is not None
    assert session.end_requested_by.email == "admin@acme.example"
    assert client.post(url(rows, "agentsession", "end/"), {}, content_type="application/json").status_code == 409


@pytest.mark.parametrize(
    ("query", "ops"),
    [
        ("status=unknown", [3]),
        ("status__in=error,unknown", [2, 3]),
        ("search=ORDERS", [3]),
        ("error_code=42P01", [2]),
        ("session__agent__name=nobody", []),
        ("at__gte=2030-01-01T00:00:00Z", []),
        ("ordering=-op&page_size=2", [4, 3]),
    ],
)
def test_operations_are_found(acme: Site, rows: dict[str, Any], query: str, ops: list[int]) -> None:
    client = signed_in(person(acme.tenant, Role.AUDITOR))
    ordered = query if "ordering" in query else f"{query}&ordering=op"
    found = client.get(f"/api/v1/operations/?{ordered}").json()["results"]
    assert [row["op"] for row in found] == ops


def test_an_operation_says_all_that_was_recorded(acme: Site, rows: dict[str, Any]) -> None:
    row = signed_in(person(acme.tenant, Role.AUDITOR)).get(url(rows, "operation")).json()
    assert (row["agent"], row["target"], row["text"]) == ("reporter", "shop", "SELECT '<b>bold</b>', $1")
    assert [parameter["value"] for parameter in row["parameters"]] == ["O'Hara", None]
    assert (row["status"], row["rows"], row["tags"], row["columns"]) == ("ok", 1, ["SELECT 1"], ["id", "name"])
    assert len(row["text_sha256"]) == 64


def test_a_session_says_who_where_and_when(acme: Site, rows: dict[str, Any]) -> None:
    row = signed_in(person(acme.tenant, Role.AUDITOR)).get(url(rows, "agentsession")).json()
    assert (row["agent"], row["target"], row["worker"], row["state"]) == ("reporter", "shop", "edge", "live")
    assert (row["operation_count"], row["client_address"]) == (4, "127.0.0.1:50000")
    assert row["opened_at"].startswith(f"{AT:%Y-%m-%d}")


def test_a_list_refuses_a_parameter_that_it_does_not_know(acme: Site) -> None:
    client = signed_in(person(acme.tenant, Role.AUDITOR))
    assert client.get("/api/v1/sessions/?agent__name=reporter&search=psql&ordering=-granted_at").status_code == 200
    refused = client.get("/api/v1/sessions/?agent=reporter")
    assert refused.status_code == 400
    [problem] = refused.json()["errors"]
    assert problem["field"] == "agent"
    assert "agent__name" in problem["problem"]
