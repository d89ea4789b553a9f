"""The home folder: secrets made once, and no process told more than it needs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from controlplane.env import ConfigurationError
from controlplane.supervisor.layout import read_layout

if TYPE_CHECKING:
    from pathlib import Path

    from controlplane.supervisor.layout import Layout


def _layout(home: Path, **environ: str) -> Layout:
    layout = read_layout({"NARROWGATE_HOME": str(home), "PATH": os.environ["PATH"]} | environ)
    layout.make_folders()
    layout.make_secrets()
    return layout


def test_secrets_stay_the_same_from_start_to_start(tmp_path: Path) -> None:
    _layout(tmp_path)
    before = {file.name: file.read_text() for file in (tmp_path / "secrets").iterdir()}
    _layout(tmp_path)
    assert {file.name: file.read_text() for file in (tmp_path / "secrets").iterdir()} == before
    assert set(before) >= {"secret-key", "keyring", "database", "valkey", "admin-password"}


def test_every_secret_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    _layout(tmp_path)
    assert {file.stat().st_mode & 0o777 for file in (tmp_path / "secrets").iterdir()} == {0o600}


def test_the_worker_learns_of_neither_database_nor_keys(tmp_path: Path) -> None:
    layout = _layout(tmp_path)
    told = " ".join(layout.worker_environment().values())
    assert {"DATABASE_URL", "REDIS_URL", "NARROWGATE_KEYRING_FILE"}.isdisjoint(layout.worker_environment())
    for name in ("database", "valkey", "secret-key", "admin-password"):
        assert layout.secret(name) not in told


def test_the_control_plane_s_environment_holds_no_database_password(tmp_path: Path) -> None:
    layout = _layout(tmp_path)
    assert layout.secret("database") not in " ".join(layout.control_plane_environment().values())


def test_migrate_alone_is_told_of_the_role_that_owns_the_tables(tmp_path: Path) -> None:
    layout = _layout(tmp_path)
    assert layout.migration_environment() == {
        **layout.control_plane_environment(),
        "DATABASE_OWNER_URL": layout.database_owner_url,
    }
    assert "DATABASE_OWNER_URL" not in layout.control_plane_environment() | layout.worker_environment()
    assert layout.secret("database-owner") not in " ".join(layout.migration_environment().values())
    assert layout.secret("database-owner") not in (tmp_path / "secrets" / "pgpass").read_text()


def test_children_get_nothing_of_our_environment_that_they_do_not_need(tmp_path: Path) -> None:
    layout = _layout(tmp_path, AWS_SECRET_ACCESS_KEY="do-not-pass-on", LANG="C.UTF-8")
    for environment in (
        layout.server_environment(),
        layout.worker_environment(),
        layout.control_plane_environment(),
    ):
        assert "AWS_SECRET_ACCESS_KEY" not in environment
        assert environment["LANG"] == "C.UTF-8"


def test_servers_that_were_given_are_used(tmp_path: Path) -> None:
    layout = _layout(tmp_path, DATABASE_URL="postgres://db.example/x", REDIS_URL="redis://r.example/0")
    environment = layout.control_plane_environment()
    assert environment["DATABASE_URL"] == "postgres://db.example/x"
    assert environment["REDIS_URL"] == "redis://r.example/0"
    assert "DATABASE_OWNER_URL" not in layout.migration_environment()
    owner_url = "postgres://owner@db.example/x"
    layout = _layout(tmp_path, DATABASE_URL="postgres://app@db.example/x", DATABASE_OWNER_URL=owner_url)
    assert layout.migration_environment()["DATABASE_OWNER_URL"] == owner_url


def test_an_owner_without_a_database_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="without DATABASE_URL"):
        _layout(tmp_path, DATABASE_OWNER_URL="postgres://owner@db.example/x")


@pytest.mark.parametrize(
    ("variable", "value"),
    [("NARROWGATE_PORTBASE", "7400"), ("NARROWGATE_PORT_BASE", "http"), ("NARROWGATE_PORT_BASE", "80")],
)
def test_what_is_unclear_is_refused_by_name(tmp_path: Path, variable: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=variable):
        _layout(tmp_path, **{variable: value})
