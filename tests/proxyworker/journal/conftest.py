"""A journal in a folder of its own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from proxyworker.journal import Journal, JournalFailed
from tests.proxyworker.records import AT

OpenJournal = Callable[..., Journal]
#: Small enough that a test crosses into the next segment.
SEGMENT_BYTES = 64 * 1024


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "journal"


@pytest.fixture
async def take_up(folder: Path) -> AsyncIterator[OpenJournal]:
    """Opens the folder's journal; closes, at the end, what the test left open."""
    journals: list[Journal] = []
    loop = asyncio.get_running_loop()

    def open_one(*, bound_bytes: int = 1 << 30, segment_bytes: int = SEGMENT_BYTES) -> Journal:
        journal = Journal.open(
            folder, worker="test", bound_bytes=bound_bytes, clock=lambda: AT, loop=loop, segment_bytes=segment_bytes
        )
        journals.append(journal)
        return journal

    yield open_one
    for journal in journals:
        try:
            await journal.close()
        except JournalFailed:
            assert journal.failed is not None
