"""Segment files: preallocation, listing, the folder's lock. All of it may block."""

from __future__ import annotations

import fcntl
import os
import re
import threading
from itertools import pairwise
from pathlib import Path
from typing import Final

from proxyworker.disk import sync_folder
from proxyworker.journal.errors import JournalError

#: Large enough that a roll is rare, small enough that preallocation is instant and recovery reads one whole.
SEGMENT_BYTES: Final = 32 * 1024 * 1024
_NAME = re.compile(r"(\d{8})\.ngj")


def lock_folder(folder: Path) -> int:
    """Make the folder and lock it for this process; returns the descriptor that holds the lock.

    Raises `JournalError` when another process holds it.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise JournalError(f"{folder}: another worker has this journal open") from error
    return descriptor


def segment_path(folder: Path, number: int) -> Path:
    """The file of segment `number`."""
    return folder / f"{number:08}.ngj"


def list_segments(folder: Path) -> list[tuple[int, Path]]:
    """All segment files, in order. Raises `JournalError` if one is missing between others."""
    found = sorted(
        (int(match[1]), path) for path in folder.iterdir() if (match := _NAME.fullmatch(path.name)) is not None
    )
    for (number, path), (following, _) in pairwise(found):
        if following != number + 1:
            raise JournalError(f"{path}: the segment after it is missing")
    return found


def create_segment(path: Path, size_bytes: int) -> int:
    """Make a segment of zeros with its blocks allocated, on disk; returns its descriptor. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        os.posix_fallocate(descriptor, 0, size_bytes)
        os.fsync(descriptor)
        sync_folder(path.parent)
    except OSError:
        os.close(descriptor)
        path.unlink()
        raise
    return descriptor


class SpareSegment:
    """The next segment, made ahead in a thread so that the loop need not wait for allocation.

    When the loop is there first it makes the segment itself: slow once, but never refused for being early.
    """

    def __init__(self, folder: Path, *, number: int, segment_bytes: int) -> None:
        self._folder = folder
        self._number = number
        self._segment_bytes = segment_bytes
        self._descriptor: int | None = None
        self._lock = threading.Lock()

    def prepare(self) -> None:
        """Have a spare. Raises `OSError`, for a full disk too."""
        with self._lock:
            if self._descriptor is None:
                self._descriptor = create_segment(segment_path(self._folder, self._number), self._segment_bytes)

    def take(self) -> tuple[int, int]:
        """The spare's number and descriptor. Raises `OSError`."""
        self.prepare()
        with self._lock:
            number, descriptor = self._number, self._descriptor
            self._number += 1
            self._descriptor = None
        if descriptor is None:
            raise AssertionError("only the loop takes the spare")
        return number, descriptor

    def discard(self) -> None:
        """Remove the spare."""
        with self._lock:
            if self._descriptor is not None:
                os.close(self._descriptor)
                segment_path(self._folder, self._number).unlink()
                self._descriptor = None
