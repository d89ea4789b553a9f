"""The token endpoint: what is issued, on whose behalf, for what; and what is refused, in the words of the RFCs."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import asyncssh
import pytest
import structlog
import time_machine
from django.core.cache import cache
from django.test import Client
from django_scopes import scope
from joserfc import jws
from joserfc.jwk import ECKey, OctKey
from scramp import ScramClient, ScramMechanism

from accounts import actions
from accounts.errors import BadCredential
from accounts.identify import identify_agent
from accounts.models import Agent, AgentToken, OidcTrust, ServicePurpose, SigningAlgorithm
from accounts.oauth import actions as oauth
from accounts.oauth import limits, views
from accounts.oauth.exchange import LIFETIME, TOKEN_EXCHANGE
from accounts.oauth.models import OAuthClient, SshAuthority
from accounts.oauth.views import DATABASE_LOGIN, SSH_CERTIFICATE
from accounts.oauth.wire import MAX_BODY_BYTES
from controlplane.authority import Role
from controlplane.ledger.models import LedgerEntry
from tests.accounts.conftest import NOW, Site, make_trust
from tests.accounts.provider import Provider
from tests.accounts.test_oidc import claims

JWT = "urn:ietf:params:oauth:token-type:jwt"
ACCESS = "urn:ietf:params:oauth:token-type:access_token"
HERE = "http://127.0.0.1:7400"


@pytest.fixture(autouse=True)
def _at_noon() -> Iterator[None]:
    cache.clear()
    with time_machine.travel(NOW, tick=False):
        yield


def post(form: Any, *, path: str = "/oauth/token", **headers: str) -> Any:
    kind = "application/x-www-form-urlencoded"
    data = form if isinstance(form, str) else "&".join(_pairs(form))
    return Client().post(path, data, content_type=kind, headers=headers)


def _pairs(form: dict[str, Any]) -> Iterator[str]:
    from urllib.parse import quote

    for name, value in form.items():
        for text in value if isinstance(value, list) else [value]:
            yield f"{name}={quote(text, safe='')}"


def exchange(token: str, *, kind: str = JWT, **more: Any) -> Any:
    return post({"grant_type": TOKEN_EXCHANGE, "subject_token": token, "subject_token_type": kind, **more})


def refused(answer: Any, error: str, status: int = 400) -> None:
    assert (answer.json().get("error"), answer.status_code) == (error, status), answer.content
    assert set(answer.json()) == {"error", "error_description"}
    assert "no-store" in answer.headers["Cache-Control"]


def basic(client_id: str, secret: str) -> str:
    return "Basic " + base64.b64encode(f"{client_id}:{secret}".encode()).decode()


@pytest.fixture
def secret_client(acme: Site) -> tuple[OAuthClient, str]:
    client, made = oauth.make_client(acme.agent, acting_user=None, label="ci")
    assert made is not None
    return client, made.text


@pytest.fixture
def key() -> ECKey:
    return ECKey.generate_key("P-256", parameters={"kid": "k1", "use": "sig"})


@pytest.fixture
def key_client(acme: Site, key: ECKey) -> OAuthClient:
    return oauth.make_client(acme.agent, acting_user=None, public_keys=[key.as_dict(private=False)])[0]


def assertion(client: OAuthClient, key: Any, *, header: dict[str, Any] | None = None, **changed: Any) -> dict[str, str]:
    said = {
        "iss": client.client_id,
        "sub": client.client_id,
        "aud": HERE,
        "jti": "once",
        "exp": int((NOW + timedelta(minutes=2)).timestamp()),
        **changed,
    }
    protected = {"alg": "ES256", "kid": "k1", **(header or {})}
    registry = jws.JWSRegistry(algorithms=[*jws.JWSRegistry.algorithms], strict_check_header=False)
    payload = json.dumps({name: value for name, value in said.items() if value is not None})
    return {
        "grant_type": "client_credentials",
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "client_assertion": jws.serialize_compact(protected, payload, key, registry=registry),
    }


# ---------------------------------------------------------------- what is issued


def test_a_providers_token_becomes_a_short_one_of_ours(acme: Site, provider: Provider, trust: OidcTrust) -> None:
    answer = exchange(provider.sign(claims(provider)))
    assert answer.status_code == 200, answer.content
    body = answer.json()
    assert set(body) == {"access_token", "issued_token_type", "token_type", "expires_in"}
    assert (body["issued_token_type"], body["token_type"]) == (ACCESS, "Bearer")
    assert body["expires_in"] == 630  # the provider's token ends first
    assert "no-store" in answer.headers["Cache-Control"]
    identified = identify_agent(body["access_token"], now=NOW)
    assert (identified.agent, identified.authenticated_by, identified.targets) == (acme.agent, "oidc", None)


def test_a_token_is_narrowed_and_never_widened(acme: Site, provider: Provider, trust: OidcTrust) -> None:
    first = exchange(
        provider.sign(claims(provider)), resource=["urn:narrowgate:target:shop", "urn:narrowgate:target:crm"]
    ).json()
    assert first["scope"] == "target:crm target:shop"
    second = exchange(first["access_token"], kind=ACCESS, scope="target:shop target:payroll").json()
    assert second["scope"] == "target:shop"
    assert identify_agent(second["access_token"], now=NOW).targets == ("shop",)
    refused(exchange(second["access_token"], kind=ACCESS, scope="target:crm"), "invalid_target")
    third = exchange(second["access_token"], kind=ACCESS).json()
    assert third["scope"] == "target:shop"


def test_a_client_gets_tokens_by_its_secret_in_either_way(acme: Site, secret_client: tuple[OAuthClient, str]) -> None:
    client, secret = secret_client
    by_header = post({"grant_type": "client_credentials"}, Authorization=basic(client.client_id, secret))
    by_form = post({"grant_type": "client_credentials", "client_id": client.client_id, "client_secret": secret})
    for answer in (by_header, by_form):
        assert answer.status_code == 200, answer.content
        assert answer.json()["expires_in"] == LIFETIME.total_seconds()
        assert identify_agent(answer.json()["access_token"], now=NOW).agent == acme.agent


def test_a_token_that_was_exchanged_is_on_record(
    acme: Site, secret_client: tuple[OAuthClient, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the log, whoever asked, and on the token's page, with what it was made from; the token itself in neither."""
    client, secret = secret_client
    with structlog.testing.capture_logs() as told:
        monkeypatch.setattr(views, "log", structlog.get_logger())
        first = post({"grant_type": "client_credentials"}, Authorization=basic(client.client_id, secret))
        second = exchange(first.json()["access_token"], kind=ACCESS, scope="target:shop")
    issued = [entry for entry in told if entry["event"] == "access_token_issued"]
    assert [entry["client"] for entry in issued] == [client.client_id, client.client_id]
    assert [entry["parent"] for entry in issued] == [None, issued[0]["token"]]
    assert [entry["targets"] for entry in issued] == [None, ["shop"]]
    assert {(entry["agent"], entry["tenant"], entry["address"]) for entry in issued} == {
        ("reporter", str(acme.tenant.pk), "127.0.0.1")
    }
    texts = (first.json()["access_token"], second.json()["access_token"])
    assert not any(text.rpartition("_")[2] in str(issued) for text in texts)
    with scope(tenant=acme.tenant):
        row = AgentToken.objects.get(token_id=issued[1]["token"])
    owner = Client()
    owner.force_login(acme.people[Role.OWNER])
    page = owner.get(f"/admin/accounts/agenttoken/{row.pk}/change/").content.decode()
    for shown in (client.client_id, issued[0]["token"], "shop"):
        assert shown in page
    assert not any(text.rpartition("_")[2] in page for text in texts)


