"""Approvals over the link, from a worker's side: asking, hearing the decision, withdrawing, previews, lost links."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar
from uuid import UUID

import msgspec
import pytest
from channels.db import database_sync_to_async
from django.utils import timezone
from django_scopes import scope

from accounts.actions import delete_membership
from accounts.models import Membership, User
from controlplane.authority import Role
from policies.actions import publish_version
from policies.approvals.actions import approve, ask_preview, reject, save_flow
from policies.approvals.models import ApprovalFlow, ApprovalRequest
from policies.approvals.tasks import review_open_approvals, settle_due_approvals
from policies.engine import Access, Approval, ApprovalMode, Decision, Effect, Operation
from policies.models import Policy
from proxyworker.contract import (
    Ack,
    ApprovalDecided,
    ApprovalPreview,
    ApprovalState,
    ApprovalTicket,
    AskPreview,
    CloseSession,
    Parameter,
    Refused,
    RequestApproval,
    WithdrawApproval,
)
from sessions.models import AgentSession, SessionState
from sessions.tasks import settle_unfinished
from tests.sessions.conftest import Site
from tests.sessions.linking import ScriptedWorker, signed_on
from tests.sessions.people import person
from tests.sessions.records import JournalScript, closed, opened

pytestmark = pytest.mark.django_db(transaction=True)

T = TypeVar("T")
RULE: dict[str, Any] = {
    "name": "writes",
    "effect": "require_approval",
    "agents": ["*"],
    "targets": ["*"],
    "approval": {"flow": "writes"},
}
_numbers = itertools.count(1)


async def run(site: Site, function: Callable[[], T]) -> T:
    """Call it in the site's scope, where the database may be asked."""

    def scoped() -> T:
        with scope(tenant=site.tenant):
            return function()

    result: T = await database_sync_to_async(scoped)()
    return result


def prepare(site: Site) -> AgentSession:
    """A session under a policy that asks one approver."""
    flow = ApprovalFlow(tenant=site.tenant, name="writes", terms={"stages": [{"approvers": {"roles": ["approver"]}}]})
    save_flow(flow, acting_user=None)
    person(site.tenant, Role.APPROVER)
    publish(site)
    return site.session()


def publish(site: Site) -> None:
    """The policy's next version."""
    publish_version(Policy.objects.get(name="support"), rules=[RULE], message="", acting_user=None)


def asking(session: AgentSession, *, text: str = "DELETE FROM orders", **changed: Any) -> RequestApproval:
    """What a gate asks."""
    mode = changed.pop("mode", ApprovalMode.HOLD)
    parameters = changed.pop("parameters", (Parameter("7"), Parameter(None)))
    number = next(_numbers)
    frame = RequestApproval(
        request_id=number,
        session_id=str(session.pk),
        op=number,
        kind="query",
        text=text,
        text_bytes=len(text.encode()),
        operation_sha256=hashlib.sha256(f"{text}{parameters}".encode()).digest(),
        parameters=parameters,
        operation=Operation(accesses=(Access("delete", "public.orders", ("*",)),), hazards=("delete_without_where",)),
        decision=Decision(
            effect=Effect.REQUIRE_APPROVAL,
            policy_version="support@2",
            rule="support/writes",
            reason="writing takes a yes",
            approval=Approval(flow="writes", mode=mode),
        ),
    )
    return msgspec.structs.replace(frame, **changed)


async def ask(worker: ScriptedWorker, frame: RequestApproval) -> ApprovalTicket:
    """The answer to it."""
    await worker.send(frame)
    ticket = await worker.receive(ApprovalTicket)
    assert ticket.request_id == frame.request_id
    return ticket


def decide(site: Site, ticket: ApprovalTicket, *, yes: bool = True) -> Callable[[], Any]:
    """The approver's word on it, to be run."""

    def vote() -> None:
        request = ApprovalRequest.objects.get(pk=ticket.approval_id)
        user = User.objects.get(email=f"approver@{site.tenant.slug}.example")
        (approve if yes else reject)(request, acting_user=user, comment="well")

    return vote


