"""The worker's environment: what is unclear is refused, by name and with the fix."""

from __future__ import annotations

from pathlib import Path

import pytest

from proxyworker.config import DEFAULT_JOURNAL_BOUND_BYTES, Mode, process_folders, read_config
from proxyworker.errors import ConfigError


def test_a_whole_environment_is_read(environ: dict[str, str], tmp_path: Path) -> None:
    config = read_config(environ)
    assert config.mode is Mode.TEST
    assert config.link_origin == "http://127.0.0.1:9/"
    assert config.state_folder == tmp_path / "state"
    assert config.journal_bound_bytes == DEFAULT_JOURNAL_BOUND_BYTES
    assert config.link_ca_file is None
    assert (config.processes, config.folder) == (1, tmp_path / "state")


def test_each_process_has_a_folder_of_its_own_and_the_first_the_worker_s(
    environ: dict[str, str], tmp_path: Path
) -> None:
    environ["NARROWGATE_WORKER_PROCESSES"] = "12"
    folders = [read_config(environ, process=number).folder for number in (0, 1, 11)]
    assert folders == [tmp_path / "state", tmp_path / "state" / "process-1", tmp_path / "state" / "process-11"]
    for folder in (*folders, tmp_path / "state" / "process-01", tmp_path / "state" / "process-2.shipped"):
        folder.mkdir(parents=True, exist_ok=True)
    assert sorted(process_folders(tmp_path / "state")) == [(1, folders[1]), (11, folders[2])]


def test_production_is_what_a_worker_runs_in_unless_told_otherwise(environ: dict[str, str]) -> None:
    del environ["NARROWGATE_MODE"]
    assert read_config(environ).mode is Mode.PRODUCTION


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("wss://gate.example.com/link/v1/", "https://gate.example.com/"),
        ("wss://gate.example.com:8443/link/v1/", "https://gate.example.com:8443/"),
        ("ws://[::1]:7400/link/v1/", "http://[::1]:7400/"),
        ("ws://localhost:7400/link/v1/", "http://localhost:7400/"),
    ],
)
def test_uploads_go_where_the_link_goes(environ: dict[str, str], url: str, origin: str) -> None:
    assert read_config({**environ, "NARROWGATE_LINK_URL": url}).link_origin == origin


@pytest.mark.parametrize("address", ["0.0.0.0:5432", "127.0.0.1:1"])
def test_it_listens_where_it_is_told(environ: dict[str, str], address: str) -> None:
    host, port = read_config({**environ, "NARROWGATE_POSTGRES_LISTEN": address}).postgres_listen
    assert f"{host}:{port}" == address


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("NARROWGATE_MODE", "prod"),
        ("NARROWGATE_LOG_LEVEL", "loud"),
        ("NARROWGATE_LINK_URL", ""),
        ("NARROWGATE_LINK_URL", "https://gate.example.com/"),
        ("NARROWGATE_LINK_URL", "ws://gate.example.com/link/v1/"),
        ("NARROWGATE_LINK_URL", "wss://user:password@gate.example.com/"),
        ("NARROWGATE_LINK_URL", "wss://gate.example.com:port/"),
        ("NARROWGATE_LINK_CA_FILE", "/nowhere/ca.pem"),
        ("NARROWGATE_WORKER_NAME", "two words"),
        ("NARROWGATE_WORKER_STATE", " "),
        ("NARROWGATE_POSTGRES_LISTEN", "5432"),
        ("NARROWGATE_POSTGRES_LISTEN", "gate.example.com:5432"),
        ("NARROWGATE_POSTGRES_LISTEN", "127.0.0.1:0"),
        ("NARROWGATE_POSTGRES_LISTEN", "127.0.0.1:65536"),
        ("NARROWGATE_TLS_CERT_FILE", "/nowhere/gate.pem"),
        ("NARROWGATE_TLS_KEY_FILE", ""),
        ("NARROWGATE_JOURNAL_BOUND_BYTES", "1 GiB"),
        ("NARROWGATE_JOURNAL_BOUND_BYTES", "1024"),
        ("NARROWGATE_WORKER_STATES", "/var/lib/narrowgate"),
        ("NARROWGATE_JOURNAL_BOUND", "1"),
        ("NARROWGATE_WORKER_PROCESSES", "0"),
        ("NARROWGATE_WORKER_PROCESSES", "65"),
        ("NARROWGATE_WORKER_PROCESSES", "0002"),
        ("NARROWGATE_WORKER_PROCESSES", "two"),
        ("NARROWGATE_WORKER_PROCESSES", ""),
    ],
)
def test_what_is_unclear_is_refused_by_name_with_a_fix(environ: dict[str, str], variable: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_config({**environ, variable: value})
    assert caught.value.variable == variable
    assert caught.value.fix
    assert "password" not in str(caught.value)


def test_a_mistyped_variable_is_met_with_the_right_one(environ: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match=r"Did you mean NARROWGATE_LINK_CA_FILE\?"):
        read_config({**environ, "NARROWGATE_LINK_CA_FILES": "x"})
