"""What is in rows: the values of some columns, and where rows end, in a run of DataRow frames.

A frame holds the number of columns (2 bytes), then for each its length (4 bytes, -1 for NULL) and its bytes
(PostgreSQL documentation, "Message Formats"). Nothing is gathered: an incomplete frame at the end is left alone.

The file runs interpreted, and compiled by Cython with the types in rows.pxd.
"""

from __future__ import annotations

from proxyworker.wire.postgres.scan import FrameError


def new_values(data: bytes, start: int, end: int, wanted: bytes, known: set[bytes]) -> list[tuple[int, bytes]]:
    """Values of the wanted columns that aren't known, each once, in their order: (where its row starts, the value).

    `wanted` has a byte for each of the first columns, 1 for those that are. NULL is no value. Raises `FrameError` for a
    row that is none.
    """
    found: list[tuple[int, bytes]] = []
    fresh: set[bytes] = set()
    columns = len(wanted)
    at = start
    while end - at >= 7:
        b0 = data[at + 1]
        b1 = data[at + 2]
        b2 = data[at + 3]
        b3 = data[at + 4]
        row_end = at + 1 + ((b0 << 24) | (b1 << 16) | (b2 << 8) | b3)
        if row_end > end:
            break
        b0 = data[at + 5]
        b1 = data[at + 6]
        count = (b0 << 8) | b1
        place = at + 7
        for column in range(count):
            if place + 4 > row_end:
                raise FrameError("a row that ends within a value")
            b0 = data[place]
            b1 = data[place + 1]
            b2 = data[place + 2]
            b3 = data[place + 3]
            length = (b0 << 24) | (b1 << 16) | (b2 << 8) | b3
            place += 4
            if length == 0xFFFFFFFF:
                continue
            if length > row_end - place:
                raise FrameError("a value that reaches beyond its row")
            if column < columns and wanted[column] == 1:
                value = data[place : place + length]
                if value not in known and value not in fresh:
                    fresh.add(value)
                    found.append((at, value))
            place += length
        if place != row_end:
            raise FrameError("a row with bytes behind its values")
        at = row_end
    return found


def whole_rows(data: bytes, start: int, end: int, most: int) -> tuple[int, int]:
    """How many frames from `start` on, at most so many, are whole before `end`; and where the last of them ends."""
    count = 0
    at = start
    while count < most and end - at >= 5:
        b0 = data[at + 1]
        b1 = data[at + 2]
        b2 = data[at + 3]
        b3 = data[at + 4]
        frame_end = at + 1 + ((b0 << 24) | (b1 << 16) | (b2 << 8) | b3)
        if frame_end > end:
            break
        count += 1
        at = frame_end
    return count, at
