"""Trying a provider out: what is right with it, what is wrong, and what would mend that."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import httpx
from cryptography import x509
from django_scopes import scope

from accounts import jwks
from accounts.federation import oidc, saml
from accounts.federation.metadata import read_oidc, read_saml
from accounts.federation.models import IdentityProvider, RoleMapping
from accounts.jwks import BadDocument
from controlplane.keyring import KeyringError, open_sealed

#: Time to have a certificate replaced.
EXPIRES_SOON: Final = timedelta(days=30)
_TROUBLE: Final = (httpx.HTTPError, httpx.InvalidURL, BadDocument)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    is_good: bool
    text: str


def check_provider(provider: IdentityProvider, *, now: datetime) -> list[Finding]:
    """Everything about it that can be known without signing in. Asks the provider, within bounds; caches nothing."""
    findings = list(_check_oidc(provider) if provider.is_oidc else _check_saml(provider, now=now))
    with scope(tenant=provider.tenant_id):
        mapped = RoleMapping.objects.filter(provider=provider).count()
    findings.append(
        Finding(True, f"{mapped} groups give roles.")
        if mapped
        else Finding(False, f"No group gives a role, so nobody gets in. Map values of “{provider.groups_claim}”.")
    )
    if not provider.is_active:
        findings.append(Finding(False, "It is switched off."))
    return findings


def pasted_there(provider: IdentityProvider) -> dict[str, str]:
    """What is entered on the provider's side: its word for it → our value."""
    if provider.is_oidc:
        return {"Redirect URI": oidc.callback_url(provider)}
    return {
        "Entity ID, and URL of our metadata": saml.url_of(provider, "saml-metadata"),
        "Assertion consumer service (ACS) URL": saml.url_of(provider, "saml-acs"),
        "Single logout URL (HTTP-Redirect)": saml.url_of(provider, "saml-logout"),
    }


def _check_oidc(provider: IdentityProvider) -> Iterator[Finding]:
    yield _secret(provider)
    try:
        document = read_oidc(provider)
    except _TROUBLE as error:
        yield Finding(False, f"The discovery document can't be used: {_words(error)}.")
        return
    yield Finding(True, "The discovery document names this issuer and its endpoints.")
    try:
        count = jwks.count_keys(str(document["jwks_uri"]))
    except _TROUBLE as error:
        yield Finding(False, f"The keys can't be used: {_words(error)}.")
    else:
        yield Finding(count > 0, f"{count} keys can verify its tokens.")
    yield from _offers(document, "code_challenge_methods_supported", "S256", "PKCE by S256")
    yield from _offers(document, "response_types_supported", "code", "the code flow")
    for wanted in provider.scopes.split():
        yield from _offers(document, "scopes_supported", wanted, f"scope {wanted}")


def _check_saml(provider: IdentityProvider, *, now: datetime) -> Iterator[Finding]:
    yield _secret(provider)
    try:
        idp = read_saml(provider)
    except _TROUBLE as error:
        yield Finding(False, f"The metadata can't be used: {_words(error)}.")
        return
    yield Finding(True, f"The metadata names this entity; people sign in at {idp['singleSignOnService']['url']}.")
    certificates = idp.get("x509certMulti", {}).get("signing") or [idp.get("x509cert", "")]
    for text in certificates:
        yield _certificate(text, now=now)
    if "singleLogoutService" not in idp:
        yield Finding(True, "It offers no single logout by HTTP-Redirect: signing out ends our session alone.")


def _certificate(text: str, *, now: datetime) -> Finding:
    try:
        certificate = x509.load_der_x509_certificate(base64.b64decode(text))
    except (ValueError, binascii.Error):
        return Finding(False, "A certificate in the metadata can't be read.")
    ends = certificate.not_valid_after_utc
    if ends < now:
        return Finding(False, f"Its certificate expired on {ends:%Y-%m-%d}. Fetch or paste newer metadata.")
    return Finding(ends > now + EXPIRES_SOON, f"Its certificate is good until {ends:%Y-%m-%d}.")


def _secret(provider: IdentityProvider) -> Finding:
    what = "client secret" if provider.is_oidc else "SAML key"
    try:
        open_sealed(provider.sealed_secret, context=provider.secret_context)
    except KeyringError as error:
        return Finding(False, f"The {what} can't be opened: {error}.")
    return Finding(True, f"The {what} is there.")


def _offers(document: dict[str, Any], field: str, wanted: str, words: str) -> Iterator[Finding]:
    """Providers that don't say what they offer aren't blamed for it."""
    listed = document.get(field)
    if isinstance(listed, list) and wanted not in listed:
        yield Finding(False, f"It doesn't offer {words}.")


def _words(error: Exception) -> str:
    return str(error)[:200] or type(error).__name__