def state_of(ticket: ApprovalTicket) -> Callable[[], str]:
    """What its row says, to be run."""
    return lambda: ApprovalRequest.objects.get(pk=ticket.approval_id).state


@pytest.mark.parametrize("yes", [True, False])
async def test_a_held_operation_is_ticketed_and_its_decision_is_pushed(acme: Site, yes: bool) -> None:
    session = await run(acme, lambda: prepare(acme))
    async with signed_on(acme) as worker:
        ticket = await ask(worker, asking(session))
        assert ticket.state is ApprovalState.PENDING
        assert ticket.url.endswith(f"/approvals/{ticket.approval_id}/")
        request = await run(acme, lambda: ApprovalRequest.objects.get(pk=ticket.approval_id))
        assert [one["value"] for one in request.parameters] == ["7", None]
        assert request.hazards == ["delete_without_where"]
        await run(acme, decide(acme, ticket, yes=yes))
        decided = await worker.receive(ApprovalDecided)
    assert (decided.approval_id, decided.state) == (
        ticket.approval_id,
        ApprovalState.GRANTED if yes else ApprovalState.REJECTED,
    )
    assert "approver@acme.example" in decided.reason
    request = await run(acme, lambda: ApprovalRequest.objects.get(pk=ticket.approval_id))
    assert (request.used_at is not None) is yes


async def test_what_was_decided_while_the_link_was_down_is_told_when_it_is_asked_again(acme: Site) -> None:
    session = await run(acme, lambda: prepare(acme))
    frame = asking(session)
    async with signed_on(acme) as worker:
        ticket = await ask(worker, frame)
    await run(acme, decide(acme, ticket))
    for _ in range(2):  # the answer may be lost with the link, too
        async with signed_on(acme) as worker:
            again = await ask(worker, frame)
            assert (again.approval_id, again.state) == (ticket.approval_id, ApprovalState.GRANTED)


async def test_what_waits_still_when_the_link_is_back_is_the_same_request(acme: Site) -> None:
    session = await run(acme, lambda: prepare(acme))
    frame = asking(session)
    async with signed_on(acme) as worker:
        ticket = await ask(worker, frame)
    async with signed_on(acme) as worker:
        again = await ask(worker, frame)
        assert (again.approval_id, again.state) == (ticket.approval_id, ApprovalState.PENDING)
        await run(acme, decide(acme, ticket))
        assert (await worker.receive(ApprovalDecided)).state is ApprovalState.GRANTED


async def test_the_same_number_with_another_operation_is_void(acme: Site) -> None:
    session = await run(acme, lambda: prepare(acme))
    frame = asking(session)
    async with signed_on(acme) as worker:
        await ask(worker, frame)
        other = await ask(worker, msgspec.structs.replace(frame, operation_sha256=b"o" * 32))
    assert other.state is ApprovalState.VOID


async def test_fifty_held_at_once_are_each_decided_by_themselves(acme: Site) -> None:
    session = await run(acme, lambda: prepare(acme))
    async with signed_on(acme) as worker:
        frames = [asking(session, text=f"DELETE FROM orders WHERE id = {number}") for number in range(50)]
        for frame in frames:
            await worker.send(frame)
        tickets = [await worker.receive(ApprovalTicket) for _ in frames]
        assert len({ticket.approval_id for ticket in tickets}) == 50
        for ticket in tickets[:5]:
            await run(acme, decide(acme, ticket))
        told = {(await worker.receive(ApprovalDecided)).approval_id for _ in range(5)}
        assert told == {ticket.approval_id for ticket in tickets[:5]}
        assert await run(acme, lambda: ApprovalRequest.objects.filter(state="pending").count()) == 45


