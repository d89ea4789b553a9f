"""The embedded servers: real ones, ended with whoever started them."""

from __future__ import annotations

import os
import select
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from controlplane.supervisor.embedded import (
    LOOPBACK,
    Postgres,
    PrepareFailed,
    StartFailed,
    Valkey,
    free_port,
    postgres_tool,
    running,
)

if TYPE_CHECKING:
    from tests.plugin.embedded import TargetPostgres


def test_the_role_of_the_control_plane_is_neither_superuser_nor_above_row_security() -> None:
    with psycopg.connect(os.environ["DATABASE_URL"]) as connection:
        row = connection.execute(
            "SELECT rolsuper, rolbypassrls, rolcreaterole FROM pg_roles WHERE rolname = current_user"
        ).fetchone()
    assert row == (False, False, False)


def test_valkey_refuses_whoever_does_not_know_the_password() -> None:
    port = redis.Redis.from_url(os.environ["REDIS_URL"]).connection_pool.connection_kwargs["port"]
    with (
        redis.Redis(host=LOOPBACK, port=port, retry=Retry(NoBackoff(), 0)) as client,
        pytest.raises(redis.AuthenticationError),
    ):
        client.ping()


@pytest.mark.parametrize("sslmode", ["disable", "verify-full"])
@pytest.mark.parametrize("role", ["scram", "md5", "cleartext", "trust"])
def test_each_role_of_the_target_signs_in_with_and_without_tls(
    target_postgres: TargetPostgres, role: str, sslmode: str
) -> None:
    with psycopg.connect(
        host=target_postgres.host,
        port=target_postgres.port,
        dbname=target_postgres.database,
        user=role,
        password=target_postgres.password,
        sslmode=sslmode,
        sslrootcert=str(target_postgres.ca_file),
    ) as connection:
        assert connection.execute("SELECT current_user").fetchone() == (role,)
        assert connection.pgconn.used_password == (role != "trust")


def test_the_target_tells_what_statements_it_received(target_postgres: TargetPostgres) -> None:
    target_postgres.run("SELECT 'a statement to look for'")
    assert "a statement to look for" in target_postgres.log_file.read_text()


def test_a_cluster_keeps_its_data_over_a_restart_on_another_port(tmp_path: Path) -> None:
    first = Postgres(name="kept", folder=tmp_path / "kept", port=free_port())
    with running(first, log_file=tmp_path / "log"):
        first.ensure_role("owner", "secret")
        assert first.ensure_database("data", owner="owner")
    second = Postgres(name="kept", folder=tmp_path / "kept", port=free_port())
    with running(second, log_file=tmp_path / "log"):
        second.ensure_role("owner", "another")
        assert not second.ensure_database("data", owner="owner")
        psycopg.connect(host=LOOPBACK, port=second.port, user="owner", password="another", dbname="data").close()


def test_a_server_that_cannot_start_says_so_in_its_own_words(tmp_path: Path) -> None:
    server = Postgres(name="broken", folder=tmp_path / "broken", port=free_port(), settings={"shared_buffers": "many"})
    with (
        pytest.raises(StartFailed, match="invalid value for parameter") as caught,
        running(server, log_file=tmp_path / "log"),
    ):
        pass
    assert caught.value.server == "broken"


def test_a_folder_without_the_programs_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PG_BIN", str(tmp_path))
    with pytest.raises(PrepareFailed, match=f"no initdb in PG_BIN={tmp_path}"):
        postgres_tool("initdb")


def test_no_command_and_no_repr_shows_a_password(tmp_path: Path) -> None:
    server = Valkey(name="valkey", folder=tmp_path, port=1, password="do-not-show")
    server.prepare()
    assert "do-not-show" not in repr(server) + " ".join(server.command())
    assert (tmp_path / "valkey.conf").stat().st_mode & 0o077 == 0


_STARTS_TWO_SERVERS = """
import sys, time
from contextlib import ExitStack
from pathlib import Path
from controlplane.supervisor.embedded import Postgres, Valkey, free_port, running
folder = Path(sys.argv[1])
with ExitStack() as stack:
    for server in (
        Postgres(name="p", folder=folder / "p", port=free_port(), durable=False),
        Valkey(name="v", folder=folder / "v", port=free_port(), password="x"),
    ):
        stack.enter_context(running(server, log_file=folder / f"{server.name}.log"))
    print("up", flush=True)
    sys.stdin.read()
"""


def test_servers_end_when_whoever_started_them_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _STARTS_TWO_SERVERS, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        assert starter.stdout.readline() == "up\n"
        children = _children(starter.pid)
        postmaster = int((tmp_path / "p/data/postmaster.pid").read_text().split()[0])
        watched = [os.pidfd_open(pid) for pid in children]
        starter.kill()
    assert postmaster in children
    assert len(children) == 2
    assert all(_has_ended(pidfd) for pidfd in watched)


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _has_ended(pidfd: int) -> bool:
    """A pidfd becomes readable when its process has ended; waits up to 20 s for it."""
    readable, _, _ = select.select([pidfd], [], [], 20.0)
    os.close(pidfd)
    return bool(readable)
