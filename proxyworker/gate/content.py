"""What the agent sent and what it was shown, on its way into the journal.

Little content goes into the journal as it is, in the same write as its outcome. Much is cut into chunks, which a thread
of the `ContentPress` digests and compresses in order. Whole answers are never gathered.
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import zstandard

from proxyworker.journal import Codec, ContentPiece

if TYPE_CHECKING:
    from proxyworker.contract import Direction

#: Content up to here is digested and journaled on the loop: less work than handing it to a thread.
INLINE_BYTES: Final = 16 * 1024
#: Longer content is pressed in chunks of about this size: one hand-over to a thread each.
CHUNK_BYTES: Final = 256 * 1024
#: zstd level 1: about 370 MB/s on one core, and the GIL is free meanwhile.
ZSTD_LEVEL: Final = 1
#: Threads that press. Content of one session stays in one of them, so that it keeps its order.
PRESS_THREADS: Final = 2


class ContentPress:
    """Threads that digest and compress."""

    def __init__(self) -> None:
        self._lanes = [
            ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"content-{index}") for index in range(PRESS_THREADS)
        ]
        self._next = 0

    def lane(self) -> ThreadPoolExecutor:
        """A lane for a session, in turn."""
        self._next = (self._next + 1) % len(self._lanes)
        return self._lanes[self._next]

    def close(self) -> None:
        """Let the threads finish what they have, and end."""
        for lane in self._lanes:
            lane.shutdown(wait=True)


class ContentStream:
    """One direction of one operation's content. `add` and `take` on the loop, `press` in a lane, one at a time."""

    __slots__ = (
        "_digest",
        "_direction",
        "_op",
        "_parts",
        "_pressed_bytes",
        "_session_id",
        "total_bytes",
        "waiting_bytes",
    )

    def __init__(self, session_id: str, op: int, direction: Direction) -> None:
        self._session_id = session_id
        self._op = op
        self._direction = direction
        self._parts: list[bytes] = []
        self._digest = hashlib.sha256()
        self._pressed_bytes = 0
        #: All bytes added.
        self.total_bytes = 0
        #: Bytes added and not taken.
        self.waiting_bytes = 0

    def add(self, data: bytes) -> None:
        """These bytes come next."""
        self._parts.append(data)
        self.waiting_bytes += len(data)
        self.total_bytes += len(data)

    def is_inline(self) -> bool:
        """Whether all of it is so little that `press` may run on the loop."""
        return self.total_bytes <= INLINE_BYTES

    def take(self) -> list[bytes]:
        """What waits, to be given to `press`."""
        parts, self._parts = self._parts, []
        self.waiting_bytes = 0
        return parts

    def press(self, parts: list[bytes]) -> ContentPiece | None:
        """Digest and, where it is much, compress. None for nothing."""
        data = parts[0] if len(parts) == 1 else b"".join(parts)
        if not data:
            return None
        self._digest.update(data)
        offset = self._pressed_bytes
        self._pressed_bytes += len(data)
        if len(data) <= INLINE_BYTES:
            stored, codec = data, Codec.RAW
        else:
            stored, codec = zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(data), Codec.ZSTD
        return ContentPiece(self._session_id, self._op, self._direction, offset, stored, len(data), codec)

    def digest(self) -> bytes:
        """SHA-256 of all that was pressed, 32 bytes; empty where there was nothing."""
        return self._digest.digest() if self._pressed_bytes else b""
