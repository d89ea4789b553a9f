"""People who sign in by OpenID Connect: each step, against a provider as hostile as the test wants."""

from __future__ import annotations

import time
from base64 import urlsafe_b64encode
from collections.abc import Callable
from hashlib import sha256
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from django.conf import settings
from django.test import Client
from django_scopes import scope, scopes_disabled

from accounts import actions as accounts_actions
from accounts.actions import issue_api_token
from accounts.federation import actions
from accounts.federation.actions import MappingSpec
from accounts.federation.models import FederatedIdentity, IdentityProvider
from accounts.models import Membership, OidcTrust, User
from accounts.signin.models import SignIn
from controlplane.authority import Role
from controlplane.ledger.models import LedgerEntry
from tests.accounts.conftest import Site
from tests.accounts.federation.conftest import make_provider
from tests.accounts.provider import Provider

START = "/sign-in/acme/idp/"
CALLBACK = "/sign-in/acme/idp/callback/"


@pytest.fixture
def idp(acme: Site, provider: Provider) -> IdentityProvider:
    """acme's provider, of which `provider` is the other end."""
    publish(provider)
    return make_provider(acme, issuer=provider.url)


def publish(provider: Provider, **more: Any) -> None:
    provider.publish()
    provider.documents["/.well-known/openid-configuration"] |= {
        "authorization_endpoint": f"{provider.url}/authorize",
        "token_endpoint": f"{provider.url}/token",
        **more,
    }


def begin(browser: Client, **query: str) -> dict[str, str]:
    """Start, and say with what the provider is asked."""
    answer = browser.get(START, query)
    assert answer.status_code == 302, answer.content
    return {name: values[0] for name, values in parse_qs(urlsplit(answer.headers["Location"]).query).items()}


def claims_of(provider: Provider, asked: dict[str, str], **changed: Any) -> dict[str, Any]:
    now = int(time.time())
    claims = {
        "iss": provider.url,
        "aud": "narrowgate",
        "sub": "ada-1",
        "email": "ada@acme.example",
        "name": "Ada",
        "groups": ["staff"],
        "nonce": asked["nonce"],
        "iat": now,
        "exp": now + 300,
        **changed,
    }
    return {name: value for name, value in claims.items() if value is not None}


def come_back(
    browser: Client, provider: Provider, asked: dict[str, str], id_token: str | None = None, **changed: Any
) -> Any:
    """Serve this ID token at the token endpoint, and bring its code to the callback."""
    token = provider.sign(claims_of(provider, asked, **changed)) if id_token is None else id_token
    provider.documents["/token"] = {"access_token": "at", "token_type": "Bearer", "id_token": token}
    return browser.get(CALLBACK, {"code": "c0de", "state": asked["state"]})


def sign_in(browser: Client, provider: Provider, **changed: Any) -> Any:
    return come_back(browser, provider, begin(browser), **changed)


def is_signed_in(browser: Client) -> bool:
    return bool(browser.get("/admin/").status_code == 200)


def test_a_person_of_a_mapped_group_is_let_in_with_its_role(
    acme: Site, idp: IdentityProvider, provider: Provider, browser: Client
) -> None:
    asked = begin(browser, next="/admin/accounts/agent/")
    assert asked["response_type"] == "code"
    assert asked["redirect_uri"] == f"{settings.NARROWGATE.public_url}{CALLBACK}"
    assert asked["code_challenge_method"] == "S256"
    answer = come_back(browser, provider, asked)
    assert (answer.status_code, answer.headers["Location"]) == (302, "/admin/accounts/agent/")
    assert is_signed_in(browser)
    with scope(tenant=acme.tenant):
        membership = Membership.objects.get(user__email="ada@acme.example")
        assert (membership.role, membership.given_by) == (Role.VIEWER, idp)
        entry = LedgerEntry.objects.filter(kind="person.signed_in").get()
        assert entry.after == {"provider": "idp", "method": "oidc", "role": "viewer"}


