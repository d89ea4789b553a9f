"""`Journal`: append, durability, bounds. Lives on one event loop; a thread of its own waits for the disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from proxyworker.contract import Record
from proxyworker.journal.errors import JournalFailed
from proxyworker.journal.frames import ContentPiece


class Journal:
    """The write-ahead record of one worker."""

    #: Set once, when a write or a sync failed; `append` raises it from then on.
    failed: JournalFailed | None
    #: Called on the loop, once, with the failure.
    on_failure: list[Callable[[JournalFailed], None]]

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        worker: str,
        bound_bytes: int,
        clock: Callable[[], float],
        loop: asyncio.AbstractEventLoop,
    ) -> Journal:
        """Lock the folder, recover what it holds, and take the journal up. Raises `JournalError`."""
        raise NotImplementedError

    @property
    def durable_position(self) -> int:
        """Everything before this position is on disk."""
        raise NotImplementedError

    @property
    def unacknowledged_bytes(self) -> int:
        """What the bound counts: bytes that the control plane has not acknowledged."""
        raise NotImplementedError

    @property
    def is_congested(self) -> bool:
        """The disk is behind: stop reading bulk content and call `when_relieved`."""
        raise NotImplementedError

    def append(self, *records: Record, content: Sequence[ContentPiece] = ()) -> int:
        """Write records and the content that they refer to, in one write.

        Returns the position that has to be durable. Raises `JournalFull` or `JournalFailed`; then nothing was written.
        """
        raise NotImplementedError

    def when_durable(self, position: int, callback: Callable[[], None]) -> None:
        """Call back on the loop when everything before `position` is on disk; never before this returns.

        Callbacks run in the order of their positions. After a failure none runs: `on_failure` tells.
        """
        raise NotImplementedError

    async def wait_durable(self, position: int) -> None:
        """Return when everything before `position` is on disk. Raises `JournalFailed`."""
        raise NotImplementedError

    def when_relieved(self, callback: Callable[[], None]) -> None:
        """Call back on the loop, once, when the journal is no longer congested; soon, if it isn't now."""
        raise NotImplementedError

    async def close(self) -> None:
        """Make everything durable and let go of the folder."""
        raise NotImplementedError
