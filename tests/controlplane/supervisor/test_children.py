"""Children: awaited, started again, stopped in time, and their logs bounded."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from controlplane.supervisor import children
from controlplane.supervisor.children import Child, ChildSpec, rotate_large_logs, run_to_end
from controlplane.supervisor.embedded import StartFailed
from controlplane.supervisor.processes import Register, identify

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

_WRITES_ITS_PID = """
import os, pathlib, signal, sys, time
pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))
signal.pause()
"""
_IGNORES_SIGTERM = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)" + _WRITES_ITS_PID


class Stage:
    """One child that is ready once it has written its process number, and what was reported of it."""

    def __init__(self, folder: Path, code: str) -> None:
        self.folder = folder
        self.pid_file = folder / "pid"
        self.reports: asyncio.Queue[str] = asyncio.Queue()
        self.child = Child(
            ChildSpec(
                name="thing",
                command=(sys.executable, "-c", code, str(self.pid_file)),
                is_ready=lambda: self.pid_file.exists() and bool(self.pid_file.read_text()),
                environment={"PATH": os.environ["PATH"]},
                prepare=lambda: self.pid_file.unlink(missing_ok=True),
            ),
            folder=folder,
            log_folder=folder,
            register=Register(folder / "processes.json"),
            report=self.reports.put_nowait,
        )

    @property
    def pid(self) -> int:
        return int(self.pid_file.read_text())


@pytest.fixture
async def stage(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Stage]:
    stage = Stage(tmp_path, getattr(request, "param", _WRITES_ITS_PID))
    yield stage
    await stage.child.stop(within_seconds=0)


async def test_a_child_that_was_killed_is_started_again(stage: Stage) -> None:
    await stage.child.start()
    first = stage.pid
    os.kill(first, signal.SIGKILL)
    assert await stage.reports.get() == "thing was ended by SIGKILL; starting it again in 0.25 s"
    assert (await stage.reports.get()).startswith("thing is back after")
    assert stage.pid != first


async def test_the_wait_before_a_restart_doubles(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "FIRST_BACKOFF_SECONDS", 0.01)
    await stage.child.start()
    waits = []
    for _ in range(3):
        os.kill(stage.pid, signal.SIGKILL)
        waits.append((await stage.reports.get()).rpartition("in ")[2])
        await stage.reports.get()
    assert waits == ["0.01 s", "0.02 s", "0.04 s"]


async def test_a_stopped_child_is_gone_and_stays_so(stage: Stage) -> None:
    await stage.child.start()
    pid = stage.pid
    await stage.child.stop(within_seconds=20)
    assert identify(pid) is None
    assert stage.reports.empty()
    assert (stage.folder / "processes.json").read_text() == "{}"


@pytest.mark.parametrize("stage", [_IGNORES_SIGTERM], indirect=True)
async def test_a_child_that_does_not_stop_is_killed(stage: Stage) -> None:
    await stage.child.start()
    pid = stage.pid
    await stage.child.stop(within_seconds=0.1)
    assert identify(pid) is None


@pytest.mark.parametrize("stage", ["raise SystemExit('no such setting')"], indirect=True)
async def test_a_child_that_ends_at_its_start_is_reported_with_its_last_words(stage: Stage) -> None:
    with pytest.raises(StartFailed, match=r"(?s)thing ended with status 1 at its start.*no such setting"):
        await stage.child.start()


async def test_a_command_returns_what_it_printed_and_logs_what_it_complained(tmp_path: Path) -> None:
    code = "import sys; print('token'); print('warning', file=sys.stderr)"
    output = await run_to_end(
        "once", (sys.executable, "-c", code), folder=tmp_path, log_folder=tmp_path, environment=os.environ
    )
    assert output == "token\n"
    assert (tmp_path / "once.log").read_text() == "warning\n"


async def test_a_command_that_takes_too_long_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "RUN_SECONDS", 0.1)
    with pytest.raises(StartFailed, match="once took longer than"):
        await run_to_end(
            "once",
            (sys.executable, "-c", "import signal; signal.pause()"),
            folder=tmp_path,
            log_folder=tmp_path,
            environment=os.environ,
        )


def test_a_large_log_is_moved_aside_while_it_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(children, "LOG_BYTES", 10)
    log_file = tmp_path / "web.log"
    with log_file.open("ab", buffering=0) as log:
        log.write(b"more than ten bytes\n")
        rotate_large_logs(tmp_path)
        log.write(b"rest\n")
        rotate_large_logs(tmp_path)
    assert (tmp_path / "web.log.1").read_bytes() == b"more than ten bytes\n"
    assert log_file.read_bytes() == b"rest\n"
