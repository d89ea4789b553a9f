"""The public keys of identity providers: fetched with bounds, kept in the cache, fetched again when a key is unknown.

A provider's document is at the source's JWKS URL, or where the issuer's discovery document says. Nothing of what a
token says (jku, x5u) is ever fetched.
"""

from __future__ import annotations

import hashlib
import json
import time
from functools import lru_cache
from typing import Any, Final, Protocol
from urllib.parse import SplitResult, urlsplit

import httpx
import structlog
from django.conf import settings
from django.core.cache import cache
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, JWKRegistry, Key, OKPKey, RSAKey
from redis.exceptions import RedisError

from accounts.errors import BadCredential, ProviderUnreachable
from controlplane.env import Mode, is_loopback

log = structlog.get_logger(__name__)

#: Large providers publish some ten keys in some ten kilobytes.
MAX_DOCUMENT_BYTES: Final = 256 * 1024
MAX_KEYS: Final = 100
MIN_RSA_BITS: Final = 2048
#: Documents whose keys stay imported: those of the providers in use. At their bound of size, 16 MB.
MAX_IMPORTED: Final = 64
#: An agent waits for this while it connects.
FETCH_SECONDS: Final = 5.0
#: A key that a provider withdraws is trusted for this long at most.
FRESH_SECONDS: Final = 3600
#: Whoever sends tokens with made-up key ids makes us ask the provider this often at most.
REFETCH_SECONDS: Final = 30

DISCOVERY_PATH: Final = "/.well-known/openid-configuration"


class KeySource(Protocol):
    """Whose keys: a trust for agents, or a provider for people. `jwks_url` empty: by discovery from `issuer`."""

    @property
    def pk(self) -> Any:
        """Names it in the cache."""

    @property
    def issuer(self) -> str:
        """Exactly the token's `iss`."""

    @property
    def jwks_url(self) -> str:
        """Where the keys are."""


class BadDocument(Exception):
    """What the provider served can't be used; the text says why, for the log and for whoever set it up."""


def find_key(source: KeySource, key_id: str | None) -> Key:
    """The key of that id; without an id, the provider's only key.

    Raises `BadCredential` when there is none, `ProviderUnreachable` when the provider, or the cache, doesn't answer.
    """
    try:
        return _find_key(source, key_id)
    except RedisError as error:
        log.warning("key_cache_down", error=type(error).__name__)
        raise ProviderUnreachable("the cache is down") from None


def _find_key(source: KeySource, key_id: str | None) -> Key:
    kept = cache.get(_cache_key(source))
    if kept is not None:
        key = _pick(_import_keys(kept), key_id)
        if key is not None:
            return key
    if not cache.add(f"{_cache_key(source)}:fetched", True, timeout=REFETCH_SECONDS):
        if kept is None:
            raise ProviderUnreachable("keys were asked for moments ago, in vain")
        raise BadCredential("unknown key id")
    fetched = _fetch_keys(source)
    cache.set(_cache_key(source), fetched, timeout=FRESH_SECONDS)
    key = _pick(_import_keys(fetched), key_id)
    if key is None:
        raise BadCredential("unknown key id")
    return key


def is_fetchable(url: str) -> bool:
    """True for an https URL; outside production also for http on this machine."""
    try:
        parts: SplitResult = urlsplit(url)
        host = parts.hostname or ""
    except ValueError:
        return False
    if not host or parts.username or parts.password or parts.fragment:
        return False
    if parts.scheme == "http":
        return settings.NARROWGATE.mode is not Mode.PRODUCTION and is_loopback(host)
    return parts.scheme == "https"


def _pick(keys: tuple[Key, ...], key_id: str | None) -> Key | None:
    if key_id is None:
        return keys[0] if len(keys) == 1 else None
    return next((key for key in keys if key.kid == key_id), None)


def _cache_key(source: KeySource) -> str:
    where = hashlib.sha256(f"{source.issuer}\x00{source.jwks_url}".encode()).hexdigest()
    return f"jwks:{source.pk}:{where}"


