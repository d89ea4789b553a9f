"""Content segments: their form, and the spool that writes them."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from proxyworker.contract import MAX_SEGMENT_BYTES, Direction
from proxyworker.journal import Codec, ContentPiece, JournalError
from proxyworker.journal.content import encode_chunk, encode_header, read_header, read_segment
from proxyworker.journal.cursor import Cursor, SealedContent
from proxyworker.journal.frames import MAX_PIECE_BYTES
from proxyworker.journal.spool import IDLE_SECONDS, Spool
from tests.proxyworker.records import session_id, shown

ALICE, BOB = session_id(1), session_id(2)
COMPRESSOR = zstandard.ZstdCompressor(level=1)


def compressed(piece: ContentPiece) -> ContentPiece:
    return piece._replace(data=COMPRESSOR.compress(piece.data), codec=Codec.ZSTD)


pieces = st.lists(
    st.builds(
        lambda op, direction, offset, data, is_compressed: (
            compressed(ContentPiece(ALICE, op, direction, offset, data, len(data)))
            if is_compressed
            else ContentPiece(ALICE, op, direction, offset, data, len(data))
        ),
        op=st.integers(1, 2**63),
        direction=st.sampled_from(Direction),
        offset=st.integers(0, 2**63),
        data=st.binary(max_size=300),
        is_compressed=st.booleans(),
    ),
    max_size=20,
)


def raw(piece: ContentPiece) -> ContentPiece:
    if piece.codec == Codec.RAW:
        return piece
    return piece._replace(data=zstandard.ZstdDecompressor().decompress(piece.data), codec=Codec.RAW)


@given(chunks=st.lists(pieces, max_size=4))
def test_what_is_written_to_a_segment_is_read_from_it(chunks: list[list[ContentPiece]]) -> None:
    data = encode_header(ALICE, 3) + b"".join(encode_chunk(chunk, COMPRESSOR) for chunk in chunks)
    assert read_header(data)[0].index == 3
    assert list(read_segment(data)) == [raw(piece) for chunk in chunks for piece in chunk]


@given(noise=st.binary(min_size=1, max_size=20), at=st.integers(0, 10_000))
def test_a_damaged_segment_is_an_error_or_a_prefix(noise: bytes, at: int) -> None:
    sent = [shown(ALICE, op, bytes([op]) * 50) for op in range(1, 20)]
    whole = encode_header(ALICE, 0) + b"".join(encode_chunk([piece], COMPRESSOR) for piece in sent)
    at %= len(whole)
    damaged = (whole[:at] + noise + whole[at + len(noise) :])[: len(whole)]
    read: list[ContentPiece] = []
    error: JournalError | None = None
    try:
        read.extend(read_segment(damaged))
    except JournalError as raised:
        error = raised
    assert (error is None) == (damaged == whole)
    assert read == sent[: len(read)]


@given(at=st.integers(0, 10_000))
def test_a_segment_cut_short_is_an_error_or_ends_with_a_chunk(at: int) -> None:
    sent = [shown(ALICE, op, bytes([op]) * 50) for op in range(1, 20)]
    chunks = [encode_header(ALICE, 0), *(encode_chunk([piece], COMPRESSOR) for piece in sent)]
    whole = b"".join(chunks)
    cut = whole[: at % len(whole)]
    ends = set(itertools.accumulate(len(chunk) for chunk in chunks))
    if len(cut) in ends:
        assert list(read_segment(cut)) == sent[: len(list(read_segment(cut)))]
    else:
        with pytest.raises(JournalError):
            list(read_segment(cut))


def test_a_chunk_that_would_grow_beyond_its_bound_is_refused_unread() -> None:
    bomb = COMPRESSOR.compress(bytes(100_000_000))
    piece = ContentPiece(ALICE, 1, Direction.TO_AGENT, 0, bomb, MAX_PIECE_BYTES, Codec.ZSTD)
    with pytest.raises(JournalError, match="damaged"):
        list(read_segment(encode_header(ALICE, 0) + encode_chunk([piece], COMPRESSOR)))


def everything_in(spool: Spool) -> list[ContentPiece]:
    """What is in the folder's segments, session by session."""
    paths = sorted(spool.folder.glob("*.ngs"), key=lambda path: (path.name[:36], int(path.stem[37:])))
    return [piece for path in paths for piece in read_segment(path.read_bytes())]


