"""The link is lost at the instant at which something that counts is sent: it was given, and the worker never heard.

The real consumer runs; what it would have sent by then is swallowed, as by a connection that is gone. A yes is then
neither lost to the operation that it was for, nor good for another one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from policies.approvals.models import ApprovalRequest, ApprovalUse
from policies.engine import ApprovalMode
from proxyworker.contract import (
    ApprovalDecided,
    ApprovalState,
    ApprovalTicket,
    FromControlPlane,
    SessionGrant,
    decode_from_control_plane,
)
from sessions.actions import UNOPENED_AFTER, settle_unfinished
from sessions.link import LinkConsumer
from sessions.models import AgentSession, SessionState
from tests.sessions.conftest import Site
from tests.sessions.linking import question, signed_on
from tests.sessions.test_approving import ask, asking, decide, prepare, run
from tests.sessions.test_link import agent_token

pytestmark = pytest.mark.django_db(transaction=True)

#: A machine that is busy takes its time.
CUT_SECONDS = 30


class Cut:
    """Where the link is cut. `frame` is what nobody received."""

    def __init__(self) -> None:
        self.frame: Any = None
        self._happened = asyncio.Event()

    async def happens(self) -> Any:
        """Wait for it; the frame."""
        await asyncio.wait_for(self._happened.wait(), CUT_SECONDS)
        return self.frame

    def at(self, frame: FromControlPlane) -> None:
        """Here."""
        self.frame = frame
        self._happened.set()


@contextmanager
def cut_at(monkeypatch: pytest.MonkeyPatch, is_there: Callable[[FromControlPlane], bool]) -> Iterator[Cut]:
    """From the first such frame on, nothing that links send arrives."""
    cut, send = Cut(), LinkConsumer.send

    async def send_unless_cut(consumer: LinkConsumer, bytes_data: bytes) -> None:
        frame = decode_from_control_plane(bytes_data)
        if cut.frame is None and is_there(frame):
            cut.at(frame)
        if cut.frame is None:
            await send(consumer, bytes_data=bytes_data)

    with monkeypatch.context() as patched:
        patched.setattr(LinkConsumer, "send", send_unless_cut)
        yield cut


def is_granted(frame: FromControlPlane) -> bool:
    """A yes, as an answer or of its own accord."""
    return isinstance(frame, ApprovalTicket | ApprovalDecided) and frame.state is ApprovalState.GRANTED


async def test_a_yes_that_was_lost_on_its_way_is_said_again_to_the_operation_that_it_is_for(
    acme: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await run(acme, lambda: prepare(acme))
    frame = asking(session)
    with cut_at(monkeypatch, is_granted) as cut:
        async with signed_on(acme) as worker:
            ticket = await ask(worker, frame)
            await run(acme, decide(acme, ticket))
            assert (await cut.happens()).approval_id == ticket.approval_id
    request = await run(acme, lambda: ApprovalRequest.objects.get(pk=ticket.approval_id))
    assert request.used_at is not None, "the control plane can't know that nobody heard it"
    async with signed_on(acme) as worker:
        again = await ask(worker, frame)
        assert (again.approval_id, again.state) == (ticket.approval_id, ApprovalState.GRANTED)
        other = await ask(worker, asking(session))
        assert other.state is ApprovalState.PENDING
        assert other.approval_id != ticket.approval_id


async def test_a_yes_that_was_lost_with_its_session_is_good_for_no_other(
    acme: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await run(acme, lambda: prepare(acme))
    with cut_at(monkeypatch, is_granted) as cut:
        async with signed_on(acme) as worker:
            ticket = await ask(worker, asking(session))
            await run(acme, decide(acme, ticket))
            await cut.happens()
    later = await run(acme, acme.session)
    async with signed_on(acme) as worker:
        other = await ask(worker, asking(later))
        assert other.state is ApprovalState.PENDING
        assert other.approval_id != ticket.approval_id


async def test_a_use_of_a_grant_that_was_lost_on_its_way_is_the_same_use_when_it_is_asked_for_again(
    acme: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = await run(acme, lambda: prepare(acme))
    async with signed_on(acme) as worker:
        ticket = await ask(worker, asking(session, mode=ApprovalMode.DEFER))
    await run(acme, decide(acme, ticket))
    passing = asking(session, mode=ApprovalMode.DEFER)
    with cut_at(monkeypatch, is_granted) as cut:
        async with signed_on(acme) as worker:
            await worker.send(passing)
            assert (await cut.happens()).request_id == passing.request_id
    assert await run(acme, ApprovalUse.objects.count) == 1
    async with signed_on(acme) as worker:
        again = await ask(worker, passing)
        assert (again.approval_id, again.state) == (ticket.approval_id, ApprovalState.GRANTED)
        other = await ask(worker, asking(session, mode=ApprovalMode.DEFER))
        assert other.state is ApprovalState.PENDING
    assert await run(acme, ApprovalUse.objects.count) == 1


async def test_a_session_whose_grant_was_lost_on_its_way_is_never_opened_and_closed_for_that(
    acme: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = await agent_token(acme)
    with cut_at(monkeypatch, lambda frame: isinstance(frame, SessionGrant)) as cut:
        async with signed_on(acme) as worker:
            await worker.send(question(token))
            lost = await cut.happens()
    session = await run(acme, AgentSession.objects.get)
    assert (str(session.pk), session.state) == (lost.session_id, SessionState.GRANTED)
    async with signed_on(acme) as worker:  # the agent connects again, and that is a session of its own
        await worker.send(question(token))
        assert (await worker.receive(SessionGrant)).session_id != lost.session_id
    at = session.granted_at + UNOPENED_AFTER + timedelta(seconds=1)
    await run(acme, lambda: settle_unfinished(now=max(at, timezone.now())))
    session = await run(acme, lambda: AgentSession.objects.get(pk=lost.session_id))
    assert (session.state, session.close_reason) == (SessionState.CLOSED, "never opened")
