"""What an earlier supervisor may have left: its lock, its processes, a port in use. Reads /proc, so Linux only.

Each child leads a session of its own, and is written down with its start time; a number alone may since belong to
somebody else.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from controlplane.supervisor.embedded import LOOPBACK, write_private

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: What was left behind has been told to stop by the kernel already; after this it is killed.
LEFTOVER_SECONDS: Final = 5.0
_POLL_SECONDS: Final = 0.02


class HomeBusy(Exception):
    """Another supervisor runs in this folder."""


class PortTaken(Exception):
    """Something listens where we have to."""


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """A process and nobody who later gets its number. `start_ticks` is field 22 of /proc/<pid>/stat."""

    pid: int
    start_ticks: int


def identify(pid: int) -> ProcessIdentity | None:
    """None when there is no such process, or only its remains."""
    stat = _stat(pid)
    return None if stat is None else ProcessIdentity(pid, stat.start_ticks)


@dataclass(frozen=True, slots=True)
class _Stat:
    session: int
    start_ticks: int


def _stat(pid: int) -> _Stat | None:
    try:
        # The command's name stands in parentheses and may itself hold any character.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, session, start_ticks = fields[0], fields[3], fields[19]
    return None if state in {"Z", "X"} else _Stat(int(session), int(start_ticks))


def session_members(leader: ProcessIdentity) -> list[int]:
    """Who is still in the session that `leader` began, the leader included."""
    current = identify(leader.pid)
    if current is not None and current != leader:
        return []  # the number belongs to somebody else now
    everybody = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return [pid for pid in everybody if (stat := _stat(pid)) and stat.session == leader.pid]


@contextmanager
def locked(home: Path) -> Iterator[None]:
    """The folder is ours. The kernel drops the lock with our process. Raises `HomeBusy`."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(home / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 20, 0).decode(errors="replace").strip()
            raise HomeBusy(
                f"Narrowgate runs in {home} already, as process {holder or '?'}: stop it, or set NARROWGATE_HOME and"
                " NARROWGATE_PORT_BASE for a second one"
            ) from None
        os.truncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)


class Register:
    """Which processes run, in a file that the next supervisor reads."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._entries: dict[str, ProcessIdentity] = {}

    def note(self, name: str, pid: int) -> None:
        """The child `name` is now this process."""
        identity = identify(pid)
        if identity is not None:
            self._entries[name] = identity
            self._write()

    def forget(self, name: str) -> None:
        """The child `name` is gone."""
        if self._entries.pop(name, None) is not None:
            self._write()

    def _write(self) -> None:
        entries = {name: [entry.pid, entry.start_ticks] for name, entry in self._entries.items()}
        write_private(self._file, json.dumps(entries))

    def end_leftovers(self) -> list[str]:
        """Stop what an earlier supervisor left running, within `LEFTOVER_SECONDS`; the names of what was left.

        Raises `HomeBusy` when even SIGKILL does not end it.
        """
        left = {name: entry for name, entry in self._read().items() if session_members(entry)}
        _signal_all(left, signal.SIGTERM)
        deadline = time.monotonic() + LEFTOVER_SECONDS
        while any(session_members(entry) for entry in left.values()):
            if time.monotonic() > deadline + LEFTOVER_SECONDS:
                raise HomeBusy(f"what an earlier start left can't be killed: {', '.join(sorted(left))}")
            if time.monotonic() > deadline:
                _signal_all(left, signal.SIGKILL)
            time.sleep(_POLL_SECONDS)
        self._file.unlink(missing_ok=True)
        return sorted(left)

    def _read(self) -> dict[str, ProcessIdentity]:
        try:
            entries: dict[str, list[int]] = json.loads(self._file.read_text())
        except (FileNotFoundError, json.JSONDecodeError):
            return {}
        return {name: ProcessIdentity(pid, start_ticks) for name, (pid, start_ticks) in entries.items()}


def _signal_all(leaders: Mapping[str, ProcessIdentity], number: signal.Signals) -> None:
    for leader in leaders.values():
        for pid in session_members(leader):
            with suppress(ProcessLookupError):
                os.kill(pid, number)


def check_port(port: int, purpose: str) -> None:
    """The port can be listened on. Raises `PortTaken`."""
    with socket.socket() as probe:
        # As the servers do: connections that are merely dying don't count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
            probe.listen()
        except OSError as error:
            raise PortTaken(
                f"port {port}, for {purpose}, can't be had ({error.strerror}): end what listens there, or set"
                " NARROWGATE_PORT_BASE to the first of five free ports"
            ) from None
