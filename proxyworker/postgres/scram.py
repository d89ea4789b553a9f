"""A client proves the password of a database login, without sending it ("SASL Authentication").

    offer ─► client-first ─► verifier, from the control plane ─► challenge ─► client-final ─► the login's credential

The verifier of a login that isn't there looks like any other, so all the world sees the same until the credential is
refused, and why it was, the control plane keeps on record.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field
from typing import Final

from proxyworker.contract import RefusalCode
from proxyworker.gate.errors import NotAdmitted
from proxyworker.gate.identify import verifier_of
from proxyworker.gate.services import Services
from proxyworker.net.handshake import HandshakeProtocol
from proxyworker.wire.postgres import backend, frontend, scram
from proxyworker.wire.postgres.errors import MalformedMessage, MalformedScram

#: As long as PostgreSQL's own (SCRAM_RAW_NONCE_LEN).
NONCE_BYTES: Final = 18
#: Mechanism, length and first response.
MAX_SASL_MESSAGE_BYTES: Final = scram.MAX_SASL_BYTES + 64
_LOGIN: Final = re.compile(r"ng_([0-9a-f]{16})")


@dataclass(frozen=True, slots=True)
class Proved:
    """What the client's proof is at the control plane, and what to answer once that is accepted."""

    credential: bytes = field(repr=False)
    server_final: bytes = field(repr=False)


def login_of(user: str) -> str | None:
    """The id of the database login that the user name is, or None."""
    match = _LOGIN.fullmatch(user)
    return None if match is None else match[1]


async def prove(
    handshake: HandshakeProtocol, services: Services, login: str, *, binding: bytes | None, client_address: str
) -> Proved:
    """Have the client prove that it knows the password. Whether it does, the control plane says.

    Raises `MalformedMessage`, `MalformedScram`, `NotBound`, `NotAdmitted`, `PeerGone`.
    """
    handshake.write(backend.build_sasl(scram.mechanisms(binding)))
    mechanism, message = frontend.parse_sasl_initial(await _read(handshake))
    opening = scram.parse_client_first(mechanism.decode("ascii", "replace"), message, binding=binding)
    try:
        verifier = scram.parse_verifier(await verifier_of(services, login, client_address=client_address))
    except ValueError as error:
        raise NotAdmitted(RefusalCode.UNAVAILABLE, "the control plane's answer can't be used") from error
    exchange = scram.Exchange(opening, verifier, binding=binding, nonce=secrets.token_urlsafe(NONCE_BYTES))
    handshake.write(backend.build_sasl_continue(exchange.server_first))
    proof = exchange.finish(frontend.parse_sasl_response(await _read(handshake)))
    return Proved(f"ngd_{login}_{proof.client_key.hex()}".encode(), proof.server_final)


async def _read(handshake: HandshakeProtocol) -> bytes:
    header = await handshake.read_exactly(5)
    length = int.from_bytes(header[1:5], "big")
    if header[0] != frontend.PASSWORD:
        raise MalformedMessage("another message where SASL was expected")
    if not 4 <= length <= MAX_SASL_MESSAGE_BYTES:
        raise MalformedScram("SASL: a message of an impossible length")
    return header + await handshake.read_exactly(length - 4)
