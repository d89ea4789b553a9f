"""Agents that show a JWT of their tenant's identity provider (RFC 7519, hardened by RFC 8725).

    bounds → header → the one trust for issuer and audience → key → signature → claims → the one agent by its rules

Nothing that a token says is believed before its signature is checked, but for finding the trust that must have made it.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any, Final, TypeGuard
from uuid import UUID

from django.db.models import Q
from joserfc import jws
from joserfc.errors import ExpiredTokenError, JoseError
from joserfc.jwt import JWTClaimsRegistry
from joserfc.registry import HeaderParameter

from accounts.errors import BadCredential, ExpiredCredential
from accounts.jwks import find_key
from accounts.models import Agent, OidcTrust, TrustRule

#: A token with many groups is 4 to 16 KB.
MAX_JWT_BYTES: Final = 32 * 1024
#: Tokens for a machine live minutes to hours; one that claims to live for years is cut to this.
MAX_LIFETIME_SECONDS: Final = 24 * 3600
#: RFC 8725, 3.11: a token made for something else (a logout, a security event) isn't one for us.
TYPES: Final = frozenset({"", "jwt", "at+jwt", "application/at+jwt"})


class _Registry(jws.JWSRegistry):
    """Knows no header by which a token could bring its own key (jwk, jku, x5u, x5c) or extension (crit, b64)."""

    default_header_registry = {
        "alg": HeaderParameter("Algorithm", "str", True),
        "kid": HeaderParameter("Key ID", "str"),
        "typ": HeaderParameter("Type", "str"),
        "x5t": HeaderParameter("X.509 Certificate SHA-1 Thumbprint", "str"),
        "x5t#S256": HeaderParameter("X.509 Certificate SHA-256 Thumbprint", "str"),
    }
    max_header_length = 2048
    max_payload_length = MAX_JWT_BYTES


class VerifiedToken:
    """A token whose signature and claims hold: its trust, its agent, its end, and the person it speaks for."""

    __slots__ = ("agent", "expires_at", "on_behalf_of", "trust")

    def __init__(self, *, trust: OidcTrust, agent: Agent, expires_at: datetime, on_behalf_of: str) -> None:
        self.trust = trust
        self.agent = agent
        self.expires_at = expires_at
        self.on_behalf_of = on_behalf_of


def is_jwt(text: str) -> bool:
    """True when it has the form of a signed token."""
    return text.count(".") == 2


def verify_token(text: str, *, now: datetime, tenant_id: UUID | None) -> VerifiedToken:
    """Check a token. Raises `BadCredential`, `ProviderUnreachable` or `ExpiredCredential`."""
    signature, claims = _extract(text)
    trust = _find_trust(claims, tenant_id=tenant_id)
    header = signature.headers()
    if header["alg"] not in trust.algorithms:
        raise BadCredential("algorithm not allowed")
    key = find_key(trust, header.get("kid"))
    try:
        is_genuine = jws.validate_compact(signature, key, registry=_Registry(algorithms=trust.algorithms))
    except (JoseError, ValueError, TypeError):
        is_genuine = False
    if not is_genuine:
        raise BadCredential("signature")
    expires_at = _check_claims(claims, trust, now=now)
    return VerifiedToken(
        trust=trust,
        agent=_find_agent(claims, trust),
        expires_at=expires_at,
        on_behalf_of=_person(claims, trust),
    )


def _extract(text: str) -> tuple[jws.CompactSignature, dict[str, Any]]:
    """The token's parts and its claims, none of it to be trusted yet."""
    if len(text) > MAX_JWT_BYTES or not text.isascii():
        raise BadCredential("too long, or not ASCII")
    registry = _Registry()
    try:
        signature = jws.extract_compact(text.encode(), registry=registry)
        registry.check_header(signature.headers())
        claims = json.loads(signature.payload)
    except (JoseError, ValueError, TypeError, RecursionError):
        raise BadCredential("no JWT that we accept") from None
    if not isinstance(claims, dict) or str(signature.headers().get("typ", "")).lower() not in TYPES:
        raise BadCredential("no JWT for this use")
    return signature, claims


def _find_trust(claims: dict[str, Any], *, tenant_id: UUID | None) -> OidcTrust:
    issuer, audience = claims.get("iss"), claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    if not _is_plain(issuer) or not all(_is_plain(one) for one in audiences):
        raise BadCredential("issuer or audience missing")
    trusts = OidcTrust.objects.filter(
        issuer=issuer, audience__in=audiences, is_active=True, tenant__is_active=True
    ).select_related("tenant")
    if tenant_id is not None:
        trusts = trusts.filter(tenant_id=tenant_id)
    found = list(trusts[:2])
    if len(found) != 1:
        raise BadCredential("several trusts would accept it" if found else "no trust for issuer and audience")
    trust: OidcTrust = found[0]
    return trust


def _check_claims(claims: dict[str, Any], trust: OidcTrust, *, now: datetime) -> datetime:
    """Issuer, audience and times; returns when the token ends."""
    registry = JWTClaimsRegistry(
        now=int(now.timestamp()),
        leeway=trust.clock_skew_seconds,
        iss={"essential": True, "value": trust.issuer},
        aud={"essential": True, "value": trust.audience},
        exp={"essential": True},
    )
    latest = now.timestamp() + MAX_LIFETIME_SECONDS
    try:
        registry.validate(claims)
    except ExpiredTokenError:
        earliest = 0.0
        raise ExpiredCredential(datetime.fromtimestamp(max(earliest, min(claims["exp"], latest)), tz=UTC)) from None
    except (JoseError, ValueError, TypeError, OverflowError):
        raise BadCredential("claims") from None
    return datetime.fromtimestamp(min(claims["exp"] + trust.clock_skew_seconds, latest), tz=UTC)


def _find_agent(claims: dict[str, Any], trust: OidcTrust) -> Agent:
    """The one agent that the trust's rules give these claims. Two rules may agree; two agents are one too many."""
    rules = TrustRule.objects.filter(trust=trust)
    matching = Q()
    for claim in rules.order_by("claim").values_list("claim", flat=True).distinct():
        values = claims.get(claim)
        texts = [value for value in (values if isinstance(values, list) else [values]) if _is_plain(value)]
        if texts:
            matching |= Q(claim=claim, value__in=texts)
    if not matching:
        raise BadCredential("no rule for these claims")
    found = list(Agent.objects.filter(pk__in=rules.filter(matching).values("agent")).select_related("tenant")[:2])
    if len(found) != 1 or not found[0].is_active:
        raise BadCredential("no rule, or not one active agent, for these claims")
    agent: Agent = found[0]
    return agent


def _person(claims: dict[str, Any], trust: OidcTrust) -> str:
    value = claims.get(trust.person_claim) if trust.person_claim else None
    return value[:254] if _is_plain(value) else ""


def _is_plain(value: object) -> TypeGuard[str]:
    """A text that PostgreSQL can be asked about: JSON's may hold NUL and lone surrogates, which it refuses."""
    return isinstance(value, str) and value.isprintable()
