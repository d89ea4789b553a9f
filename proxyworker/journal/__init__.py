"""The write-ahead record on disk, and its way to the control plane.

Nouns: a *record* is a struct of the contract; a *content piece* is bytes that an agent sent or was shown; a *frame* is
either of them as it stands in a file; a *position* counts the journal's bytes since it was made. Data path:

    append → segment files → sync (group commit) → shipper → control plane
                                                 ↘ content spool → uploads

    frames.py     the form of a journal segment, as bytes; pure
    state.py      what is open: sessions not closed, operations without outcome
    files.py      segment files: preallocation, listing, the folder's lock
    recovery.py   what a journal holds when a worker takes it up
    journal.py    `Journal`: append, durability, bounds;  syncing.py: waiting for the disk
    reader.py     durable frames in batches, for the shipper
    content.py    the form of a content segment, and its reader; pure
    spool.py      content segments on disk until storage has them
    cursor.py     how far shipping has come, on disk
    shipper.py    records to the control plane;  uploads.py: content to storage
"""

from proxyworker.journal.errors import JournalError, JournalFailed, JournalFull, TooLarge
from proxyworker.journal.frames import Codec, ContentPiece
from proxyworker.journal.journal import Journal

__all__ = ["Codec", "ContentPiece", "Journal", "JournalError", "JournalFailed", "JournalFull", "TooLarge"]