def test_the_code_goes_with_the_verifier_of_its_challenge_and_the_clients_secret(
    idp: IdentityProvider, provider: Provider, browser: Client
) -> None:
    asked = begin(browser)
    come_back(browser, provider, asked)
    sent = {name: values[0] for name, values in parse_qs(provider.posted["/token"]).items()}
    challenge = urlsafe_b64encode(sha256(sent["code_verifier"].encode()).digest()).rstrip(b"=").decode()
    assert challenge == asked["code_challenge"]
    assert (sent["client_secret"], sent["redirect_uri"]) == ("client-secret", asked["redirect_uri"])


BAD_CLAIMS: dict[str, Callable[[dict[str, str]], dict[str, Any]]] = {
    "another issuer": lambda _: {"iss": "https://evil.example"},
    "another audience": lambda _: {"aud": "another-client"},
    "no audience": lambda _: {"aud": None},
    "another authorised party": lambda _: {"azp": "another-client"},
    "two audiences and no authorised party": lambda _: {"aud": ["narrowgate", "another-client"]},
    "expired": lambda _: {"exp": int(time.time()) - 120},
    "no end": lambda _: {"exp": None},
    "issued long ago": lambda _: {"iat": int(time.time()) - 3600},
    "issued in the future": lambda _: {"iat": int(time.time()) + 3600},
    "not yet valid": lambda _: {"nbf": int(time.time()) + 3600},
    "another nonce": lambda _: {"nonce": "n" * 32},
    "no nonce": lambda _: {"nonce": None},
    "no subject": lambda _: {"sub": None},
    "a subject that is no text": lambda _: {"sub": ["ada-1"]},
    "a subject with a NUL": lambda _: {"sub": "ada\0"},
    "no address": lambda _: {"email": None},
    "an address that is none": lambda _: {"email": "ada"},
    "an address that isn't verified": lambda _: {"email_verified": False},
    "no group": lambda _: {"groups": None},
    "a group without a role": lambda _: {"groups": ["guests"]},
    "groups that are no list": lambda _: {"groups": {"staff": True}},
    "more groups than are taken": lambda _: {"groups": [f"g{number}" for number in range(501)]},
}


@pytest.mark.parametrize("claims", BAD_CLAIMS)
def test_an_id_token_that_isnt_for_this_sign_in_lets_nobody_in(
    idp: IdentityProvider, provider: Provider, browser: Client, claims: str
) -> None:
    asked = begin(browser)
    answer = come_back(browser, provider, asked, **BAD_CLAIMS[claims](asked))
    assert answer.status_code == 403
    assert not is_signed_in(browser)
    with scopes_disabled():
        assert not FederatedIdentity.objects.exists()


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none"},
        {"alg": "HS256"},
        {"kid": "unknown"},
        {"jku": "https://evil.example/keys"},
        {"x5u": "https://evil.example/cert"},
        {"jwk": {"kty": "RSA"}},
        {"crit": ["x5t"], "x5t": "AA"},
        {"typ": "logout+jwt"},
    ],
)
def test_an_id_token_signed_in_another_way_lets_nobody_in(
    idp: IdentityProvider, provider: Provider, browser: Client, header: dict[str, Any]
) -> None:
    asked = begin(browser)
    sound = provider.sign(claims_of(provider, asked))
    if header.get("alg") in {"none", "HS256"}:
        token = forged(sound, header["alg"])
    else:
        token = provider.sign(claims_of(provider, asked), header=header)
    assert come_back(browser, provider, asked, id_token=token).status_code == 403
    assert not is_signed_in(browser)


def forged(token: str, algorithm: str) -> str:
    header = urlsafe_b64encode(f'{{"alg":"{algorithm}","kid":"rsa"}}'.encode()).rstrip(b"=").decode()
    _, payload, _ = token.split(".")
    return f"{header}.{payload}." + ("" if algorithm == "none" else "A" * 43)


def test_an_answer_is_good_once(idp: IdentityProvider, provider: Provider, browser: Client) -> None:
    asked = begin(browser)
    assert come_back(browser, provider, asked).status_code == 302
    browser.post("/admin/logout/")
    assert come_back(browser, provider, asked).status_code == 403
    assert not is_signed_in(browser)


def test_an_answer_for_another_browser_is_refused(idp: IdentityProvider, provider: Provider, browser: Client) -> None:
    asked = begin(browser)
    victim = Client()
    begin(victim)
    assert come_back(victim, provider, asked).status_code == 403
    assert not is_signed_in(victim)


