"""Setting providers up: in the admin, over REST and by `apply`; and what the test button finds."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.test import Client
from django.utils import timezone
from django_scopes import scope

from accounts.federation.checks import check_provider
from accounts.federation.models import IdentityProvider, RoleMapping
from accounts.models import User
from controlplane.authority import Role
from controlplane.keyring import open_sealed
from tests.accounts.conftest import Site
from tests.accounts.federation.conftest import make_provider
from tests.accounts.federation.saml_idp import ENTITY_ID, Idp, make_idp
from tests.accounts.provider import Provider

MANIFEST = """
kind: IdentityProvider
tenant: acme
slug: okta
name: Acme Okta
issuer: https://acme.okta.example
client_id: 0oa1
client_secret: {env: OKTA_SECRET}
roles: {admins: admin, staff: viewer}
"""


@pytest.fixture(scope="module")
def idp() -> Idp:
    return make_idp()


def signed_in(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def problems(provider: IdentityProvider, **later: Any) -> list[str]:
    return [
        found.text for found in check_provider(provider, now=timezone.now() + timedelta(**later)) if not found.is_good
    ]


def test_the_test_finds_nothing_wrong_with_a_sound_provider(acme: Site, provider: Provider, idp: Idp) -> None:
    provider.documents["/.well-known/openid-configuration"] |= {
        "authorization_endpoint": f"{provider.url}/authorize",
        "token_endpoint": f"{provider.url}/token",
        "code_challenge_methods_supported": ["S256"],
    }
    assert problems(make_provider(acme, issuer=provider.url)) == []
    saml = make_provider(acme, slug="saml", kind="saml", issuer=ENTITY_ID, metadata=idp.metadata())
    assert problems(saml) == []


def test_the_test_says_what_is_wrong(acme: Site, provider: Provider, idp: Idp) -> None:
    row = make_provider(acme, issuer=provider.url, mappings={})
    unusable, unmapped = problems(row)
    assert "authorization_endpoint" in unusable
    assert "nobody gets in" in unmapped
    provider.documents["/.well-known/openid-configuration"] |= {
        "authorization_endpoint": f"{provider.url}/authorize",
        "token_endpoint": f"{provider.url}/token",
        "code_challenge_methods_supported": ["plain"],
    }
    provider.documents["/keys"] = None
    found = problems(row)
    assert any("The keys can't be used: status 404" in text for text in found)
    assert any("PKCE" in text for text in found)
    saml = make_provider(acme, slug="saml", kind="saml", issuer=ENTITY_ID, metadata=idp.metadata())
    assert any("expired" in text for text in problems(saml, days=4_000))


@pytest.mark.parametrize(
    "fields",
    [
        {"issuer": "http://idp.example"},
        {"issuer": "https://user:password@idp.example"},
        {"client_id": ""},
        {"scopes": "email"},
        {"metadata_url": "file:///etc/passwd"},
        {"metadata": "{}"},
        {"email_domains": ["*"]},
        {"slug": "No Slug"},
        {"issuer": "https://accounts.google.com"},
    ],
)
def test_what_cant_work_isnt_kept(acme: Site, fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        make_provider(acme, **fields)


def test_a_document_sets_one_up_once(acme: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    file = tmp_path / "okta.yaml"
    file.write_text(MANIFEST)
    monkeypatch.setenv("OKTA_SECRET", "s3cret-of-okta")
    call_command("apply", file=[file])
    call_command("apply", file=[file])
    assert "s3cret-of-okta" not in capsys.readouterr().out
    with scope(tenant=acme.tenant):
        row = IdentityProvider.objects.get()
        assert open_sealed(row.sealed_secret, context=row.secret_context) == b"s3cret-of-okta"
        assert [str(mapping) for mapping in RoleMapping.objects.all()] == ["admins → admin", "staff → viewer"]
        first = row.updated_at
    file.write_text(MANIFEST.replace("staff: viewer", "staff: auditor"))
    call_command("apply", file=[file])
    with scope(tenant=acme.tenant):
        assert RoleMapping.objects.get(group="staff").role == Role.AUDITOR
        assert IdentityProvider.objects.get().updated_at > first


def test_rest_takes_the_secret_and_never_shows_it(acme: Site) -> None:
    client = signed_in(acme.people[Role.OWNER])
    wanted = {
        "slug": "idp", "name": "IdP", "issuer": "https://idp.example", "client_id": "x",
        "client_secret": "s3cret-of-rest",
        "role_mappings": [{"group": "staff", "role": "viewer"}],
    }  # fmt: skip
    made = client.post("/api/v1/identity-providers/", wanted, content_type="application/json")
    assert made.status_code == 201, made.content
    shown = client.get(f"/api/v1/identity-providers/{made.json()['id']}/")
    assert "s3cret-of-rest" not in made.content.decode() + shown.content.decode()
    assert shown.json()["enter_at_provider"] == {"Redirect URI": "http://testserver/sign-in/acme/idp/callback/"}


def test_a_missing_secret_is_said_of_the_field_that_the_caller_knows(acme: Site) -> None:
    client = signed_in(acme.people[Role.OWNER])
    wanted = {"slug": "idp", "name": "IdP", "issuer": "https://idp.example", "client_id": "x"}
    refused = client.post("/api/v1/identity-providers/", wanted, content_type="application/json")
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (400, "client_secret")
    form = {
        **wanted, "tenant": str(acme.tenant.pk), "kind": "oidc", "preset": "other", "is_active": "on",
        "scopes": "openid", "email_claim": "email", "groups_claim": "groups", "role_mappings-TOTAL_FORMS": "0",
        "role_mappings-INITIAL_FORMS": "0",
    }  # fmt: skip
    page = client.post("/admin/accounts/identityprovider/add/", form)
    assert list(page.context["adminform"].form.errors) == ["client_secret"]


def test_the_admin_shows_what_to_paste_and_tests_and_saves(acme: Site, provider: Provider) -> None:
    row = make_provider(acme, issuer=provider.url)
    client = signed_in(acme.people[Role.OWNER])
    url = f"/admin/accounts/identityprovider/{row.pk}/"
    page = client.get(f"{url}change/").content.decode()
    assert "http://testserver/sign-in/acme/idp/callback/" in page
    assert "client-secret" not in page
    assert "authorization_endpoint" in client.get(f"{url}test/").content.decode()
    form = {
        "name": "Renamed", "slug": "idp", "preset": "okta", "is_active": "on", "issuer": provider.url, "client_id": "x",
        "scopes": "openid", "email_claim": "email", "groups_claim": "groups", "role_mappings-TOTAL_FORMS": "1",
        "role_mappings-INITIAL_FORMS": "0", "role_mappings-0-group": "ops", "role_mappings-0-role": "approver",
    }  # fmt: skip
    assert client.post(f"{url}change/", form).status_code == 302
    with scope(tenant=acme.tenant):
        assert IdentityProvider.objects.get().name == "Renamed"
        assert "ops → approver" in [str(mapping) for mapping in RoleMapping.objects.all()]
    assert signed_in(acme.people[Role.ADMIN]).post(f"{url}change/", form).status_code == 403
    for page_name in ("federatedidentity", "signin", "identityprovider"):
        assert client.get(f"/admin/accounts/{page_name}/").status_code == 200
