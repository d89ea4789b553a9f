"""The form of a content segment, and its reader. Pure. Integers are big-endian.

    file      magic 8 B, header length u16, crc32 u32 (of the header), header in msgpack (`SegmentHeader`), chunks
    chunk     stored bytes u32, raw bytes u32, codec u8, crc32 u32 (of all this and what follows), stored bytes
    pieces    the chunk's raw bytes: op u64, direction u8, codec u8, offset u64, raw bytes u32, data length u32, data; …

Small raw pieces share a compressed chunk; a piece that came compressed stands in a raw chunk.
"""

from __future__ import annotations

import struct
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

_HEADER: Final = Struct(">HI")
_CHUNK: Final = Struct(">IIB")
_CRC: Final = Struct(">I")
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
    return MAGIC + _HEADER.pack(len(header), crc32(header)) + header


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
    head = _CHUNK.pack(len(stored), len(raw), codec)
    return head + _CRC.pack(crc32(stored, crc32(head))) + stored


def read_header(data: bytes) -> tuple[SegmentHeader, int]:
    """The header and where the chunks begin. Raises `JournalError`."""
    start = len(MAGIC) + _HEADER.size
    if not data.startswith(MAGIC) or len(data) < start:
        raise JournalError("no content segment")
    length, checksum = _HEADER.unpack_from(data, len(MAGIC))
    end = start + length
    if crc32(data[start:end]) != checksum:
        raise JournalError("content segment: damaged header")
    try:
        header = _decoder.decode(data[start:end])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise JournalError("content segment: a header of another form") from error
    if header.version != SEGMENT_VERSION:
        raise JournalError(f"content segment version {header.version}; this reads version {SEGMENT_VERSION}")
    return header, end


def read_segment(data: bytes) -> Iterator[ContentPiece]:
    """The segment's pieces, decompressed, in the order in which they were sent. Raises `JournalError` for damage."""
    header, at = read_header(data)
    decompressor = zstandard.ZstdDecompressor()
    while at < len(data):
        chunk_at = at
        try:
            stored_bytes, raw_bytes, codec = _CHUNK.unpack_from(data, at)
            (checksum,) = _CRC.unpack_from(data, at + _CHUNK.size)
            start = at + _CHUNK.size + _CRC.size
            at = start + stored_bytes
            if crc32(data[start:at], crc32(data[chunk_at : chunk_at + _CHUNK.size])) != checksum or at > len(data):
                raise ValueError("checksum")
            raw = _expand(data[start:at], codec, raw_bytes, decompressor, bound_bytes=MAX_CHUNK_BYTES)
            pieces = list(_read_pieces(header.session_id, raw, decompressor))
        except (struct.error, ValueError, zstandard.ZstdError) as error:
            raise JournalError(f"content segment: offset {chunk_at}: damaged") from error
        yield from pieces


def _read_pieces(session_id: str, raw: bytes, decompressor: zstandard.ZstdDecompressor) -> Iterator[ContentPiece]:
    at = 0
    while at < len(raw):
        op, direction, codec, offset, raw_bytes, data_bytes = _PIECE.unpack_from(raw, at)
        start = at + _PIECE.size
        at = start + data_bytes
        data = _expand(raw[start:at], codec, raw_bytes, decompressor, bound_bytes=MAX_PIECE_BYTES)
        yield ContentPiece(session_id, op, Direction(chr(direction)), offset, data, raw_bytes)


def _expand(
    stored: bytes, codec: int, raw_bytes: int, decompressor: zstandard.ZstdDecompressor, *, bound_bytes: int
) -> bytes:
    """Raises `ValueError` for anything but exactly `raw_bytes` within the bound, `zstandard.ZstdError`."""
    data = stored
    if Codec(codec) is Codec.ZSTD:
        if zstandard.frame_content_size(stored) > bound_bytes:  # the decompressor trusts what the frame says of itself
            raise ValueError("over its bound")
        data = decompressor.decompress(stored, max_output_size=min(raw_bytes, bound_bytes))
    if len(data) != raw_bytes:
        raise ValueError("another size")
    return data
