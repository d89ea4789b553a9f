"""A worker's identity and its link."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from proxyworker.identity import Identity
from proxyworker.link import Link
from proxyworker.net.tasks import spawn
from tests.proxyworker.control_plane import JOIN_TOKEN, ControlPlane


@pytest.fixture
def join_token_file(tmp_path: Path) -> Path:
    path = tmp_path / "join-token"
    path.write_text(JOIN_TOKEN + "\n")
    return path


@pytest.fixture
def put_join_token(join_token_file: Path) -> Callable[[str], None]:
    """Replaces the token in the worker's file."""

    def put(token: str) -> None:
        join_token_file.write_text(token + "\n")

    return put


@pytest.fixture
def identity(tmp_path: Path, join_token_file: Path) -> Identity:
    return Identity(tmp_path / "state", name="test-worker", join_token_file=join_token_file)


@pytest.fixture
async def link(control_plane: ControlPlane, identity: Identity) -> AsyncIterator[Link]:
    """Runs, and may not be up yet."""
    running = Link(control_plane.url, identity=identity, tls=None)
    task = spawn("link", running.run())
    yield running
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
