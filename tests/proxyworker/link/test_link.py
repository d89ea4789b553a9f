"""The link against a real WebSocket server that speaks the contract."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from policies.engine import Access, Approval, Decision, Effect, Kind, Limit, Operation
from proxyworker import link as link_module
from proxyworker.contract import (
    Amounts,
    ApprovalDecided,
    ApprovalPreview,
    ApprovalState,
    AskPreview,
    Authenticate,
    CloseSession,
    Enrol,
    Heartbeat,
    OpenSession,
    OperationIntent,
    RequestApproval,
    ReserveBudget,
    Revoke,
    Secret,
    SessionGrant,
    TlsFacts,
    Welcome,
    WithdrawApproval,
)
from proxyworker.errors import ApprovalRefused, BudgetRefused, LinkUnavailable, SessionRefused
from proxyworker.identity import Identity
from proxyworker.link import Link
from proxyworker.net.tasks import spawn
from tests.proxyworker.control_plane import ControlPlane
from tests.proxyworker.records import intent, session_id

TOKEN = "ng_agent_token_that_nobody_may_see"


async def open_session(link: Link, target: str = "shop") -> SessionGrant:
    return await link.open_session(
        protocol="postgres",
        target=target,
        credential=Secret(TOKEN),
        client_address="127.0.0.1:50000",
        client_name="psql",
        tls=TlsFacts(),
    )


async def test_a_worker_enrols_once_and_from_then_on_signs_with_its_key(
    control_plane: ControlPlane, link: Link, tmp_path: Path
) -> None:
    await control_plane.heard_of(Heartbeat)
    assert link.connected
    await control_plane.cut()
    await control_plane.heard_of(Authenticate)
    assert [type(frame) for frame in control_plane.heard if isinstance(frame, Enrol | Authenticate)] == [
        Enrol,
        Authenticate,
    ]
    after_restart = Identity(tmp_path / "state", name="test-worker", join_token_file=None)
    assert {after_restart.worker_id} == set(control_plane.workers)


async def test_a_refused_worker_tries_again_with_a_fresh_token(
    control_plane: ControlPlane, identity: Identity, put_join_token: Callable[[str], None]
) -> None:
    put_join_token("ngj_used")
    link = Link(control_plane.url, identity=identity, tls=None)
    task = spawn("link", link.run())
    await control_plane.heard_of(Enrol, times=2)
    control_plane.join_tokens.add("ngj_fresh")
    put_join_token("ngj_fresh")
    await control_plane.heard_of(Heartbeat)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_session_is_granted(control_plane: ControlPlane, link: Link) -> None:
    await control_plane.heard_of(Heartbeat)
    grant = await open_session(link)
    assert grant.target.name == "shop"
    assert grant.credential.secret.value == "target-password"


async def test_answers_find_their_questions_in_any_order(control_plane: ControlPlane, link: Link) -> None:
    await control_plane.heard_of(Heartbeat)
    grants = await asyncio.gather(*(open_session(link, f"target-{number}") for number in range(200)))
    assert [grant.target.name for grant in grants] == [f"target-{number}" for number in range(200)]


async def test_a_refusal_carries_what_the_agent_may_be_told(control_plane: ControlPlane, link: Link) -> None:
    await control_plane.heard_of(Heartbeat)
    with pytest.raises(SessionRefused) as caught:
        await open_session(link, "secret")
    assert (caught.value.refused.reason, caught.value.refused.help) == ("no rule allows it", "Ask for one.")


async def test_without_a_link_nobody_waits(control_plane: ControlPlane, identity: Identity) -> None:
    link = Link(control_plane.url, identity=identity, tls=None)
    with pytest.raises(LinkUnavailable):
        await open_session(link)
    link.session_closed("none", "nobody hears it, nothing is raised")


async def test_a_link_lost_before_the_answer_ends_the_question_and_comes_back(
    control_plane: ControlPlane, link: Link
) -> None:
    await control_plane.heard_of(Heartbeat)
    question = spawn("question", _expect_unavailable(link))
    await control_plane.heard_of(OpenSession)
    control_plane.answer_now.set()
    control_plane.links[0].transport.abort()
    await question
    await control_plane.heard_of(Authenticate)
    beats = sum(isinstance(frame, Heartbeat) for frame in control_plane.heard)
    await control_plane.heard_of(Heartbeat, times=beats + 1)
    assert (await open_session(link)).target.name == "shop"


async def _expect_unavailable(link: Link) -> None:
    with pytest.raises(LinkUnavailable):
        await open_session(link, "slow")


async def test_an_answer_that_takes_too_long_is_a_refusal_and_a_late_grant_is_closed(
    control_plane: ControlPlane, link: Link, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link_module, "OPEN_SESSION_SECONDS", 0.02)
    await control_plane.heard_of(Heartbeat)
    await _expect_unavailable(link)
    control_plane.answer_now.set()
    await control_plane.heard_of(CloseSession)


async def test_a_revocation_reaches_the_data_path(control_plane: ControlPlane, link: Link) -> None:
    revoked: asyncio.Future[tuple[Sequence[str], str]] = asyncio.get_running_loop().create_future()
    link.on_revoke = lambda session_ids, reason: revoked.set_result((session_ids, reason))
    await control_plane.heard_of(Heartbeat)
    await control_plane.say(Revoke(session_ids=("one", "two"), reason="the agent was deactivated"))
    assert await revoked == (("one", "two"), "the agent was deactivated")


async def test_heartbeats_tell_what_the_worker_holds(control_plane: ControlPlane, link: Link) -> None:
    link.vitals = lambda: Heartbeat(sessions=3, journal_bytes=4)
    await control_plane.heard_of(Heartbeat, times=2)
    assert control_plane.heard[-1] == Heartbeat(sessions=3, journal_bytes=4)


@pytest.mark.parametrize("nonsense", [b"\x00garbage", "text"])
async def test_a_control_plane_that_talks_nonsense_is_left_and_met_again(
    control_plane: ControlPlane, link: Link, nonsense: bytes | str
) -> None:
    await control_plane.heard_of(Heartbeat)
    await control_plane.links[0].send(nonsense)
    await control_plane.heard_of(Authenticate)


async def test_a_second_welcome_ends_the_link(control_plane: ControlPlane, link: Link) -> None:
    await control_plane.heard_of(Heartbeat)
    await control_plane.say(Welcome(worker_id="another", tenant_id="", heartbeat_seconds=1, acknowledged={}))
    await control_plane.heard_of(Authenticate)


async def test_no_secret_is_logged(
    control_plane: ControlPlane, link: Link, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.DEBUG)
    await control_plane.heard_of(Heartbeat)
    await open_session(link)
    with pytest.raises(SessionRefused):
        await open_session(link, "secret")
    await control_plane.cut()
    await control_plane.heard_of(Authenticate)
    captured = capsys.readouterr()
    seen = caplog.text + captured.out + captured.err
    assert "link_up" in seen
    assert TOKEN not in seen
    assert "target-password" not in seen


async def test_a_database_logins_verifier_is_asked_for(control_plane: ControlPlane, link: Link) -> None:
    await control_plane.heard_of(Heartbeat)
    verifier = await link.verifier_of("0123456789abcdef", client_address="10.0.0.1:5")
    assert verifier.value == "verifier of 0123456789abcdef"
    assert "0123456789abcdef" not in f"{verifier}{verifier!r}"
    with pytest.raises(SessionRefused, match="too many logins"):
        await link.verifier_of("busy", client_address="10.0.0.1:5")


async def test_without_a_link_there_is_no_verifier(identity: Identity) -> None:
    with pytest.raises(LinkUnavailable):
        await Link("ws://127.0.0.1:1/", identity=identity, tls=None).verifier_of("x", client_address="10.0.0.1:5")


DELETE = Operation(accesses=(Access(Kind.DELETE, "public.orders"),))


def held_for(flow: str) -> OperationIntent:
    """An intent that needs an approval by this flow."""
    decision = Decision(Effect.REQUIRE_APPROVAL, "shop@1", "ask first", "so", approval=Approval(flow=flow))
    return msgspec.structs.replace(intent(session_id(1), 7, "DELETE FROM orders"), decision=decision)


async def test_an_approval_is_asked_for_and_decided_by_push(control_plane: ControlPlane, link: Link) -> None:
    await control_plane.heard_of(Heartbeat)
    decided: asyncio.Queue[ApprovalDecided] = asyncio.Queue()
    asked: asyncio.Queue[AskPreview] = asyncio.Queue()
    link.on_approval_decided = decided.put_nowait
    link.on_preview_asked = asked.put_nowait
    ticket = await link.request_approval(held_for("dba"), operation=DELETE, operation_sha256=bytes(32))
    assert (ticket.approval_id, ticket.state) == (f"{session_id(1)}:7", ApprovalState.PENDING)
    (frame,) = [frame for frame in control_plane.heard if isinstance(frame, RequestApproval)]
    assert (frame.op, frame.kind, frame.text, frame.operation) == (7, "query", "DELETE FROM orders", DELETE)
    await control_plane.say(AskPreview(ticket.approval_id, exact=True))
    assert (await asked.get()).exact
    preview = ApprovalPreview(ticket.approval_id, exact=True, rows=5, plan="", problem="")
    link.approval_preview(preview)
    await control_plane.heard_of(ApprovalPreview)
    await control_plane.say(ApprovalDecided(ticket.approval_id, ApprovalState.GRANTED, "go on"))
    assert await decided.get() == ApprovalDecided(ticket.approval_id, ApprovalState.GRANTED, "go on")
    assert link.withdraw_approval(ticket.approval_id, "over")
    await control_plane.heard_of(WithdrawApproval)
    assert preview in control_plane.heard


async def test_an_approval_without_a_flow_is_refused(control_plane: ControlPlane, link: Link) -> None:
    await control_plane.heard_of(Heartbeat)
    with pytest.raises(ApprovalRefused, match="there is no such flow"):
        await link.request_approval(held_for("nobody"), operation=DELETE, operation_sha256=bytes(32))


async def test_a_ticket_that_nobody_waits_for_any_more_is_withdrawn(control_plane: ControlPlane, link: Link) -> None:
    await control_plane.heard_of(Heartbeat)
    asking = spawn("ask", link.request_approval(held_for("slow"), operation=DELETE, operation_sha256=bytes(32)))
    await control_plane.heard_of(RequestApproval)
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    control_plane.answer_now.set()
    await control_plane.heard_of(WithdrawApproval)


def budget_of(rule: str) -> dict[str, Any]:
    """A question about it."""
    return {
        "session_id": session_id(1), "rule": rule, "limit": Limit(rows=100), "lease_id": "a" * 32, "period_start": 0.0,
        "used": Amounts(), "wanted": Amounts(rows=5),
    }  # fmt: skip


async def test_a_part_of_a_budget_is_leased_or_refused(control_plane: ControlPlane, link: Link) -> None:
    await control_plane.heard_of(Heartbeat)
    lease = await link.reserve_budget(**budget_of("few"))
    assert (lease.granted, lease.lasts_seconds) == (Amounts(rows=5), 30.0)
    (frame,) = [frame for frame in control_plane.heard if isinstance(frame, ReserveBudget)]
    assert (frame.rule, frame.limit, frame.lease_id) == ("few", Limit(rows=100), "a" * 32)
    with pytest.raises(BudgetRefused, match="nothing is counted now"):
        await link.reserve_budget(**budget_of("uncounted"))


async def test_values_are_counted_or_refused(control_plane: ControlPlane, link: Link) -> None:
    await control_plane.heard_of(Heartbeat)
    few = Limit(distinct=5, labels=("email",))
    counted = await link.count_values(session_id=session_id(1), rule="few", limit=few, values=b"v" * 32)
    assert (counted.accepted, counted.used) == (2, 7)
    with pytest.raises(BudgetRefused, match="nothing is counted now"):
        await link.count_values(session_id=session_id(1), rule="uncounted", limit=few, values=b"")


async def test_whoever_waits_hears_that_there_is_a_link_again(control_plane: ControlPlane, link: Link) -> None:
    await control_plane.heard_of(Heartbeat)
    is_up = asyncio.Event()
    link.on_up = is_up.set
    await control_plane.cut()
    await is_up.wait()
    assert link.connected
    await link.request_approval(held_for("dba"), operation=DELETE, operation_sha256=bytes(32))


async def test_without_a_link_no_approval_can_be_asked_for_or_withdrawn(
    control_plane: ControlPlane, identity: Identity
) -> None:
    link = Link(control_plane.url, identity=identity, tls=None)
    with pytest.raises(LinkUnavailable):
        await link.request_approval(held_for("dba"), operation=DELETE, operation_sha256=bytes(32))
    assert not link.withdraw_approval("1", "over")
