"""Content segments on disk until storage has them. Blocks on files, so it runs in the shipper's thread.

The spool follows the journal's content and can be set back to any cursor: what it holds beyond that is dropped, and
comes again from the journal. So nothing here has to be durable before the cursor says so.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import zstandard

from proxyworker.contract import MAX_SEGMENT_BYTES
from proxyworker.disk import sync_folder
from proxyworker.journal.content import CHUNK_BYTES, PIECE_HEAD_BYTES, encode_chunk, encode_header
from proxyworker.journal.cursor import Cursor, OpenContent, SealedContent
from proxyworker.journal.errors import JournalError
from proxyworker.journal.frames import ContentPiece

#: A session that shows nothing for so long gets its segment sent off.
IDLE_SECONDS: Final = 30.0
#: 370 MB/s; higher levels cost the data path more than they save.
ZSTD_LEVEL: Final = 1


@dataclass(slots=True)
class _OpenSegment:
    """The segment of a session that is written to, and the pieces that wait to share a chunk."""

    index: int = 0
    size_bytes: int = 0
    touched_at: float = 0.0
    pieces: list[ContentPiece] = field(default_factory=list)
    pending_bytes: int = 0


class Spool:
    """One folder of content segments, `<session>-<index>.ngs`."""

    def __init__(self, folder: Path, cursor: Cursor, *, now: float) -> None:
        """Set the folder back to the cursor. Raises `JournalError` if it has lost content, `OSError`."""
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.folder = folder
        self._compressor = zstandard.ZstdCompressor(level=ZSTD_LEVEL)
        self._open = {
            session_id: _OpenSegment(content.index, content.size_bytes, now)
            for session_id, content in cursor.content.items()
        }
        self._sealed = {self.path(sealed): sealed for sealed in cursor.sealed}
        self._dirty: set[Path] = set()
        self._set_back()

    @property
    def size_bytes(self) -> int:
        """What all segments take on disk."""
        return sum(sealed.size_bytes for sealed in self._sealed.values()) + sum(
            segment.size_bytes for segment in self._open.values()
        )

    def path(self, segment: SealedContent) -> Path:
        """The file of a sealed segment."""
        return self._path(segment.session_id, segment.index)

    def add(self, piece: ContentPiece, *, now: float) -> None:
        """Take a piece. Raises `OSError`."""
        segment = self._open.get(piece.session_id)
        if segment is None:
            segment = self._open[piece.session_id] = _OpenSegment()
        segment.touched_at = now
        if segment.pieces and (segment.pieces[-1].codec != piece.codec or segment.pending_bytes >= CHUNK_BYTES):
            self._write_chunk(piece.session_id, segment)
        segment.pieces.append(piece)
        segment.pending_bytes += len(piece.data) + PIECE_HEAD_BYTES

    def end(self, session_id: str) -> None:
        """The session is over: seal its last segment. Raises `OSError`."""
        segment = self._open.get(session_id)
        if segment is not None:
            self._write_chunk(session_id, segment)
            self._seal(session_id, segment)
            del self._open[session_id]

    def flush(self, *, now: float) -> None:
        """Write what waits to share a chunk, and seal what was idle for long. Raises `OSError`."""
        for session_id, segment in self._open.items():
            self._write_chunk(session_id, segment)
            if segment.size_bytes and now - segment.touched_at > IDLE_SECONDS:
                self._seal(session_id, segment)

    def state(self) -> tuple[dict[str, OpenContent], tuple[SealedContent, ...]]:
        """What a cursor has to say of the spool, once flushed."""
        content = {
            session_id: OpenContent(segment.index, segment.size_bytes) for session_id, segment in self._open.items()
        }
        return content, tuple(self._sealed.values())

    def sync(self) -> None:
        """Make everything written durable. Raises `OSError`."""
        for path in self._dirty:
            if path.exists():  # uploaded and removed since
                descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
                try:
                    os.fdatasync(descriptor)
                finally:
                    os.close(descriptor)
        self._dirty.clear()
        sync_folder(self.folder)

    def remove(self, sealed: SealedContent) -> None:
        """Storage has it. Raises `OSError`."""
        path = self.path(sealed)
        self._sealed.pop(path, None)
        path.unlink(missing_ok=True)

    def _set_back(self) -> None:
        kept: set[Path] = set()
        for session_id, segment in self._open.items():
            if not segment.size_bytes:
                continue
            path = self._path(session_id, segment.index)
            if not path.exists() or path.stat().st_size < segment.size_bytes:
                raise JournalError(f"{path}: content is lost; the cursor knows {segment.size_bytes} bytes of it")
            os.truncate(path, segment.size_bytes)
            kept.add(path)
        for path, sealed in tuple(self._sealed.items()):
            if not path.exists():  # storage had it before the cursor could say so
                del self._sealed[path]
                continue
            os.truncate(path, sealed.size_bytes)
            kept.add(path)
        for path in self.folder.glob("*.ngs"):
            if path not in kept:
                path.unlink()

    def _path(self, session_id: str, index: int) -> Path:
        return self.folder / f"{session_id}-{index}.ngs"

    def _write_chunk(self, session_id: str, segment: _OpenSegment) -> None:
        if not segment.pieces:
            return
        chunk = encode_chunk(segment.pieces, self._compressor)
        segment.pieces, segment.pending_bytes = [], 0
        if segment.size_bytes + len(chunk) > MAX_SEGMENT_BYTES:
            self._seal(session_id, segment)
        path = self._path(session_id, segment.index)
        if not segment.size_bytes:
            chunk = encode_header(session_id, segment.index) + chunk
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _write_all(descriptor, chunk, segment.size_bytes)
        finally:
            os.close(descriptor)
        segment.size_bytes += len(chunk)
        self._dirty.add(path)

    def _seal(self, session_id: str, segment: _OpenSegment) -> None:
        if segment.size_bytes:
            sealed = SealedContent(session_id, segment.index, segment.size_bytes)
            self._sealed[self.path(sealed)] = sealed
            segment.index += 1
            segment.size_bytes = 0


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    """Raises `OSError`."""
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view = view[written:]
        offset += written
