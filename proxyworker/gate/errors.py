"""Why the gate says no.

GateError
  NotAdmitted        the connection may not become a session; carries what the agent is told
  RecordNotKept      the record of a session can't be kept any more; the session has to end
"""

from __future__ import annotations

from proxyworker.contract import RefusalCode


class GateError(Exception):
    """Base of the gate's errors."""


class NotAdmitted(GateError):
    """The connection may not become a session. `reason` and `help` are written for the agent."""

    def __init__(self, code: RefusalCode, reason: str, help: str = "") -> None:  # noqa: A002
        super().__init__(f"{code.value}: {reason}")
        self.code = code
        self.reason = reason
        self.help = help


class RecordNotKept(GateError):
    """The record of a session can't be kept any more: the journal is full or its disk failed."""
