"""The configuration: every variable that Narrowgate reads, parsed strictly, once.

A value that isn't plainly right is refused with the name of the variable and the fix. It is never guessed and, where it
may be a secret, never shown. Knows nothing of Django.
"""

from __future__ import annotations

import difflib
import re
import secrets
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from ipaddress import ip_address
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import SplitResult, parse_qs, urlsplit

#: Every variable of ours, those of the worker and of the supervisor too: they share one environment.
KNOWN: Final = frozenset(
    f"NARROWGATE_{name}"
    for name in (
        "MODE",
        "HOME",
        "PORT_BASE",
        "SECRET_KEY_FILE",
        "KEYRING_FILE",
        "ALLOWED_HOSTS",
        "PUBLIC_URL",
        "STORAGE_DIR",
        "LOG_LEVEL",
        "DATABASE_POOL_SIZE",
        "AGENT_TOKEN_MAX_SECONDS",
        "LOCAL_TOTP",
        "SLACK_API_URL",
        "TRUSTED_PROXIES",
        "SMTP_URL",
        "EMAIL_FROM",
        "LINK_URL",
        "LINK_CA_FILE",
        "WORKER_NAME",
        "WORKER_STATE",
        "WORKER_PROCESSES",
        "JOIN_TOKEN_FILE",
        "POSTGRES_LISTEN",
        "TLS_CERT_FILE",
        "TLS_KEY_FILE",
        "JOURNAL_BOUND_BYTES",
    )
)

#: Secret keys and keyrings are a few hundred bytes; anything larger is another file.
MAX_SECRET_FILE_BYTES: Final = 64 * 1024
MIN_SECRET_KEY_CHARACTERS: Final = 50

_HOST = re.compile(r"\.?[a-z0-9]([a-z0-9.-]*[a-z0-9])?|\[[0-9a-f:]+\]")
_ADDRESS = re.compile(r"[A-Za-z0-9._+-]+@[A-Za-z0-9.-]+")
_DATABASE_SCHEMES: Final = frozenset({"postgres", "postgresql"})
_REDIS_SCHEMES: Final = frozenset({"redis", "rediss"})

E_ = TypeVar("E_", bound=StrEnum)


class ConfigurationError(Exception):
    """A variable that can't be used: its `variable`, the `problem` and the `fix`. Quotes no secret."""

    def __init__(self, variable: str, problem: str, fix: str) -> None:
        super().__init__(f"{variable} {problem}. {fix}")
        self.variable = variable
        self.problem = problem
        self.fix = fix


class Mode(StrEnum):
    """PRODUCTION is strict; DEMO is HTTP on loopback; TEST needs nothing configured and keeps nothing."""

    PRODUCTION = "production"
    DEMO = "demo"
    TEST = "test"


class LocalTotp(StrEnum):
    """Whether a local account needs a code beside its password: always, or once the person has set it up."""

    REQUIRED = "required"
    ENROLLED = "enrolled"


class LogLevel(StrEnum):
    """The least severe event that is logged."""

    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


@dataclass(frozen=True, slots=True)
class Environment:
    """What the control plane was told. Secrets and URLs that hold one are kept out of the repr."""

    mode: Mode
    home: Path
    port_base: int
    allowed_hosts: tuple[str, ...]
    public_url: str
    storage_dir: Path
    log_level: LogLevel
    database_pool_size: int
    agent_token_max_seconds: int
    local_totp: LocalTotp
    trusted_proxies: int
    email_from: str
    smtp_url: str = field(repr=False)
    slack_api_url: str
    database_url: str = field(repr=False)
    database_owner_url: str = field(repr=False)
    redis_url: str = field(repr=False)
    secret_key: str = field(repr=False)
    keyring_text: str = field(repr=False)


