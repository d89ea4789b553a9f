"""Opaque tokens: `<prefix>_<id>_<secret>`. Only the SHA-256 of the secret is kept; 256 random bits need no slow hash.

The prefix makes a leaked token recognisable to scanners; the id finds the row, so no hash is searched for.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field
from typing import Final

#: Bytes of randomness; both parts are in hex.
ID_BYTES: Final = 8
SECRET_BYTES: Final = 32
ID_CHARACTERS: Final = 2 * ID_BYTES
DIGEST_CHARACTERS: Final = 64

_FORM = re.compile(rf"(ng[a-z])_([0-9a-f]{{{2 * ID_BYTES}}})_([0-9a-f]{{{2 * SECRET_BYTES}}})")

#: An agent's token, and a person's token for REST.
AGENT_PREFIX: Final = "nga"
API_PREFIX: Final = "ngp"
#: The secret of an OAuth client, and a tenant's token for a machine that serves it.
SECRET_PREFIX: Final = "ngk"  # noqa: S105  # not the secret
SERVICE_PREFIX: Final = "ngs"
#: What stands for a database login: the SCRAM client key, which only who knows the password can have (RFC 5802, 3).
LOGIN_PREFIX: Final = "ngd"


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token that was just made: `text` is shown once, `token_id` and `digest` are kept."""

    token_id: str
    digest: str
    text: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class PresentedToken:
    """The parts of a token that somebody shows."""

    token_id: str
    digest: str = field(repr=False)

    def matches(self, kept_digest: str) -> bool:
        """Compare in constant time."""
        return hmac.compare_digest(self.digest, kept_digest)


def make_token(prefix: str) -> NewToken:
    """A new random token."""
    token_id, secret = secrets.token_hex(ID_BYTES), secrets.token_hex(SECRET_BYTES)
    return NewToken(token_id=token_id, digest=_digest(secret), text=f"{prefix}_{token_id}_{secret}")


def parse_token(text: str, *, prefix: str) -> PresentedToken | None:
    """The parts, or None when it is no token with this prefix."""
    match = _FORM.fullmatch(text)
    if match is None or match[1] != prefix:
        return None
    digest = hashlib.sha256(bytes.fromhex(match[3])).hexdigest() if prefix == LOGIN_PREFIX else _digest(match[3])
    return PresentedToken(token_id=match[2], digest=digest)


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
