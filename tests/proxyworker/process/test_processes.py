"""`--processes N`: one worker, N processes that share its port."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import socket
from asyncio.subprocess import Process
from itertools import count
from pathlib import Path
from typing import LiteralString

import psycopg
import pytest

from proxyworker.config import process_folders
from proxyworker.contract import Authenticate, Enrol, JournalOpened, OperationIntent
from proxyworker.net.tasks import spawn
from proxyworker.processes import MAX_FAILED_STARTS
from tests.plugin.embedded import TargetPostgres
from tests.proxyworker.control_plane import JOIN_TOKEN, ControlPlane
from tests.proxyworker.postgres.gate import credential_of, endpoint_of
from tests.proxyworker.process.conftest import RunWorker, until_logged
from tests.proxyworker.process.target import running_target
from tests.proxyworker.process.test_kill import check_record, run_statements

pytestmark = pytest.mark.timeout(300)

#: What waits for processes to come or go has this long; they take a second or two.
PATIENCE_SECONDS = 60

TWO = {"NARROWGATE_WORKER_PROCESSES": "2"}
THREE = {"NARROWGATE_WORKER_PROCESSES": "3"}


def children(worker: Process) -> dict[int, int]:
    """The processes of the worker that there are now: their pids by their numbers."""
    found: dict[int, int] = {}
    for pid in Path(f"/proc/{worker.pid}/task/{worker.pid}/children").read_text().split():
        command = Path(f"/proc/{pid}/cmdline").read_text()
        if '"number":' in command:
            found[int(command.partition('"number":')[2].partition(",")[0])] = int(pid)
    return found


def is_running(pid: int) -> bool:
    """True of what is neither gone nor only waits for its parent to notice."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except (FileNotFoundError, ProcessLookupError):
        return False


async def until_ended(*pids: int) -> None:
    """Return when none of them runs any more."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while any(is_running(pid) for pid in pids):  # noqa: ASYNC110 - nobody tells of grandchildren
            await asyncio.sleep(0.02)


async def until_up(worker: Process, control_plane: ControlPlane, processes: int) -> None:
    """Return when all of them listen and have signed on."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        await until_logged(worker, *(b"listening", b"link_up"), times=processes)
        await control_plane.is_signed_on(*range(processes))


def damage(key_file: str) -> None:
    """Leave no key in it."""
    Path(key_file).write_text("no key any more")


def dsn(environ: dict[str, str]) -> str:
    port = environ["NARROWGATE_POSTGRES_LISTEN"].rpartition(":")[2]
    return f"host=127.0.0.1 port={port} dbname=shop user=agent password=token sslmode=require"


async def test_each_process_signs_on_and_ships_its_own_journal_and_all_stop_when_told(
    run_worker: RunWorker, control_plane: ControlPlane
) -> None:
    worker = await run_worker(**THREE)
    await until_up(worker, control_plane, 3)
    pids = children(worker)
    assert sorted(pids) == [0, 1, 2]
    await control_plane.is_settled(starts=3)
    assert len(control_plane.journals) == 3
    assert sum(isinstance(frame, Enrol) for frame in control_plane.heard) == 1
    assert {frame.processes for frame in control_plane.heard if isinstance(frame, Authenticate | Enrol)} == {3}
    worker.send_signal(signal.SIGTERM)
    _, log = await worker.communicate()
    assert worker.returncode == 0
    assert JOIN_TOKEN.encode() not in log
    assert not any(is_running(pid) for pid in pids.values())


async def test_the_argument_says_how_many_whatever_the_environment_says(
    run_worker: RunWorker, control_plane: ControlPlane
) -> None:
    worker = await run_worker("--processes", "2", NARROWGATE_WORKER_PROCESSES="1")
    await until_up(worker, control_plane, 2)
    assert sorted(children(worker)) == [0, 1]


async def test_one_process_is_the_worker_itself(run_worker: RunWorker) -> None:
    worker = await run_worker("--processes", "1")
    await until_logged(worker, b"listening")
    assert children(worker) == {}


