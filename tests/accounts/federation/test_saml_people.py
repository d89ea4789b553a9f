"""People who sign in by SAML: an honest provider lets them in, and each known attack lets nobody in."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from django.core.cache import cache
from django.core.exceptions import ValidationError
from django.test import Client
from django_scopes import scope, scopes_disabled
from lxml import etree

from accounts.federation import actions
from accounts.federation.models import FederatedIdentity, IdentityProvider
from accounts.federation.saml_guard import ASSERTION, DS, SAML, SIGNATURE, decode_message
from accounts.models import Membership
from controlplane.authority import Role
from tests.accounts.conftest import Site
from tests.accounts.federation.conftest import PUBLIC_URL, make_provider
from tests.accounts.federation.saml_idp import (
    ENTITY_ID,
    SSO_URL,
    Idp,
    encode,
    encrypt_assertion,
    instant,
    make_idp,
    wrapped,
)

SITE = f"{PUBLIC_URL}/sign-in/acme/saml/"
Change = Callable[[etree._Element], Any]


@pytest.fixture(scope="module")
def idp() -> Idp:
    return make_idp()


@pytest.fixture(scope="module")
def stranger() -> Idp:
    """Another provider, that says it is the first."""
    return make_idp()


def make_saml(site: Site, idp: Idp, **fields: Any) -> IdentityProvider:
    values = {
        "slug": "saml",
        "kind": "saml",
        "issuer": ENTITY_ID,
        "client_id": "",
        "metadata": idp.metadata(),
        **fields,
    }
    return make_provider(site, **values)


@pytest.fixture
def ours(acme: Site, idp: Idp) -> IdentityProvider:
    return make_saml(acme, idp)


def begin(browser: Client, **query: str) -> str:
    """Start; the ID of the request that was sent to the provider."""
    answer = browser.get(SITE, query)
    assert answer.status_code == 302, answer.content
    sent = {name: values[0] for name, values in parse_qs(urlsplit(answer.headers["Location"]).query).items()}
    assert answer.headers["Location"].startswith(SSO_URL)
    assert sent["SigAlg"].endswith("rsa-sha256")
    request = etree.fromstring(decode_message(sent["SAMLRequest"], is_deflated=True))
    return str(request.get("ID"))


def post(root: etree._Element | bytes, browser: Client | None = None) -> Any:
    """The provider's POST arrives without the browser's cookies; the browser then follows."""
    answer = Client().post(f"{SITE}acs/", {"SAMLResponse": encode(root), "RelayState": "https://evil.example/"})
    if answer.status_code != 303 or browser is None:
        return answer
    return browser.get(answer.headers["Location"])


def honest(idp: Idp, request_id: str, **said: Any) -> etree._Element:
    """A response with a signed assertion."""
    root = idp.response(site=SITE, request_id=request_id, **said)
    idp.sign(root.find(ASSERTION))
    return root


def is_signed_in(browser: Client) -> bool:
    return bool(browser.get("/admin/").status_code == 200)


def assert_nobody_got_in(answer: Any, browser: Client) -> None:
    assert answer.status_code == 403, answer
    assert not is_signed_in(browser)
    with scopes_disabled():
        assert not FederatedIdentity.objects.exists()


def test_an_honest_response_lets_the_person_in_where_they_wanted_to_go(
    acme: Site, ours: IdentityProvider, idp: Idp, browser: Client
) -> None:
    request_id = begin(browser, next="/admin/accounts/agent/")
    answer = post(honest(idp, request_id, groups=["staff", "admins"]), browser)
    assert (answer.status_code, answer.headers["Location"]) == (302, "/admin/accounts/agent/")
    assert is_signed_in(browser)
    with scope(tenant=acme.tenant):
        assert Membership.objects.get(user__email="ada@acme.example").role == Role.ADMIN


def test_a_signed_response_with_a_signed_assertion_is_taken(ours: IdentityProvider, idp: Idp, browser: Client) -> None:
    root = honest(idp, begin(browser))
    idp.sign(root)
    assert post(root, browser).status_code == 302


@pytest.mark.parametrize("kind", range(1, 9))
def test_a_wrapped_signature_lets_nobody_in(ours: IdentityProvider, idp: Idp, browser: Client, kind: int) -> None:
    root = idp.response(site=SITE, request_id=begin(browser))
    idp.sign(root if kind in {1, 2} else root.find(ASSERTION))
    assert_nobody_got_in(post(wrapped(root, kind), browser), browser)


WRONG: dict[str, dict[str, Any]] = {
    "recipient of another": {"recipient": "https://another.example/acs/"},
    "recipient that only contains ours": {"recipient": f"{SITE}acs/evil"},
    "audience of another": {"audience": "https://another.example/"},
    "no audience": {"audience": ""},
    "destination of another": {"destination": "https://another.example/acs/"},
    "destination that begins with ours": {"destination": f"{SITE}acs/evil"},
    "issuer of another": {"issuer": "https://another.example/"},
    "over": {"ends": instant(-600)},
    "not begun": {"begins": instant(3600)},
    "confirmation over": {"confirmed_until": instant(-1)},
    "confirmation without end": {"confirmed_until": instant(100_000)},
    "answer to another request": {"in_response_to": "_another"},
    "answer to nothing": {"in_response_to": ""},
    "failure": {"status": "Requester"},
    "transient name": {"format": "urn:oasis:names:tc:SAML:2.0:nameid-format:transient"},
    "no group with a role": {"groups": ["guests"]},
    "name with a comment": {"name_id": "owner@acme.example<!---->.evil.example"},
    "address with a comment": {"email": "owner@acme.example<!---->.evil.example"},
    "name with a processing instruction": {"name_id": "owner@acme.example<?x?>.evil.example"},
}


@pytest.mark.parametrize("said", WRONG)
def test_a_response_that_isnt_for_this_sign_in_lets_nobody_in(
    ours: IdentityProvider, idp: Idp, browser: Client, said: str
) -> None:
    root = honest(idp, begin(browser), **WRONG[said])
    assert_nobody_got_in(post(root, browser), browser)


def test_an_unsigned_assertion_in_a_signed_response_lets_nobody_in(
    ours: IdentityProvider, idp: Idp, browser: Client
) -> None:
    root = idp.response(site=SITE, request_id=begin(browser))
    idp.sign(root)
    assert_nobody_got_in(post(root, browser), browser)


def test_a_signed_assertion_in_an_unsigned_response_is_for_providers_that_may(
    acme: Site, idp: Idp, browser: Client
) -> None:
    make_saml(acme, idp, wants_signed_response=True)
    assert_nobody_got_in(post(honest(idp, begin(browser)), browser), browser)
    root = honest(idp, begin(browser))
    idp.sign(root)
    assert post(root, browser).status_code == 302


def test_an_unsigned_response_cant_say_what_the_assertion_doesnt(
    ours: IdentityProvider, idp: Idp, browser: Client
) -> None:
    root = honest(idp, "_another")
    root.set("InResponseTo", begin(browser))
    assert_nobody_got_in(post(root, browser), browser)


def test_nothing_signed_at_all_lets_nobody_in(ours: IdentityProvider, idp: Idp, browser: Client) -> None:
    assert_nobody_got_in(post(idp.response(site=SITE, request_id=begin(browser)), browser), browser)


def test_a_signature_of_another_key_lets_nobody_in(ours: IdentityProvider, stranger: Idp, browser: Client) -> None:
    assert_nobody_got_in(post(honest(stranger, begin(browser)), browser), browser)


def _rename(root: etree._Element) -> None:
    next(root.iter(f"{SAML}NameID")).text = "owner@acme.example"


def _drop_signature_value(root: etree._Element) -> None:
    next(root.iter(f"{DS}SignatureValue")).text = ""


def _second_reference(root: etree._Element) -> None:
    info = next(root.iter(f"{DS}SignedInfo"))
    info.append(etree.fromstring(etree.tostring(info[-1])))


def _reference_whole(root: etree._Element) -> None:
    next(root.iter(f"{DS}Reference")).set("URI", "")


def _same_id(root: etree._Element) -> None:
    root.set("ID", str(root.find(ASSERTION).get("ID")))


def _hmac(root: etree._Element) -> None:
    next(root.iter(f"{DS}SignatureMethod")).set("Algorithm", "http://www.w3.org/2000/09/xmldsig#hmac-sha1")


def _stray_signature(root: etree._Element) -> None:
    root[1].append(root.find(ASSERTION).find(SIGNATURE))


def _retrieval(root: etree._Element) -> None:
    info = etree.SubElement(next(root.iter(SIGNATURE)), f"{DS}KeyInfo")
    etree.SubElement(info, f"{DS}RetrievalMethod").set("URI", "http://127.0.0.1:1/key")


@pytest.mark.parametrize(
    "change",
    [
        _rename,
        _drop_signature_value,
        _second_reference,
        _reference_whole,
        _same_id,
        _hmac,
        _stray_signature,
        _retrieval,
    ],
)
def test_a_response_that_was_changed_lets_nobody_in(
    ours: IdentityProvider, idp: Idp, browser: Client, change: Change
) -> None:
    root = honest(idp, begin(browser))
    change(root)
    assert_nobody_got_in(post(root, browser), browser)


XSLT = """<ds:Transform xmlns:ds="http://www.w3.org/2000/09/xmldsig#" Algorithm="http://www.w3.org/TR/1999/REC-xslt-19991116">
<xsl:stylesheet version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform"><xsl:template match="/">
<xsl:for-each select="//. | //@*"><xsl:for-each select="//. | //@*"><xsl:for-each select="//. | //@*">
<xsl:for-each select="//. | //@*"><xsl:value-of select="."/></xsl:for-each></xsl:for-each></xsl:for-each></xsl:for-each>
</xsl:template></xsl:stylesheet></ds:Transform>"""


def _xslt(root: etree._Element) -> None:
    next(root.iter(f"{DS}Transform")).addnext(etree.fromstring(XSLT))


def _xpath(root: etree._Element) -> None:
    next(root.iter(f"{DS}Transform")).set("Algorithm", "http://www.w3.org/TR/1999/REC-xpath-19991116")


def _stylesheet_in_c14n(root: etree._Element) -> None:
    list(root.iter(f"{DS}Transform"))[-1].append(etree.fromstring(XSLT)[0])


@pytest.mark.parametrize("change", [_xslt, _xpath, _stylesheet_in_c14n])
def test_other_transforms_are_refused_before_the_library_runs_them(
    ours: IdentityProvider, idp: Idp, browser: Client, change: Change, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seen(*_: Any) -> None:
        raise AssertionError("the library saw it")

    root = honest(idp, begin(browser))
    change(root)
    monkeypatch.setattr("accounts.federation.saml.OneLogin_Saml2_Response", seen)
    assert_nobody_got_in(post(root, browser), browser)


@pytest.mark.parametrize("second", ["C14N", None])
def test_other_canonical_forms_are_refused_though_well_signed(
    ours: IdentityProvider, idp: Idp, browser: Client, second: str | None
) -> None:
    root = idp.response(site=SITE, request_id=begin(browser))
    idp.sign(root.find(ASSERTION), transforms=("ENVELOPED", second) if second else ("ENVELOPED",))
    assert_nobody_got_in(post(root, browser), browser)


def test_sha1_is_refused_though_well_signed(ours: IdentityProvider, idp: Idp, browser: Client) -> None:
    for method, digest in (("RSA_SHA1", "SHA256"), ("RSA_SHA256", "SHA1")):
        root = idp.response(site=SITE, request_id=begin(browser))
        idp.sign(root.find(ASSERTION), method=method, digest=digest)
        assert_nobody_got_in(post(root, browser), browser)


DTDS = [
    b'<!DOCTYPE r [<!ENTITY x SYSTEM "file:///etc/passwd">]>',
    b'<!DOCTYPE r [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>',
    b'<!DOCTYPE r SYSTEM "http://127.0.0.1:1/evil.dtd">',
]


@pytest.mark.parametrize("dtd", DTDS)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-7"])
def test_a_dtd_lets_nobody_in_and_is_not_followed(
    ours: IdentityProvider, idp: Idp, browser: Client, dtd: bytes, encoding: str
) -> None:
    text = (dtd + etree.tostring(honest(idp, begin(browser), name_id="&amp;x;"))).decode()
    declared = f'<?xml version="1.0" encoding="{encoding}"?>{text}'.encode(encoding)
    assert_nobody_got_in(post(declared, browser), browser)


@pytest.mark.parametrize(
    "garbage", [b"", b"<", b"<a/>", b"\x00" * 100, b"<a>" * 10_000, b"<r>" + b"<a/>" * 6_000 + b"</r>", b"x" * 300_000]
)
def test_garbage_is_refused_within_bounds(ours: IdentityProvider, browser: Client, garbage: bytes) -> None:
    assert_nobody_got_in(post(garbage, browser), browser)
    for text in ("", "no base64!", "é"):
        assert Client().post(f"{SITE}acs/", {"SAMLResponse": text}).status_code == 403


def test_a_response_is_good_once(ours: IdentityProvider, idp: Idp, browser: Client) -> None:
    root = honest(idp, begin(browser))
    assert post(root).status_code == 303
    assert_nobody_got_in(post(root, browser), browser)


def test_only_the_browser_that_asked_uses_the_answer_once(ours: IdentityProvider, idp: Idp, browser: Client) -> None:
    where = post(honest(idp, begin(browser))).headers["Location"]
    thief = Client()
    begin(thief)
    assert thief.get(where).status_code == 403
    assert not is_signed_in(thief)
    assert browser.get(where).status_code == 403  # the handle is spent

    where = post(honest(idp, begin(browser))).headers["Location"]
    assert browser.get(where).status_code == 302
    assert browser.get(where).status_code == 403


def test_the_answer_of_one_provider_is_no_answer_at_another(
    acme: Site, globex: Site, ours: IdentityProvider, idp: Idp, browser: Client
) -> None:
    """Two tenants with the same provider: what it says to one isn't for the other."""
    make_saml(globex, idp)
    root = honest(idp, begin(browser))
    answer = Client().post("/sign-in/globex/saml/acs/", {"SAMLResponse": encode(root)})
    assert_nobody_got_in(answer, browser)


