"""JWTs of a tenant's provider: a sound one stands for its agent, and each known attack is refused."""

from __future__ import annotations

import base64
import gzip
import json
from datetime import UTC, datetime, timedelta
from typing import Any
from unittest import mock

import pytest
import zstandard
from django.conf import settings
from django.core.cache import cache
from django.core.exceptions import ValidationError
from django_scopes import scope
from joserfc.jwk import OctKey, RSAKey
from redis.exceptions import ConnectionError as RedisConnectionError

from accounts import actions, jwks
from accounts.errors import BadCredential, ExpiredCredential, ProviderUnreachable
from accounts.identify import IdentifiedAgent, identify_agent
from accounts.models import Agent, OidcTrust, TrustRule
from controlplane.env import Mode
from tests.accounts.conftest import NOW, Site, make_trust
from tests.accounts.provider import AUDIENCE, Provider

EXPIRY = NOW + timedelta(minutes=10)


def claims(provider: Provider, **changed: Any) -> dict[str, Any]:
    """The claims of a sound token; None takes one away."""
    sound = {
        "iss": provider.url,
        "aud": AUDIENCE,
        "sub": "reporter-prod",
        "iat": int(NOW.timestamp()),
        "exp": int(EXPIRY.timestamp()),
        **changed,
    }
    return {name: value for name, value in sound.items() if value is not None}


def identify(token: str, *, at: datetime = NOW) -> IdentifiedAgent:
    return identify_agent(token, now=at)


def test_a_token_of_the_provider_stands_for_its_agent(acme: Site, provider: Provider, trust: OidcTrust) -> None:
    identified = identify(provider.sign(claims(provider)))
    assert identified.agent == acme.agent
    assert identified.tenant == acme.tenant
    assert identified.authenticated_by == "oidc"
    assert identified.credential_id == f"trust:{trust.pk}"
    assert identified.expires_at == EXPIRY + timedelta(seconds=30)


def test_each_allowed_algorithm_works_with_its_own_key(provider: Provider, trust: OidcTrust, acme: Site) -> None:
    assert identify(provider.sign(claims(provider), key_id="ec", algorithm="ES256")).agent == acme.agent


def test_the_keys_are_found_by_discovery_too(acme: Site, provider: Provider) -> None:
    make_trust(acme, provider, jwks_url="")
    assert identify(provider.sign(claims(provider))).agent == acme.agent
    assert provider.asked == ["/.well-known/openid-configuration", "/keys"]


def test_the_keys_are_fetched_once(provider: Provider, trust: OidcTrust) -> None:
    for _ in range(3):
        identify(provider.sign(claims(provider)))
    assert provider.asked == ["/keys"]


def test_a_list_of_audiences_may_name_us(acme: Site, provider: Provider, trust: OidcTrust) -> None:
    assert identify(provider.sign(claims(provider, aud=["other", AUDIENCE]))).agent == acme.agent


def test_the_person_behind_the_agent_is_named_by_the_trusts_claim(acme: Site, provider: Provider) -> None:
    make_trust(acme, provider, person_claim="email")
    assert identify(provider.sign(claims(provider, email="ada@acme.example"))).on_behalf_of == "ada@acme.example"
    assert identify(provider.sign(claims(provider, email=["x"]))).on_behalf_of == ""


def test_a_lifetime_of_years_is_cut_to_a_day(provider: Provider, trust: OidcTrust) -> None:
    assert identify(provider.sign(claims(provider, exp=10**300))).expires_at == NOW + timedelta(hours=24)


# ---------------------------------------------------------------- signatures and headers


def test_alg_none_is_refused(provider: Provider, trust: OidcTrust) -> None:
    def part(value: dict[str, Any]) -> str:
        return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()

    for header in ({"alg": "none"}, {"alg": "None", "kid": "rsa"}, {"alg": "", "kid": "rsa"}, {}):
        with pytest.raises(BadCredential):
            identify(f"{part(header)}.{part(claims(provider))}.")


def test_a_mac_made_with_the_public_key_is_refused(provider: Provider, trust: OidcTrust) -> None:
    public = OctKey.import_key(json.dumps(provider.keys["rsa"].as_dict(private=False)).encode())
    with pytest.raises(BadCredential):
        identify(provider.sign(claims(provider), algorithm="HS256", key=public))


def test_an_algorithm_that_the_trust_doesnt_allow_is_refused(provider: Provider, trust: OidcTrust) -> None:
    with pytest.raises(BadCredential):
        identify(provider.sign(claims(provider), algorithm="PS256"))


def test_a_key_of_another_kind_than_the_algorithm_is_refused(provider: Provider, trust: OidcTrust) -> None:
    with pytest.raises(BadCredential):
        identify(provider.sign(claims(provider), algorithm="RS256", header={"kid": "ec"}))


