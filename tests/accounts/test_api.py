"""REST of accounts: who may do what, as a table; tenants that don't see each other; tokens that are shown once."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
import time_machine
from django.conf import settings
from django.test import Client
from django.utils import timezone
from django_scopes import scope

from accounts import actions
from accounts.identify import identify_agent
from accounts.models import Agent, ApiToken, Membership, OidcTrust, User
from controlplane.authority import Role
from controlplane.errors import Refusal
from controlplane.ledger.models import LedgerEntry
from tests.accounts.conftest import Site
from tests.accounts.provider import Provider

READERS = frozenset(Role)
MANAGERS = frozenset({Role.OWNER, Role.ADMIN})
AUDITORS = READERS - {Role.VIEWER}

AGENT = {"name": "writer", "groups": ["writers"]}
TRUST = {"name": "corp", "issuer": "https://idp.example", "audience": "gate"}


def signed_in(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def with_token(user: User, site: Site) -> dict[str, str]:
    _, made = actions.issue_api_token(user, tenant=site.tenant, acting_user=user)
    return {"Authorization": f"Bearer {made.text}"}


@pytest.fixture
def trust(acme: Site, provider: Provider) -> OidcTrust:
    from tests.accounts.conftest import make_trust

    return make_trust(acme, provider)


@pytest.fixture
def urls(acme: Site, trust: OidcTrust) -> dict[str, str]:
    """Where acme's things are."""
    token, _ = actions.issue_agent_token(acme.agent, acting_user=None)
    return {
        "tenant": f"/api/v1/tenants/{acme.tenant.pk}/",
        "agent": f"/api/v1/agents/{acme.agent.pk}/",
        "token": f"/api/v1/agent-tokens/{token.pk}/",
        "trust": f"/api/v1/oidc-trusts/{trust.pk}/",
        "agents": "/api/v1/agents/",
        "trusts": "/api/v1/oidc-trusts/",
    }


#: Method, where, body, who may, and the status for them.
PERMISSIONS: list[tuple[str, str, str, dict[str, Any] | None, frozenset[Role], int]] = [
    ("get", "tenant", "", None, READERS, 200),
    ("get", "agent", "", None, READERS, 200),
    ("patch", "agent", "", {"description": "x"}, MANAGERS, 200),
    ("post", "agents", "", AGENT, MANAGERS, 201),
    ("post", "agent", "tokens/", {"lifetime_seconds": 600}, MANAGERS, 201),
    ("get", "token", "", None, READERS, 200),
    ("post", "token", "revoke/", None, MANAGERS, 200),
    ("get", "trust", "", None, READERS, 200),
    ("patch", "trust", "", {"clock_skew_seconds": 5}, MANAGERS, 200),
    ("post", "trusts", "", TRUST, MANAGERS, 201),
    ("delete", "trust", "", None, MANAGERS, 204),
]


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize(("method", "where", "more", "body", "allowed", "status"), PERMISSIONS)
def test_each_role_may_do_what_the_table_says(
    acme: Site,
    urls: dict[str, str],
    role: Role,
    method: str,
    where: str,
    more: str,
    body: dict[str, Any] | None,
    allowed: frozenset[Role],
    status: int,
) -> None:
    client = signed_in(acme.people[role])
    answer = getattr(client, method)(urls[where] + more, body, content_type="application/json")
    assert answer.status_code == (status if role in allowed else 403), answer.content


