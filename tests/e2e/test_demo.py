"""`make demo` as its user has it: started, driven with psql and psycopg, stopped, killed, started again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import psycopg
import pytest

from controlplane.supervisor.demo_data import CUSTOMERS
from controlplane.supervisor.layout import PROJECT
from tests.e2e.demo import Demo, eventually, free_port_block, processes_of, running_demo, stop

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

CHILDREN = ("postgres", "valkey", "target", "web", "celery", "beat", "worker")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One home for all tests: whichever comes first starts it for the first time."""
    return tmp_path_factory.mktemp("demo") / "home"


@pytest.fixture(scope="module")
def port_base() -> int:
    return free_port_block()


@pytest.fixture
def demo(home: Path, port_base: int) -> Iterator[Demo]:
    with running_demo(home, port_base) as demo:
        yield demo


def _is_recorded(demo: Demo, text: str) -> bool:
    return bool(demo.api("operations/", search=text)["results"])


def _is_finished(demo: Demo, text: str) -> bool:
    return bool(demo.api("operations/", search=text, status="ok")["results"])


def _has_returned(demo: Demo, child: str, killed: int) -> bool:
    return demo.pid(child) != killed and demo.query(f"SELECT 'after {child}'") == [(f"after {child}",)]


def test_what_psql_and_psycopg_did_is_on_record(demo: Demo) -> None:
    by_psql = demo.psql("-At", "-c", "SELECT count(*) AS by_psql FROM customers")
    assert (by_psql.stdout, by_psql.stderr) == (f"{CUSTOMERS}\n", "")
    assert demo.query("SELECT count(*) AS by_psycopg FROM customers") == [(CUSTOMERS,)]
    for word in ("by_psql", "by_psycopg"):
        eventually(partial(_is_recorded, demo, word))
        eventually(partial(_is_finished, demo, word))
        [operation] = demo.api("operations/", search=word)["results"]
        assert (operation["agent"], operation["target"], operation["effect"]) == ("support-agent", "shop", "allow")
        assert (operation["status"], operation["rows"], operation["columns"]) == ("ok", 1, [word])


def test_psql_s_own_commands_work(demo: Demo, tmp_path: Path) -> None:
    described = demo.psql("-c", r"\d customers")
    assert "customers_email_key" in described.stdout
    assert described.stderr == ""
    copied = demo.psql("-c", rf"\copy orders TO '{tmp_path / 'orders.csv'}' CSV HEADER")
    assert copied.stdout == "COPY 5000\n"
    assert len((tmp_path / "orders.csv").read_text().splitlines()) == 5_001


def test_an_agent_that_no_rule_lets_through_is_told_so(demo: Demo) -> None:
    with pytest.raises(psycopg.OperationalError, match="intern-agent"):
        psycopg.connect(demo.dsn("intern-agent"))


def test_a_stop_leaves_no_process_and_a_start_keeps_the_record(home: Path, port_base: int) -> None:
    with running_demo(home, port_base) as demo:
        demo.query("SELECT 'before the stop'")
        eventually(partial(_is_recorded, demo, "before the stop"))
        stop(demo.process)
        assert processes_of(home) == {}
        assert not (home / "demo.json").exists()
    with running_demo(home, port_base) as demo:
        assert _is_recorded(demo, "before the stop")


def test_every_child_that_is_killed_comes_back_and_the_record_goes_on(demo: Demo) -> None:
    for child in CHILDREN:
        killed = demo.pid(child)
        os.kill(killed, signal.SIGKILL)
        eventually(partial(_has_returned, demo, child, killed))
    for child in CHILDREN:
        eventually(partial(_is_recorded, demo, f"after {child}"))


def test_a_killed_supervisor_does_not_block_the_next_start(home: Path, port_base: int) -> None:
    with running_demo(home, port_base) as demo:
        demo.process.kill()
        demo.process.wait()
    with running_demo(home, port_base) as demo:
        assert demo.query("SELECT 1") == [(1,)]


def test_servers_that_are_given_are_used_and_left_running(tmp_path: Path, port_base: int) -> None:
    with psycopg.connect(os.environ["DATABASE_OWNER_URL"], autocommit=True) as connection:
        connection.execute("CREATE DATABASE demo")
    url, owner_url = (
        urlsplit(os.environ[name])._replace(path="/demo").geturl() for name in ("DATABASE_URL", "DATABASE_OWNER_URL")
    )
    given = {"DATABASE_URL": url, "DATABASE_OWNER_URL": owner_url, "REDIS_URL": os.environ["REDIS_URL"]}
    with running_demo(tmp_path / "home", port_base, **given) as demo:
        assert demo.query("SELECT 1") == [(1,)]
        assert not (demo.home / "postgres").exists()
        assert not (demo.home / "valkey").exists()
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT slug FROM accounts_tenant").fetchall() == [("demo",)]


def test_a_second_supervisor_in_the_same_home_is_refused(demo: Demo) -> None:
    environment = os.environ | {"NARROWGATE_HOME": str(demo.home), "NARROWGATE_MODE": "demo"}
    second = subprocess.run(
        [sys.executable, "-m", "controlplane.supervisor"],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert second.returncode == 1
    assert f"runs in {demo.home} already, as process {demo.process.pid}" in second.stderr
    assert demo.query("SELECT 1") == [(1,)]
