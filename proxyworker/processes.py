"""The parent of a worker's processes: it starts them, starts them again when they die, and ends them.

It serves nobody itself. What its processes share is made here: the worker's key, and the sockets between them. They
die with it (PR_SET_PDEATHSIG), as one process would that is killed.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
import signal
import socket
import sys
from asyncio.subprocess import Process
from collections.abc import Sequence
from contextlib import suppress
from typing import Final

import msgspec
import structlog

from proxyworker.config import Config
from proxyworker.errors import WorkerError
from proxyworker.identity import Identity
from proxyworker.net.siblings import Siblings, Sockets
from proxyworker.net.tasks import spawn

#: Exit status of a process that can't start as it is set up.
CANT_START: Final = 2
#: Such an end of a process that did run before may pass: the disk, or the port. After so many in a row it won't.
MAX_FAILED_STARTS: Final = 5
#: Waits before a restart: doubled at each death, back to the first once a process has run steadily.
FIRST_BACKOFF_SECONDS: Final = 0.25
MAX_BACKOFF_SECONDS: Final = 15.0
STEADY_SECONDS: Final = 30.0
#: From SIGTERM to SIGKILL. A process takes some five seconds at most, by its own bounds.
STOP_SECONDS: Final = 10.0

#: prctl(2).
_PR_SET_PDEATHSIG: Final = 1

_log = structlog.get_logger(__name__)


class Birth(msgspec.Struct, frozen=True):
    """What a process is told by its parent: who it is, whose child, and by which descriptors it knows the others."""

    number: int
    parent: int
    inbox: int
    outboxes: tuple[int, ...]

    def siblings(self) -> Siblings:
        """Once, in the process itself."""
        outboxes = [socket.socket(fileno=descriptor) for descriptor in self.outboxes]
        return Siblings(self.number, inbox=socket.socket(fileno=self.inbox), outboxes=outboxes)


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends. Raises `WorkerError` if that has happened already."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise WorkerError("the worker's parent process has gone")


class Processes:
    """All processes of one worker. Raises `WorkerError` or `OSError` when they can't be started."""

    def __init__(self, config: Config) -> None:
        # Before there are several, who would each make one.
        Identity(config.state_folder, name=config.name, join_token_file=config.join_token_file)
        self._lock = _lock(config)
        self._count = config.processes
        self._sockets = Sockets.make(config.processes)
        self._stop = asyncio.Event()
        self._running: dict[int, Process] = {}
        self._status = 0

    async def run(self) -> int:
        """Keep them running until told to stop, or until one can't start for good. Returns the exit status."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        keepers = [spawn(f"keep process {number}", self._keep(number)) for number in range(self._count)]
        for keeper in keepers:
            keeper.add_done_callback(lambda _: self._stop.set())
        await self._stop.wait()
        self._signal(signal.SIGTERM)
        _, late = await asyncio.wait(keepers, timeout=STOP_SECONDS)
        if late:
            _log.error("killed_at_the_end", processes=len(late))
            self._signal(signal.SIGKILL)
            await asyncio.wait(late)
        self._sockets.close()
        os.close(self._lock)
        if any(keeper.exception() is not None for keeper in keepers):  # it couldn't be started; the log says why
            return CANT_START
        return self._status

    async def _keep(self, number: int) -> None:
        """Start it, and again whenever it has ended, until all are to stop."""
        loop = asyncio.get_running_loop()
        backoff, failed_starts, patience = FIRST_BACKOFF_SECONDS, 0, 1
        while not self._stop.is_set():
            began = loop.time()
            status = await self._run(number)
            if self._stop.is_set():
                self._status = max(self._status, status)
                return
            if loop.time() - began > STEADY_SECONDS:
                backoff = FIRST_BACKOFF_SECONDS
            failed_starts = failed_starts + 1 if status == CANT_START else 0
            if failed_starts >= patience:
                self._status = CANT_START
                return
            patience = MAX_FAILED_STARTS
            _log.error("process_ended", process=number, status=status, again_in_seconds=backoff)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), backoff)
            backoff = min(2 * backoff, MAX_BACKOFF_SECONDS)

    async def _run(self, number: int) -> int:
        """From its start to its end; its exit status, negative for a signal."""
        inbox, outboxes = self._sockets.inboxes[number], self._sockets.outboxes
        descriptors = (inbox.fileno(), *(outbox.fileno() for outbox in outboxes))
        birth = Birth(number, os.getpid(), descriptors[0], descriptors[1:])
        process = await asyncio.create_subprocess_exec(
            *_command(birth),
            env={**os.environ, "NARROWGATE_WORKER_PROCESSES": str(self._count)},
            pass_fds=descriptors,
        )
        self._running[number] = process
        if self._stop.is_set():  # while it was started
            self._signal(signal.SIGTERM)
        try:
            return await process.wait()
        finally:
            del self._running[number]

    def _signal(self, number: signal.Signals) -> None:
        for process in self._running.values():
            with suppress(ProcessLookupError):
                process.send_signal(number)


def _command(birth: Birth) -> Sequence[str]:
    return (sys.executable, "-m", "proxyworker", "--born", msgspec.json.encode(birth).decode())


def _lock(config: Config) -> int:
    """Let no second worker use the folder while this descriptor is open. Raises `WorkerError`, `OSError`."""
    descriptor = os.open(config.state_folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        raise WorkerError(f"{config.state_folder}: another worker uses this folder") from error
    return descriptor