@pytest.mark.parametrize(("method", "where", "more", "body", "_allowed", "_status"), PERMISSIONS)
def test_whoever_belongs_elsewhere_finds_nothing(
    globex: Site,
    outsider: User,
    urls: dict[str, str],
    method: str,
    where: str,
    more: str,
    body: dict[str, Any] | None,
    _allowed: frozenset[Role],
    _status: int,
) -> None:
    neighbour = signed_in(globex.people[Role.OWNER])
    nobody = signed_in(outsider)
    if method == "post" and not more:
        body = {**(body or {}), "tenant": "acme"}
        refused = neighbour.post(urls[where], body, content_type="application/json")
        assert refused.status_code == 400
        assert "tenant" in refused.json()["errors"][0]["field"]
        assert nobody.post(urls[where], body, content_type="application/json").status_code == 403
        return
    missing = urls[where].rsplit("/", 2)[0] + f"/{uuid4()}/"
    for url in (urls[where], missing):
        answer = getattr(neighbour, method)(url + more, body, content_type="application/json")
        assert answer.status_code == 404
        assert answer.json()["detail"] == "There is no such thing here, or you may not see it."
    stranger = getattr(nobody, method)(urls[where] + more, body, content_type="application/json")
    assert stranger.status_code == (404 if method == "get" else 403)


@pytest.mark.parametrize("path", ["tenants", "agents", "agent-tokens", "oidc-trusts", "api-tokens", "ledger-entries"])
def test_a_list_shows_ones_own_tenant_only(
    acme: Site, globex: Site, urls: dict[str, str], outsider: User, operator: User, path: str
) -> None:
    for site in (acme, globex):
        actions.issue_api_token(site.people[Role.OWNER], tenant=site.tenant, acting_user=None)
        actions.issue_agent_token(site.agent, acting_user=None)
    for user in (acme.people[Role.OWNER], globex.people[Role.OWNER]):
        rows = signed_in(user).get(f"/api/v1/{path}/").json()["results"]
        own = user.email.partition("@")[2].partition(".")[0]
        assert {row.get("tenant", row.get("slug")) for row in rows} <= {own}
    assert signed_in(outsider).get(f"/api/v1/{path}/").json()["count"] == 0
    rows = signed_in(operator).get(f"/api/v1/{path}/?page_size=500").json()["results"]
    assert {row.get("tenant", row.get("slug")) for row in rows} == ({"acme", "globex"} if path == "tenants" else set())
    assert Client().get(f"/api/v1/{path}/").status_code == 401


@pytest.mark.parametrize("role", list(Role))
def test_the_ledger_is_for_those_who_may_audit(acme: Site, role: Role) -> None:
    answer = signed_in(acme.people[role]).get("/api/v1/ledger-entries/")
    assert (answer.json()["count"] > 0) is (role in AUDITORS)
    assert signed_in(acme.people[role]).post("/api/v1/ledger-entries/").status_code in {403, 405}


def test_an_issued_token_is_shown_once_and_works(acme: Site, urls: dict[str, str]) -> None:
    client = signed_in(acme.people[Role.ADMIN])
    issued = client.post(urls["agent"] + "tokens/", {"label": "ci"}, content_type="application/json")
    body = issued.json()
    assert issued.headers["Cache-Control"] == "no-store"
    assert body["issued_by"] == "admin@acme.example"
    assert identify_agent(body["token"], now=timezone.now()).agent == acme.agent
    listed = client.get("/api/v1/agent-tokens/").content.decode()
    assert body["token_id"] in listed
    assert body["token"].rpartition("_")[2] not in listed


@pytest.mark.parametrize("seconds", [0, 59, 24 * 3600 + 1, 10**12, "soon", None])
def test_a_lifetime_out_of_bounds_is_refused_by_its_field(acme: Site, urls: dict[str, str], seconds: object) -> None:
    client = signed_in(acme.people[Role.ADMIN])
    answer = client.post(urls["agent"] + "tokens/", {"lifetime_seconds": seconds}, content_type="application/json")
    assert answer.status_code == 400
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json()["errors"][0]["field"] == "lifetime_seconds"