def test_when_a_client_was_used_is_kept_to_the_minute(
    acme: Site, secret_client: tuple[OAuthClient, str], key: ECKey, key_client: OAuthClient
) -> None:
    client, secret = secret_client
    form = {"grant_type": "client_credentials", "client_id": client.client_id, "client_secret": secret}

    def used(client: OAuthClient) -> datetime | None:
        with scope(tenant=acme.tenant):
            return OAuthClient.objects.get(pk=client.pk).last_used_at

    assert (used(client), used(key_client)) == (None, None)
    refused(post({**form, "client_secret": secret[:-1] + ("A" if secret[-1] != "A" else "B")}), "invalid_client", 401)
    assert used(client) is None
    post(form)
    post(assertion(key_client, key))
    assert (used(client), used(key_client)) == (NOW, NOW)
    for seconds, expected in ((59, NOW), (60, NOW + timedelta(seconds=60))):
        with time_machine.travel(NOW + timedelta(seconds=seconds), tick=False):
            post(form)
        assert used(client) == expected


def test_a_client_gets_a_token_by_an_assertion_once(acme: Site, key: ECKey, key_client: OAuthClient) -> None:
    form = assertion(key_client, key)
    assert identify_agent(post(form).json()["access_token"], now=NOW).authenticated_by == "private_key_jwt"
    refused(post(form), "invalid_client", 401)
    assert post(assertion(key_client, key, jti="another", aud=f"{HERE}/oauth/token")).status_code == 200