async def test_a_process_that_dies_is_back_with_its_journal_and_its_sibling_goes_on(
    run_worker: RunWorker, control_plane: ControlPlane, environ: dict[str, str]
) -> None:
    async with running_target() as target:
        control_plane.target_port = target.port
        worker = await run_worker(**TWO)
        await until_up(worker, control_plane, 2)
        before = children(worker)
        connections = [await psycopg.AsyncConnection.connect(dsn(environ), autocommit=True) for _ in range(16)]
        os.kill(before[1], signal.SIGKILL)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await until_logged(worker, b"process_ended")
            await until_logged(worker, b"listening", b"link_up")
        after = children(worker)
        assert after[0] == before[0]
        assert after[1] != before[1]
        alive = 0
        for connection in connections:
            try:
                await psycopg.AsyncClientCursor(connection).execute("SELECT 1")
                alive += 1
            except psycopg.OperationalError:
                pass
            await connection.close()
        assert alive, "of 16, the kernel gives some to each"
    await control_plane.is_settled(starts=3)
    assert len(control_plane.journals) == 2


async def test_when_the_parent_is_killed_nothing_is_left_and_the_next_start_goes_on(
    run_worker: RunWorker, control_plane: ControlPlane
) -> None:
    worker = await run_worker(**TWO)
    await until_up(worker, control_plane, 2)
    pids = children(worker)
    worker.kill()
    await worker.communicate()
    await until_ended(*pids.values())
    again = await run_worker(**TWO)
    await until_up(again, control_plane, 2)
    await control_plane.is_settled(starts=4)
    assert len(control_plane.journals) == 2


async def test_two_workers_of_several_processes_can_not_share_a_state_folder(run_worker: RunWorker) -> None:
    first = await run_worker(**TWO)
    await until_logged(first, b"listening")
    second = await run_worker(**TWO)
    _, log = await second.communicate()
    assert second.returncode == 2
    assert b"another worker" in log
    alone = await run_worker()
    _, log = await alone.communicate()
    assert alone.returncode == 2


async def test_a_process_that_can_not_start_ends_the_worker(
    run_worker: RunWorker, environ: dict[str, str], control_plane: ControlPlane
) -> None:
    with socket.socket() as taken:  # by somebody who shares it with nobody
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        worker = await run_worker(**TWO, NARROWGATE_POSTGRES_LISTEN=f"127.0.0.1:{taken.getsockname()[1]}")
        _, log = await worker.communicate()
    assert worker.returncode == 2
    assert b"worker_failed" in log


@pytest.mark.slow  # by the back-offs
async def test_a_process_that_can_not_start_again_ends_the_worker_after_some_tries(
    run_worker: RunWorker, control_plane: ControlPlane, environ: dict[str, str]
) -> None:
    worker = await run_worker(**TWO)
    await until_up(worker, control_plane, 2)
    damage(environ["NARROWGATE_TLS_KEY_FILE"])
    os.kill(children(worker)[1], signal.SIGKILL)
    _, log = await worker.communicate()
    assert worker.returncode == 2
    assert log.count(b"process_ended") == MAX_FAILED_STARTS, "its death, and all but the last of the tries"


@pytest.mark.parametrize("way", ["in the clear", "by TLS"])
async def test_a_cancel_request_reaches_its_session_whichever_process_takes_it(
    run_worker: RunWorker,
    control_plane: ControlPlane,
    environ: dict[str, str],
    target_postgres: TargetPostgres,
    way: str,
) -> None:
    control_plane.target = (endpoint_of(target_postgres), credential_of(target_postgres))
    worker = await run_worker(**THREE)
    await until_up(worker, control_plane, 3)
    for _ in range(4):
        async with await psycopg.AsyncConnection.connect(dsn(environ), autocommit=True) as connection:
            for _ in range(6):  # by a connection each, which the kernel gives to any of the three
                asleep = spawn("sleep", _sleep(connection))
                await _until_asleep(target_postgres, asleep)
                if way == "by TLS" and psycopg.capabilities.has_cancel_safe():
                    await connection.cancel_safe(timeout=PATIENCE_SECONDS)
                else:
                    await asyncio.to_thread(connection.cancel)
                async with asyncio.timeout(PATIENCE_SECONDS):
                    assert await asleep == "57014"
    await control_plane.is_settled(starts=3)
    kinds = [record.kind for record in control_plane.records if isinstance(record, OperationIntent)]
    assert kinds.count("cancel") == 24