def test_an_agent_is_made_changed_and_deactivated_and_each_is_in_the_ledger(acme: Site) -> None:
    client = signed_in(acme.people[Role.ADMIN])
    body = {**AGENT, "sponsor": "owner@acme.example"}
    made = client.post("/api/v1/agents/", body, content_type="application/json").json()
    assert made["tenant"] == "acme"
    url = f"/api/v1/agents/{made['id']}/"
    client.patch(url, {"groups": ["b", "a", "b"]}, content_type="application/json")
    client.patch(url, {"groups": ["b", "a"]}, content_type="application/json")
    client.patch(url, {"is_active": False}, content_type="application/json")
    with scope(tenant=acme.tenant):
        entries = LedgerEntry.objects.filter(subject="agent:writer").order_by("seq")
        told = [(entry.kind, entry.actor, entry.after["groups"], entry.after["is_active"]) for entry in entries]
    assert told == [
        ("agent.created", "admin@acme.example", ["writers"], True),
        ("agent.changed", "admin@acme.example", ["a", "b"], True),
        ("agent.changed", "admin@acme.example", ["a", "b"], False),
    ]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"),
        ({"name": "Not A Name"}, "name"),
        ({"name": "reporter"}, ""),
        ({"name": "x", "groups": ["bad group"]}, "groups"),
        ({"name": "x", "groups": "a"}, "groups"),
        ({"name": "x", "sponsor": "nobody@acme.example"}, "sponsor"),
        ({"name": "x", "sponsor": "owner@globex.example"}, "sponsor"),
        ({"name": "x", "tenant": "globex"}, "tenant"),
        ({"name": "x", "is_active": "perhaps"}, "is_active"),
    ],
)
def test_a_wrong_field_is_named(acme: Site, globex: Site, body: dict[str, Any], field: str) -> None:
    client = signed_in(acme.people[Role.ADMIN])
    answer = client.post("/api/v1/agents/", body, content_type="application/json")
    assert answer.status_code == 400, answer.content
    assert answer.json()["errors"][0]["field"].partition("[")[0] == field
    with scope(tenant=acme.tenant):
        assert Agent.objects.count() == 1


def test_somebody_of_two_tenants_says_which(acme: Site, globex: Site) -> None:
    from accounts.models import Membership

    person = acme.people[Role.ADMIN]
    actions.save_membership(Membership(tenant=globex.tenant, user=person, role=Role.ADMIN), acting_user=None)
    client = signed_in(person)
    assert client.post("/api/v1/agents/", AGENT, content_type="application/json").status_code == 400
    made = client.post("/api/v1/agents/", {**AGENT, "tenant": "globex"}, content_type="application/json")
    assert made.json()["tenant"] == "globex"
    moved = client.patch(f"/api/v1/agents/{made.json()['id']}/", {"tenant": "acme"}, content_type="application/json")
    assert moved.json()["errors"][0]["field"] == "tenant"


def test_a_viewer_in_one_tenant_gains_nothing_by_being_admin_in_another(acme: Site, globex: Site) -> None:
    from accounts.models import Membership

    person = acme.people[Role.VIEWER]
    actions.save_membership(Membership(tenant=globex.tenant, user=person, role=Role.ADMIN), acting_user=None)
    client = signed_in(person)
    url = f"/api/v1/agents/{acme.agent.pk}/"
    assert client.patch(url, {"description": "x"}, content_type="application/json").status_code == 403
    assert client.post(f"{url}tokens/", {}, content_type="application/json").status_code == 403
    body = {**AGENT, "tenant": "acme"}
    assert client.post("/api/v1/agents/", body, content_type="application/json").status_code == 400