def test_an_agent_acts_for_a_person_and_for_another_agent(acme: Site, provider: Provider) -> None:
    planner = actions.save_agent(Agent(tenant=acme.tenant, name="planner"), acting_user=None)
    trust = make_trust(acme, provider, person_claim="email")
    person = provider.sign(claims(provider, sub="ada", email="ada@acme.example", act={"sub": "chat"}))
    refused(exchange(person), "invalid_request")
    actor = actions.issue_agent_token(planner, acting_user=None)[1].text
    first = exchange(person, actor_token=actor, actor_token_type=ACCESS)
    assert first.status_code == 200, first.content
    planning = identify_agent(first.json()["access_token"], now=NOW)
    assert (planning.agent, planning.on_behalf_of, planning.actors) == (planner, "ada@acme.example", ("actor:chat",))
    reporter = actions.issue_agent_token(acme.agent, acting_user=None)[1].text
    second = exchange(
        first.json()["access_token"], kind=ACCESS, actor_token=reporter, actor_token_type=ACCESS, scope="target:shop"
    )
    reporting = identify_agent(second.json()["access_token"], now=NOW)
    assert (reporting.agent, reporting.on_behalf_of) == (acme.agent, "ada@acme.example")
    assert (reporting.actors, reporting.targets) == (("planner", "actor:chat"), ("shop",))
    assert trust.is_active


def test_who_is_behind_an_agent_is_known_by_their_own_groups_and_sponsor(acme: Site, provider: Provider) -> None:
    ada = acme.people[Role.ADMIN]
    planner = Agent(tenant=acme.tenant, name="planner", groups=["planners"], sponsor=ada)
    planner = actions.save_agent(planner, acting_user=None)
    subject = actions.issue_agent_token(planner, acting_user=ada)[1].text
    actor = actions.issue_agent_token(acme.agent, acting_user=None)[1].text
    answer = exchange(subject, kind=ACCESS, actor_token=actor, actor_token_type=ACCESS)
    reporting = identify_agent(answer.json()["access_token"], now=NOW)
    assert (reporting.groups, reporting.issued_by) == (tuple(acme.agent.groups), (ada.email,))
    assert reporting.behind == {"planner": {"groups": ["planners"], "labels": {}, "sponsor": ada.email}}


@pytest.mark.parametrize("withdrawn", ["subject's token", "actor's token", "subject's trust"])
def test_a_token_made_from_two_ends_with_either(acme: Site, provider: Provider, withdrawn: str) -> None:
    planner = actions.save_agent(Agent(tenant=acme.tenant, name="planner"), acting_user=None)
    trust = make_trust(acme, provider, person_claim="email")
    actors_row, actor = actions.issue_agent_token(planner, acting_user=None)
    subjects_row, subject = actions.issue_agent_token(acme.agent, acting_user=None)
    if withdrawn == "subject's trust":
        person = provider.sign(claims(provider, sub="ada", email="ada@acme.example"))
        made = exchange(person, actor_token=actor.text, actor_token_type=ACCESS)
        trust.is_active = False
    else:
        made = exchange(subject.text, kind=ACCESS, actor_token=actor.text, actor_token_type=ACCESS)
    token = made.json()["access_token"]
    child = exchange(token, kind=ACCESS, scope="target:shop").json()["access_token"]
    assert identify_agent(child, now=NOW).agent == planner
    if withdrawn == "subject's trust":
        actions.save_trust(trust, acting_user=None)
    else:
        actions.revoke_agent_token(actors_row if withdrawn == "actor's token" else subjects_row, acting_user=None)
    with scope(tenant=acme.tenant):  # each is revoked itself, so that sessions on it end
        assert not AgentToken.objects.filter(kind="exchanged", revoked_at=None).exists()
    with pytest.raises(BadCredential):
        identify_agent(child, now=NOW)
    with scope(tenant=acme.tenant):  # as if it had been made in the very instant
        AgentToken.objects.filter(kind="exchanged").update(revoked_at=None)
    with pytest.raises(BadCredential):
        identify_agent(token, now=NOW)


