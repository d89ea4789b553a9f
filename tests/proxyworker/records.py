"""Records and content as a PostgreSQL session makes them, for the tests of whoever carries them."""

from __future__ import annotations

import uuid
from hashlib import sha256

from policies.engine import Decision, Effect, Principal
from proxyworker.contract import (
    Direction,
    OperationIntent,
    OperationOutcome,
    OutcomeStatus,
    SessionClosed,
    SessionOpened,
    TlsFacts,
)
from proxyworker.journal import ContentPiece

ALLOWED = Decision(effect=Effect.ALLOW, policy_version="agents@1", rule="support", reason="rule 'support' allows it")
AT = 1_800_000_000.0


def session_id(number: int) -> str:
    """The same UUID for the same number."""
    return str(uuid.UUID(int=number))


def opened(session: str) -> SessionOpened:
    """An agent has a session."""
    return SessionOpened(
        session_id=session,
        at=AT,
        protocol="postgres",
        principal=Principal(id=session_id(99), name="reporter"),
        target_id=session_id(98),
        target="shop",
        client_address="127.0.0.1:50000",
        client_name="psql",
        tls=TlsFacts(),
        policy_version="agents@1",
    )


def intent(session: str, op: int, text: str = "SELECT 1") -> OperationIntent:
    """The agent wants this done."""
    return OperationIntent(
        session_id=session,
        op=op,
        at=AT,
        kind="query",
        text=text,
        text_bytes=len(text.encode()),
        text_sha256=sha256(text.encode()).digest(),
        parameters=(),
        decision=ALLOWED,
    )


def outcome(session: str, op: int, content: bytes = b"") -> OperationOutcome:
    """It is done, and the agent was shown `content`."""
    return OperationOutcome(
        session_id=session,
        op=op,
        at=AT,
        status=OutcomeStatus.OK,
        duration_us=100,
        rows=1,
        bytes_in=0,
        bytes_out=len(content),
        content_sha256=sha256(content).digest(),
        tags=("SELECT 1",),
    )


def closed(session: str, operations: int) -> SessionClosed:
    """The session is over."""
    return SessionClosed(session_id=session, at=AT, reason="the agent left", operations=operations)


def shown(session: str, op: int, data: bytes, offset: int = 0) -> ContentPiece:
    """A piece of what the agent was shown."""
    return ContentPiece(session, op, Direction.TO_AGENT, offset, data, len(data))
