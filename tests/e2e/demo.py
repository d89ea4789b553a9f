"""Drives a demo from outside: starts it, reads what it published, stops it, and looks at what is left."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import psycopg

from controlplane.supervisor.embedded import LOOPBACK, postgres_tool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PROJECT = Path(__file__).parents[2]
#: A first start takes 15 s on two idle cores.
START_SECONDS = 120.0
#: What the supervisor promises for a Ctrl-C, and a little for a busy machine.
STOP_SECONDS = 5.0 + 3.0
#: A child that was killed is back within its back-off and its start.
RETURN_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Demo:
    """A demo that is up. `told` is its demo.json."""

    home: Path
    process: subprocess.Popen[bytes]
    told: dict[str, Any]

    def dsn(self, agent: str = "support-agent") -> str:
        """With the agent's token as its password."""
        told: dict[str, str] = self.told["agents"][agent]
        return f"{told['dsn']} password={told['token']} connect_timeout=10"

    def query(self, statement: str) -> list[tuple[Any, ...]]:
        """Ask the target through the gate."""
        with psycopg.connect(self.dsn(), autocommit=True) as connection:
            return connection.execute(statement.encode()).fetchall()

    def psql(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """psql through the gate, as the banner says."""
        environment = {"PATH": os.environ["PATH"], "PGPASSFILE": self.told["gate"]["password_file"]}
        command = (str(postgres_tool("psql")), "-X", self.told["agents"]["support-agent"]["dsn"], *arguments)
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    def api(self, path: str, **parameters: str) -> dict[str, Any]:
        """What REST says there."""
        headers = {"Authorization": f"Bearer {self.told['web']['api_token']}"}
        answer = httpx.get(f"{self.told['web']['api_url']}{path}", params=parameters, headers=headers, timeout=10)
        answer.raise_for_status()
        body: dict[str, Any] = answer.json()
        return body

    def pid(self, child: str) -> int:
        """The process that is now the child. Raises `KeyError` while there is none."""
        entries: dict[str, list[int]] = json.loads(Path(self.told["processes_file"]).read_text())
        return entries[child][0]


@contextmanager
def running_demo(home: Path, port_base: int, **given: str) -> Iterator[Demo]:
    """A demo that is up, with these variables; at the end it is stopped by Ctrl-C, which must leave nothing."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("NARROWGATE_")
        and name not in {"DATABASE_URL", "DATABASE_OWNER_URL", "REDIS_URL", "DJANGO_SETTINGS_MODULE"}
    } | {"NARROWGATE_HOME": str(home), "NARROWGATE_PORT_BASE": str(port_base), **given}
    said = home.with_name(f"{home.name}.out")
    with said.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "controlplane.supervisor"],
            cwd=PROJECT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    with process:
        try:
            _await_banner(process, said)
            yield Demo(home, process, json.loads((home / "demo.json").read_text()))
            if process.poll() is None:
                stop(process)
                # A disk that others keep busy may hold the last of PostgreSQL in its checkpoint for a moment longer.
                eventually(lambda: processes_of(home) == {})
        finally:
            process.kill()


def _await_banner(process: subprocess.Popen[bytes], said: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while "Ctrl-C stops everything" not in said.read_text():
        assert process.poll() is None, said.read_text()
        assert time.monotonic() < deadline, said.read_text()
        time.sleep(0.1)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Press Ctrl-C. Raises `subprocess.TimeoutExpired` when it takes longer than `STOP_SECONDS`."""
    process.send_signal(signal.SIGINT)
    process.wait(STOP_SECONDS)
    assert process.returncode == 0


def processes_of(home: Path) -> dict[int, str]:
    """All processes that know of the home, by command line, environment or working folder; each with its command."""
    needle = os.fsencode(home)
    everybody = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
    return {
        pid: read_process(pid, "cmdline").replace(b"\0", b" ").decode(errors="replace")
        for pid in everybody
        if pid != os.getpid()
        and (
            any(needle in read_process(pid, name) for name in ("cmdline", "environ")) or needle in _working_folder(pid)
        )
    }


def read_process(pid: int, name: str) -> bytes:
    """A file of /proc; empty when the process is gone, or not ours to look into."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""


def _working_folder(pid: int) -> bytes:
    try:
        return os.fsencode(Path(f"/proc/{pid}/cwd").readlink())
    except OSError:
        return b""


def eventually(ask: Callable[[], bool]) -> None:
    """Ask until the answer is yes; errors of a connection count as no. At most `RETURN_SECONDS`."""
    deadline = time.monotonic() + RETURN_SECONDS
    while True:
        with suppress(psycopg.OperationalError, httpx.HTTPError, KeyError):
            if ask():
                return
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.1)


def free_port_block() -> int:
    """The first of five ports in a row that nobody has now."""
    for base in range(21_000, 32_000, 10):
        with suppress(OSError):
            for port in range(base, base + 5):
                with socket.socket() as probe:
                    probe.bind((LOOPBACK, port))
            return base
    raise OSError("no five free ports in a row")
