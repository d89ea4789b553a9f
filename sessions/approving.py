"""Approvals over the link: the contract's frames on one side, `policies.approvals` on the other.

    RequestApproval    answered by what `asking.ask` makes of it, bound to the session's agent, target and principal
    WithdrawApproval   kept; nothing is answered
    ApprovalPreview    kept; nothing is answered
    news_of            what a link has to push: decisions on what its gate holds, and previews that people ask for

What is asked of a session that isn't this worker's, or is over, is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

from django.db.models import Exists, F, OuterRef, Q
from django_scopes import scope

from controlplane.tenancy import every_tenant
from policies.approvals import asking
from policies.approvals.access import url_of
from policies.approvals.asking import Asked
from policies.approvals.errors import AskRefused
from policies.approvals.models import ApprovalRequest, ApprovalState, Mode
from policies.approvals.settling import withdraw_held
from proxyworker import contract
from proxyworker.contract import (
    ApprovalDecided,
    ApprovalPreview,
    ApprovalTicket,
    AskPreview,
    RefusalCode,
    Refused,
    RequestApproval,
    WithdrawApproval,
)
from sessions.errors import PeerFault
from sessions.ingest import LinkedWorker
from sessions.models import DIGEST_BYTES, AgentSession, SessionState

_ENDED: Final = "the session ended before it was decided"


@dataclass(frozen=True, slots=True)
class News:
    """What to push, and what is `held` still. `next_at`: when the first of that lapses.

    `previews` are by what was asked for and when: a link pushes each once.
    """

    decided: tuple[ApprovalDecided, ...]
    held: frozenset[UUID]
    previews: Mapping[tuple[UUID, datetime], AskPreview]
    next_at: datetime | None


def request_approval(worker: LinkedWorker, frame: RequestApproval, *, now: datetime) -> ApprovalTicket | Refused:
    """How the request stands, made if it is new. Raises `PeerFault` for what a sound worker doesn't send."""
    if len(frame.operation_sha256) != DIGEST_BYTES or not 0 < frame.op < 2**31:
        raise PeerFault("an approval request out of bounds")
    with scope(tenant=worker.tenant_id):
        sessions = AgentSession.objects.select_related("agent__tenant", "agent__sponsor", "target", "worker")
        session = (
            sessions.filter(pk=_uuid(frame.session_id), worker=worker.id).exclude(state=SessionState.CLOSED).first()
        )
        if session is None or session.end_requested_at is not None or session.withdrawn_at is not None:
            return _refused(frame, RefusalCode.DENIED, "the session is over", "Connect again.")
        try:
            answer = asking.ask(_asked(session, frame), now=now)
        except AskRefused as refusal:
            code = RefusalCode.BUSY if refusal.is_busy else RefusalCode.DENIED
            return _refused(frame, code, refusal.reason, refusal.help)
    return ApprovalTicket(
        request_id=frame.request_id,
        approval_id=str(answer.approval_id),
        url=url_of(answer.approval_id),
        state=contract.ApprovalState(answer.state.value),
        reason=answer.reason,
        expires_at=answer.expires_at.timestamp(),
    )


def withdraw_approval(worker: LinkedWorker, frame: WithdrawApproval, *, now: datetime) -> None:
    """The agent no longer waits."""
    with scope(tenant=worker.tenant_id):
        asking.withdraw(_uuid(frame.approval_id), worker_id=worker.id, reason=frame.reason, now=now)


def keep_preview(worker: LinkedWorker, frame: ApprovalPreview, *, now: datetime) -> None:
    """What the worker found out, for the approvers to see."""
    if frame.rows is not None and not 0 <= frame.rows < 2**63:
        raise PeerFault("a preview out of bounds")
    with scope(tenant=worker.tenant_id):
        asking.keep_preview(
            _uuid(frame.approval_id),
            worker_id=worker.id,
            is_exact=frame.exact,
            rows=frame.rows,
            plan=frame.plan,
            problem=frame.problem,
            now=now,
        )


def news_of(worker: LinkedWorker, held: Iterable[UUID], *, now: datetime) -> News:
    """What became of the requests that this link knows as waiting, and the previews that people ask for."""
    still_held = set()
    decided = []
    next_at = None
    with scope(tenant=worker.tenant_id):
        own = AgentSession.objects.filter(pk=OuterRef("session_id"), process=worker.process)
        requests = ApprovalRequest.objects.filter(Exists(own), worker=worker.id)
        known = requests.filter(pk__in=list(held), mode=Mode.HOLD).order_by("pk")
        for approval_id, state, expires_at in known.values_list("pk", "state", "expires_at"):
            if state == ApprovalState.PENDING and expires_at > now:
                still_held.add(approval_id)
                next_at = min(next_at or expires_at, expires_at)
                continue
            answer = asking.take_decision(approval_id, worker_id=worker.id, now=now)
            if answer is not None:
                decision = contract.ApprovalState(answer.state.value)
                decided.append(ApprovalDecided(str(approval_id), state=decision, reason=answer.reason))
        unanswered = Q(preview_at=None) | Q(preview_at__lt=F("preview_asked_at"))
        unanswered |= Q(preview_is_exact=True, preview_was_exact=False)
        wanted = requests.filter(unanswered, state=ApprovalState.PENDING, preview_asked_at__isnull=False)
        rows = wanted.filter(Q(pk__in=still_held) | Q(mode=Mode.DEFER))
        previews = {
            (pk, asked_at): AskPreview(str(pk), exact=exact)
            for pk, asked_at, exact in rows.values_list("pk", "preview_asked_at", "preview_is_exact")
            if asked_at is not None
        }
    return News(decided=tuple(decided), held=frozenset(still_held), previews=previews, next_at=next_at)


def withdraw_of_session(worker: LinkedWorker, session_id: UUID, *, now: datetime) -> None:
    """The worker says that the session is over: nobody waits in it."""
    withdraw_held(Q(session_id=session_id, worker=worker.id), reason=_ENDED, now=now)


def withdraw_orphans(*, now: datetime) -> int:
    """Withdraw what is held in sessions that are over or lost, in all tenants. Returns how many requests there were."""
    over = (SessionState.CLOSED, SessionState.LOST)
    with every_tenant():
        ended = Exists(AgentSession.objects.filter(pk=OuterRef("session_id"), state__in=over))
        return withdraw_held(Q(ended), reason=_ENDED, now=now)


def _asked(session: AgentSession, frame: RequestApproval) -> Asked:
    return Asked(
        session_id=session.pk,
        session_expires_at=session.expires_at,
        op=frame.op,
        worker=session.worker,
        agent=session.agent,
        target=session.target,
        principal=session.principal,
        kind=frame.kind,
        text=frame.text,
        text_bytes=frame.text_bytes,
        parameters=[
            {"value": parameter.value, "binary": parameter.binary, "truncated_bytes": parameter.truncated_bytes}
            for parameter in frame.parameters
        ],
        operation_sha256=frame.operation_sha256,
        operation=frame.operation,
        decision=frame.decision,
    )


def _refused(frame: RequestApproval, code: RefusalCode, reason: str, what_helps: str) -> Refused:
    return Refused(request_id=frame.request_id, code=code, reason=reason, help=what_helps)


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise PeerFault("an id that is none") from error
