"""The sessions that run in this worker now, and what ends them from outside: revocation, expiry, idleness."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from policies.engine import Policy

#: Sessions that were ended before they ran, remembered: each runs within seconds of its grant, or never.
MAX_DOOMED: Final = 4_096
#: How often expiry and idleness are looked at. A session outlives its grant by at most this.
SWEEP_SECONDS: Final = 1.0


class LiveSession(Protocol):
    """What the registry needs of a protocol's session."""

    session_id: str

    def end(self, reason: str) -> None:
        """End now: tell the agent why in its protocol, close both sides, record what is unfinished."""

    def use_policy(self, policy: Policy) -> None:
        """Decide by this policy from the next operation on."""

    def reason_to_end(self, *, now: float, loop_now: float) -> str:
        """Why the session must end at this time (epoch seconds, loop seconds), or ""."""


class LiveSessions:
    """Every session of this worker, by id."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._sessions: dict[str, LiveSession] = {}
        #: Reasons by id, the newest last.
        self._doomed: dict[str, str] = {}
        self._empty = asyncio.Event()
        self._empty.set()
        self._sweep_handle: asyncio.TimerHandle | None = None

    @property
    def count(self) -> int:
        """How many sessions run."""
        return len(self._sessions)

    def add(self, session: LiveSession) -> None:
        """From now on the session can be ended from outside. One that was ended before it ran ends at once."""
        self._sessions[session.session_id] = session
        self._empty.clear()
        if session.session_id in self._doomed:
            reason = self._doomed.pop(session.session_id)
            # Not at once: whoever adds it has still to say hello to the agent.
            asyncio.get_running_loop().call_soon(self.end, (session.session_id,), reason)
        if self._sweep_handle is None:
            self._sweep_handle = asyncio.get_running_loop().call_later(SWEEP_SECONDS, self._sweep)

    def remove(self, session: LiveSession) -> None:
        """The session is over."""
        self._sessions.pop(session.session_id, None)
        if not self._sessions:
            self._empty.set()

    def end(self, session_ids: Iterable[str], reason: str) -> None:
        """End these sessions; an empty list means all. Of an id that is not here, the session ends if it comes yet."""
        wanted = list(session_ids) or list(self._sessions)
        for session_id in wanted:
            session = self._sessions.get(session_id)
            if session is not None:
                session.end(reason)
            else:
                self._doom(session_id, reason)

    def use_policy(self, policy: Policy) -> None:
        """Every session decides by this policy from its next operation on."""
        for session in self._sessions.values():
            session.use_policy(policy)

    def _doom(self, session_id: str, reason: str) -> None:
        self._doomed[session_id] = reason
        if len(self._doomed) > MAX_DOOMED:
            del self._doomed[next(iter(self._doomed))]

    async def wait_empty(self) -> None:
        """Return when no session runs."""
        await self._empty.wait()

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        # First: whatever a session's end may raise, the others are still looked at next time.
        self._sweep_handle = loop.call_later(SWEEP_SECONDS, self._sweep) if self._sessions else None
        now, loop_now = self._clock(), loop.time()
        for session in list(self._sessions.values()):
            reason = session.reason_to_end(now=now, loop_now=loop_now)
            if reason:
                session.end(reason)