def test_a_trust_is_made_with_its_rules_and_sending_rules_replaces_them(acme: Site) -> None:
    client = signed_in(acme.people[Role.ADMIN])
    rules = [{"conditions": ["sub = a"], "agent": "reporter"}, {"conditions": ["sub = b"], "agent": "reporter"}]
    made = client.post("/api/v1/oidc-trusts/", {**TRUST, "rules": rules}, content_type="application/json").json()
    assert made["rules"] == rules
    assert made["algorithms"] == ["ES256", "RS256"] or made["algorithms"] == ["RS256", "ES256"]
    url = f"/api/v1/oidc-trusts/{made['id']}/"
    kept = client.patch(url, {"clock_skew_seconds": 0}, content_type="application/json").json()
    assert kept["rules"] == rules
    fewer = client.patch(url, {"rules": rules[:1]}, content_type="application/json").json()
    assert fewer["rules"] == rules[:1]


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"issuer": "http://idp.example"}, "issuer"),
        ({"algorithms": ["HS256"]}, "algorithms"),
        ({"algorithms": []}, "algorithms"),
        ({"rules": [{"conditions": ["sub = a"], "agent": "nobody"}]}, "rules"),
        ({"rules": [{"conditions": ["sub = a"]}]}, "rules[0].agent"),
        ({"clock_skew_seconds": 301}, "clock_skew_seconds"),
    ],
)
def test_a_weak_trust_is_refused_by_its_field(acme: Site, changed: dict[str, Any], field: str) -> None:
    client = signed_in(acme.people[Role.ADMIN])
    answer = client.post("/api/v1/oidc-trusts/", {**TRUST, **changed}, content_type="application/json")
    assert answer.status_code == 400, answer.content
    assert answer.json()["errors"][0]["field"] == field


# ---------------------------------------------------------------- REST tokens


def test_a_rest_token_acts_as_its_person_in_its_tenant_only(acme: Site, globex: Site) -> None:
    from accounts.models import Membership

    person = acme.people[Role.ADMIN]
    actions.save_membership(Membership(tenant=globex.tenant, user=person, role=Role.OWNER), acting_user=None)
    headers = with_token(person, acme)
    listed = Client().get("/api/v1/agents/", headers=headers).json()["results"]
    assert [row["tenant"] for row in listed] == ["acme"]
    assert Client().get(f"/api/v1/agents/{globex.agent.pk}/", headers=headers).status_code == 404
    made = Client().post("/api/v1/agents/", AGENT, content_type="application/json", headers=headers)
    assert made.json()["tenant"] == "acme"


def test_an_operators_token_is_good_for_their_role_alone(acme: Site, globex: Site, operator: User) -> None:
    with pytest.raises(Refusal, match="no role"):
        actions.issue_api_token(operator, tenant=acme.tenant, acting_user=operator)
    actions.save_membership(Membership(tenant=acme.tenant, user=operator, role=Role.VIEWER), acting_user=None)
    headers = with_token(operator, acme)
    for path in ("tenants", "agents"):
        rows = Client().get(f"/api/v1/{path}/", headers=headers).json()["results"]
        assert [row.get("tenant", row.get("slug")) for row in rows] == ["acme"]
    assert Client().post("/api/v1/agents/", AGENT, headers=headers, content_type="application/json").status_code == 403


def test_a_token_never_allows_more_than_the_role_of_today(acme: Site) -> None:
    person = acme.people[Role.ADMIN]
    headers = with_token(person, acme)
    with scope(tenant=acme.tenant):
        membership = person.memberships.get()
        membership.role = Role.VIEWER
        actions.save_membership(membership, acting_user=None)
    answer = Client().post("/api/v1/agents/", AGENT, content_type="application/json", headers=headers)
    assert answer.status_code == 403


def test_losing_the_role_ends_the_tokens(acme: Site) -> None:
    person = acme.people[Role.ADMIN]
    headers = with_token(person, acme)
    with scope(tenant=acme.tenant):
        actions.delete_membership(person.memberships.get(), acting_user=None)
        assert ApiToken.objects.get().revoked_at is not None
    assert Client().get("/api/v1/agents/", headers=headers).status_code == 401


def test_revoked_expired_and_made_up_tokens_are_refused(acme: Site) -> None:
    person = acme.people[Role.ADMIN]
    token, made = actions.issue_api_token(person, tenant=acme.tenant, acting_user=None, lifetime=timedelta(days=1))
    good = {"Authorization": f"Bearer {made.text}"}
    assert Client().get("/api/v1/agents/", headers=good).status_code == 200
    with time_machine.travel(timezone.now() + timedelta(days=1, seconds=1), tick=False):
        late = Client().get("/api/v1/agents/", headers=good)
    assert late.status_code == 401
    assert "expired" in late.json()["detail"]
    actions.revoke_api_token(token, acting_user=None)
    for text in (made.text, made.text[:-1] + "x", "nga_" + made.text[4:], "", "x y"):
        answer = Client().get("/api/v1/agents/", headers={"Authorization": f"Bearer {text}"})
        assert answer.status_code == 401
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_a_token_of_an_inactive_person_is_refused(acme: Site) -> None:
    person = acme.people[Role.ADMIN]
    headers = with_token(person, acme)
    person.is_active = False
    actions.save_user(person, acting_user=None)
    assert Client().get("/api/v1/agents/", headers=headers).status_code == 401


