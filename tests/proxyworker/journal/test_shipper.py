"""Shipping over a real link, with either side failing: nothing is lost, nothing arrives twice."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from proxyworker.contract import JournalOpened, OperationIntent, OperationOutcome, Record
from proxyworker.identity import Identity
from proxyworker.journal import Journal, shipper, uploads
from proxyworker.journal.content import read_segment
from proxyworker.journal.cursor import read_cursor
from proxyworker.journal.files import list_segments
from proxyworker.journal.shipper import Shipper
from proxyworker.link import Link
from proxyworker.net.tasks import spawn
from tests.proxyworker.control_plane import JOIN_TOKEN, ControlPlane, HeldJournal
from tests.proxyworker.records import closed, intent, opened, outcome, session_id, shown

ALICE = session_id(1)


@dataclass
class Running:
    """A worker without its gate."""

    journal: Journal
    shipper: Shipper
    ended: asyncio.Task[None]


Start = Callable[[], AbstractAsyncContextManager[Running]]


@pytest.fixture
def start(control_plane: ControlPlane, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Starts a worker on the same folder, as often as wanted."""
    for name in ("SHIP_INTERVAL_SECONDS", "RETRY_SECONDS", "CHECKPOINT_SECONDS"):
        monkeypatch.setattr(shipper, name, 0.005)
    monkeypatch.setattr(uploads, "FIRST_RETRY_SECONDS", 0.01)
    token_file = tmp_path / "join-token"
    token_file.write_text(JOIN_TOKEN)

    @asynccontextmanager
    async def run() -> AsyncIterator[Running]:
        journal = Journal.open(
            tmp_path / "journal",
            worker="test",
            bound_bytes=1 << 30,
            clock=time.time,
            loop=asyncio.get_running_loop(),
            segment_bytes=64 * 1024,
        )
        identity = Identity(tmp_path / "state", name="test-worker", join_token_file=token_file)
        link = Link(control_plane.url, identity=identity, tls=None)
        async with httpx.AsyncClient(trust_env=False) as client:
            shipping = Shipper(
                journal, link=link, spool_folder=tmp_path / "spool", client=client, origin=control_plane.origin
            )
            link.on_welcome = shipping.welcomed
            tasks = spawn("link", link.run()), spawn("shipper", shipping.run())
            try:
                yield Running(journal, shipping, tasks[1])
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                await journal.close()

    return run


def statement(journal: Journal, session: str, op: int, content: bytes = b"a row\n") -> None:
    """One operation, from its intent to its end."""
    journal.append(intent(session, op))
    journal.append(outcome(session, op, content), content=[shown(session, op, content)])


async def until(condition: Callable[[], bool]) -> None:
    """Return when it holds; the test's own time limit ends a wait in vain."""
    while not condition():  # noqa: ASYNC110 - much of it is on disk, and nothing tells of that
        await asyncio.sleep(0.001)


def operations(records: list[Record]) -> list[tuple[str, str, int]]:
    """What was recorded of operations, in order."""
    return [
        (type(record).__name__, record.session_id, record.op)
        for record in records
        if isinstance(record, OperationIntent | OperationOutcome)
    ]


def expected_operations(session: str, ops: range) -> list[tuple[str, str, int]]:
    return [(kind, session, op) for op in ops for kind in ("OperationIntent", "OperationOutcome")]


async def test_records_arrive_in_order_and_content_in_segments(control_plane: ControlPlane, start: Start) -> None:
    async with start() as worker:
        worker.journal.append(opened(ALICE))
        for op in range(1, 50):
            statement(worker.journal, ALICE, op, b"row of %d\n" % op)
        worker.journal.append(closed(ALICE, 49))
        await worker.shipper.wait_acknowledged(worker.journal.seq)
        assert isinstance(control_plane.records[0], JournalOpened)
        assert control_plane.records[1] == opened(ALICE)
        assert control_plane.records[-1] == closed(ALICE, 49)
        assert operations(control_plane.records) == expected_operations(ALICE, range(1, 50))
        await until(lambda: (ALICE, 0) in control_plane.segments)
    assert [piece.data for piece in read_segment(control_plane.segments[ALICE, 0])] == [
        b"row of %d\n" % op for op in range(1, 50)
    ]