def test_somebody_elses_signature_is_refused(provider: Provider, trust: OidcTrust) -> None:
    forger = RSAKey.generate_key(2048, parameters={"kid": "rsa"})
    with pytest.raises(BadCredential):
        identify(provider.sign(claims(provider), key=forger))


def test_a_token_that_brings_its_own_key_is_refused(provider: Provider, trust: OidcTrust) -> None:
    forger = RSAKey.generate_key(2048, parameters={"kid": "mine"})
    provider.documents["/mine"] = {"keys": [forger.as_dict(private=False)]}
    for header in (
        {"jwk": forger.as_dict(private=False)},
        {"jku": f"{provider.url}/mine", "kid": "mine"},
        {"x5u": f"{provider.url}/mine"},
        {"x5c": ["MIIB"]},
    ):
        with pytest.raises(BadCredential):
            identify(provider.sign(claims(provider), key=forger, header=header))
    assert "/mine" not in provider.asked


@pytest.mark.parametrize(
    "header",
    [
        {"crit": ["exp"], "exp": 1},
        {"crit": ["b64"], "b64": False},
        {"crit": []},
        {"typ": "logout+jwt"},
        {"typ": "secevent+jwt"},
        {"kid": 7},
        {"kid": "x" * 5_000},
        {"zip": "DEF"},
    ],
)
def test_a_header_that_isnt_plain_is_refused(provider: Provider, trust: OidcTrust, header: dict[str, Any]) -> None:
    sound = provider.sign(claims(provider))
    _, payload, signature = sound.split(".")
    altered = {"alg": "RS256", "kid": "rsa", **header}
    encoded = base64.urlsafe_b64encode(json.dumps(altered).encode()).rstrip(b"=").decode()
    with pytest.raises(BadCredential):
        identify(f"{encoded}.{payload}.{signature}")


def test_an_access_tokens_type_is_accepted(acme: Site, provider: Provider, trust: OidcTrust) -> None:
    assert identify(provider.sign(claims(provider), header={"typ": "at+jwt"})).agent == acme.agent


def test_a_token_without_a_key_id_works_only_with_a_provider_of_one_key(
    acme: Site, provider: Provider, trust: OidcTrust
) -> None:
    with pytest.raises(BadCredential):
        identify(provider.sign(claims(provider), header={"kid": None}))
    del provider.keys["ec"]
    provider.publish()
    cache.clear()
    assert identify(provider.sign(claims(provider), header={"kid": None})).agent == acme.agent


@pytest.mark.parametrize(
    "token",
    ["..", "a.b.c", "e30.e30.", ".e30.x", "e30.e30.e30", "é.é.é", "x" * 40_000 + ".x.x", "[[" * 5_000 + ".e30.x"],
)
def test_what_is_no_token_is_refused(provider: Provider, trust: OidcTrust, token: str) -> None:
    with pytest.raises(BadCredential):
        identify(token)
    assert provider.asked == []


def test_claims_that_are_nested_to_death_are_refused(provider: Provider, trust: OidcTrust) -> None:
    bomb = base64.urlsafe_b64encode(b"[" * 20_000).rstrip(b"=").decode()
    header = provider.sign(claims(provider)).partition(".")[0]
    with pytest.raises(BadCredential):
        identify(f"{header}.{bomb}.x")


def test_a_token_longer_than_the_bound_is_refused(provider: Provider, trust: OidcTrust) -> None:
    with pytest.raises(BadCredential):
        identify(provider.sign(claims(provider, padding="x" * 40_000)))


# ---------------------------------------------------------------- claims


@pytest.mark.parametrize(
    "changed",
    [
        {"iss": "https://evil.example"},
        {"iss": None},
        {"iss": ["x"]},
        {"aud": "another-service"},
        {"aud": None},
        {"aud": [AUDIENCE, 7]},
        {"aud": []},
        {"exp": None},
        {"exp": "tomorrow"},
        {"exp": True},
        {"exp": float("nan")},
        {"nbf": int((NOW + timedelta(seconds=31)).timestamp())},
        {"iat": int((NOW + timedelta(hours=1)).timestamp())},
        {"sub": None},
        {"sub": "somebody-else"},
        {"sub": "reporter-prod "},
        {"sub": {"x": "reporter-prod"}},
        {"sub": "reporter-prod\x00"},
        {"sub": "\ud800"},
        {"iss": "\x00"},
        {"iss": "\ud800"},
        {"aud": ["\x00", AUDIENCE]},
    ],
)
def test_claims_that_arent_ours_are_refused(provider: Provider, trust: OidcTrust, changed: dict[str, Any]) -> None:
    with pytest.raises(BadCredential):
        identify(provider.sign(claims(provider, **changed)))


