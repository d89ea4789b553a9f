"""The form of a segment file, as bytes. Pure: knows no file and no clock. Integers are big-endian.

A segment file is a header of `HEADER_BYTES` and then frames, up to the first zero length or the end of the file:

    frame     length u32 (of the body), crc32 u32 (of the body), body
    body      type u8, then
      "R"     a record: seq u64, chain 32 B, the record as the contract encodes it
      "E"     the same, for the record that closes a session: no content of it follows
      "C"     content: session 16 B, op u64, direction u8, codec u8, offset u64, raw bytes u32, data
      "S"     what is open at the head of this segment, in msgpack (see `state`)

chain(n) = SHA-256(chain(n-1) ‖ record n), chain(0) = 32 zero bytes. Content is not chained: the outcome records hold
its digest. A position counts bytes since the journal was made, headers included: position = base + offset in the file.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from hashlib import sha256
from struct import Struct
from typing import Final, NamedTuple
from zlib import crc32

from proxyworker.contract import JOURNAL_VERSION, MAX_BATCH_BYTES, MAX_FRAME_BYTES, Direction
from proxyworker.journal.errors import JournalError, TooLarge

MAGIC: Final = b"NGJ\r\n\x1a\n\x00"
HEADER_BYTES: Final = 128
#: This byte of a header is set to 1 when everything before the segment is on disk.
PRIOR_DURABLE_OFFSET: Final = HEADER_BYTES - 1
CHAIN_START: Final = bytes(32)
#: What is left of a frame on the link beside a full batch; a record that is larger could never be sent.
MAX_RECORD_BYTES: Final = MAX_FRAME_BYTES - MAX_BATCH_BYTES - 64 * 1024
#: One piece of content: a few socket reads, far below a segment.
MAX_PIECE_BYTES: Final = 1024 * 1024

RECORD: Final = ord("R")
CLOSING_RECORD: Final = ord("E")
CONTENT: Final = ord("C")
SNAPSHOT: Final = ord("S")

_HEADER: Final = Struct(">8sH16sIQQ32s")
_CRC: Final = Struct(">I")
_FRAME: Final = Struct(">IIB")
_LENGTH_CRC: Final = Struct(">II")
_RECORD: Final = Struct(">BQ32s")
_CONTENT: Final = Struct(">B16sQBBQI")
_FRAME_HEAD_BYTES: Final = _LENGTH_CRC.size
_DIRECTION_BYTE: Final = {direction: ord(direction.value) for direction in Direction}
_DIRECTION: Final = {byte: direction for direction, byte in _DIRECTION_BYTE.items()}


class Codec(IntEnum):
    """How a piece of content is stored."""

    RAW = 0
    ZSTD = 1


class ContentPiece(NamedTuple):
    """Bytes that an agent sent or was shown, in operation `op` of a session. At most `MAX_PIECE_BYTES`, raw and stored.

    `offset` is the position of the piece's first raw byte within the operation's content of that direction;
    `raw_bytes` is how many raw bytes `data` stands for. `session_id` is a UUID in text.
    """

    session_id: str
    op: int
    direction: Direction
    offset: int
    data: bytes
    raw_bytes: int
    codec: Codec = Codec.RAW


@dataclass(frozen=True, slots=True)
class SegmentHeader:
    """Where a segment stands in its journal. `next_seq` and `chain` are those before its first record."""

    journal_id: str
    number: int
    base: int
    next_seq: int
    chain: bytes
    is_prior_durable: bool


def encode_header(header: SegmentHeader) -> bytes:
    """`HEADER_BYTES` bytes."""
    fields = _HEADER.pack(
        MAGIC,
        JOURNAL_VERSION,
        uuid.UUID(header.journal_id).bytes,
        header.number,
        header.base,
        header.next_seq,
        header.chain,
    )
    fields += _CRC.pack(crc32(fields))
    return fields.ljust(PRIOR_DURABLE_OFFSET, b"\0") + bytes([header.is_prior_durable])


def decode_header(data: bytes) -> SegmentHeader | None:
    """None for a header that was never written. Raises `JournalError` for what is no header of this version."""
    if len(data) < HEADER_BYTES or not any(data[:PRIOR_DURABLE_OFFSET]):
        return None
    magic, version, journal_id, number, base, next_seq, chain = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise JournalError("no journal segment")
    if version != JOURNAL_VERSION:
        raise JournalError(f"journal version {version}; this worker reads version {JOURNAL_VERSION}")
    if _CRC.unpack_from(data, _HEADER.size)[0] != crc32(data[: _HEADER.size]):
        raise JournalError("damaged header")
    return SegmentHeader(
        journal_id=str(uuid.UUID(bytes=journal_id)),
        number=number,
        base=base,
        next_seq=next_seq,
        chain=chain,
        is_prior_durable=data[PRIOR_DURABLE_OFFSET] == 1,
    )


def put_record(parts: list[bytes], seq: int, chain: bytes, record: bytes, kind: int = RECORD) -> bytes:
    """Add a frame of this kind to `parts`, `RECORD` or `CLOSING_RECORD`; `chain` is the one before it.

    Returns the chain after it.
    """
    if len(record) > MAX_RECORD_BYTES:
        raise TooLarge(f"a record of {len(record)} bytes; the bound is {MAX_RECORD_BYTES}")
    chain = sha256(chain + record).digest()
    prefix = _RECORD.pack(kind, seq, chain)
    parts += (_LENGTH_CRC.pack(_RECORD.size + len(record), crc32(record, crc32(prefix))), prefix, record)
    return chain


def put_content(parts: list[bytes], piece: ContentPiece) -> None:
    """Add a content frame to `parts`."""
    session_id, op, direction, offset, data, raw_bytes, codec = piece
    if len(data) > MAX_PIECE_BYTES or raw_bytes > MAX_PIECE_BYTES:
        raise TooLarge(f"a piece of {raw_bytes} bytes of content; the bound is {MAX_PIECE_BYTES}")
    session = bytes.fromhex(session_id.replace("-", ""))
    prefix = _CONTENT.pack(CONTENT, session, op, _DIRECTION_BYTE[direction], codec, offset, raw_bytes)
    parts += (_LENGTH_CRC.pack(_CONTENT.size + len(data), crc32(data, crc32(prefix))), prefix, data)


def put_snapshot(parts: list[bytes], snapshot: bytes) -> None:
    """Add a snapshot's frame to `parts`."""
    body = bytes([SNAPSHOT]) + snapshot
    parts += (_LENGTH_CRC.pack(len(body), crc32(body)), body)


