"""kill -9 of a worker at any moment: no statement reaches a target without its intent on record."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from itertools import count

import psycopg
import pytest

from proxyworker.contract import (
    JournalOpened,
    OperationIntent,
    OperationOutcome,
    OutcomeStatus,
    SessionClosed,
    SessionOpened,
)
from proxyworker.net.tasks import spawn
from tests.proxyworker.control_plane import ControlPlane
from tests.proxyworker.process.conftest import RunWorker, until_logged
from tests.proxyworker.process.target import NotingTarget, running_target

AGENTS = 4


async def run_statements(port: str, numbers: count[int]) -> None:
    """Send statements, reads and writes in turn, until the gate is gone."""
    dsn = f"host=127.0.0.1 port={port} dbname=shop user=agent password=token sslmode=require"
    try:
        async with await psycopg.AsyncConnection.connect(dsn, autocommit=True) as connection:
            while True:
                number = next(numbers)
                verb = "SELECT" if number % 2 else "INSERT INTO orders VALUES"
                cursor = psycopg.AsyncClientCursor(connection)
                await cursor.execute(f"{verb} ('{number}')".encode())
    except psycopg.OperationalError:
        return


@pytest.mark.parametrize(
    "kills", [3, pytest.param(200, marks=[pytest.mark.slow, pytest.mark.timeout(1_200)])], ids=["some", "hundreds"]
)
async def test_whatever_reached_the_target_is_on_record_and_what_is_unknown_is_listed(
    run_worker: RunWorker, control_plane: ControlPlane, environ: dict[str, str], kills: int
) -> None:
    rng = random.Random(kills)
    numbers = count(1)
    port = environ["NARROWGATE_POSTGRES_LISTEN"].rpartition(":")[2]
    async with running_target() as target:
        control_plane.target_port = target.port
        for _ in range(kills):
            worker = await run_worker()
            await until_logged(worker, b"listening", b"link_up")
            agents = [spawn("agent", run_statements(port, numbers)) for _ in range(AGENTS)]
            await target.until_received(len(target.received) + rng.randrange(1, 200))
            worker.kill()
            await worker.communicate()
            await asyncio.gather(*agents)
        await run_worker()
        await control_plane.is_settled(starts=kills + 1)
    check_record(control_plane, target, kills)


def check_record(control_plane: ControlPlane, target: NotingTarget, kills: int) -> None:
    records = control_plane.records
    intents = [record for record in records if isinstance(record, OperationIntent)]
    outcomes = [record for record in records if isinstance(record, OperationOutcome)]
    recorded = {record.text for record in intents}
    assert len(target.received) > kills
    assert [text for text in target.received if text not in recorded] == []
    assert len(set(target.received)) == len(target.received), "and none reached it twice"
    ends = Counter((record.session_id, record.op) for record in outcomes)
    assert ends == Counter((record.session_id, record.op) for record in intents), "each has one outcome"
    unknown = sum(record.status is OutcomeStatus.UNKNOWN for record in outcomes)
    assert unknown == sum(record.recovered_unknown for record in records if isinstance(record, JournalOpened))
    opened = [record.session_id for record in records if isinstance(record, SessionOpened)]
    assert sorted(opened) == sorted(record.session_id for record in records if isinstance(record, SessionClosed))
