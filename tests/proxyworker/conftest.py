"""A control plane to link to."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from proxyworker import link
from tests.proxyworker.control_plane import ControlPlane, running_control_plane


@pytest.fixture
async def control_plane(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ControlPlane]:
    """Served on loopback; links to it are tried again at once."""
    monkeypatch.setattr(link, "FIRST_RETRY_SECONDS", 0.01)
    async with running_control_plane() as running:
        yield running
