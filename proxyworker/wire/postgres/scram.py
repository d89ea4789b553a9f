"""The server's half of SCRAM-SHA-256 and SCRAM-SHA-256-PLUS (RFC 5802, RFC 7677; "SASL Authentication"), sans-IO.

    client-first ──► server-first ──► client-final ──► the client's key, server-final

A verifier says what a client must prove, and holds no password. The key that comes out is recovered, not judged: it is
the right one exactly if its SHA-256 is the verifier's stored key. Who keeps the verifier says so, and keeps a record of
who was refused. scramp's server doesn't fit: it refuses the empty user name that libpq sends, and keeps that key.
"""

from __future__ import annotations

import base64
import hmac
import re
from dataclasses import dataclass, field
from typing import Final

from proxyworker.wire.postgres.errors import MalformedScram, NotBound

PLAIN: Final = "SCRAM-SHA-256"
PLUS: Final = "SCRAM-SHA-256-PLUS"
#: The binding that PostgreSQL's clients know (RFC 5929, 4).
BINDING_NAME: Final = "tls-server-end-point"
#: The server's own bound, PG_MAX_SASL_MESSAGE_LENGTH in PostgreSQL.
MAX_SASL_BYTES: Final = 1_024

#: RFC 5802, 7: gs2-header, then the user name (which PostgreSQL ignores, for the startup message has named the user),
#: the nonce, and extensions, which PostgreSQL ignores too. No authzid; "m=", a mandatory extension, is for nobody.
_CLIENT_FIRST: Final = re.compile(
    r"(?P<gs2>(?P<flag>n|y|p=(?P<binding>[A-Za-z0-9.-]+)),,)"
    r"(?P<bare>n=[^,\x00]*,r=(?P<nonce>[!-+\--~]+)(?:,[A-Za-ln-z]=[^,\x00]+)*)"
)
_CLIENT_FINAL: Final = re.compile(
    r"(?P<said>c=(?P<binding>[A-Za-z0-9+/]+=*),r=(?P<nonce>[!-+\--~]+)(?:,[A-Za-ln-z]=[^,\x00]+)*)"
    r",p=(?P<proof>[A-Za-z0-9+/]{43}=)"
)
_VERIFIER: Final = re.compile(
    r"SCRAM-SHA-256\$(?P<iterations>[1-9][0-9]{3,6}):(?P<salt>[A-Za-z0-9+/]{16,}=*)"
    r"\$(?P<stored>[A-Za-z0-9+/]{43}=):(?P<server>[A-Za-z0-9+/]{43}=)"
)


@dataclass(frozen=True, slots=True)
class Verifier:
    """What is kept of a password (RFC 5802, 3)."""

    iterations: int
    salt: bytes
    stored_key: bytes = field(repr=False)
    server_key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class ClientFirst:
    """A client's opening. `gs2_header` says whether it binds itself to the channel."""

    gs2_header: str
    bare: str
    nonce: str


@dataclass(frozen=True, slots=True)
class ClientProof:
    """The key that the client used, right or wrong, and what to answer if it is right."""

    client_key: bytes = field(repr=False)
    server_final: bytes = field(repr=False)


def mechanisms(binding: bytes | None) -> tuple[str, ...]:
    """What is offered, the better one first. `binding`: the digest of our certificate, None if it has none."""
    return (PLAIN,) if binding is None else (PLUS, PLAIN)


def parse_verifier(text: str) -> Verifier:
    """A verifier in PostgreSQL's form. Raises ValueError, which quotes nothing of it."""
    match = _VERIFIER.fullmatch(text)
    if match is None:
        raise ValueError("no SCRAM-SHA-256 verifier")
    salt, stored, server = (base64.b64decode(match[name]) for name in ("salt", "stored", "server"))
    return Verifier(iterations=int(match["iterations"]), salt=salt, stored_key=stored, server_key=server)


def parse_client_first(mechanism: str, message: bytes, *, binding: bytes | None) -> ClientFirst:
    """The opening of a client that chose this mechanism. Raises `MalformedScram` or `NotBound`."""
    if mechanism not in mechanisms(binding):
        raise MalformedScram("SASL: a mechanism that was not offered")
    match = _CLIENT_FIRST.fullmatch(_text(message))
    if match is None:
        raise MalformedScram("SCRAM: a malformed first message")
    flag = match["flag"][0]
    if (flag == "p") != (mechanism == PLUS):
        raise MalformedScram("SCRAM: the mechanism and the channel binding flag contradict each other")
    if flag == "p" and match["binding"] != BINDING_NAME:
        raise MalformedScram("SCRAM: another channel binding than tls-server-end-point")
    if flag == "y" and binding is not None:
        # RFC 5802, 6: it could bind and saw no -PLUS offered, so somebody took that out on the way.
        raise NotBound("the client was shown another offer of SCRAM than ours")
    return ClientFirst(gs2_header=match["gs2"], bare=match["bare"], nonce=match["nonce"])


class Exchange:
    """One conversation. `nonce` is printable, random and used once."""

    def __init__(self, first: ClientFirst, verifier: Verifier, *, binding: bytes | None, nonce: str) -> None:
        self._first = first
        self._verifier = verifier
        self._nonce = first.nonce + nonce
        bound = binding if first.gs2_header.startswith("p") and binding is not None else b""
        self._binding = base64.b64encode(first.gs2_header.encode() + bound).decode()
        salt = base64.b64encode(verifier.salt).decode()
        self._server_first = f"r={self._nonce},s={salt},i={verifier.iterations}"

    @property
    def server_first(self) -> bytes:
        """Our challenge."""
        return self._server_first.encode()

    def finish(self, message: bytes) -> ClientProof:
        """What the client's last message proves. Raises `MalformedScram` or `NotBound`."""
        match = _CLIENT_FINAL.fullmatch(_text(message))
        if match is None:
            raise MalformedScram("SCRAM: a malformed last message")
        if not hmac.compare_digest(match["binding"], self._binding):
            raise NotBound("the client is bound to another channel than this one")
        if not hmac.compare_digest(match["nonce"], self._nonce):
            raise MalformedScram("SCRAM: the last message answers another challenge")
        said = f"{self._first.bare},{self._server_first},{match['said']}".encode()
        proof = base64.b64decode(match["proof"])  # 32 bytes, as the form has it
        # RFC 5802, 3: ClientProof := ClientKey XOR HMAC(StoredKey, AuthMessage).
        signature = hmac.digest(self._verifier.stored_key, said, "sha256")
        client_key = bytes(one ^ other for one, other in zip(proof, signature, strict=True))
        server_signature = hmac.digest(self._verifier.server_key, said, "sha256")
        return ClientProof(client_key=client_key, server_final=b"v=" + base64.b64encode(server_signature))


def _text(message: bytes) -> str:
    if len(message) > MAX_SASL_BYTES:
        raise MalformedScram(f"SCRAM: a message over {MAX_SASL_BYTES} bytes")
    try:
        return message.decode()
    except UnicodeDecodeError:
        raise MalformedScram("SCRAM: a message that is not UTF-8") from None
