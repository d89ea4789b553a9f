"""SAML assertions at the token endpoint: an honest one becomes a token, once; no known attack does."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from django.core.cache import cache
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.test import Client
from django.utils import timezone
from django_scopes import scope
from lxml import etree

from accounts import actions
from accounts.federation.saml_guard import ASSERTION, DS, SAML, SIGNATURE
from accounts.identify import IdentifiedAgent, identify_agent
from accounts.models import AgentToken, OidcTrust, TrustKind
from accounts.oauth.exchange import SAML2, TOKEN_EXCHANGE
from controlplane.authority import Role
from tests.accounts.conftest import Site
from tests.accounts.federation.saml_idp import ENTITY_ID, Idp, encrypt_assertion, instant, make_idp, wrapped
from tests.accounts.test_oauth import HERE, post, refused

ENDPOINT = f"{HERE}/oauth/token"
AUDIENCE = "https://gate.acme.example/"

Change = Callable[[etree._Element], None]


@pytest.fixture(autouse=True)
def _nobody_has_asked_yet() -> Iterator[None]:
    cache.clear()
    yield
    cache.clear()


@pytest.fixture(scope="module")
def idp() -> Idp:
    return make_idp()


@pytest.fixture(scope="module")
def stranger() -> Idp:
    """Another provider that says to be the same."""
    return make_idp()


def make_saml_trust(site: Site, idp: Idp, *conditions: str, **fields: Any) -> OidcTrust:
    values = {
        "name": "adfs",
        "kind": TrustKind.SAML,
        "issuer": ENTITY_ID,
        "audience": AUDIENCE,
        "metadata": idp.metadata(),
        "algorithms": ["RS256"],
        "groups_claim": "groups",
        "person_claim": "email",
        "label_claims": ["sub"],
        **fields,
    }
    trust = OidcTrust(tenant=site.tenant, **values)
    rule = actions.RuleSpec(conditions=conditions or ("sub = robot@acme.example",), agent_id=site.agent.pk)
    actions.save_trust(trust, acting_user=None, rules=[rule])
    return trust


@pytest.fixture
def trust(acme: Site, idp: Idp) -> OidcTrust:
    return make_saml_trust(acme, idp)


def unsigned(idp: Idp, **said: Any) -> etree._Element:
    """An assertion alone, for our token endpoint."""
    values = {"recipient": ENDPOINT, "audience": AUDIENCE, "name_id": "robot@acme.example", **said}
    root = idp.response(site=f"{HERE}/", request_id="", **values)
    assertion = deepcopy(root.find(ASSERTION))
    assertion.tail = None
    return assertion


def honest(idp: Idp, **said: Any) -> etree._Element:
    assertion = unsigned(idp, **said)
    idp.sign(assertion)
    return assertion


def encoded(root: etree._Element | bytes) -> str:
    data = root if isinstance(root, bytes) else etree.tostring(root)
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def present(root: etree._Element | bytes, *, path: str = "/oauth/token", **more: str) -> Any:
    form = {"grant_type": TOKEN_EXCHANGE, "subject_token": encoded(root), "subject_token_type": SAML2, **more}
    return post(form, path=path)


def got(answer: Any) -> IdentifiedAgent:
    assert answer.status_code == 200, answer.content
    return identify_agent(answer.json()["access_token"], now=timezone.now())


# ---------------------------------------------------------------- honest ones


def test_an_assertion_becomes_a_short_token_of_its_agent(acme: Site, idp: Idp, trust: OidcTrust) -> None:
    answer = present(honest(idp, groups=["night", "day"], ends=instant(200)), scope="target:shop")
    identified = got(answer)
    assert (identified.agent, identified.authenticated_by) == (acme.agent, "saml")
    assert identified.groups == ("analysts", "day", "night")
    assert identified.on_behalf_of == "ada@acme.example"
    assert identified.labels == {"sub": "robot@acme.example"}
    assert identified.targets == ("shop",)
    assert answer.json()["expires_in"] <= 200


@pytest.mark.parametrize(
    ("condition", "matches"),
    [
        ("iss = https://idp.acme.example/saml", True),
        ("sub ~ *@acme.example", True),
        ("email = ada@acme.example", True),
        ("groups = staff", True),
        ("name_id_format = urn:oasis:names:tc:SAML:1.1:nameid-format:emailAddress", True),
        ("groups = admins", False),
        ("sub = ada@acme.example", False),
        ("department = staff", False),
    ],
)
def test_rules_speak_of_issuer_name_and_attributes(acme: Site, idp: Idp, condition: str, matches: bool) -> None:
    make_saml_trust(acme, idp, condition)
    assert present(honest(idp)).status_code == (200 if matches else 400)


def test_an_attribute_cant_say_what_only_the_assertion_says(acme: Site, idp: Idp) -> None:
    make_saml_trust(acme, idp, "sub = owner@acme.example")
    assertion = unsigned(idp)
    attribute = next(assertion.iter(f"{SAML}Attribute"))
    for name in ("sub", "iss", "act", "may_act"):
        attribute.set("Name", name)
        attribute[0].text = "owner@acme.example"
        fresh = deepcopy(assertion)
        fresh.set("ID", f"_{name}")
        idp.sign(fresh)
        refused(present(fresh), "invalid_grant")


def test_an_assertion_may_speak_for_a_person_on_whose_behalf_an_agent_acts(acme: Site, idp: Idp) -> None:
    make_saml_trust(acme, idp, "sub = nobody")
    token = actions.issue_agent_token(acme.agent, acting_user=None)[1].text
    refused(present(honest(idp)), "invalid_request")
    access = "urn:ietf:params:oauth:token-type:access_token"
    identified = got(present(honest(idp), actor_token=token, actor_token_type=access))
    assert (identified.agent, identified.on_behalf_of) == (acme.agent, "ada@acme.example")


def test_it_ends_with_its_trust(acme: Site, idp: Idp, trust: OidcTrust) -> None:
    got(present(honest(idp)))
    trust.is_active = False
    actions.save_trust(trust, acting_user=None)
    with scope(tenant=acme.tenant):
        token = AgentToken.objects.get()
    assert token.trust_id == trust.pk
    refused(present(honest(idp)), "invalid_grant")


def test_certificates_are_fetched_anew_when_theirs_has_changed(
    acme: Site, idp: Idp, stranger: Idp, provider: Any
) -> None:
    provider.documents["/saml"] = stranger.metadata().encode()
    make_saml_trust(acme, idp, metadata="", metadata_url=f"{provider.url}/saml")
    refused(present(honest(idp)), "invalid_grant")
    cache.clear()
    assert present(honest(stranger)).status_code == 200
    provider.documents["/saml"] = idp.metadata().encode()
    assert present(honest(idp)).status_code == 200


# ---------------------------------------------------------------- tenants


def test_two_tenants_with_the_same_provider_stay_apart(acme: Site, globex: Site, idp: Idp, trust: OidcTrust) -> None:
    make_saml_trust(globex, idp)
    refused(present(honest(idp)), "invalid_grant")  # whose it is can't be told
    for_acme, for_globex = (f"{HERE}/oauth/{slug}/token" for slug in ("acme", "globex"))
    assert got(present(honest(idp, recipient=for_acme), path="/oauth/acme/token")).agent == acme.agent
    assert got(present(honest(idp, recipient=for_globex), path="/oauth/globex/token")).agent == globex.agent
    refused(present(honest(idp, recipient=for_globex), path="/oauth/acme/token"), "invalid_grant")


def test_another_tenants_provider_is_none_here(acme: Site, globex: Site, idp: Idp, trust: OidcTrust) -> None:
    here = f"{HERE}/oauth/globex/token"
    refused(present(honest(idp, recipient=here), path="/oauth/globex/token"), "invalid_grant")


# ---------------------------------------------------------------- attacks


def test_an_assertion_is_good_once(idp: Idp, trust: OidcTrust) -> None:
    assertion = honest(idp)
    assert present(assertion).status_code == 200
    cache.clear()  # it isn't the cache that knows
    refused(present(assertion), "invalid_grant")


@pytest.mark.parametrize("kind", range(1, 9))
def test_a_wrapped_signature_is_refused(acme: Site, idp: Idp, kind: int) -> None:
    """In each of the eight shapes: the whole, and whatever assertion in it says what nobody signed."""
    make_saml_trust(acme, idp, "sub = owner@acme.example")
    values = {"recipient": ENDPOINT, "audience": AUDIENCE, "name_id": "robot@acme.example"}
    root = idp.response(site=f"{HERE}/", request_id="", **values)
    idp.sign(root if kind in {1, 2} else root.find(ASSERTION))
    attack = wrapped(root, kind)
    evil = [
        node for node in attack.iter(ASSERTION) if node.findtext(f"{SAML}Subject/{SAML}NameID") == "owner@acme.example"
    ]
    assert evil
    for shown in (attack, *evil):
        refused(present(etree.tostring(shown, with_tail=False)), "invalid_grant")


def _evil_root(root: etree._Element, hide: Callable[[etree._Element, etree._Element], None]) -> etree._Element:
    """An assertion that nobody signed, as the root, with the signed one somewhere in it."""
    evil = deepcopy(root)
    evil.remove(evil.find(SIGNATURE))
    evil.set("ID", "_evil")
    next(evil.iter(f"{SAML}NameID")).text = "owner@acme.example"
    hide(evil, root)
    return evil


def _in_advice(evil: etree._Element, signed: etree._Element) -> None:
    etree.SubElement(evil, f"{SAML}Advice").append(signed)


def _in_object(evil: etree._Element, signed: etree._Element) -> None:
    signature = signed.find(SIGNATURE)
    signed.remove(signature)
    evil.insert(1, signature)
    etree.SubElement(signature, f"{DS}Object").append(signed)


def _signature_alone(evil: etree._Element, signed: etree._Element) -> None:
    evil.insert(1, signed.find(SIGNATURE))


def _same_id(evil: etree._Element, signed: etree._Element) -> None:
    evil.set("ID", signed.get("ID", ""))
    evil.insert(1, deepcopy(signed.find(SIGNATURE)))
    etree.SubElement(evil, f"{SAML}Advice").append(signed)


@pytest.mark.parametrize("hide", [_in_advice, _in_object, _signature_alone, _same_id])
def test_a_signed_assertion_within_another_doesnt_vouch_for_it(acme: Site, idp: Idp, hide: Any) -> None:
    make_saml_trust(acme, idp, "sub = owner@acme.example")
    refused(present(_evil_root(honest(idp), hide)), "invalid_grant")


def test_nothing_signed_is_refused(idp: Idp, stranger: Idp, trust: OidcTrust) -> None:
    refused(present(unsigned(idp)), "invalid_grant")
    refused(present(honest(stranger)), "invalid_grant")


def _rename(root: etree._Element) -> None:
    next(root.iter(f"{SAML}NameID")).text = "owner@acme.example"


def _drop_signature_value(root: etree._Element) -> None:
    next(root.iter(f"{DS}SignatureValue")).text = ""


def _xslt(root: etree._Element) -> None:
    next(root.iter(f"{DS}Transform")).set("Algorithm", "http://www.w3.org/TR/1999/REC-xslt-19991116")


def _retrieval(root: etree._Element) -> None:
    info = etree.SubElement(next(root.iter(SIGNATURE)), f"{DS}KeyInfo")
    etree.SubElement(info, f"{DS}RetrievalMethod").set("URI", "http://127.0.0.1:1/key")


def _no_conditions(root: etree._Element) -> None:
    root.remove(root.find(f"{SAML}Conditions"))


@pytest.mark.parametrize("change", [_rename, _drop_signature_value, _xslt, _retrieval, _no_conditions])
def test_an_assertion_that_was_changed_is_refused(acme: Site, idp: Idp, trust: OidcTrust, change: Change) -> None:
    assertion = honest(idp)
    change(assertion)
    refused(present(assertion), "invalid_grant")


def test_hostile_xml_is_refused_before_the_library_sees_it(
    idp: Idp, trust: OidcTrust, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seen(*_: Any) -> None:
        raise AssertionError("the library saw it")

    monkeypatch.setattr("accounts.oauth.saml.OneLogin_Saml2_Response", seen)
    transformed = honest(idp)
    _xslt(transformed)
    text = etree.tostring(honest(idp))
    for hostile in (
        etree.tostring(transformed),
        b'<!DOCTYPE r [<!ENTITY x SYSTEM "file:///etc/passwd">]>' + text,
        text.replace(b"robot@acme.example", b"robot@acme.example<!---->.evil.example"),
        text.replace(b"robot@acme.example", b"robot@acme.example<?x?>.evil.example"),
        b"<a>" * 10_000,
        b"",
        b"\xff\xfe",
    ):
        refused(present(hostile), "invalid_grant" if hostile else "invalid_request")


def test_a_name_that_was_signed_with_a_comment_in_it_is_refused(acme: Site, idp: Idp) -> None:
    """A reader that stops at the comment would see the owner; exclusive canonicalisation leaves comments out."""
    make_saml_trust(acme, idp, "sub = owner@acme.example")
    for name_id in ("owner@acme.example<!---->.evil.example", "owner@acme.example<?x?>.evil.example"):
        refused(present(honest(idp, name_id=name_id)), "invalid_grant")


WRONG: dict[str, dict[str, Any]] = {
    "recipient of another": {"recipient": "https://another.example/oauth/token"},
    "recipient that only begins with ours": {"recipient": f"{ENDPOINT}/evil"},
    "recipient of people's sign-in": {"recipient": f"{HERE}/sign-in/acme/saml/acs/"},
    "recipient of a tenant's endpoint": {"recipient": f"{HERE}/oauth/acme/token"},
    "audience of another": {"audience": "https://another.example/"},
    "no audience": {"audience": ""},
    "issuer of another": {"issuer": "https://another.example/"},
    "over": {"ends": instant(-1)},
    "not begun": {"begins": instant(3600)},
    "confirmation over": {"confirmed_until": instant(-1)},
    "confirmation without end": {"confirmed_until": instant(100_000)},
    "answer to a request": {"in_response_to": "_request"},
}


@pytest.mark.parametrize("said", WRONG)
def test_an_assertion_that_isnt_for_this_endpoint_now_is_refused(idp: Idp, trust: OidcTrust, said: str) -> None:
    refused(present(honest(idp, **WRONG[said])), "invalid_grant")


def test_what_is_encrypted_is_refused(idp: Idp, stranger: Idp, trust: OidcTrust) -> None:
    """We have no key for it, and anybody could encrypt for us."""
    root = idp.response(site=f"{HERE}/", request_id="", recipient=ENDPOINT, audience=AUDIENCE)
    idp.sign(root.find(ASSERTION))
    encrypt_assertion(root, stranger.certificate)
    refused(present(root), "invalid_grant")
    refused(present(root.find(f"{SAML}EncryptedAssertion")), "invalid_grant")
    partly = honest(idp)
    partly.append(deepcopy(root.find(f"{SAML}EncryptedAssertion")[0]))
    refused(present(partly), "invalid_grant")


def test_a_whole_response_is_no_assertion(idp: Idp, trust: OidcTrust) -> None:
    root = idp.response(site=f"{HERE}/", request_id="", recipient=ENDPOINT, audience=AUDIENCE)
    idp.sign(root.find(ASSERTION))
    refused(present(root), "invalid_grant")


@pytest.mark.parametrize("text", ["no base64!", "é", "A" * 100_000, "====", "abc.def.ghi"])
def test_what_is_no_base64url_is_refused(trust: OidcTrust, text: str) -> None:
    refused(post({"grant_type": TOKEN_EXCHANGE, "subject_token": text, "subject_token_type": SAML2}), "invalid_grant")


def test_an_assertion_is_no_jwt_and_a_jwt_no_assertion(idp: Idp, trust: OidcTrust, provider: Any) -> None:
    assertion = encoded(honest(idp))
    jwt = provider.sign({"iss": ENTITY_ID, "aud": AUDIENCE, "sub": "robot@acme.example", "exp": 2**31})
    kind = "urn:ietf:params:oauth:token-type:jwt"
    refused(
        post({"grant_type": TOKEN_EXCHANGE, "subject_token": assertion, "subject_token_type": kind}), "invalid_request"
    )
    for other in (kind, SAML2):
        refused(
            post({"grant_type": TOKEN_EXCHANGE, "subject_token": jwt, "subject_token_type": other}), "invalid_grant"
        )
    assert Client().get("/oauth/token").status_code == 405


# ---------------------------------------------------------------- trusts


@pytest.mark.parametrize(
    "fields",
    [
        {"metadata": ""},
        {"metadata": "<a/>"},
        {"metadata": '<!DOCTYPE r [<!ENTITY x "y">]><r/>'},
        {"issuer": "https://another.example"},
        {"metadata": "", "metadata_url": "http://idp.example/metadata"},
        {"jwks_url": "https://idp.example/keys"},
        {"kind": TrustKind.JWT},
    ],
)
def test_a_trust_that_cant_work_is_refused(acme: Site, idp: Idp, fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        make_saml_trust(acme, idp, **fields)


def test_an_entity_id_neednt_be_a_url(acme: Site) -> None:
    idp = make_idp(entity_id="urn:acme:idp")
    make_saml_trust(acme, idp, issuer="urn:acme:idp")
    assert present(honest(idp)).status_code == 200


def test_a_trust_is_made_over_rest(acme: Site, idp: Idp) -> None:
    client = Client()
    client.force_login(acme.people[Role.OWNER])
    wanted = {"name": "adfs", "kind": "saml", "issuer": ENTITY_ID, "audience": AUDIENCE, "metadata": idp.metadata()}
    rules = [{"conditions": ["sub = robot@acme.example"], "agent": "reporter"}]
    made = client.post("/api/v1/oidc-trusts/", {**wanted, "rules": rules}, content_type="application/json")
    assert made.status_code == 201, made.content
    assert made.json()["kind"] == "saml"
    assert got(present(honest(idp))).agent == acme.agent
    broken = client.post("/api/v1/oidc-trusts/", {**wanted, "metadata": "<a/>"}, content_type="application/json")
    assert (broken.status_code, broken.json()["errors"][0]["field"]) == (400, "metadata")


def test_a_trust_is_made_by_a_document(
    acme: Site, idp: Idp, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document = {
        "kind": "OidcTrust",
        "tenant": "acme",
        "name": "adfs",
        "proof": "saml",
        "issuer": ENTITY_ID,
        "audience": AUDIENCE,
        "metadata": idp.metadata(),
        "rules": [{"conditions": ["sub = robot@acme.example"], "agent": "reporter"}],
    }
    path = tmp_path / "trust.yaml"
    path.write_text(json.dumps(document))
    call_command("apply", file=[path])
    assert "+ OidcTrust adfs" in capsys.readouterr().out
    assert got(present(honest(idp))).agent == acme.agent
