"""SAML 2.0 for one provider: python3-saml between a guard before it (`saml_guard`) and stricter checks behind it.

    bytes → guard → decrypt → guard again → python3-saml: signature, conditions → our checks → `VerifiedResponse`

python3-saml takes a recipient that only contains our URL, an assertion that names no audience, and no destination; here
all three must be exactly ours. A response is good once: its assertion's ID is kept until it has expired.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import urlsplit

import structlog
import xmlsec
from django.conf import settings
from django.core.cache import cache
from django.urls import reverse
from lxml import etree
from onelogin.saml2.constants import OneLogin_Saml2_Constants
from onelogin.saml2.errors import OneLogin_Saml2_Error, OneLogin_Saml2_ValidationError
from onelogin.saml2.response import OneLogin_Saml2_Response
from onelogin.saml2.settings import OneLogin_Saml2_Settings
from onelogin.saml2.utils import OneLogin_Saml2_Utils
from redis.exceptions import RedisError

from accounts.errors import SignInRefused
from accounts.federation.metadata import renew_saml_idp, saml_idp
from accounts.federation.models import IdentityProvider
from accounts.federation.persons import Person, make_person
from accounts.federation.saml_guard import (
    ASSERTION,
    SAML,
    UnsafeXml,
    check_response,
    decode_message,
    is_signed,
    parse_safely,
)
from accounts.signin.models import SignInMethod
from controlplane.keyring import open_sealed

log = structlog.get_logger(__name__)

#: A response is used within seconds; one that claims to be good for longer would have to be remembered for longer.
MAX_VALIDITY: Final = timedelta(hours=1)
#: What python3-saml allows between the clocks.
CLOCK_SKEW: Final = timedelta(seconds=OneLogin_Saml2_Constants.ALLOWED_CLOCK_DRIFT)
#: What the library is told wherever an assertion is checked.
STRICT: Final = {
    "wantAssertionsSigned": True,
    "wantNameId": True,
    "wantAttributeStatement": False,
    "allowRepeatAttributeName": True,
    "requestedAuthnContext": False,
    "allowSingleLabelDomains": True,
    "rejectDeprecatedAlgorithm": True,
    "signatureAlgorithm": OneLogin_Saml2_Constants.RSA_SHA256,
    "digestAlgorithm": OneLogin_Saml2_Constants.SHA256,
}
#: Whatever the library makes of bytes that it did not expect.
LIBRARY_TROUBLE: Final = (
    OneLogin_Saml2_Error, OneLogin_Saml2_ValidationError, xmlsec.Error, etree.LxmlError, ValueError, TypeError,
    KeyError, IndexError, AttributeError,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class VerifiedResponse:
    """What a response proves, and which request of ours it answers ("" when it came unasked)."""

    person: Person
    in_response_to: str


def url_of(provider: IdentityProvider, name: str) -> str:
    """One of our URLs for this provider: saml-acs, saml-metadata (also our entity ID), saml-logout, saml-finish."""
    return f"{settings.NARROWGATE.public_url}{reverse(name, args=[provider.tenant.slug, provider.slug])}"


def library_settings(
    provider: IdentityProvider, *, idp: dict[str, Any] | None = None, for_logout: bool = False
) -> OneLogin_Saml2_Settings:
    """python3-saml's settings for this provider. Raises `SignInRefused` when its metadata can't be had."""
    private_key = open_sealed(provider.sealed_secret, context=provider.secret_context).decode()
    values = {
        "strict": True,
        "debug": False,
        "sp": {
            "entityId": url_of(provider, "saml-metadata"),
            "assertionConsumerService": {
                "url": url_of(provider, "saml-acs"),
                "binding": OneLogin_Saml2_Constants.BINDING_HTTP_POST,
            },
            "singleLogoutService": {
                "url": url_of(provider, "saml-logout"),
                "binding": OneLogin_Saml2_Constants.BINDING_HTTP_REDIRECT,
            },
            "NameIDFormat": OneLogin_Saml2_Constants.NAMEID_UNSPECIFIED,
            "x509cert": provider.certificate,
            "privateKey": private_key,
        },
        "idp": saml_idp(provider) if idp is None else idp,
        "security": {
            "authnRequestsSigned": True,
            "logoutRequestSigned": True,
            "logoutResponseSigned": True,
            "wantMessagesSigned": for_logout or provider.wants_signed_response,
            **STRICT,
        },
    }
    try:
        return OneLogin_Saml2_Settings(values)
    except OneLogin_Saml2_Error as error:
        raise SignInRefused(f"settings: {error}") from None


def request_data(url: str, **more: Any) -> dict[str, Any]:
    """A request to that URL of ours, as python3-saml wants to hear of it: by configuration, not by headers."""
    parts = urlsplit(url)
    is_tls = "on" if parts.scheme == "https" else "off"
    return {
        "https": is_tls,
        "http_host": parts.netloc,
        "script_name": parts.path,
        "get_data": {},
        "post_data": {},
        **more,
    }


def metadata(provider: IdentityProvider) -> str:
    """Ours, for the provider."""
    text = library_settings(provider, for_logout=False).get_sp_metadata()
    return text.decode() if isinstance(text, bytes) else str(text)


def verify_response(provider: IdentityProvider, encoded: str, *, now: datetime) -> VerifiedResponse:
    """Check a response and take it, once. Raises `SignInRefused`."""
    try:
        data = decode_message(encoded)
        check_response(parse_safely(data))
    except UnsafeXml as error:
        raise SignInRefused(f"response: {error}") from None
    response = _validated(provider, data)
    document = response.get_xml_document()
    assertion = document.find(ASSERTION)
    if not is_signed(assertion):
        raise SignInRefused("assertion: not signed")
    if provider.wants_signed_response and not is_signed(response.document):
        raise SignInRefused("response: not signed")
    in_response_to = response.document.get("InResponseTo", "")
    acs_url = url_of(provider, "saml-acs")
    destination = response.document.get("Destination")
    if destination != acs_url and (destination is not None or is_signed(response.document)):
        raise SignInRefused("response: destination")
    check_audience(assertion, url_of(provider, "saml-metadata"))
    expires_at = check_confirmation(assertion, acs_url=acs_url, in_response_to=in_response_to, now=now)
    person = _person(provider, response)
    _take_once(provider, assertion.get("ID"), timeout=(expires_at + CLOCK_SKEW - now).total_seconds())
    return VerifiedResponse(person=person, in_response_to=in_response_to)


def _validated(provider: IdentityProvider, data: bytes) -> Any:
    """The library's response, found valid; with certificates fetched anew when these don't verify it."""
    problem = _problem(provider, data, idp=None)
    if isinstance(problem, str):
        renewed = renew_saml_idp(provider)
        problem = problem if renewed is None else _problem(provider, data, idp=renewed)
    if isinstance(problem, str):
        raise SignInRefused(f"response: {problem[:200]}")
    return problem


def _problem(provider: IdentityProvider, data: bytes, *, idp: dict[str, Any] | None) -> Any:
    """The valid response, or in words what is wrong with it."""
    try:
        response = OneLogin_Saml2_Response(library_settings(provider, idp=idp), base64.b64encode(data).decode())
        if response.encrypted:  # what was inside could be anything: anybody can encrypt for us
            check_response(parse_safely(etree.tostring(response.decrypted_document)))
        is_valid = response.is_valid(request_data(url_of(provider, "saml-acs")))
    except LIBRARY_TROUBLE as error:
        return f"{type(error).__name__}"
    return response if is_valid else str(response.get_error())


def check_audience(assertion: etree._Element, entity_id: str) -> None:
    """Each restriction names exactly us. Raises `SignInRefused`."""
    restrictions = assertion.findall(f"{SAML}Conditions/{SAML}AudienceRestriction")
    audiences = [[node.text for node in restriction.findall(f"{SAML}Audience")] for restriction in restrictions]
    if not audiences or not all(entity_id in named for named in audiences):
        raise SignInRefused("assertion: audience")


def check_confirmation(assertion: etree._Element, *, acs_url: str, in_response_to: str, now: datetime) -> datetime:
    """The one bearer confirmation (SAML profiles, 4.1.4.2) is for us, for this request, and soon over; returns its end.

    Raises `SignInRefused`.
    """
    found = assertion.findall(f"{SAML}Subject/{SAML}SubjectConfirmation")
    data = found[0].find(f"{SAML}SubjectConfirmationData") if len(found) == 1 else None
    if data is None or found[0].get("Method") != OneLogin_Saml2_Constants.CM_BEARER:
        raise SignInRefused("assertion: confirmation")
    if data.get("Recipient") != acs_url:
        raise SignInRefused("assertion: recipient")
    if data.get("InResponseTo", "") != in_response_to:
        raise SignInRefused("assertion: answers another request")
    try:
        ends = OneLogin_Saml2_Utils.parse_SAML_to_time(data.get("NotOnOrAfter", ""))
        expires_at = datetime.fromtimestamp(ends, tz=UTC)
    except LIBRARY_TROUBLE:
        raise SignInRefused("assertion: no end") from None
    if not now < expires_at <= now + MAX_VALIDITY:
        raise SignInRefused("assertion: expired, or good for too long")
    return expires_at


def _person(provider: IdentityProvider, response: Any) -> Person:
    try:
        name_id, format_ = response.get_nameid(), response.get_nameid_format()
        attributes: dict[str, Sequence[Any]] = {**response.get_friendlyname_attributes(), **response.get_attributes()}
        session_index = response.get_session_index() or ""
    except LIBRARY_TROUBLE as error:
        raise SignInRefused(f"assertion: {type(error).__name__}") from None
    if format_ == OneLogin_Saml2_Constants.NAMEID_TRANSIENT:
        raise SignInRefused("transient NameID", fix="The identity provider must send a lasting NameID.")
    emails = attributes.get(provider.email_claim, [])
    return make_person(
        subject=name_id,
        email=emails[0] if emails else name_id,
        name=next(iter(attributes.get("name", attributes.get("displayName", []))), None),
        groups=attributes.get(provider.groups_claim, []),
        method=SignInMethod.SAML,
        name_id=name_id,
        session_index=session_index[:500],
    )


def _take_once(provider: IdentityProvider, assertion_id: str, *, timeout: float) -> None:
    digest = hashlib.sha256(assertion_id.encode()).hexdigest()
    try:
        is_first = cache.add(f"saml-assertion:{provider.pk}:{digest}", True, timeout=max(1, int(timeout) + 1))
    except RedisError as error:
        log.warning("replay_cache_down", error=type(error).__name__)
        raise SignInRefused("the cache is down") from None
    if not is_first:
        raise SignInRefused("assertion: used before")
