"""How far shipping has come, on disk: where reading goes on after a restart, and what the spool held there."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec

from proxyworker.contract import JOURNAL_VERSION
from proxyworker.disk import write_whole
from proxyworker.journal.errors import JournalError

_NAME: Final = "cursor"


class OpenContent(msgspec.Struct, frozen=True, array_like=True):
    """A session's content segment that is still written to: its index and how long it is at the cursor."""

    index: int
    size_bytes: int


class SealedContent(msgspec.Struct, frozen=True, array_like=True):
    """A content segment that is complete, and not known to be in storage."""

    session_id: str
    index: int
    size_bytes: int


class Cursor(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything before `position`, up to record `seq`, is acknowledged, and its content is in the spool or beyond.

    `chain` is the journal's chain after record `seq`.
    """

    version: int = JOURNAL_VERSION
    position: int = 0
    seq: int = 0
    chain: bytes = bytes(32)
    content: dict[str, OpenContent] = {}
    sealed: tuple[SealedContent, ...] = ()


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Cursor)


def read_cursor(folder: Path) -> Cursor:
    """The folder's cursor; at the start of a journal, one that stands there. Raises `JournalError`."""
    path = folder / _NAME
    if not path.exists():
        return Cursor()
    try:
        cursor = _decoder.decode(path.read_bytes())
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise JournalError(f"{path}: not a cursor of this version: {error}") from error
    if cursor.version != JOURNAL_VERSION:
        raise JournalError(f"{path}: version {cursor.version}; this worker reads version {JOURNAL_VERSION}")
    return cursor


def write_cursor(folder: Path, cursor: Cursor) -> None:
    """Replace the folder's cursor, durably. Raises `OSError`."""
    write_whole(folder / _NAME, _encoder.encode(cursor))
