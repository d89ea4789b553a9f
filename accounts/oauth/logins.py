"""By what a database login proves itself: SCRAM verifiers, of logins that there are and of those that there aren't.

A salt follows from the login's id and our key, whether there is such a login or not, and the keys of one that isn't are
nobody's. So whoever asks learns nothing of what there is, as with PostgreSQL's own mock authentication.
"""

from __future__ import annotations

import base64
from typing import Final

from django.utils.crypto import salted_hmac
from scramp import ScramMechanism

from accounts.models import AgentToken, TokenKind

MECHANISM: Final = "SCRAM-SHA-256"
#: PostgreSQL's default. The password is random, so that guessing it is out of the question at any count.
ITERATIONS: Final = 4096
SALT_BYTES: Final = 16
_PURPOSE: Final = "accounts.oauth.logins"


def make_verifier(login: str, password: str) -> tuple[str, str]:
    """The verifier of a new login in PostgreSQL's form, and its stored key in hex."""
    salt, stored_key, server_key, _ = ScramMechanism(MECHANISM).make_auth_info(
        password, iteration_count=ITERATIONS, salt=_salt(login)
    )
    return _in_text(salt, stored_key, server_key), bytes(stored_key).hex()


def verifier_of(login: str) -> str:
    """The verifier of the login with this id in the scope's tenant; else one that no password satisfies.

    Also of a login that has ended: who proves it is told so, and nobody else.
    """
    nobodys = _in_text(_salt(login), _derived(login, "stored key"), _derived(login, "server key"))
    kept = AgentToken.objects.filter(token_id=login, kind=TokenKind.DATABASE_LOGIN).values_list("scram_verifier")
    found: tuple[str] | None = kept.first() if login.isprintable() else None
    return nobodys if found is None else found[0]


def _salt(login: str) -> bytes:
    return _derived(login, "salt")[:SALT_BYTES]


def _derived(login: str, what: str) -> bytes:
    return salted_hmac(f"{_PURPOSE}:{what}", login, algorithm="sha256").digest()


def _in_text(salt: bytes, stored_key: bytes, server_key: bytes) -> str:
    return f"{MECHANISM}${ITERATIONS}:{_base64(salt)}${_base64(stored_key)}:{_base64(server_key)}"


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
