"""Waiting for the disk, group commit: one sync serves everybody who waits for it.

The wait is a process of its own, `sync_process.py`. A thread would need the interpreter's lock before and after each
sync, and take it from the loop: that doubled the gate's work per statement. A descriptor sent over a socket stands for
the same open file, so the process is told of every failed write of the pages that the loop wrote.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final

from proxyworker.journal.frames import PRIOR_DURABLE_OFFSET
from proxyworker.journal.sync_process import ADD, ANSWER, SYNC, sync_files

_PROGRAM: Final = Path(__file__).with_name("sync_process.py")
#: From the last request to the process's end. It ends by itself, unless a sync hangs in the kernel.
STOP_SECONDS: Final = 30.0


class DiskSync:
    """Syncs the segments that the loop writes to, oldest first.

    `written` gives the position behind the last byte written; `on_synced` gets it, on the loop, once everything before
    it is on disk. After a failed sync, or the death of the process, `on_failure` is called and no sync is tried again:
    a second one would report success for pages that the kernel has dropped.
    """

    def __init__(
        self,
        *,
        loop: asyncio.AbstractEventLoop,
        written: Callable[[], int],
        on_synced: Callable[[int], None],
        on_failure: Callable[[OSError], None],
    ) -> None:
        self._loop = loop
        self._written = written
        self._on_synced = on_synced
        self._on_failure = on_failure
        #: Descriptors of segments that are not known to be on disk, the one written to last.
        self._unsynced: deque[int] = deque()
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def add(self, descriptor: int) -> None:
        """Writing goes on in this segment."""
        self._unsynced.append(descriptor)
        if self._socket is not None:
            socket.send_fds(self._socket, [ADD], [descriptor])

    def sync_now(self) -> int:
        """Before `start`: sync here and now; returns the position before which all is on disk. Raises `OSError`."""
        end = self._written()
        sync_files(self._unsynced, PRIOR_DURABLE_OFFSET)
        return end

    def start(self) -> None:
        """Start the process."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            # Isolated and without site: it needs nothing installed, and starts in milliseconds.
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_PROGRAM), str(theirs.fileno()), str(PRIOR_DURABLE_OFFSET)],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                # Not in the terminal's group: Ctrl-C is for the worker, which then waits for the last sync.
                start_new_session=True,
            )
        ours.setblocking(False)
        self._socket = ours
        for descriptor in self._unsynced:
            socket.send_fds(ours, [ADD], [descriptor])
        self._loop.add_reader(ours.fileno(), self._answered)

    def request(self) -> None:
        """Sync what is written by now. One request at a time: the owner waits for the answer."""
        if self._socket is None:
            return
        try:
            self._socket.send(SYNC + struct.pack("<Q", self._written()))
        except OSError as error:
            self._fail(error)

    async def stop(self) -> None:
        """End the process, after the sync that it may be at, and let go of the files."""
        self._disconnect()
        if self._process is not None:
            process = self._process
            await self._loop.run_in_executor(None, lambda: process.wait(STOP_SECONDS))
        while self._unsynced:
            os.close(self._unsynced.popleft())

    def _answered(self) -> None:
        if self._socket is None:
            return
        try:
            answer = self._socket.recv(ANSWER.size)
        except BlockingIOError:
            return
        except OSError as error:
            self._fail(error)
            return
        if len(answer) != ANSWER.size:
            self._fail(OSError(0, "the process that syncs is gone"))
            return
        end, retired, error_number = ANSWER.unpack(answer)
        if error_number:
            self._fail(OSError(error_number, os.strerror(error_number)))
            return
        for _ in range(retired):
            os.close(self._unsynced.popleft())
        self._on_synced(end)

    def _fail(self, error: OSError) -> None:
        self._disconnect()
        self._on_failure(error)

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None