def test_the_answer_of_one_provider_is_no_answer_at_another(
    acme: Site, idp: IdentityProvider, provider: Provider, browser: Client
) -> None:
    make_provider(acme, slug="other", issuer=provider.url)
    asked = begin(browser)
    provider.asked.clear()
    answer = browser.get("/sign-in/acme/other/callback/", {"code": "c0de", "state": asked["state"]})
    assert answer.status_code == 403
    assert "/token" not in provider.asked  # the code of one was not shown to the other
    answer = browser.get(CALLBACK, {"code": "c0de", "state": asked["state"], "iss": "https://evil.example"})
    assert answer.status_code == 403
    assert "/token" not in provider.asked


@pytest.mark.parametrize("elsewhere", ["https://evil.example/", "//evil.example/", "/\\evil.example", "javascript:1"])
def test_a_sign_in_leads_to_a_path_of_ours_only(
    idp: IdentityProvider, provider: Provider, browser: Client, elsewhere: str
) -> None:
    answer = come_back(browser, provider, begin(browser, next=elsewhere))
    assert answer.headers["Location"] == "/admin/"


def test_a_refusal_by_the_provider_is_shown_without_its_words(
    idp: IdentityProvider, provider: Provider, browser: Client
) -> None:
    asked = begin(browser)
    answer = browser.get(CALLBACK, {"error": "<script>x</script>", "state": asked["state"]})
    assert answer.status_code == 403
    assert b"did not let you in" in answer.content
    assert b"<script>x" not in answer.content


def test_a_provider_that_is_down_lets_nobody_in_and_breaks_nothing(acme: Site, browser: Client) -> None:
    make_provider(acme, issuer="http://127.0.0.1:1")
    answer = browser.get(START)
    assert answer.status_code == 403
    assert b"try again" in answer.content


@pytest.mark.parametrize("served", [None, b"x" * 300_000, b"[]", b"{}", {"access_token": "at"}])
def test_a_token_endpoint_that_answers_nonsense_lets_nobody_in(
    idp: IdentityProvider, provider: Provider, browser: Client, served: Any
) -> None:
    asked = begin(browser)
    provider.documents["/token"] = served
    assert browser.get(CALLBACK, {"code": "c0de", "state": asked["state"]}).status_code == 403
    assert not is_signed_in(browser)


def test_groups_may_come_from_user_info_of_the_same_subject(acme: Site, provider: Provider, browser: Client) -> None:
    publish(provider, userinfo_endpoint=f"{provider.url}/me")
    make_provider(acme, issuer=provider.url)
    provider.documents["/me"] = {"sub": "ada-1", "groups": ["admins"]}
    assert sign_in(browser, provider, groups=None).status_code == 302
    with scope(tenant=acme.tenant):
        assert Membership.objects.get(user__email="ada@acme.example").role == Role.ADMIN
    provider.documents["/me"] = {"sub": "bob-2", "groups": ["admins"]}
    assert sign_in(Client(), provider, groups=None).status_code == 403


def test_the_role_follows_the_groups_at_each_sign_in_and_goes_with_the_last(
    acme: Site, idp: IdentityProvider, provider: Provider, browser: Client
) -> None:
    held = []
    for groups in (["staff"], ["staff", "admins"], ["staff"]):
        assert sign_in(Client(), provider, groups=groups).status_code == 302
        with scope(tenant=acme.tenant):
            held.append(Membership.objects.get(user__email="ada@acme.example").role)
    assert held == [Role.VIEWER, Role.ADMIN, Role.VIEWER]
    assert sign_in(browser, provider).status_code == 302
    assert sign_in(Client(), provider, groups=["guests"]).status_code == 403
    with scope(tenant=acme.tenant):
        assert not Membership.objects.filter(user__email="ada@acme.example").exists()
    assert not is_signed_in(browser)


def test_a_role_given_by_hand_stays_as_it_is(
    acme: Site, idp: IdentityProvider, provider: Provider, browser: Client
) -> None:
    owner = acme.people[Role.OWNER]
    assert sign_in(browser, provider, sub="owner-1", email=owner.email).status_code == 302
    with scope(tenant=acme.tenant):
        assert Membership.objects.get(user=owner).role == Role.OWNER
    assert sign_in(browser, provider, sub="owner-1", email=owner.email, groups=[]).status_code == 403


