"""A stream of anything, cut anywhere: spans lie in order within what was consumed, or `FrameError`."""

from __future__ import annotations

from proxyworker.wire.postgres.scan import HEADER_BYTES, FrameError, FrameScanner
from tests.fuzz.run import fuzz

RUNS = b"Dd"
BOUND = 300


def one_input(data: bytes) -> None:
    """The first byte says how long the pieces are that the rest comes in."""
    size = data[0] + 1 if data else 1
    scanner = FrameScanner(RUNS, BOUND)
    rest = b""
    for start in range(1, len(data), size):
        rest += data[start : start + size]
        try:
            spans = scanner.scan(rest)
        except FrameError:
            return
        at = 0
        for kind, begin, end, frames in spans:
            assert begin == at < end
            assert frames == 1 or kind in RUNS
            assert kind in RUNS or end - begin <= BOUND
            at = end
        assert at == scanner.consumed <= len(rest)
        if scanner.oversized:
            assert scanner.oversized > BOUND
            return
        rest = rest[at:]
        assert len(rest) < scanner.needed <= max(BOUND, HEADER_BYTES)


if __name__ == "__main__":
    fuzz(one_input)
