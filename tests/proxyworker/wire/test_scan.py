"""Finding frames: however the stream is cut, compiled or not."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import itertools
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from proxyworker.wire.postgres import scan
from proxyworker.wire.postgres.scan import FrameError, FrameScanner

RUNS = b"Dd"
BOUND = 64
SOURCE = Path(scan.__file__).with_name("scan.py")


def interpreted() -> ModuleType:
    """scan.py by its source, whether or not a compiled form stands beside it."""
    loader = importlib.machinery.SourceFileLoader("interpreted_scan", str(SOURCE))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


INTERPRETED = interpreted()
IS_COMPILED = Path(scan.__file__).suffix != ".py"


def frame(kind: int, body: bytes) -> bytes:
    return bytes((kind,)) + struct.pack("!I", len(body) + 4) + body


@dataclass
class Seen:
    """What a reader of a stream gets to see. `parts`: (type, all its bytes, frames), consecutive runs put together."""

    parts: list[tuple[int, bytes, int]] = field(default_factory=list)
    oversized: list[int] = field(default_factory=list)
    rest: bytes = b""

    def add(self, kind: int, data: bytes, frames: int) -> None:
        if kind in RUNS and self.parts and self.parts[-1][0] == kind:
            _, before, count = self.parts.pop()
            self.parts.append((kind, before + data, count + frames))
        else:
            self.parts.append((kind, data, frames))


def read(scanner: Any, pieces: Sequence[bytes]) -> Seen:
    """Read the stream as a session does: keep what is left over, drop what is too long."""
    seen = Seen()
    dropping = 0
    for piece in pieces:
        left = piece[dropping:]
        dropping = max(0, dropping - len(piece))
        seen.rest += left
        while True:
            for kind, start, end, frames in scanner.scan(seen.rest):
                assert end > start
                seen.add(kind, seen.rest[start:end], frames)
            consumed = scanner.consumed
            if not scanner.oversized:
                seen.rest = seen.rest[consumed:]
                assert len(seen.rest) < scanner.needed
                break
            seen.oversized.append(scanner.oversized)
            # Reported from the header on, before the body is there.
            assert len(seen.rest) >= consumed + scan.HEADER_BYTES
            dropping = max(0, scanner.oversized - (len(seen.rest) - consumed))
            seen.rest = seen.rest[consumed + scanner.oversized :]
    return seen


def cut(stream: bytes, points: Sequence[int]) -> list[bytes]:
    places = [0, *sorted(point % (len(stream) + 1) for point in points), len(stream)]
    return [stream[start:end] for start, end in itertools.pairwise(places)]


frames = st.tuples(st.sampled_from(b"DdQTZC"), st.integers(0, BOUND + 20)).map(
    lambda drawn: frame(drawn[0], bytes(range(drawn[1])))
)


@given(st.lists(frames, max_size=12), st.lists(st.integers(0, 2_000), max_size=12))
@example([frame(ord("D"), b"ab"), frame(ord("Q"), bytes(BOUND)), frame(ord("d"), bytes(BOUND))], list(range(300)))
def test_a_stream_of_frames_is_read_the_same_however_it_is_cut(stream: list[bytes], points: list[int]) -> None:
    whole = b"".join(stream)
    seen = read(FrameScanner(RUNS, BOUND), cut(whole, points))
    assert seen == read(FrameScanner(RUNS, BOUND), [whole])
    short = [one for one in stream if one[0] in RUNS or len(one) <= BOUND]
    assert b"".join(data for _, data, _ in seen.parts) == b"".join(short)
    assert sum(count for _, _, count in seen.parts) == len(short)
    assert seen.oversized == [len(one) for one in stream if one[0] not in RUNS and len(one) > BOUND]
    assert seen.rest == b""


@pytest.mark.parametrize("module", [scan, INTERPRETED], ids=["installed", "interpreted"])
class TestScanner:
    """One scan at a time."""

    def test_frames_of_a_run_become_one_span(self, module: ModuleType) -> None:
        scanner = module.FrameScanner(RUNS, BOUND)
        row = frame(ord("D"), b"row")
        ready = frame(ord("Z"), b"I")
        assert scanner.scan(row * 3 + ready + row) == [
            (ord("D"), 0, 24, 3),
            (ord("Z"), 24, 30, 1),
            (ord("D"), 30, 38, 1),
        ]
        assert scanner.consumed == 38

    def test_runs_of_two_types_are_apart(self, module: ModuleType) -> None:
        scanner = module.FrameScanner(RUNS, BOUND)
        assert scanner.scan(frame(ord("D"), b"") + frame(ord("d"), b"")) == [(ord("D"), 0, 5, 1), (ord("d"), 5, 10, 1)]

    def test_a_row_passes_in_pieces_of_any_size(self, module: ModuleType) -> None:
        scanner = module.FrameScanner(RUNS, BOUND)
        data = frame(ord("D"), bytes(1_000)) + frame(ord("Z"), b"I")
        assert scanner.scan(data[:100]) == [(ord("D"), 0, 100, 1)]
        assert scanner.scan(data[100:300]) == [(ord("D"), 0, 200, 0)]
        assert scanner.scan(b"") == []
        assert scanner.scan(data[300:]) == [(ord("D"), 0, 705, 0), (ord("Z"), 705, 711, 1)]

    def test_a_frame_that_is_not_whole_says_how_much_it_needs(self, module: ModuleType) -> None:
        scanner = module.FrameScanner(RUNS, BOUND)
        data = frame(ord("Q"), bytes(20))
        assert scanner.scan(data[:4]) == []
        assert (scanner.consumed, scanner.needed) == (0, 5)
        assert scanner.scan(data[:5]) == []
        assert (scanner.consumed, scanner.needed) == (0, 25)
        assert scanner.scan(data) == [(ord("Q"), 0, 25, 1)]
        assert (scanner.consumed, scanner.needed) == (25, 5)

    def test_a_frame_of_just_the_bound_passes_and_one_byte_more_is_oversized(self, module: ModuleType) -> None:
        scanner = module.FrameScanner(RUNS, BOUND)
        assert scanner.scan(frame(ord("Q"), bytes(BOUND - 5))) == [(ord("Q"), 0, BOUND, 1)]
        assert scanner.oversized == 0
        first = frame(ord("S"), b"")
        assert scanner.scan(first + frame(ord("Q"), bytes(BOUND - 4))[:5]) == [(ord("S"), 0, 5, 1)]
        assert (scanner.consumed, scanner.oversized) == (5, BOUND + 1)

    def test_the_longest_length_is_oversized_and_not_impossible(self, module: ModuleType) -> None:
        scanner = module.FrameScanner(RUNS, BOUND)
        assert scanner.scan(b"Q\x7f\xff\xff\xff") == []
        assert scanner.oversized == 2**31

    @pytest.mark.parametrize("length", [0, 3, 0x8000_0000, 0xFFFF_FFFF])
    @pytest.mark.parametrize("kind", b"QD")
    def test_an_impossible_length_ends_the_stream(self, module: ModuleType, kind: int, length: int) -> None:
        scanner = module.FrameScanner(RUNS, BOUND)
        with pytest.raises(module.FrameError) as caught:
            scanner.scan(frame(ord("S"), b"") + bytes((kind,)) + struct.pack("!I", length))
        assert caught.value.problem == "a frame with an impossible length"

    def test_a_run_beyond_what_was_used_can_be_forgotten(self, module: ModuleType) -> None:
        scanner = module.FrameScanner(RUNS, BOUND)
        parse = frame(ord("P"), b"barrier")
        data = frame(ord("d"), bytes(100))
        assert scanner.scan(parse + data[:50]) == [(ord("P"), 0, 12, 1), (ord("d"), 12, 62, 1)]
        scanner.forget_run()
        assert scanner.scan(data + parse) == [(ord("d"), 0, 105, 1), (ord("P"), 105, 117, 1)]

    @pytest.mark.parametrize("run_types", [b"", b"abc"])
    def test_there_are_one_or_two_run_types(self, module: ModuleType, run_types: bytes) -> None:
        with pytest.raises(ValueError, match="one or two"):
            module.FrameScanner(run_types, BOUND)


def trace(scanner: Any, error: type[Exception], pieces: Sequence[bytes]) -> list[object]:
    """All that a scanner says to a stream of anything."""
    said: list[object] = []
    for piece in pieces:
        try:
            said.append(scanner.scan(piece))
        except error as raised:
            said.append(str(raised))
            scanner.forget_run()
        said.append((scanner.consumed, scanner.needed, scanner.oversized))
    return said


@pytest.mark.skipif(not IS_COMPILED, reason="the scanner is not compiled here, so there is nothing to compare")
@given(st.lists(st.one_of(st.binary(max_size=200), st.lists(frames, max_size=5).map(b"".join)), max_size=8))
@settings(max_examples=200)
def test_the_compiled_scanner_does_what_the_interpreted_one_does(pieces: list[bytes]) -> None:
    assert trace(FrameScanner(RUNS, BOUND), FrameError, pieces) == trace(
        INTERPRETED.FrameScanner(RUNS, BOUND), INTERPRETED.FrameError, pieces
    )