def test_everybody_makes_and_revokes_their_own_tokens(acme: Site) -> None:
    client = signed_in(acme.people[Role.VIEWER])
    made = client.post("/api/v1/api-tokens/", {"label": "ci"}, content_type="application/json")
    assert made.status_code == 201, made.content
    headers = {"Authorization": f"Bearer {made.json()['token']}"}
    assert Client().get("/api/v1/agents/", headers=headers).status_code == 200
    url = f"/api/v1/api-tokens/{made.json()['id']}/"
    assert signed_in(acme.people[Role.OWNER]).get(url).status_code == 404
    assert client.post(f"{url}revoke/").status_code == 200
    assert Client().get("/api/v1/agents/", headers=headers).status_code == 401


def test_a_token_makes_no_other_token(acme: Site) -> None:
    headers = with_token(acme.people[Role.OWNER], acme)
    answer = Client().post("/api/v1/api-tokens/", {}, content_type="application/json", headers=headers)
    assert answer.status_code == 403
    assert "Sign in" in answer.json()["detail"]
    with scope(tenant=acme.tenant):
        assert ApiToken.objects.count() == 1


def test_nobody_gets_a_token_for_a_tenant_without_a_role(globex: Site, acme: Site) -> None:
    client = signed_in(acme.people[Role.OWNER])
    answer = client.post("/api/v1/api-tokens/", {"tenant": "globex"}, content_type="application/json")
    assert answer.json()["errors"][0]["field"] == "tenant"


# ---------------------------------------------------------------- lists, errors, documents


def test_lists_are_filtered_searched_ordered_and_paged(acme: Site) -> None:
    for number in range(5):
        actions.save_agent(Agent(tenant=acme.tenant, name=f"bot-{number}"), acting_user=None)
    client = signed_in(acme.people[Role.VIEWER])

    def names(query: str) -> list[str]:
        return [row["name"] for row in client.get(f"/api/v1/agents/?{query}").json()["results"]]

    assert names("name=bot-3") == ["bot-3"]
    assert names("search=bot&ordering=-name&page_size=2") == ["bot-4", "bot-3"]
    assert names("search=bot&ordering=-name&page_size=2&page=3") == ["bot-0"]
    assert len(names("page_size=100000")) == 6
    assert client.get("/api/v1/agents/?page=99").status_code == 404


def test_a_session_needs_the_csrf_token_to_change_anything(acme: Site) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(acme.people[Role.ADMIN])
    assert client.post("/api/v1/agents/", AGENT, content_type="application/json").status_code == 403


def test_a_body_beyond_the_bound_is_refused_as_a_problem_with_the_bound(acme: Site) -> None:
    answer = signed_in(acme.people[Role.ADMIN]).post(
        "/api/v1/agents/",
        data=b'{"name": "' + b"x" * settings.DATA_UPLOAD_MAX_MEMORY_SIZE,
        content_type="application/json",
    )
    assert answer.status_code == 413
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert f"at most {settings.DATA_UPLOAD_MAX_MEMORY_SIZE:,} bytes" in answer.json()["detail"]


def test_a_body_that_is_no_json_is_a_problem_not_a_crash(acme: Site) -> None:
    client = signed_in(acme.people[Role.ADMIN])
    answer = client.post("/api/v1/agents/", b"{", content_type="application/json")
    assert answer.status_code == 400
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert client.post("/api/v1/agents/", "x", content_type="text/plain").status_code == 415
