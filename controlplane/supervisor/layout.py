"""Where everything of one machine is: the home folder's files, the ports, the secrets that are made once."""

from __future__ import annotations

import base64
import secrets
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from controlplane.env import ConfigurationError, Reader, refuse_unknown_names
from controlplane.supervisor.embedded import LOOPBACK, write_private

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The folder with manage.py, in which all programs run.
PROJECT: Final = Path(__file__).resolve().parents[2]
#: The application's role, and its database.
ROLE: Final = "narrowgate"
#: The role that owns the tables. Only `manage.py migrate` is told of it.
OWNER: Final = "narrowgate_owner"
WORKER: Final = "demo-worker"

#: All that a child gets of our environment; the rest is ours.
_INHERITED: Final = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "NARROWGATE_LOG_LEVEL")


@dataclass(frozen=True, slots=True)
class Layout:
    """The home folder and what it holds; `given_…_url` is a server that is not ours to run."""

    home: Path
    port_base: int
    inherited: Mapping[str, str]
    given_database_url: str | None = field(repr=False)
    given_database_owner_url: str | None = field(repr=False)
    given_redis_url: str | None = field(repr=False)

    @property
    def web_port(self) -> int:
        return self.port_base

    @property
    def gate_port(self) -> int:
        return self.port_base + 1

    @property
    def postgres_port(self) -> int:
        return self.port_base + 2

    @property
    def valkey_port(self) -> int:
        return self.port_base + 3

    @property
    def target_port(self) -> int:
        return self.port_base + 4

    @property
    def web_url(self) -> str:
        return f"http://{LOOPBACK}:{self.web_port}"

    @property
    def log_folder(self) -> Path:
        return self.home / "log"

    @property
    def tls_folder(self) -> Path:
        return self.home / "tls"

    @property
    def secret_folder(self) -> Path:
        """Secrets that are kept from start to start, one a file."""
        return self.home / "secrets"

    @property
    def run_folder(self) -> Path:
        """What is made anew at each start."""
        return self.home / "run"

    @property
    def worker_folder(self) -> Path:
        return self.home / "worker"

    @property
    def join_token_file(self) -> Path:
        return self.secret_folder / "join-token"

    @property
    def demo_file(self) -> Path:
        return self.home / "demo.json"

    @property
    def environment_file(self) -> Path:
        return self.home / "demo.env"

    def make_folders(self) -> None:
        """All of ours, for ourselves only."""
        for folder in (self.log_folder, self.tls_folder, self.secret_folder, self.run_folder, self.worker_folder):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def make_secrets(self) -> None:
        """Whatever is to be secret and is not there yet."""
        for name in ("database", "database-owner", "valkey", "admin-password"):
            self._make_secret(name, secrets.token_urlsafe(24))
        self._make_secret("secret-key", secrets.token_urlsafe(64))
        self._make_secret("keyring", f"local-1:{base64.b64encode(secrets.token_bytes(32)).decode()}\n")
        # libpq's form, and anew each time, because the port may be another.
        for file, role, secret in (("pgpass", ROLE, "database"), ("owner-pgpass", OWNER, "database-owner")):
            line = f"{LOOPBACK}:{self.postgres_port}:{ROLE}:{role}:{self.secret(secret)}\n"
            write_private(self.secret_folder / file, line)

    def _make_secret(self, name: str, text: str) -> None:
        file = self.secret_folder / name
        if not file.exists():
            write_private(file, text)

    def secret(self, name: str) -> str:
        """One of those that `make_secrets` made."""
        return (self.secret_folder / name).read_text()

    @property
    def database_url(self) -> str:
        """Ours holds no password: libpq takes it from the file that the URL names."""
        if self.given_database_url is not None:
            return self.given_database_url
        return self._own_database_url(ROLE, "pgpass")

    @property
    def database_owner_url(self) -> str | None:
        """None when the database is given, and one role for both: that one migrates, and owns what it works on."""
        if self.given_database_url is not None:
            return self.given_database_owner_url
        return self._own_database_url(OWNER, "owner-pgpass")

    def _own_database_url(self, role: str, password_file: str) -> str:
        file = quote(str(self.secret_folder / password_file))
        return f"postgres://{role}@{LOOPBACK}:{self.postgres_port}/{ROLE}?passfile={file}"

    @property
    def redis_url(self) -> str:
        return self.given_redis_url or f"redis://:{self.secret('valkey')}@{LOOPBACK}:{self.valkey_port}/0"

    def control_plane_environment(self) -> dict[str, str]:
        """For web, Celery and manage.py, but for its `migrate`."""
        return {
            **self._common_environment(),
            "NARROWGATE_SECRET_KEY_FILE": str(self.secret_folder / "secret-key"),
            "NARROWGATE_KEYRING_FILE": str(self.secret_folder / "keyring"),
            "DATABASE_URL": self.database_url,
            "REDIS_URL": self.redis_url,
        }

    def command_environment(self) -> dict[str, str]:
        """What a person's shell needs beside its own for `manage.py` to work on this demo."""
        return {name: text for name, text in self.control_plane_environment().items() if name not in _INHERITED}

    def migration_environment(self) -> dict[str, str]:
        """For `manage.py migrate`: with the role that owns the tables, if there is one."""
        owner_url = self.database_owner_url
        return self.control_plane_environment() | ({"DATABASE_OWNER_URL": owner_url} if owner_url else {})

    def worker_environment(self) -> dict[str, str]:
        """For the proxyworker: its link, its folder, its certificate. Neither database nor keys."""
        return {
            **self._common_environment(),
            "NARROWGATE_LINK_URL": f"ws://{LOOPBACK}:{self.web_port}/link/v1/",
            "NARROWGATE_WORKER_NAME": WORKER,
            "NARROWGATE_WORKER_STATE": str(self.worker_folder),
            "NARROWGATE_JOIN_TOKEN_FILE": str(self.join_token_file),
            "NARROWGATE_POSTGRES_LISTEN": f"{LOOPBACK}:{self.gate_port}",
            "NARROWGATE_TLS_CERT_FILE": str(self.tls_folder / "gate.pem"),
            "NARROWGATE_TLS_KEY_FILE": str(self.tls_folder / "gate.key"),
        }

    def server_environment(self) -> dict[str, str]:
        """For PostgreSQL and Valkey, which are configured by command and file."""
        return dict(self.inherited)

    def _common_environment(self) -> dict[str, str]:
        return {
            **self.inherited,
            "PYTHONUNBUFFERED": "1",
            "NARROWGATE_MODE": "demo",
            "NARROWGATE_HOME": str(self.home),
            "NARROWGATE_PORT_BASE": str(self.port_base),
        }


def read_layout(environ: Mapping[str, str]) -> Layout:
    """Raises `controlplane.env.ConfigurationError`."""
    refuse_unknown_names(environ)
    reader = Reader(environ)
    if reader.is_set("DATABASE_OWNER_URL") and not reader.is_set("DATABASE_URL"):
        raise ConfigurationError("DATABASE_OWNER_URL", "is set without DATABASE_URL", "Set both, or neither")
    return Layout(
        home=reader.folder("NARROWGATE_HOME", default=PROJECT / "var"),
        port_base=reader.integer("NARROWGATE_PORT_BASE", default=7400, least=1024, most=65_500),
        inherited={name: environ[name] for name in _INHERITED if name in environ},
        given_database_url=reader.text("DATABASE_URL") if reader.is_set("DATABASE_URL") else None,
        given_database_owner_url=reader.text("DATABASE_OWNER_URL") if reader.is_set("DATABASE_OWNER_URL") else None,
        given_redis_url=reader.text("REDIS_URL") if reader.is_set("REDIS_URL") else None,
    )
