"""Append, durability, bounds and failures of a journal on a real disk."""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from proxyworker.contract import JournalOpened
from proxyworker.journal import Journal, JournalError, JournalFailed, JournalFull, TooLarge
from proxyworker.journal.files import list_segments
from proxyworker.journal.frames import MAX_RECORD_BYTES
from tests.proxyworker.journal.conftest import SEGMENT_BYTES, OpenJournal
from tests.proxyworker.journal.disk import read_all
from tests.proxyworker.records import closed, intent, opened, outcome, session_id, shown

ALICE = session_id(1)


def fill(journal: Journal) -> None:
    """Append until the journal is full."""
    for op in range(2, 10_000):
        try:
            journal.append(intent(ALICE, op, "SELECT " + "x" * 5_000))
        except JournalFull:
            return
    pytest.fail("the journal is never full")


async def test_what_is_appended_is_on_disk_in_order_once_it_is_durable(take_up: OpenJournal, folder: Path) -> None:
    journal = take_up()
    journal.append(opened(ALICE))
    journal.append(intent(ALICE, 1))
    position = journal.append(outcome(ALICE, 1, b"one row"), content=[shown(ALICE, 1, b"one row")])
    await journal.wait_durable(position)
    assert journal.durable_position >= position
    records, content = read_all(folder)
    assert isinstance(records[0], JournalOpened)
    assert records[1:] == [opened(ALICE), intent(ALICE, 1), outcome(ALICE, 1, b"one row")]
    assert content == [shown(ALICE, 1, b"one row")]


async def test_a_journal_goes_on_over_many_segments(take_up: OpenJournal, folder: Path) -> None:
    journal = take_up()
    sent = [intent(ALICE, op, "SELECT " + "x" * 5_000) for op in range(1, 101)]
    for record in sent:
        journal.append(record)
    await journal.close()
    assert len(list_segments(folder)) > 5
    assert read_all(folder)[0][1:] == sent


async def test_callbacks_run_in_the_order_of_their_positions_and_never_at_once(take_up: OpenJournal) -> None:
    journal = take_up()
    ran: list[str] = []
    first = journal.append(intent(ALICE, 1))
    second = journal.append(intent(ALICE, 2))
    journal.when_durable(second, lambda: ran.append("second"))
    journal.when_durable(first, lambda: ran.append("first"))
    assert ran == []
    await journal.wait_durable(second)
    assert ran == ["first", "second"]
    journal.when_durable(first, lambda: ran.append("already durable"))
    assert ran == ["first", "second"]
    await asyncio.sleep(0)
    assert ran[-1] == "already durable"


async def test_a_callback_that_raises_does_not_keep_the_next_one_from_running(take_up: OpenJournal) -> None:
    journal = take_up()
    reported: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context["exception"]))
    error = RuntimeError("a session's mistake")

    def fail() -> None:
        raise error

    position = journal.append(intent(ALICE, 1))
    journal.when_durable(position, fail)
    await journal.wait_durable(position)
    assert reported == [error]


async def test_beyond_the_bound_new_work_is_refused_but_outcomes_are_still_taken(take_up: OpenJournal) -> None:
    journal = take_up(bound_bytes=100_000)
    fill(journal)
    before = journal.end
    with pytest.raises(JournalFull):
        journal.append(opened(session_id(2)))
    assert journal.end == before
    assert journal.append(outcome(ALICE, 1)) > before
    assert journal.append(closed(ALICE, 1)) > before


async def test_acknowledgement_makes_room_again(take_up: OpenJournal) -> None:
    journal = take_up(bound_bytes=100_000)
    relieved = asyncio.Event()
    while not journal.is_congested:
        journal.append(outcome(ALICE, 1), content=[shown(ALICE, 1, bytes(10_000))])
    journal.when_relieved(relieved.set)
    await journal.wait_durable(journal.end)
    assert not relieved.is_set()
    journal.acknowledge(journal.end, spooled_bytes=10)
    await relieved.wait()
    assert journal.unacknowledged_bytes == 10


async def test_a_record_over_its_bound_is_refused_and_leaves_no_trace(take_up: OpenJournal) -> None:
    journal = take_up()
    before = journal.end
    with pytest.raises(TooLarge):
        journal.append(intent(ALICE, 1, "x" * (MAX_RECORD_BYTES + 1)))
    with pytest.raises(TooLarge):  # fits the bounds of its pieces, but not a segment
        journal.append(content=[shown(ALICE, 1, bytes(10_000))] * 4)
    assert journal.end == before
    assert journal.append(intent(ALICE, 1)) > before


async def test_a_second_worker_can_not_take_up_the_same_journal(take_up: OpenJournal) -> None:
    first = take_up()
    with pytest.raises(JournalError, match="another worker"):
        take_up()
    await first.close()
    assert take_up().journal_id == first.journal_id


@pytest.fixture
def limit_file_size() -> Iterator[Callable[[int], None]]:
    """Has the kernel say that files can't grow beyond a size, as it says that a disk is full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size_bytes: resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


async def test_a_full_disk_refuses_until_there_is_room(
    take_up: OpenJournal, folder: Path, limit_file_size: Callable[[int], None]
) -> None:
    journal = take_up()
    await journal.wait_durable(journal.append(opened(ALICE)))
    limit_file_size(SEGMENT_BYTES - 1)
    fill(journal)
    assert journal.failed is None
    limit_file_size(resource.RLIM_INFINITY)
    await journal.wait_durable(journal.append(intent(ALICE, 1)))
    assert read_all(folder)[0][-1] == intent(ALICE, 1)


async def expect_the_end(journal: Journal, reason: str) -> None:
    """Nothing is accepted any more, and everybody is told once."""
    told: list[JournalFailed] = []
    ran: list[str] = []
    journal.on_failure.append(told.append)
    position = journal.append(intent(ALICE, 1))
    journal.when_durable(position, lambda: ran.append("durable"))
    with pytest.raises(JournalFailed, match=reason):
        await journal.wait_durable(position)
    await asyncio.sleep(0)  # callbacks run at the loop's next turn
    assert (len(told), told[0], ran) == (1, journal.failed, [])
    with pytest.raises(JournalFailed):
        journal.append(outcome(ALICE, 1))
    with pytest.raises(JournalFailed):
        await journal.wait_durable(position)
    with pytest.raises(JournalFailed):
        await journal.close()


async def test_a_failed_sync_ends_the_journal(take_up: OpenJournal) -> None:
    journal = take_up()
    await journal.wait_durable(journal.end)
    reading, writing = os.pipe()
    journal._sync.add(writing)  # what can't be synced
    await expect_the_end(journal, "sync failed")
    os.close(reading)


async def test_the_death_of_the_process_that_syncs_ends_the_journal(take_up: OpenJournal) -> None:
    journal = take_up()
    await journal.wait_durable(journal.end)
    process = journal._sync._process
    assert process is not None
    process.kill()
    process.wait(20)
    await expect_the_end(journal, "sync failed")


async def test_closing_twice_is_closing_once(take_up: OpenJournal) -> None:
    journal = take_up()
    await journal.close()
    await journal.close()


async def test_forgotten_segments_are_those_that_end_before_the_position(take_up: OpenJournal, folder: Path) -> None:
    journal: Journal = take_up()
    for op in range(1, 101):
        journal.append(intent(ALICE, op, "SELECT " + "x" * 5_000))
    third = journal.segments[2][0]
    assert journal.forget(third - 1) == [folder / "00000001.ngj"]
    assert journal.forget(third) == [folder / "00000002.ngj"]
    journal.forget(journal.end)
    assert len(journal.segments) == 1, "the segment that is written to stays"
