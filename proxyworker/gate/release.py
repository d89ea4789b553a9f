"""Nothing leaves before its record is durable: bytes wait here, in order, for the journal.

The same queue stands on both ways out: towards the agent for answers, which wait for their outcome; towards the target
for operations, which wait for their intent.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from proxyworker.journal import Journal

#: Above this much waiting, the side that the bytes come from is not read.
HELD_HIGH_BYTES: Final = 1024 * 1024
HELD_LOW_BYTES: Final = 256 * 1024


class Held:
    """Bytes, the journal position that must be durable first, and how many outcomes have no position yet."""

    __slots__ = ("data", "position", "unrecorded")

    def __init__(self, data: bytes, position: int, unrecorded: int) -> None:
        self.data = data
        self.position = position
        self.unrecorded = unrecorded


class ReleaseQueue:
    """Bytes on their way out of one connection, in order.

    `write` sends them; `on_level` hears when too much waits (True) and when that is over (False).
    """

    def __init__(self, journal: Journal, *, write: Callable[[bytes], object], on_level: Callable[[bool], None]) -> None:
        self._journal = journal
        self._write = write
        self._on_level = on_level
        self._queue: deque[Held] = deque()
        self._held_bytes = 0
        self._is_high = False
        self._on_empty: Callable[[], None] | None = None
        self._is_shut = False

    def put(self, data: bytes, position: int, unrecorded: int = 0) -> Held | None:
        """Send the bytes once the journal is durable up to `position` and `settle` was called `unrecorded` times.

        Returns what to settle, None when the bytes have left already.
        """
        if self._is_shut:
            return None
        if not self._queue and unrecorded == 0 and position <= self._journal.durable_position:
            self._write(data)
            return None
        held = Held(data, position, unrecorded)
        self._queue.append(held)
        self._held_bytes += len(data)
        if self._held_bytes > HELD_HIGH_BYTES and not self._is_high:
            self._is_high = True
            self._on_level(True)
        if unrecorded == 0 and (position > self._journal.durable_position or len(self._queue) == 1):
            self._journal.when_durable(position, self._advance)
        return held

    def settle(self, held: Held, position: int) -> None:
        """One of its outcomes is in the journal, at this position."""
        held.unrecorded -= 1
        held.position = max(held.position, position)
        if held.unrecorded == 0:
            self._journal.when_durable(held.position, self._advance)

    def when_empty(self, callback: Callable[[], None]) -> None:
        """Call once when all has left: at once if nothing waits."""
        if self._queue:
            self._on_empty = callback
        else:
            callback()

    def shut(self) -> None:
        """Drop what waits, and whatever is put from now on."""
        self._is_shut = True
        self._queue.clear()
        self._held_bytes = 0
        self._on_empty = None

    def _advance(self) -> None:
        queue = self._queue
        durable = self._journal.durable_position
        while queue and queue[0].unrecorded == 0 and queue[0].position <= durable:
            held = queue.popleft()
            self._held_bytes -= len(held.data)
            self._write(held.data)
        if self._is_high and self._held_bytes < HELD_LOW_BYTES:
            self._is_high = False
            self._on_level(False)
        if not queue and self._on_empty is not None:
            callback, self._on_empty = self._on_empty, None
            callback()
