"""pytest plugin: one real PostgreSQL and Valkey for the whole run, up before Django's settings are read.

The run that finds no DATABASE_URL or REDIS_URL starts the server itself; what is given is used. Workers of pytest-xdist
inherit the variables, and so the servers, of the process that started them. The servers end with that process, however
it ends (`ending_with_parent`).
"""

from __future__ import annotations

import base64
import os
import secrets
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, LiteralString
from urllib.parse import urlsplit

import psycopg
import pytest
import trustme

from controlplane.supervisor.embedded import (
    LOOPBACK,
    Certificate,
    Postgres,
    ServerError,
    Valkey,
    free_port,
    running,
    write_private,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROLE = "narrowgate"
_OWNER = "narrowgate_owner"


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Before pytest-django loads the settings; `pytest_configure` would be too late."""
    stack = ExitStack()
    early_config.add_cleanup(stack.close)
    try:
        _prepare_environment(stack)
    except ServerError as error:
        raise pytest.UsageError(str(error)) from error


def _prepare_environment(stack: ExitStack) -> None:
    """Whatever the settings need and nobody has given."""
    os.environ.setdefault("NARROWGATE_MODE", "test")
    if "NARROWGATE_HOME" not in os.environ:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="narrowgate-test-")))
        os.environ["NARROWGATE_HOME"] = str(home)
    home = Path(os.environ["NARROWGATE_HOME"])
    for variable, text in (
        ("NARROWGATE_SECRET_KEY_FILE", secrets.token_urlsafe(64)),
        ("NARROWGATE_KEYRING_FILE", f"test:{base64.b64encode(secrets.token_bytes(32)).decode()}\n"),
    ):
        if variable not in os.environ:
            file = home / variable.lower()
            write_private(file, text)
            os.environ[variable] = str(file)
    if "DATABASE_URL" not in os.environ:
        os.environ["DATABASE_URL"], os.environ["DATABASE_OWNER_URL"] = _start_postgres(stack, home)
    if "REDIS_URL" not in os.environ:
        os.environ["REDIS_URL"] = _start_valkey(stack, home)
    if (worker := os.environ.get("PYTEST_XDIST_WORKER")) is not None:
        # pytest-django gives each worker a database of its own; here each gets a numbered one, after the first.
        number = int(worker.removeprefix("gw")) + 1
        os.environ["REDIS_URL"] = urlsplit(os.environ["REDIS_URL"])._replace(path=f"/{number}").geturl()


def _start_postgres(stack: ExitStack, home: Path) -> tuple[str, str]:
    """As the application's role, and as the owner, who also makes the tests' databases."""
    server = Postgres(name="postgres", folder=home / "postgres", port=free_port(), durable=False)
    stack.enter_context(running(server, log_file=home / "postgres.log"))
    passwords = {role: secrets.token_urlsafe(24) for role in (_ROLE, _OWNER)}
    for role, password in passwords.items():
        server.ensure_role(role, password, can_create_databases=role == _OWNER)
    server.ensure_database(_ROLE, owner=_OWNER)
    application, owner = (
        f"postgres://{role}:{password}@{LOOPBACK}:{server.port}/{_ROLE}" for role, password in passwords.items()
    )
    return application, owner


def _start_valkey(stack: ExitStack, home: Path) -> str:
    password = secrets.token_urlsafe(24)
    server = Valkey(name="valkey", folder=home / "valkey", port=free_port(), password=password, durable=False)
    stack.enter_context(running(server, log_file=home / "valkey.log"))
    return f"redis://:{password}@{LOOPBACK}:{server.port}/0"


@dataclass(frozen=True, slots=True)
class TargetPostgres:
    """A database that agents want to reach: its own cluster, TLS by its own CA, a role for each kind of sign-in.

    The roles `scram`, `md5`, `cleartext` and `trust` sign in as they are called, over TLS or not, with `password`
    (`trust` without); each may do what it likes in the database. Every statement is in the server's log `log_file`.
    """

    host: str
    port: int
    database: str
    ca_file: Path
    password: str
    superuser_dsn: str
    log_file: Path

    def run(self, statement: LiteralString, parameters: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        """The rows that the superuser gets for the statement; empty if it returns none. Autocommit."""
        with psycopg.connect(self.superuser_dsn, autocommit=True) as connection:
            cursor = connection.execute(statement, parameters or None)
            return cursor.fetchall() if cursor.description else []


_TARGET_RULES = """\
host all scram     127.0.0.1/32 scram-sha-256
host all md5       127.0.0.1/32 md5
host all cleartext 127.0.0.1/32 password
host all trust     127.0.0.1/32 trust
host all all       127.0.0.1/32 scram-sha-256
"""


@pytest.fixture(scope="session")
def target_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TargetPostgres]:
    """A target cluster, shared by the tests of this process. Leave roles as they are; make your own tables."""
    folder = tmp_path_factory.mktemp("target")
    authority = trustme.CA()
    issued = authority.issue_cert(LOOPBACK, "localhost")
    ca_file, certificate = folder / "ca.pem", Certificate(folder / "chain.pem", folder / "key.pem")
    authority.cert_pem.write_to_path(str(ca_file))
    issued.cert_chain_pems[0].write_to_path(str(certificate.chain_file))
    write_private(certificate.key_file, issued.private_key_pem.bytes().decode())
    server = Postgres(
        name="target",
        folder=folder / "cluster",
        port=free_port(),
        certificate=certificate,
        host_rules=_TARGET_RULES,
        durable=False,
        settings={"log_statement": "all", "log_line_prefix": "%m [%p] %u "},
    )
    password = secrets.token_urlsafe(24)
    with running(server, log_file=folder / "server.log"):
        _make_target_roles(server, password)
        yield TargetPostgres(
            host=LOOPBACK,
            port=server.port,
            database="shop",
            ca_file=ca_file,
            password=password,
            superuser_dsn=server.superuser_dsn("shop"),
            log_file=folder / "server.log",
        )


def _make_target_roles(server: Postgres, password: str) -> None:
    for role in ("scram", "cleartext", "trust"):
        server.ensure_role(role, password)
    server.ensure_role("md5", password, password_encryption="md5")
    server.ensure_database("shop", owner="scram")
    with server.connect_as_superuser("shop") as connection:
        connection.execute("GRANT CREATE, USAGE ON SCHEMA public TO PUBLIC")
        connection.execute("GRANT scram TO md5, cleartext, trust")
