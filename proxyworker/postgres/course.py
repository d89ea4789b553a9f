"""How far a session has come: every part of it looks here, and `ending` alone moves it on."""

from __future__ import annotations


class Course:
    """OPEN, then DRAINING (neither open nor closed) or at once CLOSED. Times are the loop's.

    `is_open`: the agent is heard, and shown what its operations answer. Draining, it wants no more, and the target
    finishes what it was asked. `is_closed`: nothing that either side says counts any more.
    """

    __slots__ = ("is_closed", "is_open", "last_used", "started")

    def __init__(self, *, now: float) -> None:
        self.is_open = True
        self.is_closed = False
        self.started = self.last_used = now

    def drain(self) -> None:
        """The agent has gone."""
        self.is_open = False

    def close(self) -> None:
        """The record is being settled."""
        self.is_open = False
        self.is_closed = True