def test_a_subject_that_names_its_actor_is_nobody_elses(acme: Site, provider: Provider) -> None:
    make_trust(acme, provider, person_claim="email")
    person = {"sub": "ada", "email": "ada@acme.example"}
    actor = provider.sign(claims(provider))
    for may_act, status in (({"sub": "reporter-prod"}, 200), ({"sub": "x"}, 400), ({}, 400), ("reporter-prod", 400)):
        subject = provider.sign(claims(provider, **person, may_act=may_act))
        assert exchange(subject, actor_token=actor, actor_token_type=JWT).status_code == status


def test_a_database_login_is_kept_as_a_verifier_alone(acme: Site, provider: Provider, trust: OidcTrust) -> None:
    body = exchange(provider.sign(claims(provider)), scope="target:shop", requested_token_type=DATABASE_LOGIN).json()
    assert (body["token_type"], body["issued_token_type"]) == ("N_A", DATABASE_LOGIN)
    with scope(tenant=acme.tenant):
        row = AgentToken.objects.get()
    iterations, salt, stored, server = row.scram_verifier.replace(":", "$").split("$")[1:]
    kept = (base64.b64decode(salt), base64.b64decode(stored), base64.b64decode(server), int(iterations))
    server_side = ScramMechanism("SCRAM-SHA-256").make_server(lambda _: kept)
    client = ScramClient(["SCRAM-SHA-256"], body["username"], body["access_token"])
    server_side.set_client_first(client.get_client_first())
    client.set_server_first(server_side.get_server_first())
    server_side.set_client_final(client.get_client_final())
    client.set_server_final(server_side.get_server_final())
    client_key = _client_key(body["access_token"], salt=kept[0], iterations=kept[3])
    credential = f"ngd_{row.token_id}_{client_key.hex()}"
    assert identify_agent(credential, now=NOW).targets == ("shop",)
    for forged in (
        f"ngd_{row.token_id}_{'0' * 64}",
        f"nga_{row.token_id}_{client_key.hex()}",
        f"ngd_{row.token_id}_{row.digest}",
    ):
        with pytest.raises(BadCredential):
            identify_agent(forged, now=NOW)


def _client_key(password: str, *, salt: bytes, iterations: int) -> bytes:
    import hashlib
    import hmac

    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    return hmac.digest(salted, b"Client Key", "sha256")


def test_an_ssh_certificate_names_its_targets_and_ends_soon(acme: Site, provider: Provider, trust: OidcTrust) -> None:
    user_key = asyncssh.generate_private_key("ssh-ed25519")
    line = user_key.export_public_key("openssh").decode()
    wanted = {"requested_token_type": SSH_CERTIFICATE, "public_key": line}
    refused(exchange(provider.sign(claims(provider)), **wanted), "invalid_target")
    body = exchange(provider.sign(claims(provider)), scope="target:shop", **wanted).json()
    certificate: Any = asyncssh.import_certificate(body["access_token"])
    assert certificate.principals == ["shop"]
    authority = oauth.ssh_authority(acme.tenant)
    certificate.validate(asyncssh.public_key.CERT_TYPE_USER, "shop")  # at noon
    assert certificate.signing_key.export_public_key("openssh").split()[1].decode() == authority.public_key.split()[1]
    with pytest.raises(ValueError, match="principal"):
        certificate.validate(asyncssh.public_key.CERT_TYPE_USER, "crm")
    with scope(tenant=acme.tenant):
        assert SshAuthority.objects.get().sealed_key.startswith("ng1.")
        assert LedgerEntry.objects.filter(kind="ssh_certificate.issued").count() == 1
    for nonsense in ("", "ssh-ed25519 AAAA", "x" * 5_000, line + "\x00"):
        assert (
            exchange(
                provider.sign(claims(provider)), scope="target:shop", **{**wanted, "public_key": nonsense}
            ).status_code
            == 400
        )


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("changed", "error"),
    [
        ({"grant_type": ""}, "invalid_request"),
        ({"grant_type": "password"}, "unsupported_grant_type"),
        ({"grant_type": "client_credentials"}, "invalid_request"),
        ({"subject_token": ""}, "invalid_request"),
        ({"subject_token": "a.b.c"}, "invalid_grant"),
        ({"subject_token": "nga_x"}, "invalid_request"),
        ({"subject_token_type": ""}, "invalid_request"),
        ({"subject_token_type": "urn:ietf:params:oauth:token-type:saml1"}, "invalid_request"),
        ({"requested_token_type": "urn:ietf:params:oauth:token-type:refresh_token"}, "invalid_request"),
        ({"actor_token_type": JWT}, "invalid_request"),
        ({"actor_token": "a.b.c", "actor_token_type": JWT}, "invalid_grant"),
        ({"resource": "https://evil.example/"}, "invalid_target"),
        ({"resource": "urn:narrowgate:target:*"}, "invalid_target"),
        ({"audience": "shop"}, "invalid_target"),
        ({"scope": "admin"}, "invalid_scope"),
        ({"scope": "target:shop target:*"}, "invalid_scope"),
        ({"scope": " ".join(f"target:t{n}" for n in range(51))}, "invalid_request"),
        ({"resource": "urn:narrowgate:target:shop", "scope": "target:crm"}, "invalid_target"),
        ({"subject_token_type": [JWT, JWT]}, "invalid_request"),
        ({"client_id": "ngc_x"}, "invalid_client"),
    ],
)
def test_a_bad_request_is_told_as_the_rfcs_say(
    provider: Provider, trust: OidcTrust, changed: dict[str, Any], error: str
) -> None:
    sound = {
        "grant_type": TOKEN_EXCHANGE, "subject_token": provider.sign(claims(provider)), "subject_token_type": JWT
    }  # fmt: skip
    refused(post({**sound, **changed}), error, 401 if error == "invalid_client" else 400)
    with scope(tenant=trust.tenant):
        assert not AgentToken.objects.exists()