def cursor_of(spool: Spool) -> Cursor:
    content, sealed = spool.state()
    return Cursor(content=content, sealed=sealed)


def test_small_pieces_share_a_compressed_chunk(tmp_path: Path) -> None:
    spool = Spool(tmp_path, Cursor(), now=0.0)
    sent = [shown(ALICE, op, b"the same row again and again\n") for op in range(1, 1_000)]
    for piece in sent:
        spool.add(piece, now=0.0)
    spool.flush(now=0.0)
    assert everything_in(spool) == sent
    assert spool.size_bytes < sum(len(piece.data) for piece in sent) / 3


def test_a_segment_is_sealed_before_it_is_over_its_bound(tmp_path: Path) -> None:
    spool = Spool(tmp_path, Cursor(), now=0.0)
    noise = random.Random(1).randbytes(1024 * 1024)
    sent = [shown(ALICE, 1, noise, offset=index * len(noise)) for index in range(20)]
    for piece in sent:
        spool.add(piece, now=0.0)
    spool.flush(now=0.0)
    content, sealed = spool.state()
    assert (len(sealed), content[ALICE].index) == (1, 1)
    assert sealed[0].size_bytes <= MAX_SEGMENT_BYTES
    assert everything_in(spool) == sent


def test_the_end_of_a_session_and_idleness_seal_its_segment(tmp_path: Path) -> None:
    spool = Spool(tmp_path, Cursor(), now=0.0)
    spool.add(shown(ALICE, 1, b"a"), now=0.0)
    spool.add(shown(BOB, 1, b"b"), now=0.0)
    spool.end(ALICE)
    spool.flush(now=IDLE_SECONDS)
    assert [each.session_id for each in spool.state()[1]] == [ALICE]
    spool.flush(now=IDLE_SECONDS + 1)
    assert [each.session_id for each in spool.state()[1]] == [ALICE, BOB]
    spool.add(shown(BOB, 2, b"b"), now=IDLE_SECONDS + 1)
    spool.end(BOB)
    assert [(each.session_id, each.index) for each in spool.state()[1]] == [(ALICE, 0), (BOB, 0), (BOB, 1)]


@pytest.mark.parametrize("stop_after", range(0, 40, 7))
def test_a_spool_set_back_to_a_cursor_takes_the_rest_again(tmp_path: Path, stop_after: int) -> None:
    sent = [shown(session, op, b"%d" % op * 40) for op in range(1, 20) for session in (ALICE, BOB)]
    spool = Spool(tmp_path, Cursor(), now=0.0)
    cursor = cursor_of(spool)
    for index, piece in enumerate(sent):
        if index == stop_after:
            spool.flush(now=0.0)
            cursor = cursor_of(spool)
        spool.add(piece, now=0.0)
    spool.end(ALICE)
    spool.flush(now=0.0)
    again = Spool(tmp_path, cursor, now=0.0)
    for piece in sent[stop_after:]:
        again.add(piece, now=0.0)
    again.end(ALICE)
    again.end(BOB)
    per_session = itertools.chain.from_iterable(
        [piece for piece in sent if piece.session_id == session] for session in (ALICE, BOB)
    )
    assert everything_in(again) == list(per_session)


def test_what_storage_has_is_not_missed_after_a_restart(tmp_path: Path) -> None:
    spool = Spool(tmp_path, Cursor(), now=0.0)
    spool.add(shown(ALICE, 1, b"a"), now=0.0)
    spool.end(ALICE)
    cursor = cursor_of(spool)
    spool.remove(cursor.sealed[0])
    assert Spool(tmp_path, cursor, now=0.0).state() == ({}, ())


def test_content_that_the_cursor_knows_and_the_disk_has_lost_is_an_error(tmp_path: Path) -> None:
    spool = Spool(tmp_path, Cursor(), now=0.0)
    spool.add(shown(ALICE, 1, b"a"), now=0.0)
    spool.flush(now=0.0)
    cursor = cursor_of(spool)
    spool.path(SealedContent(ALICE, 0, 0)).unlink()
    with pytest.raises(JournalError, match="content is lost"):
        Spool(tmp_path, cursor, now=0.0)
