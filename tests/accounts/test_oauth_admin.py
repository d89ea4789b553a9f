"""OAuth clients and service tokens in REST and in the admin: who may make them, and that a secret is shown once."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.test import Client
from django_scopes import scope

from accounts.models import ServicePurpose, ServiceToken, User
from accounts.oauth import actions
from accounts.oauth.models import OAuthClient
from controlplane.authority import Role
from controlplane.ledger.models import LedgerEntry
from tests.accounts.conftest import Site

MANAGERS = {Role.OWNER, Role.ADMIN}


def signed_in(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


@pytest.mark.parametrize("role", list(Role))
def test_clients_are_made_by_managers_and_service_tokens_by_owners(acme: Site, role: Role) -> None:
    browser = signed_in(acme.people[role])
    client, _ = actions.make_client(acme.agent, acting_user=None)
    token, _ = actions.issue_service_token(acme.tenant, purpose=ServicePurpose.SCIM, acting_user=None)
    kind = "application/json"
    made = browser.post("/api/v1/oauth-clients/", {"agent": str(acme.agent.pk)}, content_type=kind)
    assert made.status_code == (201 if role in MANAGERS else 403)
    assert browser.get(f"/api/v1/oauth-clients/{client.pk}/").status_code == 200
    ended = browser.post(f"/api/v1/oauth-clients/{client.pk}/deactivate/", content_type=kind)
    assert ended.status_code == (200 if role in MANAGERS else 403)
    made = browser.post("/api/v1/service-tokens/", {"purpose": "scim"}, content_type=kind)
    assert made.status_code == (201 if role is Role.OWNER else 403)
    assert browser.get(f"/api/v1/service-tokens/{token.pk}/").status_code == (200 if role in MANAGERS else 404)
    revoked = browser.post(f"/api/v1/service-tokens/{token.pk}/revoke/", content_type=kind)
    assert revoked.status_code == (200 if role is Role.OWNER else 403)


def test_a_neighbour_finds_neither(acme: Site, globex: Site) -> None:
    browser = signed_in(globex.people[Role.OWNER])
    client, _ = actions.make_client(acme.agent, acting_user=None)
    token, _ = actions.issue_service_token(acme.tenant, purpose=ServicePurpose.SCIM, acting_user=None)
    for url in (f"/api/v1/oauth-clients/{client.pk}/", f"/api/v1/service-tokens/{token.pk}/"):
        assert browser.get(url).status_code == 404
    for url in (f"oauth-clients/{client.pk}/deactivate", f"service-tokens/{token.pk}/revoke"):
        assert browser.post(f"/api/v1/{url}/", content_type="application/json").status_code == 404
    foreign = browser.post("/api/v1/oauth-clients/", {"agent": str(acme.agent.pk)}, content_type="application/json")
    assert foreign.status_code == 400


def test_a_secret_is_shown_once_and_kept_nowhere(acme: Site) -> None:
    browser = signed_in(acme.people[Role.OWNER])
    body: dict[str, Any] = {"agent": str(acme.agent.pk), "label": "ci"}
    made = browser.post("/api/v1/oauth-clients/", body, content_type="application/json").json()
    assert made["client_secret"].startswith("ngk_")
    page = browser.post("/admin/accounts/oauthclient/make-client/", {"agent": str(acme.agent.pk), "label": "x"})
    shown = re.search(r"ngk_[0-9a-f_]+", page.content.decode())
    assert shown is not None
    token_page = browser.post(
        "/admin/accounts/servicetoken/make-token/", {"tenant": str(acme.tenant.pk), "purpose": "scim", "days": "30"}
    )
    token = re.search(r"ngs_[0-9a-f_]+", token_page.content.decode())
    assert token is not None
    with scope(tenant=acme.tenant):
        rows = [str(row) for model in (OAuthClient, ServiceToken, LedgerEntry) for row in model.objects.values()]
    for secret in (made["client_secret"], shown[0], token[0]):
        assert secret.rpartition("_")[2] not in "".join(rows)
    for model in ("oauthclient", "servicetoken"):
        listed = browser.get(f"/admin/accounts/{model}/")
        assert listed.status_code == 200
    with scope(tenant=acme.tenant):
        client = OAuthClient.objects.earliest("created_at")
    assert browser.get(f"/admin/accounts/oauthclient/{client.pk}/change/").status_code == 200