async def test_what_is_acknowledged_is_forgotten_on_disk(
    control_plane: ControlPlane, start: Start, tmp_path: Path
) -> None:
    async with start() as worker:
        for op in range(1, 200):
            statement(worker.journal, ALICE, op, bytes(5_000))
        assert len(worker.journal.segments) > 10
        await worker.shipper.wait_acknowledged(worker.journal.seq)
        await until(lambda: len(worker.journal.segments) == 1)
        await until(lambda: len(list_segments(tmp_path / "journal")) <= 2)
        worker.journal.append(closed(ALICE, 199))
        await until(lambda: (ALICE, 0) in control_plane.segments)
        await until(lambda: worker.journal.unacknowledged_bytes == 0)
        await until(lambda: not list((tmp_path / "spool").iterdir()))


async def test_a_control_plane_that_restarts_loses_nothing_and_gets_nothing_twice(
    control_plane: ControlPlane, start: Start
) -> None:
    async with start() as worker:
        op = 0
        for cuts in range(5):
            control_plane.cut_after_batches = cuts % 2
            for _ in range(30):
                op += 1
                statement(worker.journal, ALICE, op)
            await worker.shipper.wait_acknowledged(worker.journal.seq)
        assert operations(control_plane.records) == expected_operations(ALICE, range(1, op + 1))


async def test_a_worker_that_restarts_sends_the_rest_and_nothing_twice(
    control_plane: ControlPlane, start: Start
) -> None:
    rng = random.Random(3)
    op = 0
    for _ in range(6):
        async with start() as worker:
            session = session_id(op + 100)
            worker.journal.append(opened(session))
            for _ in range(rng.randrange(1, 60)):
                op += 1
                statement(worker.journal, session, op, b"%d;" % op)
            worker.journal.append(closed(session, op))
            await worker.shipper.wait_acknowledged(worker.journal.seq - rng.randrange(60))
    async with start() as worker:
        await worker.shipper.wait_acknowledged(worker.journal.seq)
        sessions = {record.session_id for record in control_plane.records if not isinstance(record, JournalOpened)}
        await until(lambda: {session for session, _ in control_plane.segments} == sessions)
    found = operations(control_plane.records)
    assert [(kind, number) for kind, _, number in found] == [
        (kind, number) for kind, _, number in expected_operations(ALICE, range(1, op + 1))
    ]
    content = {piece.op: piece.data for segment in control_plane.segments.values() for piece in read_segment(segment)}
    assert content == {number: b"%d;" % number for number in range(1, op + 1)}


async def test_records_kept_while_there_was_no_link_are_sent_when_it_is_back(
    control_plane: ControlPlane, start: Start
) -> None:
    control_plane.join_tokens.clear()
    async with start() as worker:
        for op in range(1, 300):
            statement(worker.journal, ALICE, op, bytes(1_000))
        await worker.journal.wait_durable(worker.journal.end)
        assert control_plane.records == []
        control_plane.join_tokens.add(JOIN_TOKEN)
        await worker.shipper.wait_acknowledged(worker.journal.seq)
        assert operations(control_plane.records) == expected_operations(ALICE, range(1, 300))


async def test_an_upload_that_fails_is_tried_again(control_plane: ControlPlane, start: Start) -> None:
    control_plane.failing_uploads = 3
    async with start() as worker:
        statement(worker.journal, ALICE, 1)
        worker.journal.append(closed(ALICE, 1))
        await until(lambda: (ALICE, 0) in control_plane.segments)
    assert control_plane.failing_uploads == 0


