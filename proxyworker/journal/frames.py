"""The form of a segment file, as bytes. Pure: knows no file and no clock."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from proxyworker.contract import Direction


class Codec(IntEnum):
    """How a piece of content is stored."""

    RAW = 0
    ZSTD = 1


class ContentPiece(NamedTuple):
    """Bytes that an agent sent or was shown, in operation `op` of a session.

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
