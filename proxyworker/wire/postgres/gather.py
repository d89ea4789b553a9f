"""Frames that come in several reads: put together once, when they are whole."""

from __future__ import annotations

from typing import Final

from proxyworker.wire.postgres.scan import HEADER_BYTES

#: More than will ever come: nothing is found before somebody hurries.
UNTIL_KNOWN: Final = 2**62


def needed_for(rest: bytes) -> int:
    """How many bytes make the frame whole that this begins."""
    return 1 + int.from_bytes(rest[1:HEADER_BYTES], "big") if len(rest) >= HEADER_BYTES else HEADER_BYTES


class Gathered:
    """What a scanner left over of one read, until there is enough to find another frame."""

    __slots__ = ("_bytes", "_needed", "_parts")

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._bytes = 0
        self._needed = 0

    def add(self, data: bytes) -> bytes | None:
        """All that is there, once it is enough to find another frame."""
        if not self._parts:
            return data
        self._parts.append(data)
        self._bytes += len(data)
        if self._bytes < self._needed:
            return None
        whole = b"".join(self._parts)
        self._parts.clear()
        self._bytes = 0
        return whole

    def keep(self, rest: bytes, needed: int) -> None:
        """This is left over; `needed` bytes make the next frame."""
        if rest:
            self._parts.append(rest)
            self._bytes = len(rest)
            self._needed = needed

    def hurry(self) -> None:
        """Whatever is there is enough now."""
        self._needed = 0