class Reader:
    """Reads variables out of a mapping. Each method names its form; all raise `ConfigurationError`."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def is_set(self, name: str) -> bool:
        """True when the variable is there, even if empty."""
        return name in self._environ

    def text(self, name: str, *, default: str | None = None) -> str:
        """A non-empty text without surrounding blanks or control characters."""
        value = self._environ.get(name)
        if value is None:
            if default is None:
                raise ConfigurationError(name, "is not set", "Set it; docs/configuration.md says to what")
            return default
        if not value or value != value.strip() or not value.isprintable():
            raise ConfigurationError(name, "is empty or has blanks around it", "Set a plain value, or unset it")
        return value

    def integer(self, name: str, *, default: int, least: int, most: int) -> int:
        """A decimal number from `least` to `most`."""
        if name not in self._environ:
            return default
        value = self.text(name)
        if not (value.isascii() and value.isdigit()) or not least <= int(value) <= most:
            raise ConfigurationError(name, "is out of range", f"Use a whole number from {least} to {most}")
        return int(value)

    def choice(self, name: str, kind: type[E_], *, default: E_, fold: Callable[[str], str] = str.lower) -> E_:
        """One member of `kind`, by value."""
        value = fold(self.text(name, default=default.value))
        if value not in {member.value for member in kind}:
            near = nearest(value, [member.value for member in kind])
            raise ConfigurationError(name, "is no choice we know", f"Use one of {', '.join(kind)}{near}")
        return kind(value)

    def folder(self, name: str, *, default: Path) -> Path:
        """An absolute path. It need not exist, but must not be a file."""
        path = Path(self.text(name, default=str(default))).absolute()
        if path.exists() and not path.is_dir():
            raise ConfigurationError(name, "is not a folder", "Name a folder; it is made when it is missing")
        return path

    def hosts(self, name: str, *, default: tuple[str, ...] | None) -> tuple[str, ...]:
        """Host names split by commas; a leading dot covers subdomains. Neither `*` nor a port is accepted."""
        if name not in self._environ and default is not None:
            return default
        hosts = tuple(host.strip().lower() for host in self.text(name).split(","))
        if wrong := [host for host in hosts if not _HOST.fullmatch(host)]:
            fix = "List names like gate.example.com, split by commas, with neither scheme nor port"
            raise ConfigurationError(name, f"holds {wrong[0]!r}, which is no host name", fix)
        return hosts

    def url(self, name: str, *, schemes: frozenset[str], default: str | None) -> tuple[str, SplitResult]:
        """A URL with one of these schemes, and its parts."""
        value = self.text(name, default=default)
        fix = f"Use a URL that starts with {' or '.join(f'{scheme}://' for scheme in sorted(schemes))}"
        try:
            parts = urlsplit(value)
            _ = parts.port
        except ValueError:
            raise ConfigurationError(name, "is no URL", fix) from None
        if parts.scheme not in schemes:
            raise ConfigurationError(name, "is no URL of a kind that can be used here", fix)
        return value, parts

    def secret_file(self, name: str) -> str:
        """The text of a file that only its owner (and group) can read."""
        path = Path(self.text(name))
        try:
            with path.open("rb") as file:
                mode = stat.S_IMODE(path.stat().st_mode)
                data = file.read(MAX_SECRET_FILE_BYTES + 1)
        except OSError as error:
            raise ConfigurationError(name, f"can't be read ({error.strerror})", "Name a readable file") from None
        if mode & (stat.S_IRWXO | stat.S_IWGRP | stat.S_IXGRP):
            raise ConfigurationError(name, f"has mode {mode:04o}, open to others", f"chmod 600 {path}")
        if len(data) > MAX_SECRET_FILE_BYTES:
            raise ConfigurationError(name, "is too long for a secret", "Name the right file")
        try:
            text = data.decode().strip()
        except UnicodeDecodeError:
            raise ConfigurationError(name, "holds no UTF-8 text", "Name the right file") from None
        if not text:
            raise ConfigurationError(name, "is an empty file", "Write the secret into it")
        return text


def nearest(word: str, known: list[str]) -> str:
    """A hint like "; did you mean X?", or nothing when no name is near."""
    found = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {found[0]}?" if found else ""


def refuse_unknown_names(environ: Mapping[str, str]) -> None:
    """A misspelt variable would be ignored in silence. Raises `ConfigurationError`."""
    for name in environ:
        if name.startswith("NARROWGATE_") and name not in KNOWN:
            near = nearest(name, sorted(KNOWN))
            raise ConfigurationError(name, "is no variable of Narrowgate", f"Unset it or correct its name{near}")


def read_environment(environ: Mapping[str, str]) -> Environment:
    """Read all of it. Raises `ConfigurationError` at the first thing that isn't clear."""
    refuse_unknown_names(environ)
    reader = Reader(environ)
    mode = reader.choice("NARROWGATE_MODE", Mode, default=Mode.PRODUCTION)
    home = reader.folder("NARROWGATE_HOME", default=Path("var"))
    port_base = reader.integer("NARROWGATE_PORT_BASE", default=7400, least=1024, most=65_500)
    testing = mode is Mode.TEST
    database_url = _database_url(reader, mode=mode, default="postgres://127.0.0.1/narrowgate" if testing else None)
    return Environment(
        mode=mode,
        home=home,
        port_base=port_base,
        allowed_hosts=reader.hosts(
            "NARROWGATE_ALLOWED_HOSTS",
            default=None if mode is Mode.PRODUCTION else ("127.0.0.1", "localhost", "[::1]"),
        ),
        public_url=_public_url(reader, mode=mode, port_base=port_base),
        storage_dir=reader.folder("NARROWGATE_STORAGE_DIR", default=home / "storage"),
        log_level=reader.choice("NARROWGATE_LOG_LEVEL", LogLevel, default=LogLevel.INFO, fold=str.upper),
        database_pool_size=reader.integer("NARROWGATE_DATABASE_POOL_SIZE", default=10, least=1, most=200),
        agent_token_max_seconds=reader.integer(
            "NARROWGATE_AGENT_TOKEN_MAX_SECONDS", default=24 * 3600, least=60, most=30 * 24 * 3600
        ),
        local_totp=reader.choice(
            "NARROWGATE_LOCAL_TOTP",
            LocalTotp,
            default=LocalTotp.REQUIRED if mode is Mode.PRODUCTION else LocalTotp.ENROLLED,
        ),
        trusted_proxies=reader.integer("NARROWGATE_TRUSTED_PROXIES", default=0, least=0, most=8),
        email_from=_email_from(reader),
        smtp_url=_smtp_url(reader, mode=mode),
        slack_api_url=_slack_api_url(reader, mode=mode),
        database_url=database_url,
        database_owner_url=_database_owner_url(reader, mode=mode, database_url=database_url),
        redis_url=_redis_url(reader, mode=mode, default="redis://127.0.0.1/" if testing else None),
        secret_key=_secret_key(reader, mode=mode),
        keyring_text=_keyring_text(reader, mode=mode),
    )


