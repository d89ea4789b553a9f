"""What ends sessions from outside."""

from __future__ import annotations

import asyncio

import pytest

from policies.engine import Policy
from proxyworker.gate import live as live_module
from proxyworker.gate.live import LiveSessions
from tests.proxyworker.records import AT


class Session:
    """Ends at its time."""

    def __init__(self, live: LiveSessions, session_id: str, *, expires_at: float = AT + 60) -> None:
        self.session_id = session_id
        self.ended: list[str] = []
        self.over = asyncio.Event()
        self._live = live
        self._expires_at = expires_at
        live.add(self)

    def end(self, reason: str) -> None:
        self.ended.append(reason)
        self.over.set()
        self._live.remove(self)

    def use_policy(self, policy: Policy) -> None:
        self.policy = policy

    def reason_to_end(self, *, now: float, loop_now: float) -> str:
        assert loop_now <= asyncio.get_running_loop().time()
        return "expired" if now >= self._expires_at else ""


class Clock:
    """Stands still until it is set."""

    def __init__(self) -> None:
        self.now = AT

    def __call__(self) -> float:
        return self.now


async def test_a_sweep_ends_what_has_expired_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "SWEEP_SECONDS", 0.0)
    clock = Clock()
    live = LiveSessions(clock)
    early, late = Session(live, "early", expires_at=AT + 10), Session(live, "late", expires_at=AT + 20)
    clock.now = AT + 10
    await early.over.wait()
    assert (early.ended, late.ended, live.count) == (["expired"], [], 1)
    clock.now = AT + 20
    await live.wait_empty()
    assert (late.ended, live.count) == (["expired"], 0)
    again = Session(live, "again", expires_at=AT)
    await live.wait_empty()
    assert again.ended == ["expired"]


async def test_sessions_are_ended_by_id_and_strangers_are_ignored() -> None:
    live = LiveSessions(Clock())
    alice, bob = Session(live, "alice"), Session(live, "bob")
    live.end(["alice", "nobody"], "revoked")
    assert (alice.ended, bob.ended, live.count) == (["revoked"], [], 1)


async def test_a_session_that_is_ended_before_it_runs_ends_as_soon_as_it_does() -> None:
    live = LiveSessions(Clock())
    live.end(["early"], "killed")
    early, other = Session(live, "early"), Session(live, "other")
    await early.over.wait()
    assert (early.ended, other.ended, live.count) == (["killed"], [], 1)


async def test_of_sessions_that_never_ran_only_the_newest_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "MAX_DOOMED", 2)
    live = LiveSessions(Clock())
    live.end(["a", "b", "c"], "killed")
    sessions = [Session(live, name) for name in ("a", "b", "c")]
    await sessions[2].over.wait()
    assert [session.ended for session in sessions] == [[], ["killed"], ["killed"]]


async def test_no_ids_mean_all() -> None:
    live = LiveSessions(Clock())
    sessions = [Session(live, name) for name in ("a", "b", "c")]
    live.end([], "the worker stops")
    assert [session.ended for session in sessions] == [["the worker stops"]] * 3
    await live.wait_empty()
    live.remove(sessions[0])
    assert live.count == 0


async def test_a_policy_reaches_every_session() -> None:
    live = LiveSessions(Clock())
    sessions = [Session(live, "one"), Session(live, "two")]
    live.use_policy(Policy(version="shop@2"))
    assert [session.policy.version for session in sessions] == ["shop@2", "shop@2"]
    live.end([], "over")