def test_a_provider_may_be_allowed_to_start(acme: Site, idp: Idp, browser: Client) -> None:
    ours = make_saml(acme, idp)
    assert_nobody_got_in(post(honest(idp, "")), browser)
    ours.allows_unasked = True
    actions.save_provider(ours, acting_user=None)
    assert post(honest(idp, ""), browser).status_code == 302
    assert is_signed_in(browser)


def test_an_encrypted_assertion_is_taken(ours: IdentityProvider, idp: Idp, browser: Client) -> None:
    root = honest(idp, begin(browser))
    encrypt_assertion(root, ours.certificate)
    assert b"ada@acme.example" not in etree.tostring(root)
    assert post(root, browser).status_code == 302
    assert is_signed_in(browser)


@pytest.mark.parametrize("change", [_rename, _reference_whole])
def test_what_is_wrong_inside_an_encrypted_assertion_lets_nobody_in(
    ours: IdentityProvider, idp: Idp, browser: Client, change: Change
) -> None:
    """Anybody can encrypt for us: what comes out is looked at as what comes in."""
    root = honest(idp, begin(browser))
    change(root)
    encrypt_assertion(root, ours.certificate)
    assert_nobody_got_in(post(root, browser), browser)


def test_other_transforms_inside_an_encrypted_assertion_are_refused_before_the_library_runs_them(
    ours: IdentityProvider, idp: Idp, browser: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seen(*_: Any) -> None:
        raise AssertionError("the library saw it")

    root = honest(idp, begin(browser))
    _xslt(root)
    encrypt_assertion(root, ours.certificate)
    monkeypatch.setattr("accounts.federation.saml.OneLogin_Saml2_Response.is_valid", seen)
    assert_nobody_got_in(post(root, browser), browser)


def test_an_assertion_encrypted_for_somebody_else_lets_nobody_in(
    ours: IdentityProvider, idp: Idp, stranger: Idp, browser: Client
) -> None:
    root = honest(idp, begin(browser))
    encrypt_assertion(root, stranger.certificate)
    assert_nobody_got_in(post(root, browser), browser)


def test_the_provider_ends_the_sign_ins_that_it_names(ours: IdentityProvider, idp: Idp, browser: Client) -> None:
    assert post(honest(idp, begin(browser)), browser).status_code == 302
    query = idp.logout_query(site=SITE, name_id="bob@acme.example")
    assert Client().get(f"{SITE}logout/", query).status_code == 302
    assert is_signed_in(browser)
    query = idp.logout_query(site=SITE, name_id="ada@acme.example")
    answer = Client().get(f"{SITE}logout/", query)
    assert answer.headers["Location"].startswith("https://idp.acme.example/slo?SAMLResponse=")
    assert not is_signed_in(browser)


def test_a_logout_that_isnt_the_providers_ends_nothing(
    ours: IdentityProvider, idp: Idp, stranger: Idp, browser: Client
) -> None:
    assert post(honest(idp, begin(browser)), browser).status_code == 302
    sound = idp.logout_query(site=SITE, name_id="ada@acme.example")
    forged = stranger.logout_query(site=SITE, name_id="ada@acme.example")
    unsigned = {"SAMLRequest": sound["SAMLRequest"]}
    weak = {**sound, "SigAlg": "http://www.w3.org/2000/09/xmldsig#rsa-sha1"}
    bomb = {**sound, "SAMLRequest": base64.b64encode(_deflated(b"a" * 50_000_000)).decode()}
    for query in (forged, unsigned, weak, bomb):
        assert Client().get(f"{SITE}logout/", query).status_code == 403
    assert is_signed_in(browser)


def _deflated(data: bytes) -> bytes:
    import zlib

    return zlib.compress(data)[2:-4]


def test_signing_out_here_offers_to_sign_out_there(ours: IdentityProvider, idp: Idp, browser: Client) -> None:
    assert post(honest(idp, begin(browser)), browser).status_code == 302
    page = browser.post("/admin/logout/").content.decode()
    assert "https://idp.acme.example/slo?SAMLRequest=" in page
    assert not is_signed_in(browser)


def test_our_metadata_names_our_urls_and_our_certificate(ours: IdentityProvider) -> None:
    answer = Client().get(f"{SITE}metadata/")
    root = etree.fromstring(answer.content)
    assert root.get("entityID") == f"{SITE}metadata/"
    assert f"{SITE}acs/".encode() in answer.content
    body = "".join(ours.certificate.split("-----")[2].split())
    assert body in answer.content.decode().replace("\n", "")
    assert b"PRIVATE" not in answer.content


def test_certificates_are_fetched_anew_when_theirs_has_changed(
    acme: Site, idp: Idp, stranger: Idp, provider: Any, browser: Client
) -> None:
    provider.documents["/saml"] = stranger.metadata().encode()
    make_saml(acme, idp, metadata="", metadata_url=f"{provider.url}/saml")
    request_id = begin(browser)
    provider.documents["/saml"] = idp.metadata().encode()
    assert post(honest(idp, request_id), browser).status_code == 302
    asked = len(provider.asked)
    for _ in range(3):  # strangers' signatures make us ask no more often than that
        assert post(honest(stranger, begin(browser))).status_code == 403
    assert len(provider.asked) == asked


@pytest.mark.parametrize("metadata", ["<a/>", "no XML", '<!DOCTYPE r [<!ENTITY x "y">]><r/>', "", None])
def test_metadata_that_cant_be_used_isnt_kept(acme: Site, idp: Idp, metadata: str | None) -> None:
    fields = {"issuer": "https://another.example"} if metadata is None else {"metadata": metadata}
    with pytest.raises(ValidationError):
        make_saml(acme, idp, **fields)


def test_the_private_key_is_sealed(ours: IdentityProvider) -> None:
    assert ours.sealed_secret.startswith("ng1.")
    assert "PRIVATE" not in ours.certificate


def test_a_cache_that_is_down_lets_nobody_in(
    ours: IdentityProvider, idp: Idp, browser: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    from redis.exceptions import ConnectionError as RedisConnectionError

    root = honest(idp, begin(browser))

    def down(*_: Any, **__: Any) -> bool:
        raise RedisConnectionError

    monkeypatch.setattr(cache, "add", down)
    assert post(root).status_code == 403
