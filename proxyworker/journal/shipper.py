"""The journal's way out: records to the control plane, content to storage, and then to be forgotten here.

One pass over the durable frames feeds both. What was read but not acknowledged is in the window, as parcels. A cursor
on disk says where to go on after a restart; it moves only to what the control plane has acknowledged, with the spool
as it was there.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Final, TypeVar

import httpx
import structlog

from proxyworker.contract import Ack, SessionClosed, Welcome, decode_record
from proxyworker.errors import LinkError
from proxyworker.journal.cursor import Cursor, OpenContent, SealedContent, read_cursor, write_cursor
from proxyworker.journal.errors import JournalError
from proxyworker.journal.frames import ContentPiece
from proxyworker.journal.journal import Journal
from proxyworker.journal.reader import Batch, Reader
from proxyworker.journal.spool import Spool
from proxyworker.journal.uploads import Uploader
from proxyworker.link import Link

#: Batches sent and not acknowledged.
WINDOW: Final = 3
#: Records gather for so long before they are sent, so that a batch is worth its transaction.
SHIP_INTERVAL_SECONDS: Final = 0.1
#: Between full batches: the data path comes first.
BUSY_PAUSE_SECONDS: Final = 0.005
#: The cursor is written this often, or after this much: each time costs syncs, each restart reads what is behind it.
CHECKPOINT_SECONDS: Final = 2.0
CHECKPOINT_BYTES: Final = 8 * 1024 * 1024
#: After an answer that is no progress, or an error of the disk.
RETRY_SECONDS: Final = 1.0

_log = structlog.get_logger(__name__)
T = TypeVar("T")


class ShippingError(JournalError):
    """The control plane, the journal and the cursor contradict each other: nobody can say what is on record."""


@dataclass(frozen=True, slots=True)
class _Parcel:
    """A batch, and the spool as it is once the batch's content is in it."""

    batch: Batch
    content: dict[str, OpenContent]
    sealed: tuple[SealedContent, ...]
    spooled_bytes: int

    def cursor(self) -> Cursor:
        return Cursor(
            position=self.batch.end,
            seq=self.batch.last_seq,
            chain=self.batch.chain_after,
            content=self.content,
            sealed=self.sealed,
        )


