"""`Journal`: append, durability, bounds. Lives on one event loop; a process of its own waits for the disk."""

from __future__ import annotations

import asyncio
import errno
import heapq
import os
import uuid
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Final

import structlog

from proxyworker.contract import JournalOpened, OperationIntent, Record, SessionClosed, SessionOpened, encode
from proxyworker.journal.cursor import read_cursor
from proxyworker.journal.errors import JournalError, JournalFailed, JournalFull, TooLarge
from proxyworker.journal.files import SEGMENT_BYTES, SpareSegment, lock_folder, segment_path
from proxyworker.journal.frames import (
    CLOSING_RECORD,
    RECORD,
    ContentPiece,
    SegmentHeader,
    encode_header,
    put_content,
    put_record,
    put_snapshot,
)
from proxyworker.journal.recovery import Recovered, recover
from proxyworker.journal.syncing import DiskSync

#: Content is synced at least this often: a sync of more would hold up the statements that wait for the next one.
SYNC_EVERY_BYTES: Final = 1024 * 1024
#: More than this not yet on disk, and bulk content has to wait: some 100 ms of a slow disk.
CONGESTED_BYTES: Final = 32 * 1024 * 1024
#: Outcomes and content of what already runs may go this far beyond the bound; new work may not.
RESERVE_BYTES: Final = 16 * 1024 * 1024
#: Recovery ends sessions in appends of this many records.
EPILOGUE_RECORDS: Final = 1_000

_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_log = structlog.get_logger(__name__)


