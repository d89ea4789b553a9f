"""Takes batches of journal records: keeps them as they are, and writes the rows that people search.

    check bounds → lock the journal → skip what is held, check the chain → keep the batch → index it → (commit) → Ack

The SQL is set-based and the rows go in as one JSON document: ten thousand records a second leave no time for an object
of the ORM each. Measured figures are in docs/record.md.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID, uuid4

import structlog
import zstandard
from django.db import DataError, IntegrityError, connection, transaction
from django.db.models import Q
from django.utils import timezone
from django_scopes import scope

from policies.approvals.settling import withdraw_held
from proxyworker import contract
from sessions.errors import PeerFault
from sessions.index import BatchIndex, OperationRow, as_recordset, index_records

log = structlog.get_logger(__name__)

#: chain(0) of every journal.
CHAIN_START: Final = bytes(hashlib.sha256().digest_size)
#: Fast, and a batch of SQL text shrinks about tenfold already.
_ZSTD_LEVEL: Final = 3
_LENGTH: Final = struct.Struct(">I")

_TAKE_UP_JOURNAL: Final = """
    INSERT INTO agent_sessions_journal
      (id, tenant_id, worker_id, journal_id, last_seq, last_chain, created_at, updated_at)
    VALUES (%s, %s, %s, %s, 0, %s, now(), now()) ON CONFLICT (worker_id, journal_id) DO NOTHING"""
_LOCK_JOURNAL: Final = """
    SELECT id, last_seq, last_chain FROM agent_sessions_journal
    WHERE worker_id = %s AND tenant_id = %s AND journal_id = %s FOR UPDATE"""
_ADVANCE_JOURNAL: Final = """
    UPDATE agent_sessions_journal SET last_seq = %s, last_chain = %s, updated_at = now() WHERE id = %s"""
_KEEP_BATCH: Final = """
    INSERT INTO agent_sessions_journalbatch
      (id, tenant_id, journal_id, first_seq, last_seq, chain_before, chain_after, payload, created_at, updated_at)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, now(), now())"""
_COUNT_OWN_SESSIONS: Final = """
    SELECT count(*) FROM agent_sessions_agentsession
    WHERE id = ANY(%s::uuid[]) AND worker_id = %s AND tenant_id = %s"""
_UPDATE_SESSIONS: Final = """
    UPDATE agent_sessions_agentsession s
    SET opened_at = coalesce(to_timestamp(r.opened_at), s.opened_at),
        closed_at = coalesce(to_timestamp(r.closed_at), s.closed_at),
        close_reason = coalesce(left(r.close_reason, 200), s.close_reason),
        operation_count = greatest(s.operation_count, r.operation_count),
        state = CASE WHEN coalesce(r.closed_at::text, s.closed_at::text) IS NOT NULL THEN 'closed' ELSE 'live' END,
        updated_at = now()
    FROM json_to_recordset(%s::json)
      AS r(session_id uuid, opened_at float8, closed_at float8, close_reason text, operation_count int)
    WHERE s.id = r.session_id"""
_RECORDSET_COLUMNS: Final = """
    (session_id uuid, op int, at float8, kind text, text text, text_bytes int8, text_sha256 text, parameters jsonb,
     effect text, rule text, reason text, policy_version text, status text, finished_at float8, duration_us int8,
     rows int8, bytes_in int8, bytes_out int8, content_sha256 text, content_in_sha256 text, error_code text,
     error_message text, tags jsonb, columns jsonb, facts jsonb, approval_id text, approval_state text,
     approval_reason text)"""
_INSERT_OPERATIONS: Final = f"""
    INSERT INTO agent_sessions_operation
      (tenant_id, session_id, op, at, kind, text, text_bytes, text_sha256, parameters, effect, rule, reason,
       policy_version, status, finished_at, duration_us, rows, bytes_in, bytes_out, content_sha256, content_in_sha256,
       error_code, error_message, tags, columns, facts, approval_id, approval_state, approval_reason)
    SELECT %s::uuid, session_id, op, to_timestamp(at), left(kind, 32), text, text_bytes, decode(text_sha256, 'base64'),
       parameters, effect, left(rule, 200), reason, left(policy_version, 200), status, to_timestamp(finished_at),
       duration_us, rows, bytes_in, bytes_out, decode(content_sha256, 'base64'), decode(content_in_sha256, 'base64'),
       left(error_code, 32), error_message, tags, columns, facts, nullif(approval_id, '')::uuid,
       left(approval_state, 16), approval_reason
    FROM json_to_recordset(%s::json) AS r{_RECORDSET_COLUMNS}
    ON CONFLICT (session_id, op) DO NOTHING"""  # noqa: S608  # constants of this module
_UPDATE_OUTCOMES: Final = f"""
    UPDATE agent_sessions_operation o
    SET status = r.status, finished_at = to_timestamp(r.finished_at), duration_us = r.duration_us, rows = r.rows,
        bytes_in = r.bytes_in, bytes_out = r.bytes_out, content_sha256 = decode(r.content_sha256, 'base64'),
        content_in_sha256 = decode(r.content_in_sha256, 'base64'), error_code = left(r.error_code, 32),
        error_message = r.error_message, tags = r.tags, columns = r.columns
    FROM json_to_recordset(%s::json) AS r{_RECORDSET_COLUMNS}
    WHERE o.session_id = r.session_id AND o.op = r.op AND o.tenant_id = %s AND o.status = 'running'"""  # noqa: S608

_UPDATE_APPROVALS: Final = f"""
    UPDATE agent_sessions_operation o
    SET approval_id = nullif(r.approval_id, '')::uuid, approval_state = left(r.approval_state, 16),
        approval_reason = r.approval_reason
    FROM json_to_recordset(%s::json) AS r{_RECORDSET_COLUMNS}
    WHERE o.session_id = r.session_id AND o.op = r.op AND o.tenant_id = %s"""  # noqa: S608


@dataclass(frozen=True, slots=True)
class LinkedWorker:
    """Who is at the other end of a link: a process of a worker. Any of them may ship any journal of the worker."""

    id: UUID
    tenant_id: UUID
    name: str
    process: int = 0


@dataclass(frozen=True, slots=True)
class _Held:
    """A locked journal: its row, and the last record that is held of it."""

    id: UUID
    seq: int
    chain: bytes


def append_records(worker: LinkedWorker, frame: contract.AppendRecords) -> int:
    """Keep the batch, in a transaction of its own. Returns the last seq held; at a gap it is lower than the batch's.

    Raises `PeerFault` for a batch that a sound worker doesn't send; nothing of it is kept then.
    """
    if not 1 <= len(frame.records) <= contract.MAX_BATCH_RECORDS or frame.first_seq < 1:
        raise PeerFault("a batch out of bounds")
    try:
        journal_id = UUID(frame.journal_id)
        with scope(tenant=worker.tenant_id), transaction.atomic():
            held = _lock_journal(worker, journal_id)
            if frame.first_seq > held.seq + 1:
                return held.seq
            fresh = _fresh_records(frame, held)
            if not fresh:
                return held.seq
            last_seq = held.seq + len(fresh)
            _keep(worker, held, fresh, last_seq=last_seq, chain_after=frame.chain_after)
            _write_index(worker, index_records([contract.decode_record(record) for record in fresh]))
            return last_seq
    except (ValueError, DataError, IntegrityError) as error:
        # ContractError is a ValueError. What PostgreSQL says of a value may quote it: only the class is told.
        raise PeerFault(f"records that can't be kept ({type(error).__name__})") from error


def held_journals(worker: LinkedWorker) -> dict[str, int]:
    """For each journal of the worker, the last seq held. In its scope."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT journal_id, last_seq FROM agent_sessions_journal WHERE worker_id = %s AND tenant_id = %s",
            [worker.id, worker.tenant_id],
        )
        return {str(journal_id): last_seq for journal_id, last_seq in cursor.fetchall()}