def test_only_forms_by_post_of_bounded_size_are_read() -> None:
    refused(Client().get("/oauth/token"), "invalid_request", 405)
    refused(Client().post("/oauth/token", "{}", content_type="application/json"), "invalid_request")
    refused(post("x=" + "y" * MAX_BODY_BYTES), "invalid_request", 413)
    refused(post("&".join(f"p{n}=1" for n in range(2_500))), "invalid_request")
    refused(post("grant_type=%00"), "invalid_request")


@pytest.mark.parametrize(
    "header", ["Basic", "Basic x", "Basic " + base64.b64encode(b"\xff\xfe").decode(), "Basic eA=="]
)
def test_a_basic_header_that_is_none_is_refused(header: str) -> None:
    answer = post({"grant_type": "client_credentials"}, Authorization=header)
    refused(answer, "invalid_client", 401)
    assert answer.headers["WWW-Authenticate"].startswith("Basic")


def test_a_wrong_secret_an_unknown_and_an_inactive_client_are_refused_alike(
    acme: Site, secret_client: tuple[OAuthClient, str]
) -> None:
    client, secret = secret_client
    form = {"grant_type": "client_credentials"}
    wrong = secret[:-1] + ("0" if secret[-1] != "0" else "1")
    answers = [
        post(form, Authorization=basic(client.client_id, wrong)),
        post(form, Authorization=basic("ngc_0000000000000000", secret)),
        post(form, Authorization=basic("\x00", secret)),
    ]
    token = post(form, Authorization=basic(client.client_id, secret)).json()["access_token"]
    client.is_active = False
    oauth.save_client(client, acting_user=None)
    answers.append(post(form, Authorization=basic(client.client_id, secret)))
    assert {answer.content for answer in answers} == {answers[0].content}
    refused(answers[0], "invalid_client", 401)
    with pytest.raises(BadCredential):
        identify_agent(token, now=NOW)


def test_two_ways_of_client_authentication_are_one_too_many(secret_client: tuple[OAuthClient, str]) -> None:
    client, secret = secret_client
    form = {"grant_type": "client_credentials", "client_id": client.client_id, "client_secret": secret}
    refused(post(form, Authorization=basic(client.client_id, secret)), "invalid_request")