class Journal:
    """The write-ahead record of one worker.

    `append` writes to the page cache, so what it returned from survives the death of the process; `when_durable` and
    `wait_durable` wait for the disk, and so survive the death of the machine.
    """

    def __init__(
        self,
        folder: Path,
        *,
        recovered: Recovered,
        acknowledged: int,
        bound_bytes: int,
        segment_bytes: int,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self.folder = folder
        self.journal_id = recovered.journal_id or str(uuid.uuid4())
        #: Set once, when a write or a sync failed; nothing is accepted from then on.
        self.failed: JournalFailed | None = None
        #: Called on the loop, once, with the failure.
        self.on_failure: list[Callable[[JournalFailed], None]] = []
        self._loop = loop
        self._bound_bytes = bound_bytes
        self._segment_bytes = segment_bytes
        self._seq = recovered.seq
        self._chain = recovered.chain
        self._state = recovered.state
        #: (base, number) of every segment that is still there, in order.
        self._segments = recovered.segments
        self._end = self._durable = self._requested = recovered.end
        self._acknowledged = acknowledged
        self._spooled_bytes = 0
        self._waiting: list[tuple[int, int, Callable[[], None]]] = []
        self._order = count()
        self._relieved: list[Callable[[], None]] = []
        self._is_syncing = False
        self._lock = -1
        self._descriptor = -1
        self._offset = segment_bytes
        self._spare = SpareSegment(folder, number=recovered.next_number, segment_bytes=segment_bytes)
        self._sync = DiskSync(
            loop=loop,
            written=lambda: self._end,
            on_synced=self._on_synced,
            on_failure=self._on_sync_failed,
        )

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        worker: str,
        bound_bytes: int,
        clock: Callable[[], float],
        loop: asyncio.AbstractEventLoop,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> Journal:
        """Lock the folder, recover what it holds, and take the journal up. Raises `JournalError`.

        What was open gets its end on record: operations as unknown, sessions as closed.
        """
        lock = lock_folder(folder)
        try:
            cursor = read_cursor(folder)
            recovered = recover(folder, at_least=cursor.position)
            journal = cls(
                folder,
                recovered=recovered,
                acknowledged=cursor.position or (recovered.segments[0][0] if recovered.segments else 0),
                bound_bytes=bound_bytes,
                segment_bytes=segment_bytes,
                loop=loop,
            )
            journal._take_up(lock=lock, worker=worker, at=clock())
        except OSError as error:
            os.close(lock)
            raise JournalError(f"{folder}: {error.strerror}") from error
        except JournalError:
            os.close(lock)
            raise
        return journal

    def _take_up(self, *, lock: int, worker: str, at: float) -> None:
        epilogue, unknown = self._state.epilogue(at=at)
        opened = JournalOpened(at=at, journal_id=self.journal_id, worker=worker, recovered_unknown=unknown)
        records = [opened, *epilogue]
        self._roll(is_prior_durable=True)
        for start in range(0, len(records), EPILOGUE_RECORDS):
            self._write(records[start : start + EPILOGUE_RECORDS], ())
        self._durable = self._requested = self._sync.sync_now()
        self._sync.start()
        self._loop.run_in_executor(None, self._prepare_spare)
        self._lock = lock
        _log.info("journal_opened", journal=self.journal_id, seq=self._seq, unknown_operations=unknown)

    @property
    def end(self) -> int:
        """The position behind the last byte written."""
        return self._end

    @property
    def seq(self) -> int:
        """The last record's."""
        return self._seq

    @property
    def segments(self) -> tuple[tuple[int, int], ...]:
        """(base, number) of every segment file, in order; safe to ask from a thread."""
        return tuple(self._segments)

    @property
    def durable_position(self) -> int:
        """Everything before this position is on disk."""
        return self._durable

    @property
    def unacknowledged_bytes(self) -> int:
        """What the bound counts: bytes that the control plane, or storage, does not have yet."""
        return self._end - self._acknowledged + self._spooled_bytes

    @property
    def is_congested(self) -> bool:
        """The disk or the control plane is behind: stop reading bulk content and call `when_relieved`."""
        return self._end - self._durable > CONGESTED_BYTES or self.unacknowledged_bytes > self._bound_bytes // 2

    def append(self, *records: Record, content: Sequence[ContentPiece] = ()) -> int:
        """Write records and the content that they refer to, in one write.

        Returns the position that has to be durable. Raises `JournalFull`, `TooLarge` or `JournalFailed`; then nothing
        of it is on record.
        """
        if self.failed is not None:
            raise JournalFailed(str(self.failed))
        if self.unacknowledged_bytes > self._bound_bytes:
            starts_work = any(isinstance(record, OperationIntent | SessionOpened) for record in records)
            if starts_work or self.unacknowledged_bytes > self._bound_bytes + RESERVE_BYTES:
                raise JournalFull(f"the bound of {self._bound_bytes} unacknowledged bytes is reached")
        self._write(records, content)
        if self._end - self._requested > SYNC_EVERY_BYTES:
            self._request_sync()
        return self._end

    def when_durable(self, position: int, callback: Callable[[], None]) -> None:
        """Call back on the loop when everything before `position` is on disk; never before this returns.

        Callbacks run in the order of their positions. After a failure none runs: `on_failure` tells.
        """
        if position <= self._durable:
            self._loop.call_soon(callback)
            return
        heapq.heappush(self._waiting, (position, next(self._order), callback))
        self._request_sync()

    async def wait_durable(self, position: int) -> None:
        """Return when everything before `position` is on disk. Raises `JournalFailed`."""
        done: asyncio.Future[None] = self._loop.create_future()

        def fail(error: JournalFailed) -> None:
            if not done.done():
                done.set_exception(JournalFailed(str(error)))

        def succeed() -> None:
            if not done.done():
                done.set_result(None)

        if self.failed is not None:
            fail(self.failed)
        self.on_failure.append(fail)
        try:
            self.when_durable(position, succeed)
            await done
        finally:
            self.on_failure.remove(fail)

    def when_relieved(self, callback: Callable[[], None]) -> None:
        """Call back on the loop, once, when the journal is no longer congested; soon, if it isn't now."""
        if self.is_congested:
            self._relieved.append(callback)
            self._request_sync()
        else:
            self._loop.call_soon(callback)

    def acknowledge(self, position: int, *, spooled_bytes: int) -> None:
        """Everything before `position` is with the control plane or in the spool, which holds `spooled_bytes`."""
        self._acknowledged = max(self._acknowledged, position)
        self._spooled_bytes = spooled_bytes
        self._relieve()

    def forget(self, position: int) -> list[Path]:
        """Let go of the segments that end before `position`; returns their files, for the caller to remove."""
        forgotten: list[Path] = []
        while len(self._segments) > 1 and self._segments[1][0] <= position:
            _, number = self._segments.pop(0)
            forgotten.append(segment_path(self.folder, number))
        return forgotten

    async def close(self) -> None:
        """Make everything durable and let go of the folder; once closed, do nothing. Raises `JournalFailed`."""
        if self._lock < 0:
            return
        try:
            await self.wait_durable(self._end)
        finally:
            await self._sync.stop()
            self._spare.discard()
            os.close(self._lock)
            self._lock = -1

    def _write(self, records: Sequence[Record], content: Sequence[ContentPiece]) -> None:
        parts: list[bytes] = []
        for piece in content:  # before the records: an outcome on record has its content on record
            put_content(parts, piece)
        seq, chain = self._seq, self._chain
        for record in records:
            seq += 1
            kind = CLOSING_RECORD if type(record) is SessionClosed else RECORD
            chain = put_record(parts, seq, chain, encode(record), kind)
        data = b"".join(parts)
        size = len(data)
        if size > self._segment_bytes // 2:
            raise TooLarge(f"{size} bytes in one append; the bound is {self._segment_bytes // 2}")
        if self._offset + size > self._segment_bytes:
            self._roll(is_prior_durable=False)
        try:
            written = os.pwrite(self._descriptor, data, self._offset)
        except OSError as error:
            raise self._no_room("write", error) from error
        if written != size:  # the next append begins at the same place
            raise JournalFull(f"{self.folder}: no room for {size - written} of {size} bytes")
        self._offset += size
        self._end += size
        self._seq = seq
        self._chain = chain
        for record in records:
            self._state.apply(record)

    def _roll(self, *, is_prior_durable: bool) -> None:
        """Go on in the next segment."""
        try:
            number, descriptor = self._spare.take()
        except OSError as error:
            raise self._no_room("allocate", error) from error
        header = SegmentHeader(
            journal_id=self.journal_id,
            number=number,
            base=self._end,
            next_seq=self._seq + 1,
            chain=self._chain,
            is_prior_durable=is_prior_durable,
        )
        parts = [encode_header(header)]
        put_snapshot(parts, self._state.snapshot())
        data = b"".join(parts)
        try:
            os.pwrite(descriptor, data, 0)
        except OSError as error:  # the number is used up, so there is no second try
            raise self._fail("write", error) from error
        self._sync.add(descriptor)
        self._segments.append((self._end, number))
        self._descriptor = descriptor
        self._offset = len(data)
        self._end += len(data)
        if self._lock >= 0:
            self._loop.run_in_executor(None, self._prepare_spare)

    def _prepare_spare(self) -> None:
        """In a thread: make the next segment, so that the loop need not wait for its allocation."""
        try:
            self._spare.prepare()
        except OSError as error:  # the append that needs the segment meets it again, and refuses
            _log.warning("journal_no_room", error=error.strerror)

    def _no_room(self, action: str, error: OSError) -> JournalError:
        """What an error of the disk means: a full one refuses for now, any other ends the journal."""
        if error.errno in _NO_ROOM:
            return JournalFull(f"{self.folder}: {error.strerror}")
        return self._fail(action, error)

    def _request_sync(self) -> None:
        if not self._is_syncing and self.failed is None:
            self._is_syncing = True
            # At the end of this turn of the loop: what other sessions write in it is served by the same sync.
            self._loop.call_soon(self._send_request)

    def _send_request(self) -> None:
        if self.failed is None:
            self._requested = self._end
            self._sync.request()

    def _on_synced(self, end: int) -> None:
        self._is_syncing = False
        self._durable = max(self._durable, end)
        waiting = self._waiting
        ready: list[Callable[[], None]] = []
        while waiting and waiting[0][0] <= end:
            ready.append(heapq.heappop(waiting)[2])
        if waiting or self._end - self._requested > SYNC_EVERY_BYTES:
            self._request_sync()
        for callback in ready:
            try:
                callback()
            except Exception as error:  # noqa: BLE001 - one session's mistake is not another's
                self._loop.call_exception_handler({"message": "a durability callback failed", "exception": error})
        self._relieve()

    def _relieve(self) -> None:
        if self._relieved and not self.is_congested:
            callbacks, self._relieved = self._relieved, []
            for callback in callbacks:
                self._loop.call_soon(callback)

    def _on_sync_failed(self, error: OSError) -> None:
        self._fail("sync", error)

    def _fail(self, action: str, error: OSError) -> JournalFailed:
        """Accept nothing from now on, and tell everybody once."""
        if self.failed is None:
            self.failed = JournalFailed(f"{self.folder}: {action} failed: {error.strerror}")
            self._waiting.clear()
            _log.critical("journal_failed", action=action, error=error.strerror)
            for callback in tuple(self.on_failure):
                self._loop.call_soon(callback, self.failed)
        return self.failed