def test_a_person_is_known_by_subject_when_the_address_changes(
    acme: Site, idp: IdentityProvider, provider: Provider
) -> None:
    assert sign_in(Client(), provider).status_code == 302
    assert sign_in(Client(), provider, email="ada.l@acme.example").status_code == 302
    with scope(tenant=acme.tenant):
        assert FederatedIdentity.objects.get().user.email == "ada@acme.example"
    assert not User.objects.filter(email="ada.l@acme.example").exists()


def test_an_address_that_went_to_somebody_else_opens_nobodys_account(idp: IdentityProvider, provider: Provider) -> None:
    assert sign_in(Client(), provider).status_code == 302
    second = Client()
    assert sign_in(second, provider, sub="another-ada").status_code == 403
    assert not is_signed_in(second)


def test_an_operator_and_an_inactive_person_arent_let_in_by_a_provider(
    acme: Site, idp: IdentityProvider, provider: Provider, operator: User
) -> None:
    assert sign_in(Client(), provider, sub="op", email=operator.email).status_code == 403
    gone = acme.people[Role.ADMIN]
    gone.is_active = False
    accounts_actions.save_user(gone, acting_user=None)
    assert sign_in(Client(), provider, sub="gone", email=gone.email).status_code == 403


def test_a_provider_speaks_for_its_tenant_and_no_other(
    acme: Site, globex: Site, idp: IdentityProvider, provider: Provider, browser: Client
) -> None:
    """acme's provider claims to have globex's owner before it: that person is nobody at globex in this session."""
    victim = globex.people[Role.OWNER]
    assert sign_in(browser, provider, sub="evil", email=victim.email).status_code == 302
    listed = browser.get("/api/v1/tenants/").json()["results"]
    assert [tenant["slug"] for tenant in listed] == ["acme"]
    assert browser.get(f"/api/v1/agents/{globex.agent.pk}/").status_code == 404
    assert browser.get(f"/admin/accounts/agent/{globex.agent.pk}/change/").status_code == 404


def test_two_tenants_with_the_same_provider_stay_apart(
    acme: Site, globex: Site, idp: IdentityProvider, provider: Provider, browser: Client
) -> None:
    make_provider(globex, issuer=provider.url, mappings={"staff": "owner"})
    asked = begin(browser)
    provider.documents["/token"] = {
        "access_token": "at", "id_token": provider.sign(claims_of(provider, asked)),
    }  # fmt: skip
    answer = browser.get("/sign-in/globex/idp/callback/", {"code": "c0de", "state": asked["state"]})
    assert answer.status_code == 403
    assert come_back(browser, provider, asked).status_code == 302
    assert [tenant["slug"] for tenant in browser.get("/api/v1/tenants/").json()["results"]] == ["acme"]
    with scope(tenant=globex.tenant):
        assert not Membership.objects.filter(user__email="ada@acme.example").exists()


def test_a_provider_vouches_for_its_domains_only(acme: Site, provider: Provider, browser: Client) -> None:
    publish(provider)
    make_provider(acme, issuer=provider.url, email_domains=["acme.example"])
    assert sign_in(browser, provider, email="ada@evil-acme.example").status_code == 403
    assert sign_in(browser, provider, email="Ada@ACME.example").status_code == 302


def switch_off(idp: IdentityProvider) -> None:
    idp.is_active = False
    actions.save_provider(idp, acting_user=None)


def move(idp: IdentityProvider) -> None:
    idp.issuer = "https://another.example"
    actions.save_provider(idp, acting_user=None)


def delete(idp: IdentityProvider) -> None:
    actions.delete_provider(idp, acting_user=None)


def token_of(user: User, site: Site) -> Client:
    """REST by a new token of the person."""
    made = issue_api_token(user, tenant=site.tenant, acting_user=user)[1]
    return Client(headers={"Authorization": f"Bearer {made.text}"})


