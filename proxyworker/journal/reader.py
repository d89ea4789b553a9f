"""Durable frames in batches, for the shipper. Blocks on files, so it runs in a thread; holds no more than a batch."""

from __future__ import annotations

import os
from bisect import bisect_right
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from proxyworker.contract import MAX_BATCH_BYTES, MAX_BATCH_RECORDS
from proxyworker.journal.errors import JournalError
from proxyworker.journal.files import segment_path
from proxyworker.journal.frames import (
    CLOSING_RECORD,
    CONTENT,
    HEADER_BYTES,
    RECORD,
    ContentPiece,
    frame_bytes,
    read_content,
    read_frame,
    read_record,
)
from proxyworker.journal.journal import Journal

#: One read of a file: many small frames, a few large ones.
READ_BYTES: Final = 256 * 1024
#: Content in one batch: what packing may hold in memory.
MAX_BATCH_CONTENT_BYTES: Final = 2 * 1024 * 1024
#: Sorts behind every segment of the same base.
_LAST: Final = 1 << 32


@dataclass(slots=True)
class Batch:
    """What stands between two positions of the journal, in order.

    `chain_before` and `chain_after` are the chain around the records; `first_seq` is the first one's, or would be.
    """

    first_seq: int
    chain_before: bytes
    chain_after: bytes
    end: int
    is_full: bool = False
    records: list[bytes] = field(default_factory=list)
    #: Content and the encoded records that close a session, in the journal's order.
    content: list[ContentPiece | bytes] = field(default_factory=list)

    @property
    def last_seq(self) -> int:
        """The last record's, or that of the record before the batch."""
        return self.first_seq + len(self.records) - 1

    def drop_until(self, seq: int) -> None:
        """Take off the records up to `seq`, which is before the last one."""
        dropped = max(seq + 1 - self.first_seq, 0)
        for record in self.records[:dropped]:
            self.chain_before = sha256(self.chain_before + record).digest()
        del self.records[:dropped]
        self.first_seq += dropped


class Reader:
    """Reads a journal on from a position; `seq` and `chain` are those of the last record before it."""

    def __init__(self, journal: Journal, *, position: int, seq: int, chain: bytes) -> None:
        self._journal = journal
        self._position = position
        self._seq = seq
        self._chain = chain
        self._number = 0
        self._descriptor = -1

    def read(self) -> Batch:
        """The next batch, empty when nothing more is durable. Raises `JournalError` for damage, `OSError`."""
        batch = Batch(self._seq + 1, self._chain, self._chain, self._position)
        limit = self._journal.durable_position
        record_bytes = content_bytes = 0
        while self._position < limit and not batch.is_full:
            data = self._read_frames(limit)
            at = 0
            while (frame := read_frame(data, at)) is not None:
                if frame.type == CONTENT:
                    piece = read_content(data, frame)
                    batch.content.append(piece)
                    content_bytes += piece.raw_bytes
                elif frame.type in (RECORD, CLOSING_RECORD):
                    if record_bytes + frame.end - frame.start > MAX_BATCH_BYTES and batch.records:
                        batch.is_full = True
                        break
                    self._seq, self._chain, encoded = read_record(data, frame)
                    batch.records.append(encoded)
                    record_bytes += len(encoded)
                    if frame.type == CLOSING_RECORD:
                        batch.content.append(encoded)
                at = frame.end
                if len(batch.records) >= MAX_BATCH_RECORDS or content_bytes >= MAX_BATCH_CONTENT_BYTES:
                    batch.is_full = True
                    break
            self._position += at
        batch.end, batch.chain_after = self._position, self._chain
        return batch

    def close(self) -> None:
        """Let go of the file."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
            self._number = 0

    def _read_frames(self, limit: int) -> memoryview:
        """Bytes from the position on that begin with a whole frame."""
        segments = self._journal.segments
        index = bisect_right(segments, (self._position, _LAST)) - 1
        if index < 0:
            raise JournalError(f"{self._journal.folder}: nothing is left at position {self._position}")
        base, number = segments[index]
        if number != self._number:
            self.close()
            self._descriptor = os.open(segment_path(self._journal.folder, number), os.O_RDONLY | os.O_CLOEXEC)
            self._number = number
        if self._position == base:
            self._position = base + HEADER_BYTES
        end = min(limit, segments[index + 1][0] if index + 1 < len(segments) else limit)
        offset = self._position - base
        available = end - self._position
        data = memoryview(os.pread(self._descriptor, min(READ_BYTES, available), offset))
        wanted = frame_bytes(data, 0)
        if len(data) < wanted <= available:
            data = memoryview(os.pread(self._descriptor, wanted, offset))
        if read_frame(data, 0) is None:
            path = segment_path(self._journal.folder, number)
            raise JournalError(f"{path}: offset {offset}: damaged here, after it was durable")
        return data