async def test_a_deferred_operation_passes_when_it_is_sent_again_and_once(acme: Site) -> None:
    session = await run(acme, lambda: prepare(acme))

    def deferred() -> RequestApproval:
        return asking(session, mode=ApprovalMode.DEFER)

    async with signed_on(acme) as worker:
        first = await ask(worker, deferred())
        second = await ask(worker, deferred())
        assert (second.approval_id, second.state) == (first.approval_id, ApprovalState.PENDING)
        await run(acme, decide(acme, first))
        passing = deferred()
        for _ in range(2):  # asked again by the same number it is the same use
            third = await ask(worker, passing)
            assert (third.approval_id, third.state) == (first.approval_id, ApprovalState.GRANTED)
        fourth = await ask(worker, deferred())
        assert fourth.state is ApprovalState.PENDING
        assert fourth.approval_id != first.approval_id


@pytest.mark.parametrize(
    "changed", [{"text": "DELETE FROM orders "}, {"parameters": (Parameter("8"), Parameter(None))}]
)
async def test_a_deferred_approval_is_for_that_operation_only(acme: Site, changed: dict[str, Any]) -> None:
    session = await run(acme, lambda: prepare(acme))
    async with signed_on(acme) as worker:
        first = await ask(worker, asking(session, mode=ApprovalMode.DEFER))
        await run(acme, decide(acme, first))
        other = await ask(worker, asking(session, mode=ApprovalMode.DEFER, **changed))
    assert other.state is ApprovalState.PENDING
    assert other.approval_id != first.approval_id


@pytest.mark.parametrize("how", ["withdrawn", "closed", "recorded", "lost"])
async def test_when_nobody_waits_any_more_it_is_withdrawn(acme: Site, how: str) -> None:
    session = await run(acme, lambda: prepare(acme))
    async with signed_on(acme) as worker:
        ticket = await ask(worker, asking(session))
        match how:
            case "withdrawn":
                await worker.send(WithdrawApproval(ticket.approval_id, reason="the agent cancelled"))
            case "closed":
                await worker.send(CloseSession(str(session.pk), reason="gone"))
            case "recorded":
                journal = JournalScript()
                journal.write(opened(str(session.pk)), closed(str(session.pk), 1))
                await worker.send(journal.whole())
                await worker.receive(Ack)
            case "lost":
                await run(acme, lambda: AgentSession.objects.filter(pk=session.pk).update(state=SessionState.LOST))
                await database_sync_to_async(settle_unfinished)()
        decided = await worker.receive(ApprovalDecided)
    assert decided.state is ApprovalState.WITHDRAWN
    assert await run(acme, state_of(ticket)) == "withdrawn"


async def test_a_published_policy_voids_what_is_held(acme: Site) -> None:
    session = await run(acme, lambda: prepare(acme))
    async with signed_on(acme) as worker:
        ticket = await ask(worker, asking(session))
        await run(acme, lambda: publish(acme))
        decided = await worker.receive(ApprovalDecided)
        assert (decided.approval_id, decided.state) == (ticket.approval_id, ApprovalState.VOID)
        await worker.send(asking(session))  # decided by what is no longer in force
        assert "policy has changed" in (await worker.receive(Refused)).reason


async def test_when_the_only_approver_is_removed_the_gate_hears_that_it_is_over(acme: Site) -> None:
    session = await run(acme, lambda: prepare(acme))
    async with signed_on(acme) as worker:
        await ask(worker, asking(session))

        def remove() -> None:
            delete_membership(Membership.objects.get(role=Role.APPROVER), acting_user=None)

        await run(acme, remove)
        decided = await worker.receive(ApprovalDecided)
    assert (decided.state, decided.reason) == (ApprovalState.EXPIRED, "nobody is left who could approve it")