@pytest.mark.parametrize(
    "changed",
    [
        {"aud": "https://elsewhere.example"},
        {"aud": [HERE, "https://elsewhere.example"]},
        {"aud": None},
        {"iss": "ngc_other"},
        {"iss": None},
        {"sub": "ngc_other"},
        {"sub": None},
        {"sub": 7},
        {"jti": None},
        {"jti": ""},
        {"jti": "x" * 201},
        {"jti": 7},
        {"exp": None},
        {"exp": int((NOW - timedelta(seconds=31)).timestamp())},
        {"exp": int((NOW + timedelta(hours=1)).timestamp())},
        {"exp": "soon"},
        {"nbf": int((NOW + timedelta(minutes=1)).timestamp())},
        {"header": {"alg": "none"}},
        {"header": {"alg": "HS256"}},
        {"header": {"kid": "k2"}},
        {"header": {"kid": None}},
        {"header": {"crit": ["exp"]}},
        {"header": {"jku": "https://evil.example"}},
    ],
)
def test_an_assertion_that_isnt_sound_is_refused(key: ECKey, key_client: OAuthClient, changed: dict[str, Any]) -> None:
    sound = assertion(key_client, key)
    header = changed.pop("header", None)
    if header is None:
        altered = assertion(key_client, key, **changed)
    elif header.get("alg") == "HS256":
        public = OctKey.import_key(json.dumps(key.as_dict(private=False)).encode())
        altered = assertion(key_client, public, header=header)
    else:
        whole = {"alg": "ES256", "kid": "k1", **header}
        encoded = base64.urlsafe_b64encode(json.dumps(whole).encode()).rstrip(b"=").decode()
        altered = {**sound, "client_assertion": ".".join([encoded, *sound["client_assertion"].split(".")[1:]])}
    refused(post(altered), "invalid_client", 401)


def test_somebody_elses_key_signs_no_assertion(key_client: OAuthClient) -> None:
    forger = ECKey.generate_key("P-256", parameters={"kid": "k1"})
    refused(post(assertion(key_client, forger)), "invalid_client", 401)


@pytest.mark.parametrize(
    "keys", [[], [{}], ["x"], [{"kty": "oct", "k": "eA", "kid": "a"}], "private", "twice", "nameless"]
)
def test_keys_that_cant_be_used_make_no_client(acme: Site, key: ECKey, keys: Any) -> None:
    public = key.as_dict(private=False)
    given = {"private": [key.as_dict(private=True)], "twice": [public, public], "nameless": [{**public, "kid": ""}]}
    with pytest.raises(Exception, match="can't be used"):
        oauth.make_client(acme.agent, acting_user=None, public_keys=given[keys] if isinstance(keys, str) else keys)


def test_a_suspended_or_inactive_agent_gets_nothing(acme: Site, secret_client: tuple[OAuthClient, str]) -> None:
    client, secret = secret_client
    acme.agent.is_active = False
    actions.save_agent(acme.agent, acting_user=None)
    answer = post({"grant_type": "client_credentials"}, Authorization=basic(client.client_id, secret))
    refused(answer, "invalid_grant")


def test_two_tenants_with_one_provider_stay_apart(
    acme: Site, globex: Site, provider: Provider, trust: OidcTrust
) -> None:
    make_trust(globex, provider)
    form = {
        "grant_type": TOKEN_EXCHANGE, "subject_token": provider.sign(claims(provider)), "subject_token_type": JWT
    }  # fmt: skip
    refused(post(form), "invalid_grant")
    for site in (acme, globex):
        answer = post(form, path=f"/oauth/{site.tenant.slug}/token")
        assert identify_agent(answer.json()["access_token"], now=NOW).tenant == site.tenant
    assert post(form, path="/oauth/nobody/token").status_code == 404
    other = actions.issue_agent_token(globex.agent, acting_user=None)[1].text
    mine = actions.issue_agent_token(acme.agent, acting_user=None)[1].text
    refused(exchange(mine, kind=ACCESS, actor_token=other, actor_token_type=ACCESS), "invalid_grant")


def test_whoever_asks_too_often_has_to_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "REQUESTS_PER_MINUTE", 2)
    assert [post({}).status_code for _ in range(3)] == [400, 400, 429]
    answer = post({})
    refused(answer, "temporarily_unavailable", 429)
    assert int(answer.headers["Retry-After"]) == 60


# ---------------------------------------------------------------- revocation, introspection, metadata


def test_a_revoked_token_takes_what_was_made_from_it_along(acme: Site, provider: Provider, trust: OidcTrust) -> None:
    first = exchange(provider.sign(claims(provider))).json()["access_token"]
    second = exchange(first, kind=ACCESS, scope="target:shop").json()["access_token"]
    third = exchange(second, kind=ACCESS).json()["access_token"]
    answer = post({"token": first}, path="/oauth/revoke")
    assert (answer.status_code, answer.json()) == (200, {})
    for token in (first, second, third):
        with pytest.raises(BadCredential):
            identify_agent(token, now=NOW)
    for unknown in (first, "nonsense", "nga_" + "0" * 16 + "_" + "0" * 64):
        assert post({"token": unknown}, path="/oauth/revoke").status_code == 200
    refused(post({}, path="/oauth/revoke"), "invalid_request")