def test_an_expired_token_is_told_so_once_the_skew_is_over(acme: Site, provider: Provider, trust: OidcTrust) -> None:
    token = provider.sign(claims(provider))
    assert identify(token, at=EXPIRY + timedelta(seconds=29)).agent == acme.agent
    with pytest.raises(ExpiredCredential) as caught:
        identify(token, at=EXPIRY + timedelta(seconds=30))
    assert caught.value.expired_at == EXPIRY


def test_a_token_is_good_from_its_start_less_the_skew(acme: Site, provider: Provider, trust: OidcTrust) -> None:
    start = NOW + timedelta(seconds=30)
    assert identify(provider.sign(claims(provider, nbf=int(start.timestamp())))).agent == acme.agent


# ---------------------------------------------------------------- which trust, which agent


def test_a_token_is_of_the_tenant_that_trusts_issuer_and_audience(
    acme: Site, globex: Site, provider: Provider, trust: OidcTrust
) -> None:
    make_trust(globex, provider, audience="globex-gate")
    assert identify(provider.sign(claims(provider))).tenant == acme.tenant
    assert identify(provider.sign(claims(provider, aud="globex-gate"))).tenant == globex.tenant


def test_a_token_that_two_tenants_would_accept_is_refused_unless_the_tenant_is_known(
    acme: Site, globex: Site, provider: Provider, trust: OidcTrust
) -> None:
    make_trust(globex, provider)
    token = provider.sign(claims(provider))
    with pytest.raises(BadCredential):
        identify(token)
    assert identify_agent(token, now=NOW, tenant_id=globex.tenant.pk).agent == globex.agent
    assert identify_agent(token, now=NOW, tenant_id=acme.tenant.pk).agent == acme.agent


def test_an_inactive_trust_is_no_trust(provider: Provider, trust: OidcTrust) -> None:
    trust.is_active = False
    actions.save_trust(trust, acting_user=None)
    with pytest.raises(BadCredential):
        identify(provider.sign(claims(provider)))


def test_an_inactive_agent_or_tenant_is_refused(acme: Site, provider: Provider, trust: OidcTrust) -> None:
    acme.agent.is_active = False
    actions.save_agent(acme.agent, acting_user=None)
    with pytest.raises(BadCredential):
        identify(provider.sign(claims(provider)))
    acme.agent.is_active = True
    actions.save_agent(acme.agent, acting_user=None)
    acme.tenant.is_active = False
    actions.save_tenant(acme.tenant, acting_user=None)
    with pytest.raises(BadCredential):
        identify(provider.sign(claims(provider)))


def test_a_listed_claim_matches_by_any_of_its_values_and_two_agents_are_one_too_many(
    acme: Site, provider: Provider, trust: OidcTrust
) -> None:
    writer = actions.save_agent(Agent(tenant=acme.tenant, name="writer"), acting_user=None)
    rules = [
        actions.RuleSpec(conditions=("roles = read",), agent_id=acme.agent.pk),
        actions.RuleSpec(conditions=("roles = write",), agent_id=writer.pk),
        actions.RuleSpec(conditions=("sub = reporter-prod",), agent_id=acme.agent.pk),
    ]
    actions.save_trust(trust, acting_user=None, rules=rules)
    assert identify(provider.sign(claims(provider, sub="x", roles=["other", "write"]))).agent == writer
    assert identify(provider.sign(claims(provider, roles=["read"]))).agent == acme.agent
    with pytest.raises(BadCredential):
        identify(provider.sign(claims(provider, roles=["write"])))


def test_a_rule_for_another_tenants_agent_is_refused(globex: Site, trust: OidcTrust) -> None:
    rule = actions.RuleSpec(conditions=("sub = x",), agent_id=globex.agent.pk)
    with pytest.raises(ValidationError, match="no agent of this tenant"):
        actions.save_trust(trust, acting_user=None, rules=[rule])
    with scope(tenant=trust.tenant):
        assert [kept.conditions for kept in TrustRule.objects.all()] == [["sub = reporter-prod"]]


# ---------------------------------------------------------------- keys and their provider


def test_a_key_that_was_rotated_in_is_fetched(acme: Site, provider: Provider, trust: OidcTrust) -> None:
    cache.delete(f"{jwks._cache_key(trust)}:fetched")
    identify(provider.sign(claims(provider)))
    provider.keys["new"] = RSAKey.generate_key(2048, parameters={"kid": "new"})
    provider.publish()
    cache.delete(f"{jwks._cache_key(trust)}:fetched")  # as after `REFETCH_SECONDS`
    assert identify(provider.sign(claims(provider), key_id="new")).agent == acme.agent
    assert provider.asked == ["/keys", "/keys"]


