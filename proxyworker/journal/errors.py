"""What can go wrong with the journal.

JournalError           the journal can't be used; the message names the file, the offset and what was found
  JournalFull          the bound of unacknowledged bytes is reached, or the disk is full: refuse new work for now
  JournalFailed        a write or a sync failed: nothing is accepted any more, the worker has to stop
  TooLarge             a record or a piece of content is over its bound: the caller should have cut it
"""

from __future__ import annotations

from proxyworker.errors import WorkerError


class JournalError(WorkerError):
    """Base of this tree."""


class JournalFull(JournalError):
    """There is no room. What is on record stays so; room comes back as the control plane acknowledges."""


class JournalFailed(JournalError):
    """The disk failed. What was not yet durable may be lost; a failed sync is never tried again."""


class TooLarge(JournalError):
    """Over the bound of one record or one piece. Nothing was written."""