class Frame(NamedTuple):
    """A whole frame whose checksum is right: its type and where its body's payload begins and it ends."""

    type: int
    start: int
    end: int


def read_frame(data: memoryview, at: int) -> Frame | None:
    """The frame at `at`, or None if no whole and sound frame is there."""
    if at + _FRAME.size > len(data):
        return None
    length, checksum, kind = _FRAME.unpack_from(data, at)
    start = at + _FRAME_HEAD_BYTES
    end = start + length
    if not length or end > len(data) or crc32(data[start:end]) != checksum:
        return None
    return Frame(kind, start + 1, end)


def frame_bytes(data: memoryview, at: int) -> int:
    """How long the frame at `at` says it is, head included; 0 if its head isn't all there."""
    if at + _FRAME_HEAD_BYTES > len(data):
        return 0
    length: int = _LENGTH_CRC.unpack_from(data, at)[0]
    return _FRAME_HEAD_BYTES + length


def read_record(data: memoryview, frame: Frame) -> tuple[int, bytes, bytes]:
    """A record frame's seq, the chain after it, and the encoded record."""
    _, seq, chain = _RECORD.unpack_from(data, frame.start - 1)
    return seq, chain, bytes(data[frame.start - 1 + _RECORD.size : frame.end])


def read_content(data: memoryview, frame: Frame) -> ContentPiece:
    """A content frame's piece."""
    _, session, op, direction, codec, offset, raw_bytes = _CONTENT.unpack_from(data, frame.start - 1)
    return ContentPiece(
        session_id=_session_text(session),
        op=op,
        direction=_DIRECTION[direction],
        offset=offset,
        data=bytes(data[frame.start - 1 + _CONTENT.size : frame.end]),
        raw_bytes=raw_bytes,
        codec=Codec(codec),
    )


@lru_cache(maxsize=4096)  # a worker's sessions; making the text costs more than all the rest
def _session_text(session: bytes) -> str:
    return str(uuid.UUID(bytes=session))
