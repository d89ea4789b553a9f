"""The configuration's parsers: what is clear is read, anything else is refused with the variable and the fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from controlplane.env import KNOWN, ConfigurationError, Environment, LogLevel, Mode, is_loopback, read_environment

KEY = "k" * 20 + "abcdefghijklmnopqrstuvwxyz0123456789"


@pytest.fixture
def production(tmp_path: Path) -> dict[str, str]:
    """A production set-up that is complete and good."""
    for name, text in (("key", KEY), ("ring", "k1:" + "A" * 43 + "=")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    return {
        "NARROWGATE_SECRET_KEY_FILE": str(tmp_path / "key"),
        "NARROWGATE_KEYRING_FILE": str(tmp_path / "ring"),
        "NARROWGATE_ALLOWED_HOSTS": "gate.example.com",
        "NARROWGATE_PUBLIC_URL": "https://gate.example.com",
        "DATABASE_URL": "postgres://gate:hunter2@db.internal/gate?sslmode=verify-full",
        "REDIS_URL": "rediss://:hunter2@redis.internal:6380/0",
        "PATH": "/usr/bin",
    }


def test_a_complete_production_set_up_is_read(production: dict[str, str]) -> None:
    environment = read_environment(production)
    assert environment.mode is Mode.PRODUCTION
    assert environment.allowed_hosts == ("gate.example.com",)
    assert environment.secret_key == KEY
    assert environment.log_level is LogLevel.INFO
    assert environment.storage_dir == Path("var").absolute() / "storage"


def test_what_was_read_shows_no_secret(production: dict[str, str]) -> None:
    shown = repr(read_environment(production))
    assert "hunter2" not in shown
    assert KEY not in shown


def test_a_demo_needs_neither_hosts_nor_public_url(production: dict[str, str]) -> None:
    del production["NARROWGATE_ALLOWED_HOSTS"], production["NARROWGATE_PUBLIC_URL"]
    environment = read_environment({**production, "NARROWGATE_MODE": "demo", "NARROWGATE_PORT_BASE": "8000"})
    assert environment.public_url == "http://127.0.0.1:8000"
    assert environment.allowed_hosts == ("127.0.0.1", "localhost", "[::1]")


def test_a_test_run_needs_nothing_and_has_a_key_of_its_own() -> None:
    first, second = (read_environment({"NARROWGATE_MODE": "test"}) for _ in range(2))
    assert isinstance(first, Environment)
    assert first.secret_key != second.secret_key


@pytest.mark.parametrize(
    ("variable", "value", "said"),
    [
        ("NARROWGATE_MODE", "prodution", "did you mean production"),
        ("NARROWGATE_MODE", "", "empty"),
        ("NARROWGATE_PORT_BASE", "80", "1024 to 65500"),
        ("NARROWGATE_PORT_BASE", "7400 ", "blanks"),
        ("NARROWGATE_PORT_BASE", "0x1d00", "whole number"),
        ("NARROWGATE_PORT_BASE", "٧٤٠٠", "whole number"),
        ("NARROWGATE_LOG_LEVEL", "loud", "DEBUG, INFO, WARNING, ERROR"),
        ("NARROWGATE_ALLOWED_HOSTS", "*", "no host name"),
        ("NARROWGATE_ALLOWED_HOSTS", "gate.example.com,,other", "no host name"),
        ("NARROWGATE_ALLOWED_HOSTS", "https://gate.example.com", "no host name"),
        ("NARROWGATE_PUBLIC_URL", "http://gate.example.com", "https://"),
        ("NARROWGATE_PUBLIC_URL", "https://gate.example.com/app", "scheme, host and port"),
        ("NARROWGATE_PUBLIC_URL", "https://gate.example.com:port", "no URL"),
        ("NARROWGATE_DATABASE_POOL_SIZE", "0", "1 to 200"),
        ("NARROWGATE_TRUSTED_PROXIES", "-1", "0 to 8"),
        ("NARROWGATE_TRUSTED_PROXIES", "10.0.0.1", "0 to 8"),
        ("NARROWGATE_SECRET_KEY_FILE", "/nowhere/key", "can't be read"),
        ("DATABASE_URL", "mysql://db/gate", "postgres"),
        ("DATABASE_URL", "postgres://db.internal/", "names no database"),
        ("DATABASE_OWNER_URL", "postgres://owner@db.internal/gate", "sslmode=verify-full"),
        ("DATABASE_OWNER_URL", "postgres://owner@db.internal/other?sslmode=verify-full", "another database"),
        ("DATABASE_OWNER_URL", "postgres://gate@db.internal/gate?sslmode=verify-full", "role of DATABASE_URL"),
        ("DATABASE_URL", "postgres://gate:hunter2@db.internal/gate", "sslmode=verify-full"),
        ("DATABASE_URL", "postgres://gate:hunter2@db.internal/gate?sslmode=require", "sslmode=verify-full"),
        ("REDIS_URL", "redis://:hunter2@redis.internal/0", "rediss://"),
        ("REDIS_URL", "rediss:///0", "names no host"),
    ],
)
def test_an_unclear_value_is_refused_with_its_fix(
    production: dict[str, str], variable: str, value: str, said: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        read_environment({**production, variable: value})
    assert caught.value.variable == variable
    assert said in str(caught.value)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("variable", ["NARROWGATE_ALLOWED_HOSTS", "NARROWGATE_PUBLIC_URL", "DATABASE_URL", "REDIS_URL"])
def test_production_misses_what_isnt_set(production: dict[str, str], variable: str) -> None:
    del production[variable]
    with pytest.raises(ConfigurationError, match=f"{variable} is not set"):
        read_environment(production)


def test_an_unknown_variable_is_refused_with_the_nearest_name(production: dict[str, str]) -> None:
    with pytest.raises(
        ConfigurationError, match=r"NARROWGATE_KEYRING_FIEL is no variable.*did you mean NARROWGATE_KEY"
    ):
        read_environment({**production, "NARROWGATE_KEYRING_FIEL": "x"})


def test_the_workers_variables_are_known() -> None:
    assert {"NARROWGATE_LINK_URL", "NARROWGATE_WORKER_STATE", "NARROWGATE_JOURNAL_BOUND_BYTES"} <= KNOWN


def test_every_variable_is_documented() -> None:
    documents = "".join(Path("docs", name).read_text() for name in ("configuration.md", "worker.md"))
    assert [name for name in sorted(KNOWN) if f"`{name}`" not in documents] == []


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o620, 0o666])
def test_a_secret_that_others_can_reach_is_refused(production: dict[str, str], mode: int) -> None:
    Path(production["NARROWGATE_SECRET_KEY_FILE"]).chmod(mode)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        read_environment(production)


@pytest.mark.parametrize(
    ("text", "said"),
    [(b"", "empty"), (b" \n", "empty"), (b"short", "too weak"), (b"a" * 60, "too weak"), (b"\xff" * 60, "UTF-8")],
)
def test_a_secret_key_that_is_none_is_refused(production: dict[str, str], text: bytes, said: str) -> None:
    Path(production["NARROWGATE_SECRET_KEY_FILE"]).write_bytes(text)
    with pytest.raises(ConfigurationError, match=said):
        read_environment(production)


def test_a_secret_file_is_read_to_its_bound_only(production: dict[str, str]) -> None:
    Path(production["NARROWGATE_SECRET_KEY_FILE"]).write_bytes(b"x" * 70_000)
    with pytest.raises(ConfigurationError, match="too long"):
        read_environment(production)


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("", True),
        ("localhost", True),
        ("127.0.0.53", True),
        ("::1", True),
        ("/run/postgresql", True),
        ("10.0.0.1", False),
        ("localhost.evil.example", False),
        ("0.0.0.0", False),  # noqa: S104  # not bound to, only judged
    ],
)
def test_loopback_is_known_by_name_and_address(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected
