"""Two workers of one tenant serve at once, each with its own key, journal and listener; one of several processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from controlplane.supervisor.embedded import LOOPBACK, free_port, write_private
from tests.e2e.demo import PROJECT, Demo, eventually, free_port_block, read_process, running_demo
from tests.e2e.rest import rows, send

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SECOND = "second-worker"


@dataclass(frozen=True, slots=True)
class SecondWorker:
    """Another worker beside the demo's: its process, and the port of its gate."""

    pid: int
    port: int

    @property
    def processes(self) -> list[int]:
        """The pids of its processes, if it has several."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()
        return [int(pid) for pid in children if b"--born" in read_process(int(pid), "cmdline")]


@contextmanager
def second_worker(demo: Demo, folder: Path, *, processes: int = 1) -> Iterator[SecondWorker]:
    """Enrolled by a join token of its own."""
    port = free_port()
    token = send(demo, "POST", "join-tokens/", {"worker_name": SECOND})["token"]
    write_private(folder / "join-token", token)
    environment = dict(
        entry.decode().split("=", 1) for entry in read_process(demo.pid("worker"), "environ").split(b"\0") if entry
    ) | {
        "NARROWGATE_WORKER_NAME": SECOND,
        "NARROWGATE_WORKER_STATE": str(folder / "state"),
        "NARROWGATE_JOIN_TOKEN_FILE": str(folder / "join-token"),
        "NARROWGATE_POSTGRES_LISTEN": f"{LOOPBACK}:{port}",
        "NARROWGATE_WORKER_PROCESSES": str(processes),
    }
    with (
        (folder / "worker.log").open("wb") as log,
        subprocess.Popen(
            [sys.executable, "-m", "proxyworker"], cwd=PROJECT, env=environment, stdout=log, stderr=log
        ) as process,
    ):
        try:
            worker = SecondWorker(process.pid, port)
            eventually(lambda: can_connect(demo, worker))
            yield worker
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0, (folder / "worker.log").read_text()
        finally:
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)


def through(demo: Demo, worker: SecondWorker) -> str:
    """The agent's connection string, by this worker's gate."""
    return make_conninfo(demo.dsn(), port=worker.port)


def can_connect(demo: Demo, worker: SecondWorker) -> bool:
    try:
        psycopg.connect(through(demo, worker)).close()
    except psycopg.OperationalError:
        return False
    return True


def test_two_workers_serve_at_once_and_both_records_arrive(tmp_path: Path) -> None:
    folder = tmp_path / "second"
    folder.mkdir()
    with running_demo(tmp_path / "home", free_port_block()) as demo, second_worker(demo, folder) as worker:
        with (
            psycopg.connect(demo.dsn(), autocommit=True) as first,
            psycopg.connect(through(demo, worker), autocommit=True) as second,
        ):
            assert first.execute("SELECT 'by the first'").fetchone() == ("by the first",)
            assert second.execute("SELECT 'by the second'").fetchone() == ("by the second",)
        eventually(lambda: len(rows(demo, "operations/", search="by the", status="ok")) == 2)
        session_of = {row["text"]: row["session"] for row in rows(demo, "operations/", search="by the")}
        worker_of = {row["id"]: row["worker"] for row in rows(demo, "sessions/")}
        assert worker_of[session_of["SELECT 'by the second'"]] == SECOND
        assert worker_of[session_of["SELECT 'by the first'"]] != SECOND


#: So many that the kernel gives both processes some: one in 32,768 runs, it doesn't.
AGENTS = 16
#: Their statements, once they have been answered.
DONE = {"search": "process test", "status": "ok"}


def processes_of_second(demo: Demo) -> list[dict[str, Any]]:
    """What the control plane says of them."""
    [worker] = rows(demo, "workers/", name=SECOND)
    processes: list[dict[str, Any]] = worker["processes"]
    return processes


def test_a_worker_of_two_processes_loses_nothing_and_ends_all_when_told(tmp_path: Path) -> None:
    folder = tmp_path / "second"
    folder.mkdir()
    with (
        running_demo(tmp_path / "home", free_port_block()) as demo,
        second_worker(demo, folder, processes=2) as worker,
        ExitStack() as agents,
    ):
        eventually(lambda: [row["has_link"] for row in processes_of_second(demo)] == [True, True])
        connections = [
            agents.enter_context(psycopg.connect(through(demo, worker), autocommit=True)) for _ in range(AGENTS)
        ]
        for number, connection in enumerate(connections):
            connection.execute(f"SELECT 'process test {number:02} before'".encode())
        eventually(lambda: all(row["reported_sessions"] for row in processes_of_second(demo)))
        before = worker.processes
        os.kill(before[1], signal.SIGKILL)
        eventually(lambda: len(set(worker.processes) - set(before)) == 1)
        alive = [number for number, connection in enumerate(connections) if goes_on(connection, number)]
        assert 0 < len(alive) < AGENTS
        eventually(lambda: [row["has_link"] for row in processes_of_second(demo)] == [True, True])
        said = {f"SELECT 'process test {number:02} before'" for number in range(AGENTS)}
        said |= {f"SELECT 'process test {number:02} after'" for number in alive}
        eventually(lambda: {row["text"] for row in rows(demo, "operations/", **DONE)} == said)
        # The dead process's sessions are closed on record, and no others.
        eventually(lambda: [row["worker"] for row in rows(demo, "sessions/", state="live")] == [SECOND] * len(alive))
        send(demo, "POST", "kill-orders/", {"scope": "agent", "subject": "support-agent", "reason": "all of them"})
        eventually(lambda: not any(goes_on(connections[number], number) for number in alive))
        [order] = rows(demo, "kill-orders/")
        eventually(lambda: bool(demo.api(f"kill-orders/{order['id']}/")["state"] == "dead"))
        send(demo, "POST", f"kill-orders/{order['id']}/lift/", {"reason": "the test is over"})


def goes_on(connection: psycopg.Connection, number: int) -> bool:
    """Whether the session still answers."""
    try:
        connection.execute(f"SELECT 'process test {number:02} after'".encode())
    except psycopg.OperationalError:
        return False
    return True
