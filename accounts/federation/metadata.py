"""What a provider publishes about itself: fetched with bounds or pasted, checked, kept in the cache for an hour.

OIDC: the discovery document. SAML: the IdP's metadata, as python3-saml's settings have it. Certificates rotate: when a
signature fails, `renew_saml_idp` fetches again, as seldom as unknown keys do.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

import httpx
import structlog
from django.core.cache import cache
from onelogin.saml2.idp_metadata_parser import OneLogin_Saml2_IdPMetadataParser

from accounts import jwks
from accounts.errors import SignInRefused
from accounts.federation.models import IdentityProvider
from accounts.federation.saml_guard import UnsafeXml, parse_safely
from accounts.jwks import BadDocument, is_fetchable

log = structlog.get_logger(__name__)

#: What the flow of a sign-in needs beside `issuer` and `jwks_uri`.
OIDC_ENDPOINTS: Final = ("authorization_endpoint", "token_endpoint")
_METADATA: Final = "{urn:oasis:names:tc:SAML:2.0:metadata}"
_TROUBLE: Final = (httpx.HTTPError, httpx.InvalidURL, BadDocument)


class SamlSource(Protocol):
    """Whose SAML metadata: a provider for people, or a trust for agents."""

    @property
    def pk(self) -> Any:
        """Names it in the cache."""

    @property
    def kind(self) -> str:
        """The protocol."""

    @property
    def issuer(self) -> str:
        """Its entity ID."""

    @property
    def metadata_url(self) -> str:
        """Where it is; empty: pasted."""

    @property
    def metadata(self) -> str:
        """What was pasted."""


def oidc_endpoints(provider: IdentityProvider) -> dict[str, Any]:
    """The discovery document. Raises `SignInRefused`."""
    return _kept(provider, read_oidc)


def saml_idp(provider: SamlSource) -> dict[str, Any]:
    """python3-saml's `idp` settings. Raises `SignInRefused`."""
    return _kept(provider, read_saml)


def renew_saml_idp(provider: SamlSource) -> dict[str, Any] | None:
    """The settings fetched anew, if that is due and they differ; else None."""
    before = saml_idp(provider)
    if not provider.metadata_url or not cache.add(f"{_key(provider)}:renewed", True, timeout=jwks.REFETCH_SECONDS):
        return None
    cache.delete(_key(provider))
    after = saml_idp(provider)
    return None if before == after else after


def read_oidc(provider: IdentityProvider) -> dict[str, Any]:
    """The discovery document, fetched or pasted, uncached. Raises `BadDocument` or httpx.HTTPError."""
    if provider.metadata:
        document = jwks.check_discovery(jwks.parse_object(provider.metadata), issuer=provider.issuer)
    else:
        document = jwks.discover(provider.issuer, url=provider.metadata_url)
    for name in OIDC_ENDPOINTS:
        if not is_fetchable(str(document.get(name, ""))):
            raise BadDocument(f"{name} is no https URL")
    return document


def read_saml(provider: SamlSource) -> dict[str, Any]:
    """The IdP's settings, fetched or pasted, uncached. Raises `BadDocument` or httpx.HTTPError."""
    data = provider.metadata.encode() or jwks.fetch_document(provider.metadata_url)
    try:
        root = parse_safely(data)
    except UnsafeXml as error:
        raise BadDocument(f"the metadata is no XML that we take: {error}") from None
    entities = [root] if root.tag == f"{_METADATA}EntityDescriptor" else root.findall(f"{_METADATA}EntityDescriptor")
    if provider.issuer not in {entity.get("entityID") for entity in entities}:
        raise BadDocument("the metadata is of another entity ID")
    parsed = OneLogin_Saml2_IdPMetadataParser.parse(data, entity_id=provider.issuer)
    idp: dict[str, Any] = parsed.get("idp", {})
    if not is_fetchable(idp.get("singleSignOnService", {}).get("url", "")):
        raise BadDocument("the metadata names no https URL for sign-in by HTTP-Redirect")
    if not (idp.get("x509cert") or idp.get("x509certMulti", {}).get("signing")):
        raise BadDocument("the metadata has no certificate for signatures")
    if "singleLogoutService" in idp and not is_fetchable(idp["singleLogoutService"].get("url", "")):
        del idp["singleLogoutService"]
    return idp


def host_of(url: str) -> str:
    """For people: where a button leads."""
    return urlsplit(url).hostname or ""


def _kept(provider: SamlSource, read: Any) -> dict[str, Any]:
    kept: dict[str, Any] | None = cache.get(_key(provider))
    if kept is None:
        try:
            kept = read(provider)
        except _TROUBLE as error:
            log.warning("provider_metadata_unusable", provider=str(provider.pk), error=str(error)[:200])
            raise SignInRefused(
                f"metadata: {error}", fix="The identity provider can't be reached just now; try again in a minute."
            ) from None
        cache.set(_key(provider), kept, timeout=jwks.FRESH_SECONDS)
    return kept


def _key(provider: SamlSource) -> str:
    said = f"{provider.kind}\0{provider.issuer}\0{provider.metadata_url}\0{provider.metadata}"
    return f"idp:{provider.pk}:{hashlib.sha256(said.encode()).hexdigest()}"
