"""Envelope encryption of the secrets that Narrowgate keeps: each has its own data key, wrapped by a key of the keyring.

A keyring file has one key a line, `id:base64 of 32 bytes`; the first seals, all of them open, so a key is rotated by
putting a new line on top. A sealed text is `ng1.<key id>.<wrapped data key>.<nonce and ciphertext>` in base64url, bound
to a context (such as "targets.credential:<row id>"), so that it can't be moved to another row.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from django.conf import settings

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
#: A private key with its chain, or a service-account file, is below this.
MAX_PLAINTEXT_BYTES: Final = 64 * 1024

_VERSION: Final = "ng1"
_KEY_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")


class KeyringError(Exception):
    """A keyring that can't be read, or a sealed text that this keyring doesn't open. Shows neither key nor text."""


@dataclass(frozen=True, slots=True)
class Keyring:
    """The keys by id; `active` seals."""

    active: str
    keys: Mapping[str, bytes] = field(repr=False)

    def seal(self, plaintext: bytes, *, context: str) -> str:
        """Encrypt for this context. Raises `KeyringError` when it is longer than `MAX_PLAINTEXT_BYTES`."""
        if len(plaintext) > MAX_PLAINTEXT_BYTES:
            raise KeyringError(f"a secret has at most {MAX_PLAINTEXT_BYTES} bytes")
        data_key = os.urandom(KEY_BYTES)
        associated = _associated(self.active, context)
        wrapped = _encrypt(self.keys[self.active], data_key, associated)
        return ".".join((_VERSION, self.active, _text(wrapped), _text(_encrypt(data_key, plaintext, associated))))

    def open(self, sealed: str, *, context: str) -> bytes:
        """Decrypt. Raises `KeyringError` for another context, an unknown key and anything altered."""
        version, _, rest = sealed.partition(".")
        parts = rest.split(".")
        if version != _VERSION or len(parts) != 3:
            raise KeyringError("this is no sealed secret")
        key_id, wrapped, body = parts
        if key_id not in self.keys:
            raise KeyringError(f"the keyring lacks key {key_id[:32]!r}; put its line back into the keyring file")
        associated = _associated(key_id, context)
        try:
            return _decrypt(_decrypt(self.keys[key_id], _bytes(wrapped), associated), _bytes(body), associated)
        except (InvalidTag, ValueError):
            raise KeyringError("a sealed secret was altered, or belongs elsewhere") from None


def parse_keyring(text: str) -> Keyring:
    """Read a keyring file's text. Raises `KeyringError` naming the line."""
    keys: dict[str, bytes] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        key_id, _, encoded = line.strip().partition(":")
        try:
            key = base64.b64decode(encoded, validate=True)
        except binascii.Error:
            key = b""
        if not _KEY_ID.fullmatch(key_id) or len(key) != KEY_BYTES or key_id in keys:
            raise KeyringError(
                f"line {number} of the keyring isn't `id:base64 of {KEY_BYTES} bytes` with an id of its own"
            )
        keys[key_id] = key
    if not keys:
        raise KeyringError("the keyring has no key")
    return Keyring(active=next(iter(keys)), keys=keys)


def generate_keyring(key_id: str = "k1") -> str:
    """The text of a new keyring file with one random key."""
    return f"{key_id}:{base64.b64encode(os.urandom(KEY_BYTES)).decode()}\n"


def seal(plaintext: bytes, *, context: str) -> str:
    """Encrypt with the configured keyring. Raises `KeyringError`."""
    return _configured().seal(plaintext, context=context)


def open_sealed(sealed: str, *, context: str) -> bytes:
    """Decrypt with the configured keyring. Raises `KeyringError`."""
    return _configured().open(sealed, context=context)


@lru_cache(maxsize=1)
def _configured() -> Keyring:
    return parse_keyring(settings.NARROWGATE.keyring_text or generate_keyring())


def _associated(key_id: str, context: str) -> bytes:
    return f"{_VERSION}\x00{key_id}\x00{context}".encode()


def _encrypt(key: bytes, plaintext: bytes, associated: bytes) -> bytes:
    nonce = os.urandom(NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, plaintext, associated)


def _decrypt(key: bytes, sealed: bytes, associated: bytes) -> bytes:
    return AESGCM(key).decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], associated)


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
