"""What a protocol is given to work with. Passed in, so that every stage can be tested without a network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from proxyworker.net.siblings import Siblings

if TYPE_CHECKING:
    from proxyworker.contract import Secret, SessionGrant, TlsFacts
    from proxyworker.gate.approve import Approvals
    from proxyworker.gate.content import ContentPress
    from proxyworker.gate.live import LiveSessions
    from proxyworker.gate.meter import Budgets
    from proxyworker.journal import Journal


class ControlPlane(Protocol):
    """What the gate asks of the link."""

    async def open_session(
        self,
        *,
        protocol: str,
        target: str,
        credential: Secret,
        client_address: str,
        client_name: str,
        tls: TlsFacts,
    ) -> SessionGrant:
        """Raises `SessionRefused` or `LinkUnavailable`."""

    async def verifier_of(self, login: str, *, client_address: str) -> Secret:
        """The SCRAM verifier of a database login. Raises `SessionRefused` or `LinkUnavailable`."""

    def session_closed(self, session_id: str, reason: str) -> None:
        """Say that a session is over; never waits, never raises."""


@dataclass(frozen=True, slots=True)
class Services:
    """`clock` gives seconds since the epoch."""

    link: ControlPlane
    journal: Journal
    live: LiveSessions
    approvals: Approvals
    budgets: Budgets
    press: ContentPress
    clock: Callable[[], float]
    siblings: Siblings = field(default_factory=Siblings)
