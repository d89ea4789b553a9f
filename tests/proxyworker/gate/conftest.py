"""What the stages are given to work with."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from policies.engine import Effect, Policy, Principal, Rule
from proxyworker.contract import (
    Secret,
    SessionGrant,
    SessionLimits,
    TargetEndpoint,
    TlsMode,
    UpstreamCredential,
)
from proxyworker.journal import Journal
from tests.proxyworker.records import AT, session_id

#: Room for one piece of content with its record, so that a journal is made at once.
SEGMENT_BYTES = 4 * 1024 * 1024


@pytest.fixture
def grant() -> SessionGrant:
    return SessionGrant(
        request_id=1,
        session_id=session_id(1),
        tenant_id=session_id(2),
        principal=Principal(id=session_id(3), name="reporter"),
        target=TargetEndpoint(session_id(4), "shop", "postgres", "localhost", 5432, "shop", TlsMode.DISABLE),
        credential=UpstreamCredential("app", Secret("")),
        policy=Policy(version="shop@1", rules=(Rule(name="all", effect=Effect.ALLOW, agents=("*",), targets=("*",)),)),
        limits=SessionLimits(),
        expires_at=AT + 60,
    )


class PatchedJournal(Journal):
    """One whose methods a test may replace: those of a compiled class can't be."""


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    opened = PatchedJournal.open(
        tmp_path / "journal",
        worker="test",
        bound_bytes=1 << 30,
        clock=lambda: AT,
        loop=asyncio.get_running_loop(),
        segment_bytes=SEGMENT_BYTES,
    )
    yield opened
    await opened.close()


class DurableByHand:
    """A journal whose disk is the test's hand; just what `ReleaseQueue` asks of it."""

    def __init__(self) -> None:
        self.durable_position = 0
        self._waiting: list[tuple[int, Callable[[], None]]] = []

    def when_durable(self, position: int, callback: Callable[[], None]) -> None:
        self._waiting.append((position, callback))

    def sync(self, position: int | None = None) -> None:
        """Everything before the position is on disk; without one, nothing more is."""
        self.durable_position = max(self.durable_position, position or 0)
        ready = [one for one in self._waiting if one[0] <= self.durable_position]
        self._waiting = [one for one in self._waiting if one[0] > self.durable_position]
        for _, callback in sorted(ready, key=lambda one: one[0]):
            callback()


@pytest.fixture
def disk() -> DurableByHand:
    return DurableByHand()
