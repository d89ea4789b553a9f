"""Errors of this app.

SessionsError
  AppendOnly           somebody tried to change or delete what is append-only
  SegmentMismatch      an uploaded segment is not what its ticket says
  OpenRefused          an agent doesn't get the session that it asks for
  PeerFault            a worker broke the contract: its link is closed
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from accounts.models import Agent
    from proxyworker.contract import RefusalCode


class SessionsError(Exception):
    """Base of this app's errors."""


class AppendOnly(SessionsError):
    """`what` is never changed or deleted."""

    def __init__(self, what: str) -> None:
        super().__init__(f"a {what} is append-only")
        self.what = what


class SegmentMismatch(SessionsError):
    """Size or digest of the uploaded bytes differ from the ticket's."""


class PeerFault(SessionsError):
    """A worker said what a sound worker doesn't. `fault` is for our log: it quotes nothing the worker sent."""

    def __init__(self, fault: str) -> None:
        super().__init__(fault)
        self.fault = fault


class OpenRefused(SessionsError):
    """A session is not granted. `reason` and `help` may be shown to the agent."""

    def __init__(self, code: RefusalCode, reason: str, help: str, *, agent: Agent | None = None) -> None:  # noqa: A002
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.help = help
        self.agent = agent
