"""A running gate for the tests of the PostgreSQL path."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from controlplane.supervisor.embedded import postgres_tool
from tests.plugin.embedded import TargetPostgres
from tests.proxyworker.postgres.gate import RunningGate, ScriptedControlPlane, credential_of, endpoint_of


@pytest.fixture
def control(target_postgres: TargetPostgres) -> ScriptedControlPlane:
    """A control plane that grants the target; change it before `gate` is used."""
    return ScriptedControlPlane(endpoint=endpoint_of(target_postgres), credential=credential_of(target_postgres))


@pytest.fixture
def gate(tmp_path: Path, control: ScriptedControlPlane) -> Iterator[RunningGate]:
    """A gate in front of the target."""
    with RunningGate(tmp_path, control) as running:
        yield running


@pytest.fixture(scope="session")
def psql() -> str:
    """The path of psql."""
    return str(postgres_tool("psql"))


@pytest.fixture(scope="session")
def pgbench() -> str:
    """The path of pgbench."""
    return str(postgres_tool("pgbench"))
