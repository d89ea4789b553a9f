"""Children: processes that are started, awaited, started again when they die, and stopped.

A child leads a session of its own, so that a Ctrl-C on the terminal reaches only the supervisor and a kill reaches all
of the child. The kernel ends it when the supervisor is gone (`ending_with_parent`). What it says goes to its log file.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from controlplane.supervisor.embedded import START_SECONDS, StartFailed, ending_with_parent, tail

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from controlplane.supervisor.processes import Register

#: Waits before a restart: doubled at each death, back to the first once a child has run steadily.
FIRST_BACKOFF_SECONDS: Final = 0.25
LAST_BACKOFF_SECONDS: Final = 15.0
STEADY_SECONDS: Final = 30.0
#: A log is moved aside at this size, and one old one kept: 16 MB a child, some 100,000 lines.
LOG_BYTES: Final = 8 * 1024 * 1024
LOG_CHECK_SECONDS: Final = 5.0
#: A migration of an empty database takes 5 s on a slow machine.
RUN_SECONDS: Final = 120.0

_POLL_SECONDS: Final = 0.05


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """What to run. `prepare` and `is_ready` may block, within a bound of their own; they run in a thread."""

    name: str
    command: tuple[str, ...]
    is_ready: Callable[[], bool]
    environment: Mapping[str, str] = field(repr=False)
    prepare: Callable[[], None] = lambda: None
    stop_signal: signal.Signals = signal.SIGTERM


class Child:
    """One child, kept running from `start` to `stop`."""

    def __init__(
        self, spec: ChildSpec, *, folder: Path, log_folder: Path, register: Register, report: Callable[[str], None]
    ) -> None:
        self.spec = spec
        self._folder = folder
        self._log_file = log_folder / f"{spec.name}.log"
        self._register = register
        self._report = report
        self._process: asyncio.subprocess.Process | None = None
        self._keeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start it for the first time and wait until it answers. Raises `StartFailed` with its last words."""
        process = await self._spawn()
        await self._await_ready(process)
        self._keeper = asyncio.create_task(self._keep(process), name=f"keep {self.spec.name}")

    async def _spawn(self) -> asyncio.subprocess.Process:
        await asyncio.to_thread(self.spec.prepare)
        with self._log_file.open("ab") as log:
            self._process = process = await asyncio.create_subprocess_exec(
                *ending_with_parent(self.spec.stop_signal),
                *self.spec.command,
                cwd=self._folder,
                env=dict(self.spec.environment),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._register.note(self.spec.name, process.pid)
        return process

    async def _await_ready(self, process: asyncio.subprocess.Process) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + START_SECONDS
        while not await asyncio.to_thread(self.spec.is_ready):
            if process.returncode is not None:
                raise StartFailed(self.spec.name, f"{_how(process.returncode)} at its start", tail(self._log_file))
            if loop.time() > deadline:
                problem = f"did not answer within {START_SECONDS:.0f} s"
                raise StartFailed(self.spec.name, problem, tail(self._log_file))
            await asyncio.sleep(_POLL_SECONDS)

    async def _keep(self, process: asyncio.subprocess.Process) -> None:
        loop = asyncio.get_running_loop()
        backoff, started = FIRST_BACKOFF_SECONDS, loop.time()
        while True:
            code = await process.wait()
            _kill_session(process.pid)
            if loop.time() - started > STEADY_SECONDS:
                backoff = FIRST_BACKOFF_SECONDS
            self._report(f"{self.spec.name} {_how(code)}; starting it again in {backoff:g} s")
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, LAST_BACKOFF_SECONDS)
            started = loop.time()
            process = await self._spawn()
            try:
                await self._await_ready(process)
            except StartFailed as error:
                _kill_session(process.pid)
                self._report(f"{self.spec.name} {error.problem}: see {self._log_file}")
            else:
                self._report(f"{self.spec.name} is back after {loop.time() - started:.1f} s")

    async def stop(self, *, within_seconds: float) -> None:
        """End it: its stop signal, then SIGKILL for all of it once the time is over. Nothing if it never started."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        process = self._process
        if process is None:
            return
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.send_signal(self.spec.stop_signal)
            with suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), within_seconds)
        _kill_session(process.pid)
        await process.wait()
        self._register.forget(self.spec.name)


def _kill_session(leader: int) -> None:
    """What the leader has started and not ended itself: its process group, which has its number."""
    with suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)


def _how(code: int) -> str:
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"ended with status {code}"


async def run_to_end(
    name: str, command: tuple[str, ...], *, folder: Path, log_folder: Path, environment: Mapping[str, str]
) -> str:
    """Run a command that ends by itself; what it printed, of which its log file has only stderr.

    Raises `StartFailed` with its last words when it fails or takes longer than `RUN_SECONDS`.
    """
    log_file = log_folder / f"{name}.log"
    with log_file.open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            *ending_with_parent(signal.SIGKILL),
            *command,
            cwd=folder,
            env=dict(environment),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
    try:
        async with asyncio.timeout(RUN_SECONDS):
            output, _ = await process.communicate()
    except TimeoutError:
        raise StartFailed(name, f"took longer than {RUN_SECONDS:.0f} s", tail(log_file)) from None
    finally:
        _kill_session(process.pid)
        await process.communicate()  # to the end of its pipe, whichever way we got here
    if process.returncode:
        raise StartFailed(name, _how(process.returncode), tail(log_file))
    return output.decode()


async def keep_logs_small(log_folder: Path, *, report: Callable[[str], None]) -> None:
    """Until cancelled, `rotate_large_logs` every `LOG_CHECK_SECONDS`. A full disk is reported and ends nothing."""
    while True:
        try:
            await asyncio.to_thread(rotate_large_logs, log_folder)
        except OSError as error:
            report(f"logs can't be kept small: {error}")
        await asyncio.sleep(LOG_CHECK_SECONDS)


def rotate_large_logs(log_folder: Path) -> None:
    """A log above `LOG_BYTES` becomes `<name>.log.1`. The children append, and so go on in the file that they have."""
    for log_file in log_folder.glob("*.log"):
        if log_file.stat().st_size > LOG_BYTES:
            shutil.copyfile(log_file, log_file.with_name(f"{log_file.name}.1"))
            os.truncate(log_file, 0)