async def _until_asleep(target: TargetPostgres, sleep: asyncio.Task[str | None]) -> None:
    """Return when the target is at it, or done: it signals twice for one request, which may meet the next statement."""
    asleep: LiteralString = "SELECT 1 FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'SELECT pg_sleep%'"
    async with asyncio.timeout(PATIENCE_SECONDS):
        while not sleep.done() and not await asyncio.to_thread(target.run, asleep):  # noqa: ASYNC110 - it isn't told
            await asyncio.sleep(0.02)


async def _sleep(connection: psycopg.AsyncConnection) -> str | None:
    """Sleep until cancelled; what the target says of it."""
    try:
        await connection.execute("SELECT pg_sleep(600)")
    except psycopg.OperationalError as error:
        return error.sqlstate
    return None


async def test_what_fewer_processes_leave_is_shipped_and_removed(
    run_worker: RunWorker, control_plane: ControlPlane, environ: dict[str, str]
) -> None:
    numbers = count(1)
    port = environ["NARROWGATE_POSTGRES_LISTEN"].rpartition(":")[2]
    control_plane.uploads_elsewhere = True
    control_plane.ignored_batches = 1 << 30  # nothing of the record arrives
    async with running_target() as target:
        control_plane.target_port = target.port
        worker = await run_worker(**THREE)
        await until_up(worker, control_plane, 3)
        agents = [spawn("agent", run_statements(port, numbers)) for _ in range(12)]
        async with asyncio.timeout(PATIENCE_SECONDS):
            await target.until_received(100)
        pids = children(worker)
        worker.kill()
        await worker.communicate()
        await asyncio.gather(*agents)
    await until_ended(*pids.values())
    control_plane.ignored_batches = 0
    state = Path(environ["NARROWGATE_WORKER_STATE"])
    assert sorted(number for number, _ in process_folders(state)) == [1, 2]
    worker = await run_worker()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await until_logged(worker, b"journal_adopted", times=2)
    await control_plane.is_settled(starts=6)
    assert len(control_plane.journals) == 3
    check_record(control_plane, target, 1)
    assert list(process_folders(state)) == []
    worker.send_signal(signal.SIGTERM)
    await worker.communicate()
    assert worker.returncode == 0
    more = await run_worker(**TWO)
    await until_up(more, control_plane, 2)
    await control_plane.is_settled(starts=8)
    assert len(control_plane.journals) == 4


async def test_a_damaged_journal_of_a_process_that_is_no_more_is_kept_and_told_of(
    run_worker: RunWorker, control_plane: ControlPlane, environ: dict[str, str]
) -> None:
    journal = Path(environ["NARROWGATE_WORKER_STATE"]) / "process-1" / "journal"
    journal.mkdir(parents=True)
    (journal / "cursor").write_bytes(b"no cursor")
    worker = await run_worker()
    await until_logged(worker, b"journal_not_adopted", b"listening")
    await control_plane.is_settled(starts=1)
    assert (journal / "cursor").read_bytes() == b"no cursor"


async def test_of_what_the_target_received_nothing_is_missing_on_record_while_processes_are_killed(
    run_worker: RunWorker, control_plane: ControlPlane, environ: dict[str, str]
) -> None:
    rng = random.Random(2)
    numbers = count(1)
    port = environ["NARROWGATE_POSTGRES_LISTEN"].rpartition(":")[2]
    kills = 4
    async with running_target() as target:
        control_plane.target_port = target.port
        worker = await run_worker(**TWO)
        await until_up(worker, control_plane, 2)
        agents = [spawn("agent", _run_again_and_again(port, numbers)) for _ in range(4)]
        for kill in range(kills):
            async with asyncio.timeout(PATIENCE_SECONDS):
                await target.until_received(len(target.received) + rng.randrange(50, 200))
            os.kill(children(worker)[kill % 2], signal.SIGKILL)
            async with asyncio.timeout(PATIENCE_SECONDS):
                await until_logged(worker, b"process_ended")
                await until_logged(worker, b"listening", b"link_up")
        for agent in agents:
            agent.cancel()
        await asyncio.gather(*agents, return_exceptions=True)
        async with asyncio.timeout(PATIENCE_SECONDS):
            await control_plane.is_settled(starts=2 + kills)
    check_record(control_plane, target, kills)
    assert sum(isinstance(record, JournalOpened) for record in control_plane.records) == 2 + kills


async def _run_again_and_again(port: str, numbers: count[int]) -> None:
    """Connect again whenever the process that served has died."""
    while True:
        await run_statements(port, numbers)
        await asyncio.sleep(0.05)
