"""What a worker is told by its environment, parsed strictly: whatever is unclear is refused, with the fix."""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urlsplit, urlunsplit

from proxyworker.contract import MAX_PROCESSES
from proxyworker.errors import ConfigError

DEFAULT_JOURNAL_BOUND_BYTES: Final = 1024 * 1024 * 1024
#: Two segments and the reserve; less would refuse work for a moment's lag.
MIN_JOURNAL_BOUND_BYTES: Final = 128 * 1024 * 1024
MAX_JOURNAL_BOUND_BYTES: Final = 1024**4

_VARIABLES: Final = frozenset(
    f"NARROWGATE_{name}"
    for name in (
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
#: Whatever begins so is meant for a worker, so an unknown one is a mistake.
_FAMILIES: Final = tuple(f"NARROWGATE_{family}_" for family in ("LINK", "WORKER", "POSTGRES", "TLS", "JOURNAL"))
E = TypeVar("E", bound=StrEnum)
_PROCESS_FOLDER = re.compile(r"process-([1-9]\d?)")
_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9])?")


class Mode(StrEnum):
    """Anything but production is on one machine, and may say more in its log."""

    PRODUCTION = "production"
    DEMO = "demo"
    TEST = "test"


class LogLevel(StrEnum):
    """The least that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Config:
    """`link_origin` is where relative upload URLs lead: the link's scheme, as HTTP, with its host and port.

    `process` is the number of this process, of `processes`; `folder` is where its journal and spool are.
    """

    mode: Mode
    log_level: LogLevel
    name: str
    state_folder: Path
    join_token_file: Path | None
    link_url: str
    link_origin: str
    link_ca_file: Path | None
    postgres_listen: tuple[str, int]
    tls_cert_file: Path
    tls_key_file: Path
    journal_bound_bytes: int
    processes: int
    process: int

    @property
    def folder(self) -> Path:
        """Process 0 has the worker's own, as a worker of one process always had."""
        return self.state_folder / f"process-{self.process}" if self.process else self.state_folder


def read_config(environ: Mapping[str, str], *, process: int = 0) -> Config:
    """For the process of that number. Raises `ConfigError`."""
    _refuse_unknown(environ)
    link_url = _required(environ, "LINK_URL", "Set it to wss://<control plane>/link/v1/")
    return Config(
        mode=_choice(environ, "MODE", Mode, Mode.PRODUCTION),
        log_level=_choice(environ, "LOG_LEVEL", LogLevel, LogLevel.INFO),
        name=_read_name(environ),
        state_folder=Path(_required(environ, "WORKER_STATE", "Set it to a folder that only this worker uses")),
        join_token_file=_optional_path(environ, "JOIN_TOKEN_FILE"),
        link_url=link_url,
        link_origin=_origin(link_url),
        link_ca_file=_optional_file(environ, "LINK_CA_FILE"),
        postgres_listen=_read_listen(environ, "POSTGRES_LISTEN"),
        tls_cert_file=_file(environ, "TLS_CERT_FILE", "Set it to the gate's certificate, in PEM"),
        tls_key_file=_file(environ, "TLS_KEY_FILE", "Set it to the certificate's private key, in PEM"),
        journal_bound_bytes=_read_bound(environ),
        processes=_read_processes(environ),
        process=process,
    )


def process_folders(state_folder: Path) -> Iterator[tuple[int, Path]]:
    """The folders of processes beside 0 that there are, by number. Raises `OSError`."""
    for path in state_folder.iterdir():
        if match := _PROCESS_FOLDER.fullmatch(path.name):
            yield int(match[1]), path


def _refuse_unknown(environ: Mapping[str, str]) -> None:
    for variable in environ:
        if variable.startswith(_FAMILIES) and variable not in _VARIABLES:
            near = difflib.get_close_matches(variable, _VARIABLES, n=1)
            raise ConfigError(variable, "is no setting of a worker", f"Did you mean {near[0]}?" if near else "Unset it")


