"""What a journal holds after a crash: any torn end, any damage, and a real kill -9."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from proxyworker.contract import (
    JournalOpened,
    OperationIntent,
    OperationOutcome,
    OutcomeStatus,
    Record,
    SessionClosed,
)
from proxyworker.journal import Journal, JournalError
from proxyworker.journal.cursor import Cursor, write_cursor
from proxyworker.journal.files import list_segments
from proxyworker.journal.recovery import recover
from proxyworker.journal.state import RESTARTED
from tests.proxyworker.journal.conftest import OpenJournal
from tests.proxyworker.journal.disk import read_all
from tests.proxyworker.records import AT, closed, intent, opened, outcome, session_id, shown

ALICE, BOB = session_id(1), session_id(2)


@pytest.fixture(scope="module")
def valid(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Record]]:
    """A journal of some segments, as a worker that died left it, and its records."""
    folder = tmp_path_factory.mktemp("valid") / "journal"

    async def write() -> None:
        journal = Journal.open(
            folder,
            worker="test",
            bound_bytes=1 << 30,
            clock=lambda: AT,
            loop=asyncio.get_running_loop(),
            segment_bytes=8 * 1024,
        )
        rng = random.Random(2)
        journal.append(opened(ALICE), opened(BOB))
        for op in range(1, 40):
            journal.append(intent(ALICE, op, "SELECT " + "x" * rng.randrange(900)))
            rows = rng.randbytes(rng.randrange(600))
            journal.append(outcome(ALICE, op, rows), content=[shown(ALICE, op, rows)])
        journal.append(intent(BOB, 1))
        journal.append(closed(ALICE, 39))
        await journal.close()

    asyncio.run(write())
    assert len(list_segments(folder)) > 4
    return folder, read_all(folder)[0]


def _copy(folder: Path, into: str) -> Path:
    return Path(shutil.copytree(folder, Path(into) / "journal"))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_truncation_recovers_a_prefix_and_never_raises(
    valid: tuple[Path, list[Record]], data: st.DataObject
) -> None:
    folder, records = valid
    files = list_segments(folder)
    which = data.draw(st.integers(0, len(files) - 1))
    size = data.draw(st.integers(0, files[which][1].stat().st_size))
    with tempfile.TemporaryDirectory() as temporary:
        copy = _copy(folder, temporary)
        for _, path in list_segments(copy)[which + 1 :]:
            path.unlink()
        os.truncate(list_segments(copy)[which][1], size)
        recovered = recover(copy, at_least=0)
        found, _ = read_all(copy)
        assert found == records[: len(found)]
        assert recovered.seq == len(found)
        again = recover(copy, at_least=recovered.end)
        assert (again.end, again.chain) == (recovered.end, recovered.chain), "what was cut once is sound"


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_random_damage_is_reported_or_cut_and_never_gives_a_wrong_record(
    valid: tuple[Path, list[Record]], data: st.DataObject
) -> None:
    folder, records = valid
    files = list_segments(folder)
    which = data.draw(st.integers(0, len(files) - 1))
    at = data.draw(st.integers(0, files[which][1].stat().st_size - 1))
    noise = data.draw(st.binary(min_size=1, max_size=200))
    with tempfile.TemporaryDirectory() as temporary:
        copy = _copy(folder, temporary)
        with list_segments(copy)[which][1].open("r+b") as file:
            file.seek(at)
            file.write(noise)
        try:
            recover(copy, at_least=0)
        except JournalError as error:
            message = str(error)
        else:
            message = ""
        found, _ = read_all(copy)
        assert ".ngj: " in message or found == records[: len(found)]


def test_damage_before_what_is_known_to_be_on_disk_names_file_and_offset_and_changes_nothing(
    valid: tuple[Path, list[Record]], tmp_path: Path
) -> None:
    copy = _copy(valid[0], str(tmp_path))
    second = list_segments(copy)[1][1]
    with second.open("r+b") as file:
        file.seek(5_000)
        file.write(b"\xff" * 8)
    before = {path: path.read_bytes() for _, path in list_segments(copy)}
    with pytest.raises(JournalError, match=r"00000002\.ngj: offset \d+: damaged here, but .* 00000003\.ngj"):
        recover(copy, at_least=0)
    assert {path: path.read_bytes() for _, path in list_segments(copy)} == before


def test_a_tail_that_was_not_on_disk_is_dropped_with_the_segments_after_it(
    valid: tuple[Path, list[Record]], tmp_path: Path
) -> None:
    copy = _copy(valid[0], str(tmp_path))
    files = list_segments(copy)
    for _, path in files[2:]:
        with path.open("r+b") as file:  # the machine stopped before the sync thread could say that all is on disk
            file.seek(127)
            file.write(b"\0")
    os.truncate(files[1][1], 5_000)
    recover(copy, at_least=0)
    assert [number for number, _ in list_segments(copy)] == [1, 2]
    found, _ = read_all(copy)
    assert found == valid[1][: len(found)]


def test_a_missing_segment_is_an_error(valid: tuple[Path, list[Record]], tmp_path: Path) -> None:
    copy = _copy(valid[0], str(tmp_path))
    list_segments(copy)[1][1].unlink()
    with pytest.raises(JournalError, match="the segment after it is missing"):
        recover(copy, at_least=0)


async def test_a_journal_that_ends_before_what_was_acknowledged_is_not_taken_up(
    take_up: OpenJournal, folder: Path
) -> None:
    journal = take_up()
    await journal.close()
    write_cursor(folder, Cursor(position=journal.end, seq=journal.seq))
    os.truncate(list_segments(folder)[0][1], 200)
    with pytest.raises(JournalError, match="records are lost"):
        take_up()


async def test_what_was_open_gets_its_end_on_record(take_up: OpenJournal, folder: Path) -> None:
    journal = take_up()
    journal.append(opened(ALICE), opened(BOB))
    journal.append(intent(ALICE, 1), outcome(ALICE, 1), intent(ALICE, 2), intent(ALICE, 3))
    journal.append(closed(BOB, 0))
    await journal.close()
    again = take_up()
    records = read_all(folder)[0][-4:]
    assert isinstance(records[0], JournalOpened)
    assert (records[0].journal_id, records[0].recovered_unknown) == (journal.journal_id, 2)
    outcomes = [record for record in records if isinstance(record, OperationOutcome)]
    assert [(each.op, each.status) for each in outcomes] == [(2, OutcomeStatus.UNKNOWN), (3, OutcomeStatus.UNKNOWN)]
    assert records[-1] == SessionClosed(session_id=ALICE, at=AT, reason=RESTARTED, operations=3)
    await again.close()
    take_up()
    assert isinstance(read_all(folder)[0][-1], JournalOpened), "the second time, nothing is open any more"


async def test_what_was_open_is_known_when_its_segments_are_gone(take_up: OpenJournal, folder: Path) -> None:
    journal = take_up()
    journal.append(opened(ALICE), intent(ALICE, 7))
    for op in range(1, 100):
        journal.append(intent(BOB, op, "SELECT " + "x" * 5_000), outcome(BOB, op))
    await journal.wait_durable(journal.end)
    for path in journal.forget(journal.end):
        path.unlink()
    await journal.close()
    take_up()
    unknown = [r for r in read_all(folder)[0] if isinstance(r, OperationOutcome) and r.status is OutcomeStatus.UNKNOWN]
    assert [(each.session_id, each.op) for each in unknown] == [(ALICE, 7)]


_VICTIM = """
import asyncio, sys
from pathlib import Path
import structlog
from proxyworker.journal import Journal
from tests.proxyworker.records import intent, opened, outcome, session_id

structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))

async def main():
    journal = Journal.open(
        Path(sys.argv[1]), worker="victim", bound_bytes=1 << 30, clock=lambda: 0.0,
        loop=asyncio.get_running_loop(), segment_bytes=256 * 1024,
    )
    journal.append(opened(session_id(1)))
    op = 0
    while True:
        op += 1
        position = journal.append(intent(session_id(1), op, "SELECT " + "x" * (op * 37 % 3000)))
        await journal.wait_durable(position)
        print(op, flush=True)  # the target hears of it only now
        journal.append(outcome(session_id(1), op))

asyncio.run(main())
"""


def test_whatever_a_killed_worker_let_through_is_on_record(folder: Path) -> None:
    """kill -9 at random points, again and again, on one journal: received ⊆ recovered."""
    rng = random.Random(9)
    for _ in range(6):
        victim = subprocess.Popen(
            [sys.executable, "-c", _VICTIM, str(folder)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert victim.stdout is not None
        received = [int(victim.stdout.readline()) for _ in range(rng.randrange(1, 300))]
        victim.send_signal(signal.SIGKILL)
        received += [int(line) for line in victim.stdout.read().splitlines()]
        victim.wait()
        victim.stdout.close()
        recover(folder, at_least=0)
        records = read_all(folder)[0]
        started = max(index for index, record in enumerate(records) if isinstance(record, JournalOpened))
        recorded = {record.op for record in records[started:] if isinstance(record, OperationIntent)}
        assert set(received) <= recorded
