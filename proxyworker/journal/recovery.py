"""What a journal holds when a worker takes it up.

The end of what was written may be torn: it was never durable, so nobody acted on it, and it is cut. Damage before that
is an error. The two are told apart by the flag in the next segment's header, which is set once everything before that
segment is on disk.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import msgspec
import structlog

from proxyworker.contract import ContractError, decode_record
from proxyworker.journal.errors import JournalError
from proxyworker.journal.files import list_segments
from proxyworker.journal.frames import (
    CHAIN_START,
    CLOSING_RECORD,
    CONTENT,
    HEADER_BYTES,
    RECORD,
    SNAPSHOT,
    SegmentHeader,
    decode_header,
    read_frame,
    read_record,
)
from proxyworker.journal.state import OpenState

_log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Recovered:
    """A journal up to its last sound frame. `segments` are (base, number) of the files that hold it, in order."""

    journal_id: str = ""
    segments: list[tuple[int, int]] = field(default_factory=list)
    next_number: int = 1
    end: int = 0
    seq: int = 0
    chain: bytes = CHAIN_START
    state: OpenState = field(default_factory=OpenState)


def recover(folder: Path, *, at_least: int) -> Recovered:
    """Read the folder's segments, cut the torn tail, and leave what is sound on disk.

    `at_least` is the position up to which the journal is known to have been whole. Raises `JournalError` for damage,
    before anything is changed.
    """
    files = list_segments(folder)
    recovered = Recovered(next_number=files[0][0] if files else 1)
    kept = 0
    for number, path in files:
        data = path.read_bytes()
        header = _header(path, number, data)
        if header is None or not _follows(header, recovered, is_first=kept == 0):
            break
        _scan(path, header, memoryview(data), recovered)
        kept += 1
    _require_torn(files, kept, recovered)
    if recovered.end < at_least:
        raise JournalError(
            f"{folder}: the journal ends at position {recovered.end}, but was whole up to {at_least}; records are lost"
        )
    _cut(files, kept, recovered)
    return recovered


def _header(path: Path, number: int, data: bytes) -> SegmentHeader | None:
    try:
        header = decode_header(data)
    except JournalError as error:
        raise JournalError(f"{path}: offset 0: {error}") from error
    if header is not None and header.number != number:
        raise JournalError(f"{path}: offset 0: this is segment {header.number}, under a wrong name")
    return header


def _follows(header: SegmentHeader, recovered: Recovered, *, is_first: bool) -> bool:
    """Whether the segment takes up exactly where the one before it ended."""
    if is_first:
        recovered.journal_id, recovered.end = header.journal_id, header.base
        recovered.seq, recovered.chain = header.next_seq - 1, header.chain
        return True
    expected = (recovered.journal_id, recovered.end, recovered.seq + 1, recovered.chain)
    return (header.journal_id, header.base, header.next_seq, header.chain) == expected


def _scan(path: Path, header: SegmentHeader, data: memoryview, recovered: Recovered) -> None:
    """Take the segment's sound frames into account, and its place."""
    at = HEADER_BYTES
    while (frame := read_frame(data, at)) is not None:
        if frame.type in (RECORD, CLOSING_RECORD):
            seq, chain, encoded = read_record(data, frame)
            if seq != recovered.seq + 1 or chain != sha256(recovered.chain + encoded).digest():
                raise JournalError(f"{path}: offset {at}: a record is out of its place")
            try:
                recovered.state.apply(decode_record(encoded))
            except ContractError as error:
                raise JournalError(f"{path}: offset {at}: a record that this worker can't read") from error
            recovered.seq, recovered.chain = seq, chain
        elif frame.type == SNAPSHOT:
            try:
                recovered.state.restore(data[frame.start : frame.end])
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise JournalError(f"{path}: offset {at}: a snapshot that this worker can't read") from error
        elif frame.type != CONTENT:
            raise JournalError(f"{path}: offset {at}: a frame of unknown type {frame.type}")
        at = frame.end
    recovered.segments.append((header.base, header.number))
    recovered.end = header.base + at


def _require_torn(files: Sequence[tuple[int, Path]], kept: int, recovered: Recovered) -> None:
    """Raise if a segment behind the kept ones says that everything before it was on disk."""
    offset = recovered.end - recovered.segments[-1][0] if kept else 0
    damaged = files[max(kept - 1, 0)][1] if files else None
    for number, path in files[kept:]:
        with path.open("rb") as file:
            header = _header(path, number, file.read(HEADER_BYTES))
        if header is not None and header.is_prior_durable:
            raise JournalError(f"{damaged}: offset {offset}: damaged here, but the journal goes on in {path.name}")


def _cut(files: Sequence[tuple[int, Path]], kept: int, recovered: Recovered) -> None:
    """Remove what is behind the last sound frame."""
    for _, path in files[kept:]:
        path.unlink()
    if not kept:
        return
    base, number = recovered.segments[-1]
    path = files[kept - 1][1]
    recovered.next_number = number + 1
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        torn = os.pread(descriptor, HEADER_BYTES, recovered.end - base)
        if any(torn):
            _log.warning("journal_tail_cut", file=path.name, offset=recovered.end - base)
        os.ftruncate(descriptor, recovered.end - base)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
