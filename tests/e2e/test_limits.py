"""Limits on the whole stack: psycopg through the worker, counted in Valkey, seen and set back over REST."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from tests.e2e.demo import Demo, eventually, free_port_block, running_demo
from tests.e2e.rest import rows, send
from tests.e2e.test_workers import second_worker, through

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

LIMIT = 40
RULE = "drill/few"


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    with running_demo(tmp_path_factory.mktemp("limits") / "home", free_port_block()) as demo:
        send(demo, "POST", "policies/", {"name": "drill"})
        [policy] = rows(demo, "policies/", search="drill")
        few: dict[str, Any] = {"name": "few", "effect": "limit", "agents": ["support-agent"], "targets": ["*"]}
        few["limit"] = {"per": "day", "operations": LIMIT, "statement_seconds": 2, "sessions": 3}
        send(demo, "POST", f"policies/{policy['id']}/publish/", {"rules": [few], "message": "a drill"})
        yield demo


def passes(dsn: str) -> int:
    """How many statements pass before the limit says no."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        for passed in range(LIMIT + 1):
            try:
                connection.execute("SELECT 1")
            except psycopg.errors.ConfigurationLimitExceeded:
                return passed
    raise AssertionError("no limit says no")


def budget(demo: Demo) -> dict[str, Any]:
    """As REST tells it."""
    [found] = rows(demo, "budgets/", rule=RULE)
    return found


def test_what_is_used_is_seen_set_back_and_outlives_the_worker(demo: Demo) -> None:
    assert passes(demo.dsn()) == LIMIT
    eventually(lambda: budget(demo)["now"]["used"]["operations"] == LIMIT)
    assert budget(demo)["agent"] == "support-agent"
    killed = demo.pid("worker")
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: demo.pid("worker") != killed)
    eventually(lambda: _is_refused(demo))
    send(demo, "POST", f"budgets/{budget(demo)['id']}/reset/", {})
    eventually(lambda: not _is_refused(demo))


def _is_refused(demo: Demo) -> bool:
    try:
        with psycopg.connect(demo.dsn(), autocommit=True) as connection:
            connection.execute("SELECT 1")
    except psycopg.errors.ConfigurationLimitExceeded:
        return True
    except psycopg.OperationalError:  # the worker isn't back yet; what it left counts until its grants' end
        return False
    return False


def test_two_worker_processes_share_a_budget(demo: Demo, tmp_path: Path) -> None:
    send(demo, "POST", f"budgets/{budget(demo)['id']}/reset/", {})
    eventually(lambda: not _is_refused(demo))
    send(demo, "POST", f"budgets/{budget(demo)['id']}/reset/", {})
    with second_worker(demo, tmp_path) as port:
        with ThreadPoolExecutor(2) as clients:
            passed = list(clients.map(passes, (demo.dsn(), through(demo, port))))
        print(f"\nof {LIMIT} operations {passed} passed through two workers", end="")
        assert LIMIT - 8 <= sum(passed) <= LIMIT  # what was asked before may be told only now; each has leased two
        eventually(lambda: sum(passed) <= budget(demo)["now"]["used"]["operations"] <= LIMIT)


def test_a_long_statement_is_cancelled_and_a_session_too_many_refused(demo: Demo) -> None:
    send(demo, "POST", f"budgets/{budget(demo)['id']}/reset/", {})
    eventually(lambda: not _is_refused(demo))
    with psycopg.connect(demo.dsn(), autocommit=True) as connection:
        with pytest.raises(psycopg.errors.QueryCanceled, match="lets one run for 2 s"):
            connection.execute("SELECT pg_sleep(60)")
        others = [psycopg.connect(demo.dsn()) for _ in range(2)]
        with pytest.raises(psycopg.OperationalError, match="allows 3 sessions at once for agent support-agent"):
            psycopg.connect(demo.dsn())
        for other in others:
            other.close()
        assert connection.execute("SELECT 1").fetchone() == (1,)