def _required(environ: Mapping[str, str], name: str, fix: str) -> str:
    variable = f"NARROWGATE_{name}"
    value = environ.get(variable, "")
    if not value.strip():
        raise ConfigError(variable, "is not set", fix)
    return value


def _choice(environ: Mapping[str, str], name: str, kind: type[E], default: E) -> E:
    variable = f"NARROWGATE_{name}"
    value = environ.get(variable)
    if value is None:
        return default
    try:
        return kind(value.lower())
    except ValueError as error:
        raise ConfigError(variable, f"is {value!r}", f"Use one of: {', '.join(kind)}") from error


def _read_name(environ: Mapping[str, str]) -> str:
    name = _required(environ, "WORKER_NAME", "Set it to the name that the join token was made for")
    if not _NAME.fullmatch(name):
        raise ConfigError("NARROWGATE_WORKER_NAME", f"is {name!r}", "Use letters, digits, . _ and -, at most 100")
    return name


def _origin(url: str) -> str:
    """The origin of the link, by HTTP. Unencrypted is for loopback only."""
    variable = "NARROWGATE_LINK_URL"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ConfigError(variable, "is no URL", "Use wss://<control plane>/link/v1/") from error
    if parts.scheme not in ("ws", "wss") or not parts.hostname or parts.username is not None or parts.query:
        raise ConfigError(variable, "is no WebSocket URL", "Use wss://<control plane>/link/v1/")
    if parts.scheme == "ws" and not _is_loopback(parts.hostname):
        raise ConfigError(variable, "is not encrypted", "Use wss://; ws:// is accepted for loopback only")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    netloc = host if port is None else f"{host}:{port}"
    return urlunsplit(("https" if parts.scheme == "wss" else "http", netloc, "/", "", ""))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _read_listen(environ: Mapping[str, str], name: str) -> tuple[str, int]:
    variable = f"NARROWGATE_{name}"
    value = _required(environ, name, "Set it to an address and port, such as 0.0.0.0:5432")
    host, _, port = value.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    try:
        ipaddress.ip_address(host)
    except ValueError as error:
        raise ConfigError(variable, f"is {value!r}", "Use an IP address and port, such as 0.0.0.0:5432") from error
    if not (port.isascii() and port.isdigit() and 1 <= int(port) <= 65535):
        raise ConfigError(variable, f"is {value!r}", "The port is a number from 1 to 65535")
    return host, int(port)


def _read_bound(environ: Mapping[str, str]) -> int:
    variable = "NARROWGATE_JOURNAL_BOUND_BYTES"
    value = environ.get(variable, str(DEFAULT_JOURNAL_BOUND_BYTES))
    if not (value.isascii() and value.isdigit()):
        raise ConfigError(variable, f"is {value!r}", "Give a number of bytes")
    if not MIN_JOURNAL_BOUND_BYTES <= int(value) <= MAX_JOURNAL_BOUND_BYTES:
        raise ConfigError(variable, f"is {value}", f"From {MIN_JOURNAL_BOUND_BYTES} to {MAX_JOURNAL_BOUND_BYTES}")
    return int(value)


def _read_processes(environ: Mapping[str, str]) -> int:
    variable = "NARROWGATE_WORKER_PROCESSES"
    value = environ.get(variable, "1")
    if not (value.isascii() and value.isdigit() and len(value) < 3 and 1 <= int(value) <= MAX_PROCESSES):
        raise ConfigError(variable, f"is {value!r}", f"Give a number from 1 to {MAX_PROCESSES}: one a processor")
    return int(value)


def _optional_path(environ: Mapping[str, str], name: str) -> Path | None:
    value = environ.get(f"NARROWGATE_{name}", "")
    return Path(value) if value else None


def _optional_file(environ: Mapping[str, str], name: str) -> Path | None:
    return _file(environ, name, "") if environ.get(f"NARROWGATE_{name}") else None


def _file(environ: Mapping[str, str], name: str, fix: str) -> Path:
    path = Path(_required(environ, name, fix))
    if not path.is_file():
        raise ConfigError(f"NARROWGATE_{name}", f"names {path}, where no file is", "Correct the path")
    return path
