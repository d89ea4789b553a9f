"""The cancel keys that agents hold. They are ours: a target's own never leaves the worker ("Canceling Requests")."""

from __future__ import annotations

import hmac
import secrets
from typing import Final, Protocol

from proxyworker.wire.postgres.startup import PROTOCOL_3_2

#: Protocol 3.0 has room for four bytes; 3.2 for a key that can't be guessed.
KEY_BYTES_3_0: Final = 4
KEY_BYTES_3_2: Final = 32


class Cancellable(Protocol):
    """A session that can be told to cancel what it runs."""

    def cancel(self) -> None:
        """Pass the request on to the target."""


class CancelKeys:
    """Key to session, for one worker process."""

    def __init__(self) -> None:
        self._sessions: dict[int, tuple[bytes, Cancellable]] = {}

    def issue(self, session: Cancellable, protocol: int) -> tuple[int, bytes]:
        """A new key for this session: process id (of nothing real, positive) and secret."""
        while True:
            process_id = secrets.randbelow(2**31 - 1) + 1
            if process_id not in self._sessions:
                break
        secret = secrets.token_bytes(KEY_BYTES_3_2 if protocol >= PROTOCOL_3_2 else KEY_BYTES_3_0)
        self._sessions[process_id] = (secret, session)
        return process_id, secret

    def forget(self, process_id: int) -> None:
        """The session is over."""
        self._sessions.pop(process_id, None)

    def cancel(self, process_id: int, secret: bytes) -> bool:
        """Cancel what the key's session does. False: there is no such key; the peer is never told."""
        known = self._sessions.get(process_id)
        if known is None or not hmac.compare_digest(known[0], secret):
            return False
        known[1].cancel()
        return True
