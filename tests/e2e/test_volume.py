"""Volume, on the whole stack as `make demo` runs it: much passes, little is held, all of it is on record."""

from __future__ import annotations

import hashlib
import random
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from proxyworker.contract import Direction
from proxyworker.journal.content import read_segment
from tests.e2e.demo import Demo, eventually, free_port_block, running_demo
from tests.e2e.process import forget_peak, peak_mib, resident_mib
from tests.e2e.rest import rows
from tests.e2e.target import as_superuser, waits_for
from tests.e2e.wire import raw_client

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

#: What the worker may hold, whatever passes. It starts with some 60 MiB; see the figures that each test prints.
PEAK_MIB = 256
#: What a reader that has stopped may cost beyond that: buffers of two sockets and the queues' bounds.
STALLED_MIB = 32

ROWS = 1_000_000
#: 500 MB in lines of 1 kB, which hold as much chance as hex can: compression must not flatter the figures.
LINES = 500_000
LINE_BYTES = 1_024
LINE = "(SELECT string_agg(encode(sha512(int8send(n * 8 + k)), 'hex'), '') FROM generate_series(0, 7) AS k)"
BLOCK_LINES = 64
SLOW_LINES = 200_000
#: How often the stalled target is looked at, to see that nothing moves: a second or two.
LOOKS = 50


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    with running_demo(tmp_path_factory.mktemp("volume") / "home", free_port_block()) as demo:
        yield demo


@contextmanager
def bounded_worker(demo: Demo, what: str) -> Iterator[None]:
    """The worker stays below `PEAK_MIB` all the while; how far it came is printed."""
    worker, web = demo.pid("worker"), demo.pid("web")
    before = resident_mib(worker)
    for pid in (worker, web):
        forget_peak(pid)
    began = time.monotonic()
    yield
    took = time.monotonic() - began
    assert demo.pid("worker") == worker, "it was started anew"
    peak = peak_mib(worker)
    print(f"\n{what}: {took:.1f} s; the worker had {before:.0f} MiB before, {peak:.0f} at its peak", end="")
    print(f"; web had {peak_mib(web):.0f} at its own")
    assert peak < PEAK_MIB


def _recorded(demo: Demo, text: str) -> dict[str, Any]:
    """The one operation with this text, once it is over."""
    eventually(lambda: len(rows(demo, "operations/", search=text, status="ok")) == 1)
    [operation] = rows(demo, "operations/", search=text)
    return operation


def _content(demo: Demo, operation: dict[str, Any], direction: Direction) -> tuple[int, str]:
    """Size and SHA-256 of what is in storage of the operation's content, once all of its session's is."""
    session, folder = operation["session"], demo.home / "storage"
    eventually(lambda: not list((demo.home / "worker" / "spool").glob(f"{session}-*.ngs")))
    digest, size = hashlib.sha256(), 0
    for kept in sorted(rows(demo, "content-segments/", session=session), key=lambda row: int(row["index"])):
        [file] = folder.rglob(f"{session}/{kept['index']:05d}-{kept['sha256']}")
        for piece in read_segment(file.read_bytes()):
            if (piece.op, piece.direction) == (operation["op"], direction):
                assert piece.offset == size
                size += piece.raw_bytes
                digest.update(piece.data)
    return size, digest.hexdigest()


def test_a_million_rows_pass_and_the_record_is_what_the_client_received(demo: Demo) -> None:
    statement = f"SELECT n, md5(n::text), n * 0.25 AS amount FROM generate_series(1, {ROWS}) AS n"
    with bounded_worker(demo, f"SELECT of {ROWS:,} rows"), raw_client(demo) as client:
        client.ask(statement)
        client.read()
        operation = _recorded(demo, statement)
    print(f"{client.received_bytes / 1e6:.0f} MB were received", end="")
    assert (operation["rows"], operation["bytes_out"]) == (ROWS, client.received_bytes)
    assert operation["content_sha256"] == client.digest.hexdigest()
    assert _content(demo, operation, Direction.TO_AGENT) == (client.received_bytes, client.digest.hexdigest())


def test_half_a_gigabyte_is_copied_out(demo: Demo) -> None:
    statement = f"COPY (SELECT {LINE} FROM generate_series(1, {LINES}) AS n) TO STDOUT"
    size = 0
    with bounded_worker(demo, "COPY of 500 MB out"), psycopg.connect(demo.dsn(), autocommit=True) as connection:
        with connection.cursor().copy(statement.encode()) as copy:
            for data in copy:
                size += len(data)
        operation = _recorded(demo, statement)
    assert size == LINES * (LINE_BYTES + 1)
    assert operation["rows"] == LINES
    assert operation["bytes_out"] > size


def test_half_a_gigabyte_is_copied_in(demo: Demo) -> None:
    with as_superuser(demo) as target:
        target.execute("CREATE UNLOGGED TABLE sink (line text)")
        target.execute("GRANT ALL ON sink TO PUBLIC")
    statement = "COPY sink FROM STDIN"
    with bounded_worker(demo, "COPY of 500 MB in"), psycopg.connect(demo.dsn(), autocommit=True) as connection:
        with connection.cursor().copy(statement.encode()) as copy:
            for block in _blocks():
                copy.write(block)
        operation = _recorded(demo, statement)
    assert (operation["rows"], operation["bytes_in"] > LINES * LINE_BYTES) == (LINES, True)
    size, content_digest = _content(demo, operation, Direction.FROM_AGENT)
    assert (size, content_digest) == (operation["bytes_in"], operation["content_in_sha256"])
    with as_superuser(demo) as target:
        assert target.execute("SELECT count(*), sum(length(line)) FROM sink").fetchone() == (LINES, LINES * LINE_BYTES)
        target.execute("DROP TABLE sink")


def _blocks() -> Iterator[bytes]:
    """`LINES` lines, some at a time."""
    rng = random.Random(LINES)
    for start in range(0, LINES, BLOCK_LINES):
        lines = (rng.randbytes(LINE_BYTES // 2).hex() for _ in range(start, min(start + BLOCK_LINES, LINES)))
        yield "".join(f"{line}\n" for line in lines).encode()


def test_a_client_that_stops_reading_stops_the_target_and_costs_the_worker_nothing(demo: Demo) -> None:
    statement = f"SELECT 'slowly', {LINE} FROM generate_series(1, {SLOW_LINES}) AS n"
    worker = demo.pid("worker")
    with bounded_worker(demo, "SELECT of 200 MB, read slowly"), raw_client(demo) as client:
        before = resident_mib(worker)
        client.ask(statement)
        client.read(until_bytes=20_000_000)
        # Nobody reads now. The target is stopped too once all between it and us is full; the kernel may make room
        # once more while it tunes its buffers, so it has to be seen stopped several times in a row.
        eventually(lambda: all(waits_for(demo, statement) == "ClientWrite" for _ in range(LOOKS)))
        stalled, received = resident_mib(worker), client.received_bytes
        assert resident_mib(worker) < stalled + 2
        assert stalled < before + STALLED_MIB
        client.read()
        operation = _recorded(demo, statement)
    print(f"stopped after {received / 1e6:.0f} MB, it had {stalled:.0f} MiB", end="")
    assert (operation["rows"], operation["content_sha256"]) == (SLOW_LINES, client.digest.hexdigest())
