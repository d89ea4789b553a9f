"""Who asks at the token endpoint: client_secret_basic, client_secret_post, or a signed assertion (RFC 7523, 3)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from django.http import HttpRequest
from joserfc import jws
from joserfc.errors import JoseError
from joserfc.jwk import JWKRegistry, Key
from joserfc.jwt import JWTClaimsRegistry

from accounts.actions import note_use
from accounts.errors import BadCredential
from accounts.models import SigningAlgorithm
from accounts.oauth.models import ClientAuthentication, OAuthClient
from accounts.oauth.once import take_once
from accounts.oauth.wire import OAuthError, basic_credentials, invalid_client, one
from accounts.oidc import StrictRegistry, read_token
from accounts.tokens import SECRET_PREFIX, parse_token

ASSERTION_TYPE: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
#: An assertion is made for one request. One that lives longer could be stolen meanwhile, and fills the replay table.
MAX_ASSERTION_SECONDS: Final = 600
CLOCK_SKEW_SECONDS: Final = 30
MAX_JTI_CHARACTERS: Final = 200
MAX_CLIENT_KEYS: Final = 10
ALGORITHMS: Final = tuple(algorithm.value for algorithm in SigningAlgorithm)


def authenticate_client(
    request: HttpRequest, form: Mapping[str, list[str]], *, now: datetime, audiences: tuple[str, ...]
) -> OAuthClient | None:
    """The client, noted as used; None when the request names none. Raises `OAuthError`. In the scope of every tenant.

    `audiences` are the names by which an assertion may call this server.
    """
    client = _authenticate(request, form, now=now, audiences=audiences)
    if client is not None:
        note_use(client, now=now)
    return client


def _authenticate(
    request: HttpRequest, form: Mapping[str, list[str]], *, now: datetime, audiences: tuple[str, ...]
) -> OAuthClient | None:
    basic = basic_credentials(request)
    ways = [basic is not None, "client_secret" in form, "client_assertion" in form or "client_assertion_type" in form]
    if sum(ways) > 1:
        raise OAuthError("invalid_request", "more than one way of client authentication")
    if ways[2]:
        return _by_assertion(form, now=now, audiences=audiences)
    if basic is not None:
        if form.get("client_id", [basic[0]]) != [basic[0]]:
            raise OAuthError("invalid_request", "two different client ids")
        return _by_secret(*basic)
    if ways[1]:
        return _by_secret(one(form, "client_id"), form["client_secret"][0])
    if "client_id" in form:
        raise invalid_client("client authentication is missing")
    return None


def usable_keys(listed: Any) -> list[Key]:
    """Public keys for signatures, each with an id of its own. Raises ValueError."""
    if not isinstance(listed, list) or not 0 < len(listed) <= MAX_CLIENT_KEYS:
        raise ValueError(f"give 1 to {MAX_CLIENT_KEYS} keys")
    keys: list[Key] = []
    for entry in listed:
        if not isinstance(entry, dict) or entry.get("kty") not in {"RSA", "EC", "OKP"}:
            raise ValueError("each key is a JWK of type RSA, EC or OKP")
        try:
            key = JWKRegistry.import_key(entry)
        except (JoseError, ValueError, TypeError):
            raise ValueError("one of the keys is no JWK") from None
        if key.is_private:
            raise ValueError("give the public halves only")
        if entry["kty"] == "RSA" and len(str(entry.get("n", ""))) * 6 < 2048:
            raise ValueError("an RSA key has at least 2048 bits")
        keys.append(key)
    if len({key.kid for key in keys}) != len(keys) or not all(key.kid for key in keys):
        raise ValueError("each key has a kid of its own")
    return keys


def _by_secret(client_id: str, secret: str) -> OAuthClient:
    client = _find(client_id, ClientAuthentication.CLIENT_SECRET)
    presented = parse_token(secret, prefix=SECRET_PREFIX)
    if client is None or presented is None or not presented.matches(client.digest):
        raise invalid_client("unknown client, or not its secret")
    return client


def _by_assertion(form: Mapping[str, list[str]], *, now: datetime, audiences: tuple[str, ...]) -> OAuthClient:
    if one(form, "client_assertion_type") != ASSERTION_TYPE:
        raise OAuthError("invalid_request", "client_assertion_type is not the one of RFC 7523")
    refused = invalid_client("the assertion is not valid here")
    try:
        signature, claims = read_token(one(form, "client_assertion"))
    except BadCredential:
        raise refused from None
    client_id = claims.get("sub")
    if not isinstance(client_id, str) or form.get("client_id", [client_id]) != [client_id]:
        raise refused
    client = _find(client_id, ClientAuthentication.PRIVATE_KEY_JWT)
    if client is None:
        raise refused
    header = signature.headers()
    key = next((key for key in usable_keys(client.public_keys) if key.kid == header.get("kid")), None)
    try:
        is_genuine = key is not None and jws.validate_compact(
            signature, key, registry=StrictRegistry(algorithms=list(ALGORITHMS))
        )
        JWTClaimsRegistry(
            now=int(now.timestamp()),
            leeway=CLOCK_SKEW_SECONDS,
            iss={"essential": True, "value": client_id},
            exp={"essential": True},
            jti={"essential": True},
        ).validate(claims)
        lifetime = claims["exp"] - now.timestamp()
    except (JoseError, ValueError, TypeError, OverflowError):
        raise refused from None
    audience, jti = claims.get("aud"), claims["jti"]
    is_for_us = audience in audiences or (
        isinstance(audience, list) and len(audience) == 1 and audience[0] in audiences
    )
    is_plain = isinstance(jti, str) and 0 < len(jti) <= MAX_JTI_CHARACTERS
    if not (is_genuine and is_for_us and is_plain and lifetime <= MAX_ASSERTION_SECONDS):
        raise refused
    ends_at = datetime.fromtimestamp(claims["exp"] + CLOCK_SKEW_SECONDS, tz=UTC)
    if not take_once(f"{client.client_id}\x00{jti}", tenant_id=client.tenant_id, expires_at=ends_at):
        raise invalid_client("the assertion was used before")
    return client


def _find(client_id: str, authentication: ClientAuthentication) -> OAuthClient | None:
    clients = OAuthClient.objects.filter(client_id=client_id, authentication=authentication, is_active=True)
    found: OAuthClient | None = clients.select_related("agent", "tenant").first() if client_id.isprintable() else None
    return found