def test_a_clients_token_is_revoked_by_that_client_alone(acme: Site, secret_client: tuple[OAuthClient, str]) -> None:
    client, secret = secret_client
    token = post({"grant_type": "client_credentials"}, Authorization=basic(client.client_id, secret)).json()[
        "access_token"
    ]
    refused(post({"token": token}, path="/oauth/revoke"), "invalid_client", 401)
    other, made = oauth.make_client(acme.agent, acting_user=None)
    assert made is not None
    refused(
        post({"token": token}, path="/oauth/revoke", Authorization=basic(other.client_id, made.text)),
        "invalid_client",
        401,
    )
    assert (
        post({"token": token}, path="/oauth/revoke", Authorization=basic(client.client_id, secret)).status_code == 200
    )
    with pytest.raises(BadCredential):
        identify_agent(token, now=NOW)


@pytest.mark.parametrize("is_deleted", [False, True])
def test_a_trust_that_is_no_more_takes_its_tokens_along(provider: Provider, trust: OidcTrust, is_deleted: bool) -> None:
    token = exchange(provider.sign(claims(provider))).json()["access_token"]
    if is_deleted:
        actions.delete_trust(trust, acting_user=None)
    else:
        trust.is_active = False
        actions.save_trust(trust, acting_user=None)
    with pytest.raises(BadCredential):
        identify_agent(token, now=NOW)
    with scope(tenant=trust.tenant):  # said aloud, so that sessions on it end
        assert LedgerEntry.objects.filter(kind="agent_token.revoked").count() == 1


def test_introspection_tells_a_tenants_own_service_about_a_token(
    acme: Site, globex: Site, provider: Provider, trust: OidcTrust
) -> None:
    def ask(site: Site, token: str, purpose: ServicePurpose = ServicePurpose.INTROSPECTION) -> Any:
        _, made = oauth.issue_service_token(site.tenant, purpose=purpose, acting_user=None)
        return post({"token": token}, path="/oauth/introspect", Authorization=f"Bearer {made.text}")

    token = exchange(provider.sign(claims(provider, act={"sub": "chat"})), scope="target:shop").json()["access_token"]
    said = ask(acme, token).json()
    assert (said["active"], said["sub"], said["scope"]) == (True, "reporter", "target:shop")
    assert said["act"] == {"sub": "actor:chat"}
    assert ask(globex, token).json() == {"active": False}
    assert ask(acme, "nonsense").json() == {"active": False}
    refused(ask(acme, token, ServicePurpose.SCIM), "invalid_token", 401)
    refused(post({"token": token}, path="/oauth/introspect"), "invalid_token", 401)


def test_a_service_token_ends(acme: Site) -> None:
    token, made = oauth.issue_service_token(acme.tenant, purpose=ServicePurpose.INTROSPECTION, acting_user=None)
    header = f"Bearer {made.text}"
    assert post({"token": "x"}, path="/oauth/introspect", Authorization=header).status_code == 200
    oauth.revoke_service_token(token, acting_user=None)
    oauth.revoke_service_token(token, acting_user=None)
    refused(post({"token": "x"}, path="/oauth/introspect", Authorization=header), "invalid_token", 401)
    with scope(tenant=acme.tenant):
        assert LedgerEntry.objects.filter(kind="service_token.revoked").count() == 1


def test_the_metadata_say_what_there_is() -> None:
    for path, issuer in (("", HERE), ("/oauth/acme", f"{HERE}/oauth/acme")):
        said = Client().get(f"/.well-known/oauth-authorization-server{path}").json()
        assert said["issuer"] == issuer
        assert said["token_endpoint"].endswith("/token")
        assert set(said["token_endpoint_auth_signing_alg_values_supported"]) == {one.value for one in SigningAlgorithm}


def test_used_assertions_are_forgotten_once_they_have_expired(key: ECKey, key_client: OAuthClient) -> None:
    post(assertion(key_client, key))
    assert oauth.forget_assertions(now=NOW) == 0
    assert oauth.forget_assertions(now=NOW + timedelta(minutes=3)) == 1
