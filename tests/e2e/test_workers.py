"""Two workers of one tenant serve at once, each with its own key, journal and listener."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from controlplane.supervisor.embedded import LOOPBACK, free_port, write_private
from tests.e2e.demo import PROJECT, Demo, eventually, free_port_block, read_process, running_demo
from tests.e2e.rest import rows, send

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

SECOND = "second-worker"


@contextmanager
def second_worker(demo: Demo, folder: Path) -> Iterator[int]:
    """Another worker, enrolled by a join token of its own; gives the port of its gate."""
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
    }
    with (
        (folder / "worker.log").open("wb") as log,
        subprocess.Popen(
            [sys.executable, "-m", "proxyworker"], cwd=PROJECT, env=environment, stdout=log, stderr=log
        ) as process,
    ):
        try:
            eventually(lambda: can_connect(demo, port))
            yield port
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0, (folder / "worker.log").read_text()
        finally:
            if process.poll() is None:
                os.kill(process.pid, signal.SIGKILL)


def through(demo: Demo, port: int) -> str:
    """The agent's connection string, by this gate."""
    return make_conninfo(demo.dsn(), port=port)


def can_connect(demo: Demo, port: int) -> bool:
    try:
        psycopg.connect(through(demo, port)).close()
    except psycopg.OperationalError:
        return False
    return True


def test_two_workers_serve_at_once_and_both_records_arrive(tmp_path: Path) -> None:
    folder = tmp_path / "second"
    folder.mkdir()
    with running_demo(tmp_path / "home", free_port_block()) as demo, second_worker(demo, folder) as port:
        with (
            psycopg.connect(demo.dsn(), autocommit=True) as first,
            psycopg.connect(through(demo, port), autocommit=True) as second,
        ):
            assert first.execute("SELECT 'by the first'").fetchone() == ("by the first",)
            assert second.execute("SELECT 'by the second'").fetchone() == ("by the second",)
        eventually(lambda: len(rows(demo, "operations/", search="by the", status="ok")) == 2)
        session_of = {row["text"]: row["session"] for row in rows(demo, "operations/", search="by the")}
        worker_of = {row["id"]: row["worker"] for row in rows(demo, "sessions/")}
        assert worker_of[session_of["SELECT 'by the second'"]] == SECOND
        assert worker_of[session_of["SELECT 'by the first'"]] != SECOND
