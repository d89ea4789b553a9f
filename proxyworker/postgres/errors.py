"""What is said to an agent in PostgreSQL's own words, and what can go wrong with a target.

    TargetError
      TargetUnreachable     no connection, or none that is trusted
      TargetRefused         the target did not let us in
      TargetBrokeProtocol   it sent what can't be followed

A target's error goes to the log; the agent hears only that the target can't be used, never where it is.
"""

from __future__ import annotations

from typing import Final

from proxyworker.contract import RefusalCode
from proxyworker.gate.errors import NotAdmitted
from proxyworker.wire.postgres import backend

#: SQLSTATEs (PostgreSQL documentation, appendix A).
SUCCESSFUL_COMPLETION: Final = "00000"
PROTOCOL_VIOLATION: Final = "08P01"
CONNECTION_FAILURE: Final = "08006"
INSUFFICIENT_PRIVILEGE: Final = "42501"
QUERY_CANCELED: Final = "57014"
LIMIT_EXCEEDED: Final = "53400"
PROGRAM_LIMIT_EXCEEDED: Final = "54000"
ADMIN_SHUTDOWN: Final = "57P01"
CANNOT_CONNECT_NOW: Final = "57P03"
IO_ERROR: Final = "58030"
INVALID_PASSWORD: Final = "28P01"  # noqa: S105 - a code
INVALID_AUTHORIZATION: Final = "28000"
INVALID_CATALOG_NAME: Final = "3D000"
TOO_MANY_CONNECTIONS: Final = "53300"

_SQLSTATES: Final = {
    RefusalCode.BAD_CREDENTIAL: INVALID_PASSWORD,
    RefusalCode.EXPIRED_CREDENTIAL: INVALID_PASSWORD,
    RefusalCode.NO_SUCH_TARGET: INVALID_CATALOG_NAME,
    RefusalCode.DENIED: INSUFFICIENT_PRIVILEGE,
    RefusalCode.BUSY: TOO_MANY_CONNECTIONS,
}


class TargetError(Exception):
    """The target can't be used. `problem` is for the log."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


class TargetUnreachable(TargetError):
    """No connection to the target, or none that is trusted."""


class TargetRefused(TargetError):
    """The target did not let us in."""


class TargetBrokeProtocol(TargetError):
    """The target sent what can't be followed."""


def refusal(error: NotAdmitted) -> bytes:
    """The ErrorResponse for a connection that is not admitted."""
    return backend.build_error(
        severity="FATAL",
        code=_SQLSTATES.get(error.code, CANNOT_CONNECT_NOW),
        message=f"Narrowgate: {error.reason}",
        hint=error.help,
    )


def fatal(code: str, message: str, hint: str = "") -> bytes:
    """An ErrorResponse after which the connection ends."""
    return backend.build_error(severity="FATAL", code=code, message=f"Narrowgate: {message}", hint=hint)