def _fetch_keys(source: KeySource) -> str:
    """The key set's document as text, known to be importable."""
    try:
        url = source.jwks_url or str(discover(source.issuer)["jwks_uri"])
        document = _fetch_json(url)
        text = json.dumps(document)
        if not _import_keys(text):
            raise BadDocument("no key that can verify a signature")
    except (httpx.HTTPError, httpx.InvalidURL, BadDocument) as error:
        log.warning("jwks_not_fetched", source=str(source.pk), issuer=source.issuer, error=str(error)[:200])
        raise ProviderUnreachable("the provider's keys can't be fetched") from None
    return text


def discover(issuer: str, *, url: str = "") -> dict[str, Any]:
    """The issuer's discovery document (OpenID Connect Discovery 1.0, 4), which must name exactly this issuer.

    Raises `BadDocument` or httpx.HTTPError.
    """
    return check_discovery(_fetch_json(url or issuer.rstrip("/") + DISCOVERY_PATH), issuer=issuer)


def check_discovery(document: dict[str, Any], *, issuer: str) -> dict[str, Any]:
    """The document, if it is of this issuer and says where the keys are. Raises `BadDocument`."""
    if document.get("issuer") != issuer or not isinstance(document.get("jwks_uri"), str):
        raise BadDocument("the discovery document is of another issuer, or names no jwks_uri")
    return document


def fetch_document(
    url: str, *, method: str = "GET", data: dict[str, str] | None = None, headers: dict[str, str] | None = None
) -> bytes:
    """What a provider answers, within bounds of time and size. Raises `BadDocument` or httpx.HTTPError.

    Nothing is asked for compressed: 64 KB of zstd unpack to gigabytes before their size is known.
    """
    if not is_fetchable(url):
        raise BadDocument("not an https URL")
    deadline = time.monotonic() + FETCH_SECONDS
    body = bytearray()
    plainly = {**(headers or {}), "Accept-Encoding": "identity"}
    with httpx.stream(
        method, url, data=data, headers=plainly, timeout=FETCH_SECONDS, follow_redirects=False
    ) as response:
        if response.status_code != httpx.codes.OK:
            raise BadDocument(f"status {response.status_code}")
        if response.headers.get("Content-Encoding", "identity") != "identity":
            raise BadDocument("compressed")
        for chunk in response.iter_raw():
            body += chunk
            if len(body) > MAX_DOCUMENT_BYTES:
                raise BadDocument("too long")
            if time.monotonic() > deadline:
                raise BadDocument("too slow")
    return bytes(body)


def parse_object(text: bytes | str) -> dict[str, Any]:
    """The JSON object. Raises `BadDocument`."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise BadDocument("no JSON") from None
    if not isinstance(document, dict):
        raise BadDocument("no JSON object")
    return document


def count_keys(url: str) -> int:
    """How many usable keys are there. Raises `BadDocument` or httpx.HTTPError."""
    return len(_import_keys(json.dumps(_fetch_json(url))))


def _fetch_json(url: str) -> dict[str, Any]:
    return parse_object(fetch_document(url))


@lru_cache(maxsize=MAX_IMPORTED)
def _import_keys(text: str) -> tuple[Key, ...]:
    """The usable keys: asymmetric, for signatures, strong enough. Others are left out (RFC 7517, 5)."""
    listed = json.loads(text).get("keys")
    if not isinstance(listed, list) or len(listed) > MAX_KEYS:
        raise BadDocument("no list of keys, or a very long one")
    keys = []
    for entry in listed:
        if not isinstance(entry, dict) or entry.get("kty") not in {"RSA", "EC", "OKP"} or entry.get("use") == "enc":
            continue
        if entry["kty"] == "RSA" and len(str(entry.get("n", ""))) * 6 < MIN_RSA_BITS:
            continue
        try:
            key = JWKRegistry.import_key(entry)
        except (JoseError, ValueError, TypeError):
            continue
        if isinstance(key, RSAKey | ECKey | OKPKey) and not key.is_private:
            keys.append(key)
    return tuple(keys)