async def test_segments_that_are_refused_do_not_hold_up_the_others(control_plane: ControlPlane, start: Start) -> None:
    refused = {(session_id(number), 0) for number in range(uploads.WORKERS + 1)}
    control_plane.refused_segments |= refused
    async with start() as worker:
        for session, _ in refused:
            statement(worker.journal, session, 1)
            worker.journal.append(closed(session, 1))
        statement(worker.journal, session_id(50), 1)
        worker.journal.append(closed(session_id(50), 1))
        await until(lambda: (session_id(50), 0) in control_plane.segments)
        control_plane.refused_segments.clear()
        await until(lambda: set(control_plane.segments) >= refused)


async def test_what_is_acknowledged_only_in_part_is_sent_on_from_there(
    control_plane: ControlPlane, start: Start
) -> None:
    control_plane.ignored_batches = 3
    async with start() as worker:
        for op in range(1, 60):
            statement(worker.journal, ALICE, op)
        await worker.shipper.wait_acknowledged(worker.journal.seq)
        assert operations(control_plane.records) == expected_operations(ALICE, range(1, 60))


async def test_a_control_plane_that_fell_back_to_what_the_cursor_knows_gets_the_rest_again(
    control_plane: ControlPlane, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipper, "CHECKPOINT_SECONDS", 3_600)
    async with start() as worker:
        statement(worker.journal, ALICE, 1)
        await worker.shipper.wait_acknowledged(worker.journal.seq)
        await until(lambda: read_cursor(worker.journal.folder).seq > 0)
        kept = read_cursor(worker.journal.folder)
        for op in range(2, 20):
            statement(worker.journal, ALICE, op)
        await worker.shipper.wait_acknowledged(worker.journal.seq)
        held = control_plane.journals[worker.journal.journal_id]
        control_plane.journals[worker.journal.journal_id] = HeldJournal(kept.seq, kept.chain, held.records[: kept.seq])
        await control_plane.cut()
        await until(lambda: len(control_plane.records) == worker.journal.seq)
        assert operations(control_plane.records) == expected_operations(ALICE, range(1, 20))


async def test_a_worker_that_lost_its_cursor_ships_nothing_and_keeps_its_spool(
    control_plane: ControlPlane, start: Start, tmp_path: Path
) -> None:
    async with start() as worker:
        first = min((tmp_path / "journal").glob("*.ngj"))
        for op in range(1, 60):
            statement(worker.journal, ALICE, op, bytes(5_000))
        await worker.shipper.wait_acknowledged(worker.journal.seq)
        await until(lambda: len(worker.journal.segments) == 1)
        await until(lambda: not first.exists())
    (tmp_path / "journal" / "cursor").unlink()
    before = set((tmp_path / "spool").iterdir())
    async with start() as worker:
        await worker.ended
        assert "the cursor stands at 0" in str(worker.shipper.error)
    assert before
    assert set((tmp_path / "spool").iterdir()) == before


async def test_a_control_plane_that_holds_more_than_there_is_stops_shipping(
    control_plane: ControlPlane, start: Start
) -> None:
    async with start() as worker:
        await worker.shipper.wait_acknowledged(1)
        control_plane.journals[worker.journal.journal_id].seq = 1_000
        await control_plane.cut()
        await worker.ended
        assert "holds record 1000, but this journal ends at 1" in str(worker.shipper.error)


async def test_a_control_plane_that_lost_what_is_forgotten_here_stops_shipping(
    control_plane: ControlPlane, start: Start
) -> None:
    async with start() as worker:
        statement(worker.journal, ALICE, 1)
        await worker.shipper.wait_acknowledged(worker.journal.seq)
        await until(lambda: read_cursor(worker.journal.folder).seq == worker.journal.seq)
        control_plane.journals.clear()
        await control_plane.cut()
        await worker.ended
        assert "holds records up to 0" in str(worker.shipper.error)
