"""Agents that show a JWT of their tenant's identity provider (RFC 7519, hardened by RFC 8725).

    bounds → header → the one trust for issuer and audience → key → signature → claims

`trusting` then finds the agent.

Nothing that a token says is believed before its signature is checked, but for finding the trust that must have made it.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, TypeGuard
from uuid import UUID

from joserfc import jws
from joserfc.errors import ExpiredTokenError, JoseError
from joserfc.jwt import JWTClaimsRegistry
from joserfc.registry import HeaderParameter

from accounts.errors import BadCredential, ExpiredCredential
from accounts.jwks import KeySource, find_key
from accounts.models import OidcTrust, TrustKind

BY_OIDC: Final = "oidc"
#: A token with many groups is 4 to 16 KB.
MAX_JWT_BYTES: Final = 32 * 1024
#: Tokens for a machine live minutes to hours; one that claims to live for years is cut to this.
MAX_LIFETIME_SECONDS: Final = 24 * 3600
#: RFC 8725, 3.11: a token made for something else (a logout, a security event) isn't one for us.
TYPES: Final = frozenset({"", "jwt", "at+jwt", "application/at+jwt"})


class StrictRegistry(jws.JWSRegistry):
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


@dataclass(frozen=True, slots=True)
class VerifiedToken:
    """A proof whose signature and claims hold: its trust, its claims, until when it is good, and what it was."""

    trust: OidcTrust
    claims: Mapping[str, Any] = field(repr=False)
    expires_at: datetime
    authenticated_by: str = BY_OIDC


def is_jwt(text: str) -> bool:
    """True when it has the form of a signed token."""
    return text.count(".") == 2


def verify_token(text: str, *, now: datetime, tenant_id: UUID | None) -> VerifiedToken:
    """Check a token. Raises `BadCredential`, `ProviderUnreachable` or `ExpiredCredential`."""
    signature, claims = _extract(text)
    trust = _find_trust(claims, tenant_id=tenant_id)
    _check_signature(signature, source=trust, algorithms=trust.algorithms)
    return VerifiedToken(trust=trust, claims=claims, expires_at=_check_claims(claims, trust, now=now))


def claims_signed_by(source: KeySource, text: str, *, algorithms: Collection[str]) -> dict[str, Any]:
    """The claims of a token with a signature of this source; none is checked yet. Raises `BadCredential`."""
    signature, claims = _extract(text)
    _check_signature(signature, source=source, algorithms=algorithms)
    return claims


def read_token(text: str) -> tuple[jws.CompactSignature, dict[str, Any]]:
    """A token's parts and what it says, believed by nobody yet. Raises `BadCredential`."""
    return _extract(text)


def _check_signature(signature: jws.CompactSignature, *, source: KeySource, algorithms: Collection[str]) -> None:
    header = signature.headers()
    if header["alg"] not in algorithms:
        raise BadCredential("algorithm not allowed")
    key = find_key(source, header.get("kid"))
    try:
        is_genuine = jws.validate_compact(signature, key, registry=StrictRegistry(algorithms=[*algorithms]))
    except (JoseError, ValueError, TypeError):
        is_genuine = False
    if not is_genuine:
        raise BadCredential("signature")


def _extract(text: str) -> tuple[jws.CompactSignature, dict[str, Any]]:
    """The token's parts and its claims, none of it to be trusted yet."""
    if len(text) > MAX_JWT_BYTES or not text.isascii():
        raise BadCredential("too long, or not ASCII")
    registry = StrictRegistry()
    try:
        signature = jws.extract_compact(text.encode(), registry=registry)
        registry.check_header(signature.headers())
        claims = json.loads(signature.payload, object_pairs_hook=_without_repeats)
    except (JoseError, ValueError, TypeError, RecursionError):
        raise BadCredential("no JWT that we accept") from None
    if not isinstance(claims, dict) or str(signature.headers().get("typ", "")).lower() not in TYPES:
        raise BadCredential("no JWT for this use")
    return signature, claims


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """RFC 7519, 4: a claim that is there twice may be read differently by whoever checked the token before."""
    claims = dict(pairs)
    if len(claims) != len(pairs):
        raise ValueError("a claim is there twice")
    return claims


def _find_trust(claims: dict[str, Any], *, tenant_id: UUID | None) -> OidcTrust:
    issuer, audience = claims.get("iss"), claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    return find_trust(TrustKind.JWT, issuer, audiences, tenant_id=tenant_id)


def find_trust(kind: TrustKind, issuer: Any, audiences: Sequence[Any], *, tenant_id: UUID | None) -> OidcTrust:
    """The one active trust that takes such proofs of this issuer for one of these audiences. Raises `BadCredential`."""
    if not _is_plain(issuer) or not all(_is_plain(one) for one in audiences):
        raise BadCredential("issuer or audience missing")
    trusts = (
        OidcTrust.objects.filter(
            kind=kind, issuer=issuer, audience__in=audiences, is_active=True, tenant__is_active=True
        )
        .select_related("tenant")
        .order_by()
    )
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


def _is_plain(value: object) -> TypeGuard[str]:
    """A text that PostgreSQL can be asked about: JSON's may hold NUL and lone surrogates, which it refuses."""
    return isinstance(value, str) and value.isprintable()
