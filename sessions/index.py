"""What a batch of records says, as the rows to write. Pure: no database, no clock.

An intent, its approval and its outcome become one row when they are in one batch; what comes later stays apart.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from policies.engine import Operation
from proxyworker.contract import (
    OperationApproval,
    OperationIntent,
    OperationOutcome,
    Record,
    SessionClosed,
    SessionOpened,
)

#: An escaped NUL that is not itself an escaped backslash followed by "u0000".
_ESCAPED_NUL: Final = re.compile(rb"(?<!\\)((?:\\\\)*)\\u0000")

#: An operation that has no outcome yet. `models.OperationStatus` has the same word.
RUNNING: Final = "running"

_encoder = msgspec.json.Encoder()


class OperationRow(msgspec.Struct):
    """What was wanted, decided and came of it. Field names are columns, times are seconds since the epoch.

    `kind` None: an outcome alone, whose intent came in an earlier batch. `status` "running": no outcome yet.
    """

    session_id: str
    op: int
    at: float | None = None
    kind: str | None = None
    text: str | None = None
    text_bytes: int | None = None
    text_sha256: bytes | None = None
    parameters: list[dict[str, Any]] | None = None
    effect: str | None = None
    rule: str | None = None
    reason: str | None = None
    policy_version: str | None = None
    status: str = RUNNING
    finished_at: float | None = None
    duration_us: int | None = None
    rows: int | None = None
    bytes_in: int | None = None
    bytes_out: int | None = None
    content_sha256: bytes | None = None
    content_in_sha256: bytes | None = None
    error_code: str = ""
    error_message: str = ""
    tags: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    facts: Operation | None = None
    approval_id: str = ""
    approval_state: str = ""
    approval_reason: str = ""


class SessionRow(msgspec.Struct):
    """What the batch says of a session. None: nothing."""

    session_id: str
    opened_at: float | None = None
    closed_at: float | None = None
    close_reason: str | None = None
    operation_count: int = 0


@dataclass(slots=True)
class BatchIndex:
    """The rows of one batch."""

    sessions: dict[str, SessionRow] = field(default_factory=dict)
    operations: dict[tuple[str, int], OperationRow] = field(default_factory=dict)
    outcomes: list[OperationRow] = field(default_factory=list)
    approvals: list[OperationRow] = field(default_factory=list)


def index_records(records: Iterable[Record]) -> BatchIndex:
    """Read the records in their order."""
    index = BatchIndex()
    sessions, operations = index.sessions, index.operations
    for record in records:
        match record:
            case OperationIntent():
                _session(sessions, record.session_id).operation_count = record.op
                operations.setdefault((record.session_id, record.op), _operation_row(record))
            case OperationOutcome():
                _session(sessions, record.session_id)
                row = operations.get((record.session_id, record.op))
                if row is None:
                    row = OperationRow(record.session_id, record.op)
                    index.outcomes.append(row)
                _take_outcome(row, record)
            case OperationApproval():
                _session(sessions, record.session_id)
                row = operations.get((record.session_id, record.op))
                if row is None:
                    row = OperationRow(record.session_id, record.op)
                    index.approvals.append(row)
                _take_approval(row, record)
            case SessionOpened():
                _session(sessions, record.session_id).opened_at = record.at
            case SessionClosed():
                session = _session(sessions, record.session_id)
                session.closed_at = record.at
                session.close_reason = record.reason
                session.operation_count = record.operations
            case _:
                # JournalOpened is of the journal, not of a session.
                continue
    return index


def as_recordset(rows: Iterable[msgspec.Struct]) -> str:
    """The rows as JSON for `json_to_recordset`. bytes are base64; NUL, which PostgreSQL can't hold, becomes U+2400."""
    data = _encoder.encode(list(rows))
    if b"\\u0000" in data:
        data = _ESCAPED_NUL.sub(rb"\1\\u2400", data)
    return data.decode()


def _session(sessions: dict[str, SessionRow], session_id: str) -> SessionRow:
    row = sessions.get(session_id)
    if row is None:
        row = sessions[session_id] = SessionRow(session_id)
    return row


def _operation_row(intent: OperationIntent) -> OperationRow:
    decision = intent.decision
    return OperationRow(
        intent.session_id,
        intent.op,
        intent.at,
        intent.kind,
        intent.text,
        intent.text_bytes,
        intent.text_sha256,
        [
            {"value": parameter.value, "binary": parameter.binary, "truncated_bytes": parameter.truncated_bytes}
            for parameter in intent.parameters
        ],
        decision.effect,
        decision.rule,
        decision.reason,
        decision.policy_version,
        facts=intent.operation,
    )


def _take_approval(row: OperationRow, approval: OperationApproval) -> None:
    row.approval_id = approval.approval_id
    row.approval_state = approval.state
    row.approval_reason = approval.reason


def _take_outcome(row: OperationRow, outcome: OperationOutcome) -> None:
    row.status = outcome.status
    row.finished_at = outcome.at
    row.duration_us = outcome.duration_us
    row.rows = outcome.rows
    row.bytes_in = outcome.bytes_in
    row.bytes_out = outcome.bytes_out
    row.content_sha256 = outcome.content_sha256
    row.content_in_sha256 = outcome.content_in_sha256
    row.error_code = outcome.error_code
    row.error_message = outcome.error_message
    row.tags = outcome.tags
    row.columns = outcome.columns
