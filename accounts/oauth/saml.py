"""A SAML assertion as a token to exchange (RFC 8693, 3; RFC 7522, 3): alone, in base64url, made for this endpoint.

    bytes → guard → the one trust for issuer and audience → python3-saml, in a Response of ours → our checks → once

python3-saml knows assertions within Responses only; by exclusive canonicalisation, which the guard requires, what was
signed is the same in there. What it says becomes claims, to which the trust's rules apply as to those of a JWT.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final
from uuid import UUID, uuid4

from lxml import etree
from onelogin.saml2.constants import OneLogin_Saml2_Constants
from onelogin.saml2.errors import OneLogin_Saml2_Error
from onelogin.saml2.response import OneLogin_Saml2_Response
from onelogin.saml2.settings import OneLogin_Saml2_Settings
from onelogin.saml2.utils import OneLogin_Saml2_Utils

from accounts.errors import BadCredential, SignInRefused
from accounts.federation.metadata import renew_saml_idp, saml_idp
from accounts.federation.saml import (
    CLOCK_SKEW,
    LIBRARY_TROUBLE,
    STRICT,
    check_audience,
    check_confirmation,
    request_data,
)
from accounts.federation.saml_guard import SAML, UnsafeXml, check_assertion, check_response, parse_safely
from accounts.models import OidcTrust, TrustKind
from accounts.oauth.once import take_once
from accounts.oidc import VerifiedToken, find_trust

BY_SAML: Final = "saml"
#: With some hundred groups, an assertion is some 30 KB.
MAX_ASSERTION_CHARACTERS: Final = 96 * 1024
#: Claims that are ours to make, and those of a JWT that mean more than an attribute may say.
RESERVED: Final = frozenset({"iss", "sub", "aud", "name_id_format", "act", "may_act"})
MAX_ATTRIBUTES: Final = 200

_BASE64URL: Final = re.compile(r"[A-Za-z0-9_-]+={0,2}")
#: The prefix is nobody else's, so that it can't change what was signed.
_RESPONSE: Final = (
    '<narrowgate-p:Response xmlns:narrowgate-p="urn:oasis:names:tc:SAML:2.0:protocol" ID="_{id}" Version="2.0"'
    ' IssueInstant="{now}"><narrowgate-p:Status><narrowgate-p:StatusCode'
    ' Value="urn:oasis:names:tc:SAML:2.0:status:Success"/></narrowgate-p:Status>{assertion}</narrowgate-p:Response>'
)


def verify_assertion(encoded: str, *, endpoint: str, now: datetime, tenant_id: UUID | None) -> VerifiedToken:
    """Check an assertion for the token endpoint at this URL, and take it, once. Raises `BadCredential`."""
    try:
        root = parse_safely(_decoded(encoded))
        check_assertion(root)
        issuer = root.findtext(f"{SAML}Issuer") or ""
        audiences = [node.text for node in root.iter(f"{SAML}Audience")]
        trust = find_trust(TrustKind.SAML, issuer, audiences, tenant_id=tenant_id)
        response = _validated(trust, root, endpoint=endpoint, now=now)
        check_audience(root, trust.audience)
        confirmed_until = check_confirmation(root, acs_url=endpoint, in_response_to="", now=now)
        expires_at = min([confirmed_until, *_ends(root)])
        claims = _claims(response, root, issuer=issuer)
    except UnsafeXml as error:
        raise BadCredential(f"assertion: {error}") from None
    except SignInRefused as error:
        raise BadCredential(error.why) from None
    if expires_at <= now:
        raise BadCredential("assertion: expired")
    proof = f"saml\x00{issuer}\x00{root.get('ID')}"
    if not take_once(proof, tenant_id=trust.tenant_id, expires_at=confirmed_until + CLOCK_SKEW):
        raise BadCredential("assertion: used before")
    return VerifiedToken(trust=trust, claims=claims, expires_at=expires_at, authenticated_by=BY_SAML)


def _decoded(encoded: str) -> bytes:
    if len(encoded) > MAX_ASSERTION_CHARACTERS or not _BASE64URL.fullmatch(encoded):
        raise UnsafeXml("it is too long, or no base64url")
    try:
        return base64.urlsafe_b64decode(encoded.rstrip("=") + "=" * (-len(encoded.rstrip("=")) % 4))
    except binascii.Error:
        raise UnsafeXml("it is no base64url") from None


def _validated(trust: OidcTrust, root: etree._Element, *, endpoint: str, now: datetime) -> Any:
    """The library's response, found valid; with certificates fetched anew when these don't verify it."""
    assertion = etree.tostring(root, encoding="unicode")
    instant = OneLogin_Saml2_Utils.parse_time_to_SAML(now.timestamp())
    data = _RESPONSE.format(id=uuid4().hex, now=instant, assertion=assertion).encode()
    check_response(parse_safely(data))
    found = _problem(trust, data, endpoint=endpoint, idp=saml_idp(trust))
    if isinstance(found, str):
        renewed = renew_saml_idp(trust)
        found = found if renewed is None else _problem(trust, data, endpoint=endpoint, idp=renewed)
    if isinstance(found, str):
        raise BadCredential(f"assertion: {found[:200]}")
    return found


def _problem(trust: OidcTrust, data: bytes, *, endpoint: str, idp: Mapping[str, Any]) -> Any:
    """The valid response, or in words what is wrong with it."""
    service = {"url": endpoint, "binding": OneLogin_Saml2_Constants.BINDING_HTTP_POST}
    values = {
        "strict": True,
        "debug": False,
        "sp": {"entityId": trust.audience, "assertionConsumerService": service},
        "idp": dict(idp),
        "security": {**STRICT},
    }
    try:
        response = OneLogin_Saml2_Response(OneLogin_Saml2_Settings(values), base64.b64encode(data).decode())
        is_valid = response.is_valid(request_data(endpoint))
    except (OneLogin_Saml2_Error, *LIBRARY_TROUBLE) as error:
        return type(error).__name__
    return response if is_valid else str(response.get_error())


def _ends(root: etree._Element) -> Sequence[datetime]:
    """When the assertion's conditions and its subject's session end; the library leaves minutes to the clocks."""
    named = [node.get("NotOnOrAfter") for node in root.iter(f"{SAML}Conditions")]
    named += [node.get("SessionNotOnOrAfter") for node in root.iter(f"{SAML}AuthnStatement")]
    try:
        return [datetime.fromtimestamp(OneLogin_Saml2_Utils.parse_SAML_to_time(text), tz=UTC) for text in named if text]
    except LIBRARY_TROUBLE:
        raise BadCredential("assertion: a time that is none") from None


def _claims(response: Any, root: etree._Element, *, issuer: str) -> dict[str, Any]:
    """`iss`, `sub` (the NameID) and `aud` as in a JWT, and each attribute by its name: its text, or a list of them."""
    try:
        name_id, name_format = response.get_nameid(), response.get_nameid_format()
        attributes: Mapping[str, Sequence[object]] = response.get_attributes()
    except LIBRARY_TROUBLE as error:
        raise BadCredential(f"assertion: {type(error).__name__}") from None
    if len(attributes) > MAX_ATTRIBUTES:
        raise BadCredential("assertion: too many attributes")
    claims: dict[str, Any] = {}
    for name, values in attributes.items():
        texts = [value for value in values if isinstance(value, str)]
        if name not in RESERVED and texts:
            claims[name] = texts[0] if len(texts) == 1 else texts
    audiences = [node.text for node in root.iter(f"{SAML}Audience")]
    return {**claims, "iss": issuer, "sub": name_id, "aud": audiences, "name_id_format": name_format}