def unpack_batch(payload: bytes) -> list[bytes]:
    """The records of a `JournalBatch.payload`."""
    data = memoryview(zstandard.ZstdDecompressor().decompress(payload))
    records = []
    position = 0
    while position < len(data):
        (length,) = _LENGTH.unpack_from(data, position)
        position += _LENGTH.size
        records.append(bytes(data[position : position + length]))
        position += length
    return records


def _lock_journal(worker: LinkedWorker, journal_id: UUID) -> _Held:
    with connection.cursor() as cursor:
        cursor.execute(_LOCK_JOURNAL, [worker.id, worker.tenant_id, journal_id])
        row = cursor.fetchone()
        if row is None:
            cursor.execute(_TAKE_UP_JOURNAL, [uuid4(), worker.tenant_id, worker.id, journal_id, CHAIN_START])
            cursor.execute(_LOCK_JOURNAL, [worker.id, worker.tenant_id, journal_id])
            row = cursor.fetchone()
    return _Held(id=row[0], seq=row[1], chain=bytes(row[2]))


def _fresh_records(frame: contract.AppendRecords, held: _Held) -> Sequence[bytes]:
    """The records past the held one, the chain having been recomputed through all of them."""
    known = held.seq - frame.first_seq + 1
    if known > len(frame.records):
        return ()
    chain = frame.chain_before
    for position, record in enumerate(frame.records):
        if position == known and chain != held.chain:
            raise PeerFault("a journal that has forked from what is held")
        chain = hashlib.sha256(chain + record).digest()
    if chain != frame.chain_after or (known == len(frame.records) and chain != held.chain):
        raise PeerFault("a broken hash chain")
    return frame.records[known:]