def is_loopback(host: str) -> bool:
    """True for the names and addresses of this machine, and for the folder of a Unix socket."""
    if not host or host == "localhost" or host.startswith("/"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _public_url(reader: Reader, *, mode: Mode, port_base: int) -> str:
    name = "NARROWGATE_PUBLIC_URL"
    schemes = frozenset({"https"}) if mode is Mode.PRODUCTION else frozenset({"https", "http"})
    default = None if mode is Mode.PRODUCTION else f"http://127.0.0.1:{port_base}"
    url, parts = reader.url(name, schemes=schemes, default=default)
    if not parts.hostname or parts.query or parts.fragment or parts.username or parts.path not in {"", "/"}:
        raise ConfigurationError(name, "is more, or less, than scheme, host and port", "Use https://gate.example.com")
    return url.rstrip("/")


def _database_owner_url(reader: Reader, *, mode: Mode, database_url: str) -> str:
    """Empty: this program doesn't migrate."""
    name = "DATABASE_OWNER_URL"
    if not reader.is_set(name):
        return ""
    url = _database_url(reader, mode=mode, default=None, name=name)
    owner, application = urlsplit(url), urlsplit(database_url)
    if owner.path != application.path:
        raise ConfigurationError(name, "names another database than DATABASE_URL", "Name the same in both")
    if owner.username == application.username:
        raise ConfigurationError(name, "names the role of DATABASE_URL", "Name the role that owns the tables")
    return url


def _database_url(reader: Reader, *, mode: Mode, default: str | None, name: str = "DATABASE_URL") -> str:
    url, parts = reader.url(name, schemes=_DATABASE_SCHEMES, default=default)
    if not parts.path.strip("/"):
        raise ConfigurationError(name, "names no database", "Use postgres://user:password@host:port/database")
    sslmode = parse_qs(parts.query).get("sslmode", [""])[-1]
    if mode is Mode.PRODUCTION and not is_loopback(parts.hostname or "") and sslmode != "verify-full":
        fix = "Add ?sslmode=verify-full&sslrootcert=/path/to/ca.pem"
        raise ConfigurationError(name, "would cross the network without a verified certificate", fix)
    return url


def _redis_url(reader: Reader, *, mode: Mode, default: str | None) -> str:
    name = "REDIS_URL"
    url, parts = reader.url(name, schemes=_REDIS_SCHEMES, default=default)
    if not parts.hostname:
        raise ConfigurationError(name, "names no host", "Use rediss://:password@host:port/0")
    if mode is Mode.PRODUCTION and parts.scheme != "rediss" and not is_loopback(parts.hostname):
        raise ConfigurationError(name, "would cross the network in the clear", "Use rediss://, which is TLS")
    return url


def _smtp_url(reader: Reader, *, mode: Mode) -> str:
    """Empty: no e-mail is sent."""
    name = "NARROWGATE_SMTP_URL"
    if not reader.is_set(name):
        return ""
    url, parts = reader.url(name, schemes=frozenset({"smtp", "smtps"}), default=None)
    if not parts.hostname or parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise ConfigurationError(
            name, "is more, or less, than account, host and port", "Use smtps://user:password@host"
        )
    if mode is Mode.PRODUCTION and parts.scheme != "smtps" and not is_loopback(parts.hostname):
        raise ConfigurationError(name, "would cross the network in the clear", "Use smtps://, which is TLS")
    if not reader.is_set("NARROWGATE_EMAIL_FROM"):
        raise ConfigurationError("NARROWGATE_EMAIL_FROM", "is not set", "Set the address that alerts come from")
    return url


def _slack_api_url(reader: Reader, *, mode: Mode) -> str:
    """Slack's Web API; another one for GovSlack."""
    name = "NARROWGATE_SLACK_API_URL"
    schemes = frozenset({"https"} if mode is Mode.PRODUCTION else {"http", "https"})
    url, parts = reader.url(name, schemes=schemes, default="https://slack.com/api/")
    if not parts.hostname or not parts.path.endswith("/") or parts.query or parts.fragment:
        raise ConfigurationError(name, "is no base URL", "Use https://slack-gov.com/api/, with the slash at its end")
    return url


def _email_from(reader: Reader) -> str:
    name = "NARROWGATE_EMAIL_FROM"
    address = reader.text(name, default="narrowgate@localhost")
    if not _ADDRESS.fullmatch(address):
        raise ConfigurationError(name, "is no e-mail address", "Use an address alone, such as gate@acme.example")
    return address


def _secret_key(reader: Reader, *, mode: Mode) -> str:
    name = "NARROWGATE_SECRET_KEY_FILE"
    if mode is Mode.TEST and not reader.is_set(name):
        return secrets.token_urlsafe(64)
    key = reader.secret_file(name)
    if len(key) < MIN_SECRET_KEY_CHARACTERS or len(set(key)) < 5:
        fix = f"Write {MIN_SECRET_KEY_CHARACTERS} or more random characters into it: openssl rand -base64 64"
        raise ConfigurationError(name, "holds a key that is too weak", fix)
    return key


def _keyring_text(reader: Reader, *, mode: Mode) -> str:
    name = "NARROWGATE_KEYRING_FILE"
    if mode is Mode.TEST and not reader.is_set(name):
        return ""
    return reader.secret_file(name)
