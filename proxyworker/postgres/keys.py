"""The cancel keys that agents hold. They are ours: a target's own never leaves the worker ("Canceling Requests").

The kernel gives a cancel request to any process of the worker; the key's process id says to which one it belongs.
"""

from __future__ import annotations

import hmac
import secrets
from typing import Final, Protocol

import msgspec
import structlog

from proxyworker.net.siblings import Siblings
from proxyworker.wire.postgres.startup import PROTOCOL_3_2

#: Protocol 3.0 has room for four bytes; 3.2 for a key that can't be guessed.
KEY_BYTES_3_0: Final = 4
KEY_BYTES_3_2: Final = 32
#: What a client may bring as a secret; a longer one is no key of ours, and not passed on.
MAX_SECRET_BYTES: Final = KEY_BYTES_3_2

_log = structlog.get_logger(__name__)


class Cancellable(Protocol):
    """A session that can be told to cancel what it runs."""

    def cancel(self) -> None:
        """Pass the request on to the target."""


class _PassedOn(msgspec.Struct, frozen=True, array_like=True):
    """A cancel request that came to a sibling. `client` is "host:port"."""

    process_id: int
    secret: bytes
    client: str


class CancelKeys:
    """Key to session, for one worker process; keys of its siblings are passed on to them."""

    def __init__(self, siblings: Siblings) -> None:
        self._siblings = siblings
        self._sessions: dict[int, tuple[bytes, Cancellable]] = {}
        siblings.on_message = self._take

    def issue(self, session: Cancellable, protocol: int) -> tuple[int, bytes]:
        """A new key for this session: process id (of nothing real, positive) and secret."""
        number, count = self._siblings.number, self._siblings.count
        while True:
            process_id = secrets.randbelow((2**31 - 1) // count) * count + number + 1
            if process_id not in self._sessions:
                break
        secret = secrets.token_bytes(KEY_BYTES_3_2 if protocol >= PROTOCOL_3_2 else KEY_BYTES_3_0)
        self._sessions[process_id] = (secret, session)
        return process_id, secret

    def forget(self, process_id: int) -> None:
        """The session is over."""
        self._sessions.pop(process_id, None)

    def cancel(self, process_id: int, secret: bytes, *, client: str) -> None:
        """Cancel what the key's session does, in whichever process it runs. The peer is never told what came of it."""
        owner = (process_id - 1) % self._siblings.count
        if owner == self._siblings.number or len(secret) > MAX_SECRET_BYTES:
            self._cancel(process_id, secret, client)
        else:
            self._siblings.send(owner, msgspec.msgpack.encode(_PassedOn(process_id, secret, client)))

    def _take(self, message: bytes) -> None:
        try:
            request = msgspec.msgpack.decode(message, type=_PassedOn)
        except msgspec.MsgspecError:  # a sibling of another version, started before an upgrade
            _log.warning("sibling_not_understood", size_bytes=len(message))
            return
        self._cancel(request.process_id, request.secret, request.client)

    def _cancel(self, process_id: int, secret: bytes, client: str) -> None:
        known = self._sessions.get(process_id)
        if known is None or not hmac.compare_digest(known[0], secret):
            reason = "a cancel request with an unknown key"
            _log.warning("refused", listener="postgres", client=client, reason=reason)
            return
        known[1].cancel()
