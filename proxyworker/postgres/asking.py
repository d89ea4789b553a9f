"""A question of the gate's own to a target, over a connection of its own, and the rows that come of it."""

from __future__ import annotations

from typing import Final

from proxyworker.net.handshake import HandshakeProtocol
from proxyworker.postgres.errors import TargetBrokeProtocol
from proxyworker.wire.postgres import backend

#: One message, and the messages of one answer: what the gate asks fits few rows.
MAX_MESSAGE_BYTES: Final = 1024 * 1024
MAX_MESSAGES: Final = 1_000


class Refused(Exception):
    """The target said no."""


async def ask(handshake: HandshakeProtocol, question: bytes) -> list[list[bytes | None]]:
    """Send, and return the rows up to ReadyForQuery. Raises `Refused`, `TargetBrokeProtocol`, `PeerGone`."""
    handshake.write(question)
    rows: list[list[bytes | None]] = []
    error: backend.ServerError | None = None
    for _ in range(MAX_MESSAGES):
        header = await handshake.read_exactly(5)
        length = int.from_bytes(header[1:5], "big")
        if not 4 <= length <= MAX_MESSAGE_BYTES:
            raise TargetBrokeProtocol("a message of an impossible length")
        frame = header + await handshake.read_exactly(length - 4)
        if frame[0] == backend.DATA_ROW:
            rows.append(backend.parse_row(frame))
        elif frame[0] == backend.ERROR_RESPONSE:
            error = error or backend.parse_error(frame, 0, len(frame))
            if error.severity in ("FATAL", "PANIC"):
                break
        elif frame[0] == backend.READY_FOR_QUERY:
            break
    else:
        raise TargetBrokeProtocol("an answer that does not end")
    if error is not None:
        raise Refused(f"{error.message} ({error.code})")
    return rows