def test_made_up_key_ids_dont_make_us_ask_again_and_again(acme: Site, provider: Provider, trust: OidcTrust) -> None:
    forger = RSAKey.generate_key(2048)
    for number in range(5):
        with pytest.raises(BadCredential):
            identify(provider.sign(claims(provider), key=forger, header={"kid": f"made-up-{number}"}))
    assert provider.asked == ["/keys"]
    assert identify(provider.sign(claims(provider))).agent == acme.agent


@pytest.mark.parametrize(
    "served",
    [
        None,
        b"",
        b"not json",
        b"[" * 100_000,
        {"keys": "none"},
        {"keys": []},
        {"keys": [{"kty": "oct", "k": "c2VjcmV0", "kid": "rsa"}]},
        {"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB", "kid": "rsa"}]},
        {"keys": [{"kty": "unheard-of", "kid": "rsa"}] * 101},
        ["keys"],
        b'{"keys": [' + b" " * (jwks.MAX_DOCUMENT_BYTES + 1) + b"]}",
    ],
)
def test_a_provider_that_serves_no_usable_keys_is_unreachable(
    provider: Provider, trust: OidcTrust, served: Any
) -> None:
    token = provider.sign(claims(provider))
    provider.documents["/keys"] = served
    with pytest.raises(ProviderUnreachable, match="try again"):
        identify(token)
    with pytest.raises(ProviderUnreachable):
        identify(token)
    assert provider.asked == ["/keys"]


@pytest.mark.parametrize("packing", ["gzip", "zstd"])
def test_what_a_provider_packs_is_not_unpacked(
    provider: Provider, trust: OidcTrust, packing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = provider.sign(claims(provider))
    keys = json.dumps(provider.documents["/keys"]).encode()
    provider.documents["/keys"] = gzip.compress(keys) if packing == "gzip" else zstandard.compress(keys)
    monkeypatch.setitem(provider.headers, "Content-Encoding", packing)
    with pytest.raises(ProviderUnreachable):
        identify(token)


def test_without_a_cache_nobody_is_let_in(provider: Provider, trust: OidcTrust) -> None:
    with mock.patch.object(cache, "get", side_effect=RedisConnectionError), pytest.raises(ProviderUnreachable):
        identify(provider.sign(claims(provider)))


def test_a_discovery_document_of_another_issuer_is_refused(acme: Site, provider: Provider) -> None:
    make_trust(acme, provider, jwks_url="")
    provider.documents["/.well-known/openid-configuration"]["issuer"] = "https://evil.example"
    with pytest.raises(ProviderUnreachable):
        identify(provider.sign(claims(provider)))


def test_a_symmetric_key_in_the_key_set_is_never_used(provider: Provider, trust: OidcTrust) -> None:
    secret = OctKey.import_key(b"s" * 32, {"kid": "oct"})
    provider.documents["/keys"]["keys"].append(secret.as_dict())
    with pytest.raises(BadCredential):
        identify(provider.sign(claims(provider), key=secret, algorithm="HS256", header={"kid": "oct"}))


@pytest.mark.parametrize(
    ("url", "in_test", "in_production"),
    [
        ("https://idp.example/keys", True, True),
        ("http://127.0.0.1:8000/keys", True, False),
        ("http://localhost/keys", True, False),
        ("http://idp.example/keys", False, False),
        ("https://user:password@idp.example/keys", False, False),
        ("https://idp.example/keys#x", False, False),
        ("file:///etc/passwd", False, False),
        ("https://", False, False),
        ("https://[", False, False),
        ("idp.example", False, False),
    ],
)
def test_only_https_is_fetched_and_loopback_outside_production(
    monkeypatch: pytest.MonkeyPatch, url: str, in_test: bool, in_production: bool
) -> None:
    assert jwks.is_fetchable(url) is in_test
    monkeypatch.setattr(jwks, "settings", _Settings(Mode.PRODUCTION))
    assert jwks.is_fetchable(url) is in_production


class _Settings:
    """As much of the settings as `jwks` reads, for another mode."""

    def __init__(self, mode: Mode) -> None:
        from dataclasses import replace

        self.NARROWGATE = replace(settings.NARROWGATE, mode=mode)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("issuer", "http://idp.example"),
        ("jwks_url", "ftp://idp.example/keys"),
        ("algorithms", []),
        ("algorithms", ["RS256", "RS256"]),
        ("algorithms", ["HS256"]),
        ("algorithms", ["none"]),
        ("clock_skew_seconds", 301),
        ("audience", ""),
    ],
)
def test_a_trust_that_would_be_weak_is_refused_by_its_field(trust: OidcTrust, field: str, value: object) -> None:
    setattr(trust, field, value)
    with pytest.raises(ValidationError) as caught:
        actions.save_trust(trust, acting_user=None)
    assert field in caught.value.message_dict


def test_times_are_utc(provider: Provider, trust: OidcTrust) -> None:
    assert identify(provider.sign(claims(provider))).expires_at.tzinfo is UTC