@pytest.mark.parametrize("end", [switch_off, move, delete])
def test_a_provider_that_is_no_more_takes_sign_ins_and_tokens_of_its_people_along(
    acme: Site,
    idp: IdentityProvider,
    provider: Provider,
    browser: Client,
    end: Callable[[IdentityProvider], None],
) -> None:
    assert sign_in(browser, provider).status_code == 302
    by_token = token_of(User.objects.get(email="ada@acme.example"), acme)
    colleague = token_of(acme.people[Role.AUDITOR], acme)
    assert is_signed_in(browser)
    for rest in (by_token, colleague):
        assert rest.get("/api/v1/agents/").status_code == 200
    end(idp)
    assert not is_signed_in(browser)
    assert by_token.get("/api/v1/agents/").status_code == 401
    assert colleague.get("/api/v1/agents/").status_code == 200  # nobody of that provider
    with scope(tenant=acme.tenant):
        assert LedgerEntry.objects.filter(kind="api_token.revoked").count() == 1


def test_by_a_provider_that_is_switched_off_nobody_signs_in(idp: IdentityProvider, browser: Client) -> None:
    switch_off(idp)
    assert browser.get(START).status_code == 404


def test_another_issuer_forgets_whom_the_old_one_vouched_for(
    acme: Site, idp: IdentityProvider, provider: Provider, browser: Client
) -> None:
    assert sign_in(browser, provider).status_code == 302
    idp.issuer = "https://another.example"
    actions.save_provider(idp, acting_user=None)
    assert not is_signed_in(browser)
    with scope(tenant=acme.tenant):
        assert not FederatedIdentity.objects.exists()


def test_a_deleted_provider_takes_the_roles_it_gave_along(
    acme: Site, idp: IdentityProvider, provider: Provider, browser: Client
) -> None:
    assert sign_in(browser, provider).status_code == 302
    actions.delete_provider(idp, acting_user=None)
    assert not is_signed_in(browser)
    with scope(tenant=acme.tenant):
        assert not Membership.objects.filter(user__email="ada@acme.example").exists()


def test_the_clients_secret_is_sealed_and_in_no_ledger(acme: Site, idp: IdentityProvider) -> None:
    assert idp.sealed_secret.startswith("ng1.")
    with scope(tenant=acme.tenant):
        entry = LedgerEntry.objects.get(kind="identity_provider.created")
    assert entry.after["secret"] is True
    assert "client-secret" not in str(entry.after)
    assert entry.after["role_mappings"] == ["admins → admin", "staff → viewer"]


def test_the_page_lists_the_providers_of_a_tenant_and_of_a_domain(acme: Site, globex: Site, browser: Client) -> None:
    make_provider(acme, name="Acme Login", email_domains=["acme.example"])
    make_provider(globex, name="Globex Login")
    for who in ("acme", "ada@acme.example", " ADA@Acme.Example "):
        page = browser.get("/sign-in/", {"who": who, "next": "/admin/accounts/agent/"}).content.decode()
        assert "Acme Login" in page
        assert "Globex Login" not in page
        assert "/sign-in/acme/idp/?next=/admin/accounts/agent/" in page
    for who in ("nobody", "@acme.example", "ada@globex.example", "<b>x"):
        page = browser.get("/sign-in/", {"who": who}).content.decode()
        assert "No identity provider is known" in page
        assert "<b>x" not in page
    assert "Globex Login" in browser.get("/sign-in/globex/").content.decode()


def test_the_cookie_of_the_session_changes_with_the_sign_in(
    idp: IdentityProvider, provider: Provider, browser: Client
) -> None:
    asked = begin(browser)
    before = browser.cookies[settings.SESSION_COOKIE_NAME].value
    come_back(browser, provider, asked)
    assert browser.cookies[settings.SESSION_COOKIE_NAME].value != before


def test_agents_trusts_and_peoples_providers_dont_stand_in_for_each_other(
    acme: Site, idp: IdentityProvider, provider: Provider
) -> None:
    with scope(tenant=acme.tenant):
        assert not OidcTrust.objects.exists()
        assert not SignIn.objects.exists()


def test_one_group_gives_one_role(idp: IdentityProvider) -> None:
    from django.core.exceptions import ValidationError

    with pytest.raises(ValidationError, match="two roles"):
        actions.save_provider(idp, acting_user=None, mappings=[MappingSpec("a", "owner"), MappingSpec("a", "viewer")])