class Shipper:
    """Ships one journal. `origin` is the link's, for relative upload URLs.

    Set `link.on_welcome` to `welcomed`: each sign-on says what the control plane holds.
    """

    def __init__(
        self, journal: Journal, *, link: Link, spool_folder: Path, client: httpx.AsyncClient, origin: str
    ) -> None:
        #: Why nothing is shipped any more. The journal then fills up, and new work is refused.
        self.error: JournalError | None = None
        self._journal = journal
        self._link = link
        self._spool_folder = spool_folder
        self._uploader = Uploader(
            link=link, client=client, origin=origin, path=self._segment_path, on_stored=self._on_stored
        )
        #: Reader, spool and cursor belong to this thread.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="journal-ship")
        self._reader: Reader
        self._spool: Spool
        self._last: Cursor | None = None
        #: Read and not acknowledged, in order.
        self._window: deque[_Parcel] = deque()
        #: What is on disk, and what could be.
        self._cursor = self._released = Cursor()
        self._checkpoint_at = 0.0
        self._acknowledged_seq = 0
        self._welcomed_seq: int | None = None
        self._progress = asyncio.Condition()

    def welcomed(self, welcome: Welcome) -> None:
        """The link is up, and the control plane holds this much."""
        self._welcomed_seq = welcome.acknowledged.get(self._journal.journal_id, 0)

    async def wait_acknowledged(self, seq: int) -> None:
        """Return when the control plane has every record up to `seq`."""
        async with self._progress:
            await self._progress.wait_for(lambda: self._acknowledged_seq >= seq)

    async def run(self) -> None:
        """Ship until cancelled, or until the journal can't be shipped: then `error` says why, and it is logged."""
        try:
            async with asyncio.TaskGroup() as group:
                uploads = group.create_task(self._uploader.run(), name="uploads")
                await self._run()
                uploads.cancel()
        except* JournalError as errors:
            self.error = next(error for error in errors.exceptions if isinstance(error, JournalError))
            _log.critical("shipping_stopped", journal=self._journal.journal_id, error=str(self.error))
        finally:
            await asyncio.to_thread(self._thread.shutdown)

    async def _run(self) -> None:
        await self._load()
        while True:
            try:
                pause_seconds = await self._ship()
            except OSError as error:
                _log.warning("shipping_interrupted", error=error.strerror)
                await asyncio.sleep(RETRY_SECONDS)
                await self._load()
            else:
                await asyncio.sleep(pause_seconds)

    async def _ship(self) -> float:
        """Move what can be moved now; returns for how long to let more gather."""
        await self._journal.wait_durable(self._journal.end)
        is_full = await self._fill_window()
        if not self._link.connected:
            return SHIP_INTERVAL_SECONDS
        if (seq := self._welcomed_seq) is not None:
            self._welcomed_seq = None
            await self._settle(seq)
        is_done = await self._send_window()
        await self._checkpoint()
        if not is_done:
            return RETRY_SECONDS
        return BUSY_PAUSE_SECONDS if is_full else SHIP_INTERVAL_SECONDS

    async def _load(self) -> None:
        """Stand where the cursor says."""
        self._window.clear()
        self._cursor = self._released = await self._in_thread(self._stand_at_cursor)
        self._acknowledged_seq = self._cursor.seq
        self._uploader.offer(self._cursor.sealed)

    async def _fill_window(self) -> bool:
        """Read on until nothing more is there or the window is full; whether there may be more."""
        while len(self._window) < WINDOW:
            parcel = await self._in_thread(self._gather)
            if parcel is None:
                return False
            self._window.append(parcel)
        return True

    async def _send_window(self) -> bool:
        """Have everything in the window acknowledged; whether it was."""
        self._release()
        batches = [parcel.batch for parcel in self._window if parcel.batch.records]
        answers = await asyncio.gather(*(self._send(batch) for batch in batches))
        for batch, answer in zip(batches, answers, strict=True):
            if answer is None:  # the next sign-on says how much has arrived
                return False
            await self._settle(answer.seq)
            if answer.seq < batch.last_seq:
                _log.warning("records_not_acknowledged", acknowledged=answer.seq, sent=batch.last_seq)
                return False
        return True

    async def _send(self, batch: Batch) -> Ack | None:
        try:
            return await self._link.append_records(
                journal_id=self._journal.journal_id,
                first_seq=batch.first_seq,
                chain_before=batch.chain_before,
                chain_after=batch.chain_after,
                records=batch.records,
            )
        except LinkError as error:
            _log.warning("records_not_sent", problem=str(error))
            return None

    async def _settle(self, seq: int) -> None:
        """The control plane holds the records up to `seq`. Raises `ShippingError` if that can't be."""
        if seq > self._journal.seq:
            raise ShippingError(f"the control plane holds record {seq}, but this journal ends at {self._journal.seq}")
        if seq < self._cursor.seq:
            raise ShippingError(f"the control plane holds records up to {seq}, but had up to {self._cursor.seq}")
        if seq < self._released.seq:
            await self._load()
        self._acknowledged_seq = seq
        self._release()
        async with self._progress:
            self._progress.notify_all()

    def _release(self) -> None:
        """Drop from the window what is acknowledged."""
        while self._window:
            parcel = self._window[0]
            if parcel.batch.last_seq > self._acknowledged_seq:
                parcel.batch.drop_until(self._acknowledged_seq)
                return
            self._window.popleft()
            self._released = parcel.cursor()
            self._journal.acknowledge(parcel.batch.end, spooled_bytes=parcel.spooled_bytes)

    async def _checkpoint(self) -> None:
        """Write the cursor, if it is time, and let go of what is before it."""
        now = asyncio.get_running_loop().time()
        released = self._released
        is_due = now >= self._checkpoint_at or released.position - self._cursor.position >= CHECKPOINT_BYTES
        if released == self._cursor or not is_due:
            return
        await self._in_thread(lambda: self._write_cursor(released))
        self._cursor = released
        self._checkpoint_at = now + CHECKPOINT_SECONDS
        self._uploader.offer(released.sealed)
        forgotten = self._journal.forget(released.position)
        await self._in_thread(lambda: _remove(forgotten))

    async def _on_stored(self, segment: SealedContent) -> None:
        await self._in_thread(lambda: self._spool.remove(segment))

    def _segment_path(self, segment: SealedContent) -> Path:
        return self._spool.path(segment)

    async def _in_thread(self, function: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function)

    # What follows runs in the thread.

    def _stand_at_cursor(self) -> Cursor:
        cursor = read_cursor(self._journal.folder)
        first = self._journal.segments[0][0]
        if cursor.position < first:  # before the spool is set back: it may hold the only copy
            raise ShippingError(f"the cursor stands at {cursor.position}, but the journal begins at {first}")
        if self._last is not None:
            self._reader.close()
        self._spool = Spool(self._spool_folder, cursor, now=monotonic())
        self._reader = Reader(self._journal, position=cursor.position, seq=cursor.seq, chain=cursor.chain)
        self._last = None
        return cursor

    def _gather(self) -> _Parcel | None:
        """Read a batch and put its content into the spool; None if nothing has changed."""
        now = monotonic()
        batch = self._reader.read()
        for item in batch.content:
            if isinstance(item, ContentPiece):
                self._spool.add(item, now=now)
            elif isinstance(closed := decode_record(item), SessionClosed):
                self._spool.end(closed.session_id)
        batch.content.clear()
        self._spool.flush(now=now)
        content, sealed = self._spool.state()
        parcel = _Parcel(batch, content, sealed, self._spool.size_bytes)
        if self._last is not None and parcel.cursor() == self._last:
            return None
        self._last = parcel.cursor()
        return parcel

    def _write_cursor(self, cursor: Cursor) -> None:
        self._spool.sync()
        write_cursor(self._journal.folder, cursor)


def _remove(paths: list[Path]) -> None:
    for path in paths:
        path.unlink()
