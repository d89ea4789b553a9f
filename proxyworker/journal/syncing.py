"""The thread that waits for the disk. One sync serves everybody who waits for it: group commit."""

from __future__ import annotations

import asyncio
import os
import queue
import threading
from collections import deque
from collections.abc import Callable

import structlog

from proxyworker.journal.files import SpareSegment
from proxyworker.journal.frames import PRIOR_DURABLE_OFFSET

_log = structlog.get_logger(__name__)


class SyncThread:
    """Syncs the segments that the loop writes to, oldest first, and keeps the spare segment ready.

    `written` gives the position behind the last byte written; `on_synced` gets it, on the loop, once everything before
    it is on disk. After a failed sync `on_failure` is called and the thread is gone: a second fsync would report
    success for pages that the kernel has dropped.
    """

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        spare: SpareSegment,
        written: Callable[[], int],
        on_synced: Callable[[int], None],
        on_failure: Callable[[OSError], None],
    ) -> None:
        self._loop = loop
        self._spare = spare
        self._written = written
        self._on_synced = on_synced
        self._on_failure = on_failure
        #: Descriptors of segments that are not known to be on disk, the one written to last. The loop adds at the end,
        #: the thread removes at the head.
        self._unsynced: deque[int] = deque()
        self._requests: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="journal-sync", daemon=True)

    def start(self) -> None:
        """Start, with making a spare segment."""
        self._thread.start()
        self._requests.put(True)

    def add(self, descriptor: int) -> None:
        """Writing goes on in this segment."""
        self._unsynced.append(descriptor)

    def request(self) -> None:
        """Sync what is written by now."""
        self._requests.put(True)

    def stop(self) -> None:
        """End the thread and let go of the files. Blocks while a sync runs."""
        self._requests.put(False)
        if self._thread.is_alive():
            self._thread.join()
        while self._unsynced:
            os.close(self._unsynced.popleft())

    def sync(self) -> int:
        """Sync; returns the position before which everything is on disk. Raises `OSError`."""
        end = self._written()  # first: the segments then hold all of it
        while True:
            descriptor = self._unsynced[0]
            is_last = len(self._unsynced) == 1  # before the sync: the loop may move on while it runs
            os.fdatasync(descriptor)
            if is_last:
                return end
            self._unsynced.popleft()
            os.close(descriptor)
            os.pwrite(self._unsynced[0], b"\x01", PRIOR_DURABLE_OFFSET)

    def _run(self) -> None:
        while self._requests.get():
            try:
                end = self.sync()
            except OSError as error:
                self._loop.call_soon_threadsafe(self._on_failure, error)
                return
            self._loop.call_soon_threadsafe(self._on_synced, end)
            try:
                self._spare.prepare()
            except OSError as error:  # the append that needs the segment meets it again, and refuses
                _log.warning("journal_no_room", error=error.strerror)