async def test_what_lapses_is_told_by_the_link_though_no_task_runs(acme: Site) -> None:
    session = await run(acme, lambda: prepare(acme))
    async with signed_on(acme) as worker:
        ticket = await ask(worker, asking(session))
        soon = timezone.now() + timedelta(seconds=0.2)
        await run(acme, lambda: ApprovalRequest.objects.filter(pk=ticket.approval_id).update(expires_at=soon))
        assert (await worker.receive(ApprovalDecided)).state is ApprovalState.EXPIRED


async def test_the_tasks_may_run_twice(acme: Site) -> None:
    session = await run(acme, lambda: prepare(acme))
    async with signed_on(acme) as worker:
        ticket = await ask(worker, asking(session))
        for _ in range(2):
            await database_sync_to_async(settle_due_approvals)()
            await database_sync_to_async(review_open_approvals)()
        assert await run(acme, state_of(ticket)) == "pending"


async def test_a_preview_is_asked_for_once_and_what_comes_is_kept(acme: Site) -> None:
    session = await run(acme, lambda: prepare(acme))
    async with signed_on(acme) as worker:
        ticket = await ask(worker, asking(session))
        await worker.send(ApprovalPreview(ticket.approval_id, exact=False, rows=90, plan="[…]", problem=""))

        def want_count() -> None:
            request = ApprovalRequest.objects.get(pk=ticket.approval_id)
            ask_preview(request, exact=True, acting_user=person(acme.tenant, Role.ADMIN))

        await run(acme, want_count)
        assert await worker.receive(AskPreview) == AskPreview(ticket.approval_id, exact=True)
        await worker.send(ApprovalPreview(ticket.approval_id, exact=True, rows=94, plan="", problem=""))
        for less in (
            ApprovalPreview(ticket.approval_id, exact=False, rows=1, plan="", problem=""),
            ApprovalPreview(ticket.approval_id, exact=True, rows=None, plan="", problem="the session has ended"),
        ):
            await worker.send(less)
        await run(acme, decide(acme, ticket))
        await worker.receive(ApprovalDecided)  # and not one more AskPreview
    request = await run(acme, lambda: ApprovalRequest.objects.get(pk=ticket.approval_id))
    assert (request.preview_rows, request.preview_was_exact) == (94, True)


async def test_a_session_of_another_worker_can_not_be_asked_for(acme: Site, globex: Site) -> None:
    session = await run(acme, lambda: prepare(acme))
    frame = asking(session)
    async with signed_on(acme) as worker:
        ticket = await ask(worker, frame)
    async with signed_on(globex) as stranger:
        await stranger.send(frame)
        assert "session is over" in (await stranger.receive(Refused)).reason
        await stranger.send(WithdrawApproval(ticket.approval_id, reason="mine"))
        await stranger.send(ApprovalPreview(ticket.approval_id, exact=True, rows=0, plan="", problem=""))
        await stranger.send(msgspec.structs.replace(frame, request_id=99))
        await stranger.receive(Refused)
    request = await run(acme, lambda: ApprovalRequest.objects.get(pk=UUID(ticket.approval_id)))
    assert (request.state, request.preview_at) == ("pending", None)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"text_bytes": 100_000}, "too long to be approved"),
        ({"parameters": (Parameter("x", truncated_bytes=1),)}, "too long to be approved"),
        ({"decision": None}, "which there isn't"),
    ],
)
async def test_what_cannot_be_approved_is_refused_in_clear_words(acme: Site, changed: Any, told: str) -> None:
    session = await run(acme, lambda: prepare(acme))
    frame = asking(session)
    if "decision" in changed:
        approval = Approval(flow="nobody-made-it")
        changed = {"decision": msgspec.structs.replace(frame.decision, approval=approval)}
    async with signed_on(acme) as worker:
        await worker.send(msgspec.structs.replace(frame, **changed))
        refusal = await worker.receive(Refused)
    assert told in refusal.reason
    assert refusal.help
    assert not await run(acme, lambda: list(ApprovalRequest.objects.all()))
