"""The form of a content segment, and its reader. Pure. Integers are big-endian.

    file      magic 8 B, header length u16, header in msgpack (`SegmentHeader`), chunks
    chunk     stored bytes u32, raw bytes u32, crc32 u32 (of the stored bytes), codec u8, stored bytes
    pieces    the chunk's raw bytes: op u64, direction u8, codec u8, offset u64, raw bytes u32, data length u32, data; …

Small raw pieces share a compressed chunk; a piece that came compressed stands in a raw chunk.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from struct import Struct
from typing import Final
from zlib import crc32

import msgspec
import zstandard

from proxyworker.contract import SEGMENT_VERSION, Direction
from proxyworker.journal.errors import JournalError
from proxyworker.journal.frames import MAX_PIECE_BYTES, Codec, ContentPiece

MAGIC: Final = b"NGCONT\r\n"
#: Pieces are gathered up to this before they are compressed: zstd gains little beyond it.
CHUNK_BYTES: Final = 256 * 1024
#: A chunk holds less than `CHUNK_BYTES` and then one more piece; the rest is room for their heads.
MAX_CHUNK_BYTES: Final = 2 * (CHUNK_BYTES + MAX_PIECE_BYTES)

_HEADER_LENGTH: Final = Struct(">H")
_CHUNK: Final = Struct(">IIIB")
_PIECE: Final = Struct(">QBBQII")
PIECE_HEAD_BYTES: Final = _PIECE.size


class SegmentHeader(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a content segment is of. `codec` is the compression of its chunks and pieces that aren't raw."""

    version: int
    session_id: str
    index: int
    codec: str = "zstd"


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(SegmentHeader)


def encode_header(session_id: str, index: int) -> bytes:
    """The first bytes of a content segment."""
    header = _encoder.encode(SegmentHeader(version=SEGMENT_VERSION, session_id=session_id, index=index))
    return MAGIC + _HEADER_LENGTH.pack(len(header)) + header


def encode_chunk(pieces: Sequence[ContentPiece], compressor: zstandard.ZstdCompressor) -> bytes:
    """One chunk of these pieces, which are of one session; it is compressed if any of them is raw."""
    parts: list[bytes] = []
    for piece in pieces:
        direction = ord(piece.direction.value)
        parts += (
            _PIECE.pack(piece.op, direction, piece.codec, piece.offset, piece.raw_bytes, len(piece.data)),
            piece.data,
        )
    raw = b"".join(parts)
    codec = Codec.ZSTD if any(piece.codec == Codec.RAW for piece in pieces) else Codec.RAW
    stored = compressor.compress(raw) if codec is Codec.ZSTD else raw
    return _CHUNK.pack(len(stored), len(raw), crc32(stored), codec) + stored


def read_header(data: bytes) -> tuple[SegmentHeader, int]:
    """The header and where the chunks begin. Raises `JournalError`."""
    start = len(MAGIC) + _HEADER_LENGTH.size
    if not data.startswith(MAGIC) or len(data) < start:
        raise JournalError("no content segment")
    end = start + _HEADER_LENGTH.unpack_from(data, len(MAGIC))[0]
    try:
        header = _decoder.decode(data[start:end])
    except msgspec.MsgspecError as error:
        raise JournalError(f"a content segment's header: {error}") from error
    if header.version != SEGMENT_VERSION:
        raise JournalError(f"content segment version {header.version}; this reads version {SEGMENT_VERSION}")
    return header, end


def read_segment(data: bytes) -> Iterator[ContentPiece]:
    """The segment's pieces, decompressed, in the order in which they were sent. Raises `JournalError` for damage."""
    header, at = read_header(data)
    decompressor = zstandard.ZstdDecompressor()
    while at < len(data):
        if at + _CHUNK.size > len(data):
            raise JournalError(f"content segment: offset {at}: cut short")
        stored_bytes, raw_bytes, checksum, codec = _CHUNK.unpack_from(data, at)
        start = at + _CHUNK.size
        at = start + stored_bytes
        stored = data[start:at]
        if len(stored) != stored_bytes or crc32(stored) != checksum or raw_bytes > MAX_CHUNK_BYTES:
            raise JournalError(f"content segment: offset {start - _CHUNK.size}: damaged")
        raw = decompressor.decompress(stored, max_output_size=raw_bytes) if codec == Codec.ZSTD else stored
        yield from _read_pieces(header.session_id, raw, decompressor)


def _read_pieces(session_id: str, raw: bytes, decompressor: zstandard.ZstdDecompressor) -> Iterator[ContentPiece]:
    at = 0
    while at < len(raw):
        op, direction, codec, offset, raw_bytes, data_bytes = _PIECE.unpack_from(raw, at)
        start = at + _PIECE.size
        at = start + data_bytes
        data = raw[start:at]
        if codec == Codec.ZSTD:
            data = decompressor.decompress(data, max_output_size=min(raw_bytes, MAX_PIECE_BYTES))
        yield ContentPiece(session_id, op, Direction(chr(direction)), offset, data, raw_bytes)
