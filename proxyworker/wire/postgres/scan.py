"""Finding the frames of the PostgreSQL protocol in a buffer, many at a time.

A frame is one type byte, a four-byte big-endian length that counts itself, and the body (PostgreSQL documentation,
"Message Formats"). Rows and COPY data are *runs*: consecutive frames of one type become a single span, and a frame
of theirs that is still arriving passes in pieces, so that no row, however long, is ever gathered in memory.

The file runs interpreted, and compiled by Cython with the types in scan.pxd: per frame 14 ns instead of some 200 ns.
Bounds checks stay on.
"""

from __future__ import annotations

HEADER_BYTES = 5


class FrameError(Exception):
    """The peer's bytes are no frames. `problem` says why, without quoting them."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


class FrameScanner:
    """Spans of one direction of one connection.

    `run_types` are the type bytes whose frames are passed in runs. Any other frame is reported once it is complete, and
    may have at most `max_frame_bytes`; a longer one is reported as soon as its header is known, see `oversized`.
    """

    def __init__(self, run_types: bytes, max_frame_bytes: int) -> None:
        if not 1 <= len(run_types) <= 2:
            raise ValueError("one or two run types")
        self._run_a = run_types[0]
        self._run_b = run_types[-1]
        self._max_frame_bytes = max_frame_bytes
        self._run_type = 0
        #: How much of the last frame of a run is still to come.
        self.run_left = 0
        #: After `scan`: how much of the buffer the spans cover. The caller puts the rest in front of the next buffer.
        self.consumed = 0
        #: After `scan`: the least length of the buffer (from `consumed` on) with which another span can be found.
        self.needed = HEADER_BYTES
        #: After `scan`: the whole length of a frame that is over the bound and starts at `consumed`, else 0. The caller
        #: drops that many bytes, from `consumed` on, before it scans again.
        self.oversized = 0

    def forget_run(self) -> None:
        """Scan the rest of the last buffer anew: a run that reached beyond it has not been passed after all."""
        self.run_left = 0

    def scan(  # noqa: C901, PLR0912, PLR0915 - one loop over the bytes; calls inside it would cost more than the rest
        self, data: bytes
    ) -> list[tuple[int, int, int, int]]:
        """The spans in `data`, in order: (type, start, end, frames that start in it).

        Raises `FrameError` for a length below four: the stream can't be followed further.
        """
        spans: list[tuple[int, int, int, int]] = []
        size = len(data)
        at = 0
        self.oversized = 0
        self.needed = HEADER_BYTES
        run_type = 0
        run_start = 0
        run_frames = 0
        if self.run_left > 0:
            run_type = self._run_type
            if self.run_left > size:
                self.run_left -= size
                self.consumed = size
                if size > 0:
                    spans.append((run_type, 0, size, 0))
                return spans
            at = self.run_left
            self.run_left = 0
        while size - at >= 5:
            kind = data[at]
            b0 = data[at + 1]
            b1 = data[at + 2]
            b2 = data[at + 3]
            b3 = data[at + 4]
            length = (b0 << 24) | (b1 << 16) | (b2 << 8) | b3
            if length < 4 or length > 0x7FFFFFFF:
                raise FrameError("a frame with an impossible length")
            end = at + 1 + length
            if kind in (self._run_a, self._run_b):
                if kind != run_type:
                    if run_type != 0:
                        spans.append((run_type, run_start, at, run_frames))
                    run_type = kind
                    run_start = at
                    run_frames = 0
                run_frames += 1
                if end > size:
                    self._run_type = kind
                    self.run_left = end - size
                    at = size
                    break
                at = end
                continue
            if run_type != 0:
                spans.append((run_type, run_start, at, run_frames))
                run_type = 0
            if length + 1 > self._max_frame_bytes:
                self.oversized = length + 1
                break
            if end > size:
                self.needed = length + 1
                break
            spans.append((kind, at, end, 1))
            at = end
        if run_type != 0:
            spans.append((run_type, run_start, at, run_frames))
        self.consumed = at
        return spans
