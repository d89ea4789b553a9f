"""What is open in a journal: sessions that were not closed, and their operations without outcome.

A snapshot of it stands at the head of every segment, so that earlier segments can go once they are acknowledged.
"""

from __future__ import annotations

from hashlib import sha256

import msgspec

from proxyworker.contract import (
    OperationIntent,
    OperationOutcome,
    OutcomeStatus,
    Record,
    SessionClosed,
    SessionOpened,
)

#: What recovery writes for a session that the worker didn't live to close.
RESTARTED = "worker restarted"
_UNKNOWN = "the worker stopped before the answer was on record"
_NO_CONTENT = sha256(b"").digest()


class LiveSession(msgspec.Struct, array_like=True):
    """`operations` is the highest `op` so far, `running` are those without outcome."""

    operations: int = 0
    running: set[int] = msgspec.field(default_factory=set)


_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[dict[str, LiveSession]] = msgspec.msgpack.Decoder(dict[str, LiveSession])


class OpenState:
    """Follows the records of a journal. `apply` is on the path of every statement."""

    def __init__(self) -> None:
        self.sessions: dict[str, LiveSession] = {}

    def apply(self, record: Record) -> None:
        """Take the record into account."""
        if isinstance(record, OperationIntent):
            session = self._session(record.session_id)
            session.running.add(record.op)
            session.operations = max(session.operations, record.op)
        elif isinstance(record, OperationOutcome):
            self._session(record.session_id).running.discard(record.op)
        elif isinstance(record, SessionOpened):
            self._session(record.session_id)
        elif isinstance(record, SessionClosed):
            self.sessions.pop(record.session_id, None)

    def _session(self, session_id: str) -> LiveSession:
        session = self.sessions.get(session_id)
        if session is None:
            session = self.sessions[session_id] = LiveSession()
        return session

    def snapshot(self) -> bytes:
        """The state in msgpack."""
        return _encoder.encode(self.sessions)

    def restore(self, snapshot: bytes | memoryview) -> None:
        """Take over a snapshot. Raises `msgspec.MsgspecError`, `UnicodeDecodeError`."""
        self.sessions = _decoder.decode(snapshot)

    def epilogue(self, *, at: float) -> tuple[list[Record], int]:
        """The records that end everything open, and how many operations end as unknown."""
        outcomes: list[Record] = [
            OperationOutcome(
                session_id=session_id,
                op=op,
                at=at,
                status=OutcomeStatus.UNKNOWN,
                duration_us=0,
                rows=0,
                bytes_in=0,
                bytes_out=0,
                content_sha256=_NO_CONTENT,
                error_message=_UNKNOWN,
            )
            for session_id, session in self.sessions.items()
            for op in sorted(session.running)
        ]
        closed: list[Record] = [
            SessionClosed(session_id=session_id, at=at, reason=RESTARTED, operations=session.operations)
            for session_id, session in self.sessions.items()
        ]
        return outcomes + closed, len(outcomes)