def _keep(worker: LinkedWorker, held: _Held, records: Sequence[bytes], *, last_seq: int, chain_after: bytes) -> None:
    parts = [part for record in records for part in (_LENGTH.pack(len(record)), record)]
    payload = zstandard.ZstdCompressor(level=_ZSTD_LEVEL).compress(b"".join(parts))
    with connection.cursor() as cursor:
        cursor.execute(
            _KEEP_BATCH,
            [uuid4(), worker.tenant_id, held.id, held.seq + 1, last_seq, held.chain, chain_after, payload],
        )
        cursor.execute(_ADVANCE_JOURNAL, [last_seq, chain_after, held.id])


def _write_index(worker: LinkedWorker, index: BatchIndex) -> None:
    with connection.cursor() as cursor:
        if index.sessions:
            cursor.execute(_COUNT_OWN_SESSIONS, [list(index.sessions), worker.id, worker.tenant_id])
            if cursor.fetchone()[0] != len(index.sessions):
                raise PeerFault("records of a session that is not this worker's")
            cursor.execute(_UPDATE_SESSIONS, [as_recordset(index.sessions.values())])
            _withdraw_held(index)
        if index.operations:
            cursor.execute(_INSERT_OPERATIONS, [worker.tenant_id, as_recordset(index.operations.values())])
        if index.approvals:
            cursor.execute(_UPDATE_APPROVALS, [as_recordset(index.approvals), worker.tenant_id])
        if index.outcomes:
            _update_outcomes(worker, index.outcomes)


def _withdraw_held(index: BatchIndex) -> None:
    """When this is committed, withdraw the approvals that closed sessions waited for."""
    closed = [UUID(session.session_id) for session in index.sessions.values() if session.closed_at is not None]
    if closed:
        ended = Q(session_id__in=closed)
        transaction.on_commit(lambda: withdraw_held(ended, reason="the session ended", now=timezone.now()), robust=True)


def _update_outcomes(worker: LinkedWorker, outcomes: Sequence[OperationRow]) -> None:
    with connection.cursor() as cursor:
        cursor.execute(_UPDATE_OUTCOMES, [as_recordset(outcomes), worker.tenant_id])
        if cursor.rowcount != len(outcomes):
            log.warning(
                "outcomes without a running operation", worker=worker.name, count=len(outcomes) - cursor.rowcount
            )
