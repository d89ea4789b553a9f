"""One question to the control plane, and what its answers mean to an agent."""

from __future__ import annotations

from collections.abc import Callable
from unittest.mock import Mock

import pytest

from proxyworker.contract import MAX_CREDENTIAL_BYTES, RefusalCode, Refused, Secret, SessionGrant, TlsFacts
from proxyworker.errors import LinkUnavailable, SessionRefused
from proxyworker.gate import LiveSessions, Services
from proxyworker.gate.approve import ApprovalLink, Approvals
from proxyworker.gate.content import ContentPress
from proxyworker.gate.errors import NotAdmitted
from proxyworker.gate.identify import identify
from proxyworker.gate.meter import BudgetLink, Budgets
from proxyworker.journal import Journal, JournalFailed
from tests.proxyworker.records import AT


class Link:
    """Answers as it is told."""

    def __init__(self, answer: Callable[[], SessionGrant]) -> None:
        self._answer = answer
        self.asked: list[Secret] = []

    async def open_session(
        self, *, protocol: str, target: str, credential: Secret, client_address: str, client_name: str, tls: TlsFacts
    ) -> SessionGrant:
        assert (protocol, target, client_address, client_name) == ("postgres", "shop", "127.0.0.1:5", "psql")
        self.asked.append(credential)
        return self._answer()

    async def verifier_of(self, login: str, *, client_address: str) -> Secret:
        raise AssertionError("nobody asked for one")

    def session_closed(self, session_id: str, reason: str) -> None:
        raise AssertionError("nothing was opened")


async def ask(link: Link, journal: Journal, credential: bytes = b"ng_token") -> SessionGrant:
    press = ContentPress()
    services = Services(
        link=link,
        journal=journal,
        live=LiveSessions(lambda: AT),
        approvals=Approvals(Mock(spec=ApprovalLink), lambda: AT),
        budgets=Budgets(Mock(spec=BudgetLink), lambda: AT),
        press=press,
        clock=lambda: AT,
    )
    return await identify(
        services,
        protocol="postgres",
        target="shop",
        credential=credential,
        client_address="127.0.0.1:5",
        client_name="psql",
        tls=TlsFacts(),
    )


def raising(error: Exception) -> Link:
    def answer() -> SessionGrant:
        raise error

    return Link(answer)


async def test_a_grant_is_passed_on(journal: Journal, grant: SessionGrant) -> None:
    link = Link(lambda: grant)
    assert await ask(link, journal) is grant
    assert link.asked == [Secret("ng_token")]


@pytest.mark.parametrize("code", list(RefusalCode))
async def test_a_refusal_keeps_its_code_and_words(journal: Journal, code: RefusalCode) -> None:
    with pytest.raises(NotAdmitted) as caught:
        await ask(raising(SessionRefused(Refused(1, code, "no such thing", "Try another."))), journal)
    assert (caught.value.code, caught.value.reason, caught.value.help) == (code, "no such thing", "Try another.")


async def test_without_a_control_plane_nothing_opens(journal: Journal) -> None:
    with pytest.raises(NotAdmitted) as caught:
        await ask(raising(LinkUnavailable("no answer from 10.0.0.1")), journal)
    assert caught.value.code is RefusalCode.UNAVAILABLE
    assert "10.0.0.1" not in caught.value.reason + caught.value.help


@pytest.mark.parametrize("credential", [b"", b"\xff", "tökén".encode(), b"x" * (MAX_CREDENTIAL_BYTES + 1)])
async def test_what_is_no_token_is_refused_without_asking(
    journal: Journal, grant: SessionGrant, credential: bytes
) -> None:
    link = Link(lambda: grant)
    with pytest.raises(NotAdmitted) as caught:
        await ask(link, journal, credential)
    assert (caught.value.code, link.asked) == (RefusalCode.BAD_CREDENTIAL, [])


async def test_the_longest_token_is_asked_for(journal: Journal, grant: SessionGrant) -> None:
    assert await ask(Link(lambda: grant), journal, b"x" * MAX_CREDENTIAL_BYTES) is grant


async def test_without_a_journal_nothing_opens(
    journal: Journal, grant: SessionGrant, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = Link(lambda: grant)
    with monkeypatch.context() as patched, pytest.raises(NotAdmitted) as caught:
        patched.setattr(journal, "failed", JournalFailed("/srv/journal: sync failed"))
        await ask(link, journal)
    assert (caught.value.code, link.asked) == (RefusalCode.UNAVAILABLE, [])
    assert "/srv" not in caught.value.reason + caught.value.help
