"""Record streams for the tests of ingestion: what a journal holds, as bytes, with its hash chain."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field

from policies.engine import Decision, Effect, Operation, Principal
from proxyworker.contract import (
    AppendRecords,
    ApprovalState,
    OperationApproval,
    OperationIntent,
    OperationOutcome,
    OutcomeStatus,
    Parameter,
    Record,
    SessionClosed,
    SessionOpened,
    TlsFacts,
    encode,
)

AT = 1_795_435_200.0
ALLOWED = Decision(effect=Effect.ALLOW, policy_version="support@1", rule="support/read", reason="may read")


@dataclass(slots=True)
class JournalScript:
    """A journal in memory. Records are numbered from 1."""

    journal_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    records: list[bytes] = field(default_factory=list)
    chain: list[bytes] = field(default_factory=lambda: [bytes(32)])

    def write(self, *records: Record) -> None:
        """Append."""
        for record in records:
            self.records.append(encode(record))
            self.chain.append(hashlib.sha256(self.chain[-1] + self.records[-1]).digest())

    def batch(self, first: int, last: int) -> AppendRecords:
        """Records `first` to `last`, both included."""
        return AppendRecords(
            request_id=first,
            journal_id=self.journal_id,
            first_seq=first,
            chain_before=self.chain[first - 1],
            chain_after=self.chain[last],
            records=self.records[first - 1 : last],
        )

    def whole(self) -> AppendRecords:
        """All of it in one batch."""
        return self.batch(1, len(self.records))


def opened(session_id: str) -> SessionOpened:
    """The session's first record."""
    return SessionOpened(
        session_id=session_id,
        at=AT,
        protocol="postgres",
        principal=Principal(id="1", name="reporter"),
        target_id="1",
        target="shop",
        client_address="127.0.0.1:50000",
        client_name="psql",
        tls=TlsFacts("TLSv1.3", "TLS_AES_256_GCM_SHA384"),
        policy_version="support@1",
    )


def intent(
    session_id: str,
    op: int,
    text: str = "SELECT 1",
    parameters: Sequence[Parameter] = (),
    operation: Operation | None = None,
) -> OperationIntent:
    """A statement that was allowed."""
    return OperationIntent(
        session_id=session_id,
        op=op,
        at=AT + op,
        kind="query",
        text=text,
        text_bytes=len(text.encode()),
        text_sha256=hashlib.sha256(text.encode()).digest(),
        parameters=tuple(parameters),
        decision=ALLOWED,
        operation=operation,
    )


def approval(session_id: str, op: int, state: ApprovalState = ApprovalState.GRANTED) -> OperationApproval:
    """What became of the approval that the statement needed."""
    return OperationApproval(
        session_id=session_id,
        op=op,
        at=AT + op + 0.2,
        approval_id=str(uuid.UUID(int=op)),
        state=state,
        reason="approved by ada@acme.example",
    )


def outcome(session_id: str, op: int, status: OutcomeStatus = OutcomeStatus.OK) -> OperationOutcome:
    """How the statement ended."""
    failed = status is OutcomeStatus.ERROR
    return OperationOutcome(
        session_id=session_id,
        op=op,
        at=AT + op + 0.5,
        status=status,
        duration_us=500 * op,
        rows=op,
        bytes_in=0,
        bytes_out=10 * op,
        content_sha256=hashlib.sha256(str(op).encode()).digest(),
        error_code="42P01" if failed else "",
        error_message='relation "nope" does not exist' if failed else "",
        tags=(f"SELECT {op}",),
        columns=("id", "name"),
    )


def closed(session_id: str, operations: int) -> SessionClosed:
    """The session's last record."""
    return SessionClosed(session_id=session_id, at=AT + 100, reason="the agent left", operations=operations)
