"""What is on a journal's disk, read as recovery reads it."""

from __future__ import annotations

from pathlib import Path

from proxyworker.contract import Record, decode_record
from proxyworker.journal.files import list_segments
from proxyworker.journal.frames import (
    CLOSING_RECORD,
    CONTENT,
    HEADER_BYTES,
    RECORD,
    ContentPiece,
    read_content,
    read_frame,
    read_record,
)


def read_all(folder: Path) -> tuple[list[Record], list[ContentPiece]]:
    """Every record and piece of content in the folder's segments, in order."""
    records: list[Record] = []
    content: list[ContentPiece] = []
    for _, path in list_segments(folder):
        data = memoryview(path.read_bytes())
        at = HEADER_BYTES
        while (frame := read_frame(data, at)) is not None:
            if frame.type in (RECORD, CLOSING_RECORD):
                records.append(decode_record(read_record(data, frame)[2]))
            elif frame.type == CONTENT:
                content.append(read_content(data, frame))
            at = frame.end
    return records, content
