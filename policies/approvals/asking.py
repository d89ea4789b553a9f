"""What gates ask, by way of the link: may this operation pass, nobody waits any more, this is what it would touch.

ask: the same session and op asked again ─► as it stands
     a grant covers it                   ─► granted, one use taken
     a deferred request like it waits    ─► that one
     the flow's condition holds          ─► granted
     else                                ─► a new request
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec
import structlog
from django.db import IntegrityError, transaction
from django.db.models import F, Q
from django_scopes import scope

from accounts.models import Agent
from controlplane.ledger.actions import append_entry
from policies.access import describe_target, effective_version
from policies.approvals import signals
from policies.approvals.binding import binding_of, principal_digest, template_digest
from policies.approvals.conditions import condition_holds
from policies.approvals.errors import AskRefused
from policies.approvals.models import (
    ApprovalFlow,
    ApprovalGrant,
    ApprovalRequest,
    ApprovalState,
    ApprovalUse,
    Mode,
    Scope,
)
from policies.approvals.settling import advance, grant, lock, note, withdraw_locked
from policies.approvals.terms import Terms, merge_terms, parse_terms, told
from policies.engine import Approval, ApprovalMode, Decision, Operation
from policies.models import Policy
from targets.models import ProxyWorker, Target

log = structlog.get_logger(__name__)

#: Open requests of one agent: more would only hide others from the approvers. 50 held at once are a sound agent's.
MAX_PENDING: Final = 200
MAX_PLAN_CHARACTERS: Final = 64 * 1024
#: What PostgreSQL's text can't hold, and what stands for it: as in the record's index.
_NUL: Final = "\x00"
_NUL_SHOWN: Final = "␀"
_PREVIEW_FIELDS: Final = (
    "preview_at", "preview_was_exact", "preview_rows", "preview_plan", "preview_problem", "updated_at"
)  # fmt: skip
_NARROWEST_FIRST: Final = {Scope.ONCE: 0, Scope.TEMPLATE: 1, Scope.WINDOW: 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """An operation that needs a yes, with what it is bound to. `parameters`: dicts of the contract's `Parameter`."""

    session_id: UUID
    session_expires_at: datetime
    op: int
    worker: ProxyWorker
    agent: Agent
    target: Target
    principal: dict[str, Any]
    kind: str
    text: str
    text_bytes: int
    parameters: list[dict[str, Any]]
    operation_sha256: bytes
    operation: Operation
    decision: Decision


@dataclass(frozen=True, slots=True)
class Answer:
    """How it stands. GRANTED is used up by being said."""

    approval_id: UUID
    state: ApprovalState
    reason: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class _Bound:
    """What has to be the same for an earlier yes to count."""

    flow: str
    terms: Terms
    mode: ApprovalMode
    hold_seconds: int
    principal_sha256: bytes
    template_sha256: bytes | None
    binding: bytes


def ask(asked: Asked, *, now: datetime) -> Answer:
    """Answer the gate, having written what there is to write. Raises `AskRefused`."""
    with scope(tenant=asked.agent.tenant_id):
        bound = _bind(asked)
        try:
            with transaction.atomic():
                return _answer(asked, bound, now=now)
        except IntegrityError:  # the same was asked at the same moment: now it is there
            with transaction.atomic():
                return _answer(asked, bound, now=now)


def withdraw(approval_id: UUID, *, worker_id: UUID, reason: str, now: datetime) -> None:
    """The agent of this worker no longer waits. In its scope; what isn't there, or isn't held, stays as it is."""
    with transaction.atomic():
        if ApprovalRequest.objects.filter(pk=approval_id, worker=worker_id).exists():
            withdraw_locked(lock(approval_id), reason=reason, now=now)


def keep_preview(
    approval_id: UUID, *, worker_id: UUID, is_exact: bool, rows: int | None, plan: str, problem: str, now: datetime
) -> None:
    """What the worker found out. What tells less than what is there changes nothing. In its scope."""
    with transaction.atomic():
        if not ApprovalRequest.objects.filter(pk=approval_id, worker=worker_id).exists():
            return
        locked = lock(approval_id)
        if _tells_less(locked, is_exact=is_exact, rows=rows):
            return
        locked.preview_at, locked.preview_was_exact, locked.preview_rows = now, is_exact, rows
        locked.preview_plan = _plain(plan[:MAX_PLAN_CHARACTERS])
        locked.preview_problem = _plain(problem[:500])
        locked.save(update_fields=_PREVIEW_FIELDS)  # not an update: whoever looks at it is woken by the save


def take_decision(approval_id: UUID, *, worker_id: UUID, now: datetime) -> Answer | None:
    """What became of a held request, for the gate to hear now; None while it is pending. In the worker's scope."""
    with transaction.atomic():
        if not ApprovalRequest.objects.filter(pk=approval_id, worker=worker_id).exists():
            return None
        return _said(lock(approval_id), now=now)


def _bind(asked: Asked) -> _Bound:
    approvals = _approvals_of(asked.decision)
    names = list(dict.fromkeys(approval.flow for approval in approvals))
    flows = {flow.name: flow for flow in ApprovalFlow.objects.filter(name__in=names, is_active=True)}
    missing = [name for name in names if name not in flows]
    if missing or not names:
        reason = f"rule {asked.decision.rule!r} needs approval flow {', '.join(missing)!r}, which there isn't"
        raise AskRefused(reason, "An administrator has to create the flow, or activate it.")
    principal = {**asked.principal, "id": str(asked.agent.pk)}
    principal_sha256 = principal_digest(principal)
    waits = [approval.hold_seconds for approval in approvals if approval.hold_seconds]
    is_deferred = any(approval.mode is ApprovalMode.DEFER for approval in approvals)
    return _Bound(
        flow="+".join(names),
        terms=merge_terms(parse_terms(flows[name].terms) for name in names),
        mode=ApprovalMode.DEFER if is_deferred else ApprovalMode.HOLD,
        hold_seconds=min(waits, default=0),
        principal_sha256=principal_sha256,
        template_sha256=template_digest(asked.operation),
        binding=binding_of(
            operation_sha256=asked.operation_sha256,
            principal_sha256=principal_sha256,
            target_id=str(asked.target.pk),
            policy_version=asked.decision.policy_version,
        ),
    )


def _approvals_of(decision: Decision) -> tuple[Approval, ...]:
    return () if decision.approval is None else (decision.approval, *decision.further_approvals)


def _answer(asked: Asked, bound: _Bound, *, now: datetime) -> Answer:
    known = (
        ApprovalRequest.objects.filter(session_id=asked.session_id, op=asked.op).values_list("pk", flat=True).first()
    )
    if known is not None:
        locked = lock(known)
        if bytes(locked.binding) != bound.binding or locked.flow != bound.flow:
            return Answer(locked.pk, ApprovalState.VOID, "it is not what was asked before", locked.expires_at)
        answer = _said(locked, now=now) or _as_it_stands(locked)
        if locked.mode == Mode.HOLD or locked.used_at is not None or answer.state is not ApprovalState.GRANTED:
            return answer
    use = ApprovalUse.objects.filter(session_id=asked.session_id, op=asked.op).select_related("grant__request").first()
    if use is not None:
        return _answer_again(use, asked)
    if effective_version(asked.agent.tenant_id) != asked.decision.policy_version:
        raise AskRefused("the policy has changed since this was decided", "Send it again: it is then decided anew.")
    given = _take_use(asked, bound, now=now)
    if given is not None:
        left = "" if given.uses_left is None else f", which covers {given.uses_left} more"
        reason = f"covered by approval {given.request_id}{left}"
        return Answer(given.request_id, ApprovalState.GRANTED, reason, given.expires_at)
    if known is not None:
        return Answer(known, ApprovalState.VOID, "its approval has been used", now)
    earlier = _deferred_earlier(bound, now=now) if bound.mode is ApprovalMode.DEFER else None
    return earlier or _open(asked, bound, now=now)


def _deferred_earlier(bound: _Bound, *, now: datetime) -> Answer | None:
    """How the same operation stands that was deferred before: it waits, or somebody said no to it not long ago."""
    alike = ApprovalRequest.objects.filter(binding=bound.binding, flow=bound.flow, mode=Mode.DEFER, expires_at__gt=now)
    stands = alike.filter(state__in=(ApprovalState.PENDING, ApprovalState.REJECTED)).order_by("-created_at")
    request_id = stands.values_list("pk", flat=True).first()
    if request_id is None:
        return None
    locked = lock(request_id)
    advance(locked, now=now)
    is_told = locked.is_pending or locked.state == ApprovalState.REJECTED
    return _as_it_stands(locked) if is_told else None


def _said(locked: ApprovalRequest, *, now: datetime) -> Answer | None:
    """The decision, which is used up if it is a yes to what is held; None while there is none."""
    advance(locked, now=now)
    if locked.is_pending:
        return None
    if locked.state == ApprovalState.GRANTED and locked.mode == Mode.HOLD and locked.used_at is None:
        locked.used_at = now
        locked.save(update_fields=("used_at", "updated_at"))
    return _as_it_stands(locked)


def _as_it_stands(request: ApprovalRequest) -> Answer:
    reason = request.decision_reason or f"waits for approval by flow {request.flow!r}"
    return Answer(request.pk, ApprovalState(request.state), reason, request.expires_at)


def _answer_again(use: ApprovalUse, asked: Asked) -> Answer:
    given = use.grant
    if bytes(use.operation_sha256) != asked.operation_sha256:
        return Answer(given.request_id, ApprovalState.VOID, "it is not what was asked before", given.expires_at)
    return Answer(given.request_id, ApprovalState.GRANTED, f"covered by approval {given.request_id}", given.expires_at)


def _take_use(asked: Asked, bound: _Bound, *, now: datetime) -> ApprovalGrant | None:
    """Take a use of the narrowest grant that covers this: by an update that only one can win."""
    covers = Q(scope=Scope.ONCE, covers=bound.binding) | Q(scope=Scope.WINDOW)
    if bound.template_sha256 is not None:
        covers |= Q(scope=Scope.TEMPLATE, covers=bound.template_sha256)
    grants = ApprovalGrant.objects.filter(
        covers,
        Q(uses_left=None) | Q(uses_left__gt=0),
        agent=asked.agent,
        target=asked.target,
        flow=bound.flow,
        principal_sha256=bound.principal_sha256,
        policy_version=asked.decision.policy_version,
        ended_at=None,
        expires_at__gt=now,
    ).order_by("created_at")
    for given in sorted(grants, key=lambda one: _NARROWEST_FIRST[Scope(one.scope)]):
        if not grants.filter(pk=given.pk).order_by().update(uses_left=F("uses_left") - 1, updated_at=now):
            continue
        given.refresh_from_db()
        ApprovalUse.objects.create(
            tenant_id=given.tenant_id,
            grant=given,
            session_id=asked.session_id,
            op=asked.op,
            operation_sha256=asked.operation_sha256,
        )
        append_entry(
            tenant=given.tenant,
            kind="approval_grant.used",
            acting_user=None,
            subject=f"approval_grant:{given.pk}",
            before=None,
            after={"session": asked.session_id, "op": asked.op, "uses_left": given.uses_left},
        )
        return given
    return None


def _open(asked: Asked, bound: _Bound, *, now: datetime) -> Answer:
    if _is_cut(asked):
        raise AskRefused(
            "it is too long to be approved: nobody would see all of it",
            "Approvers see 64 KiB of text and 8 KiB of each parameter; split it into smaller operations.",
        )
    if ApprovalRequest.objects.filter(agent=asked.agent, state=ApprovalState.PENDING).count() >= MAX_PENDING:
        reason = f"{MAX_PENDING} operations of this agent wait for approval already"
        raise AskRefused(reason, "Wait until some of them are decided.", is_busy=True)
    request = _write(asked, bound, now=now)
    described = {
        "agent": asked.agent.name,
        "target": asked.target.name,
        "session": asked.session_id,
        "op": asked.op,
        "operation_sha256": asked.operation_sha256.hex(),
        "binding": bound.binding.hex(),
        "policy_version": request.policy_version,
        "rule": request.rule,
        "flow": request.flow,
        "mode": request.mode,
    }
    note(request, "requested", acting_user=None, before=None, after=described)
    if bound.terms.auto_approve and condition_holds(
        bound.terms.auto_approve,
        principal=asked.principal,
        operation=asked.operation,
        target=describe_target(asked.target),
        text=asked.text,
        now=now,
    ):
        grant(request, bound.terms, now=now, acting_user=None, counted=(), is_used=True)
        return _as_it_stands(request)
    signals.opened.send(sender=ApprovalRequest, request=request)
    return _said(request, now=now) or _as_it_stands(request)


def _write(asked: Asked, bound: _Bound, *, now: datetime) -> ApprovalRequest:
    terms, escalation = bound.terms, bound.terms.escalation
    seconds = terms.expires_after_seconds
    expires_at = now + timedelta(seconds=seconds)
    if bound.mode is ApprovalMode.HOLD:
        if bound.hold_seconds:
            expires_at = now + timedelta(seconds=min(seconds, bound.hold_seconds))
        expires_at = min(expires_at, asked.session_expires_at)
    policy_name = asked.decision.rule.partition("/")[0]
    policy = Policy.objects.filter(name=policy_name).select_related("current").first()
    author_id = policy.current.author_id if policy is not None and policy.current is not None else None
    return ApprovalRequest.objects.create(
        tenant=asked.agent.tenant,
        session_id=asked.session_id,
        op=asked.op,
        worker=asked.worker,
        agent=asked.agent,
        target=asked.target,
        principal=asked.principal,
        kind=asked.kind[:32],
        verb=asked.operation.verb[:200],
        text=_plain(asked.text),
        text_bytes=asked.text_bytes,
        parameters=[{**one, "value": one["value"] and _plain(one["value"])} for one in asked.parameters],
        facts=_plain_document(msgspec.to_builtins(asked.operation)),
        rule=asked.decision.rule[:200],
        rule_author_id=author_id,
        rule_reason=asked.decision.reason,
        flow=bound.flow,
        terms=told(terms),
        mode=bound.mode.value,
        policy_version=asked.decision.policy_version[:200],
        operation_sha256=asked.operation_sha256,
        principal_sha256=bound.principal_sha256,
        template_sha256=bound.template_sha256,
        binding=bound.binding,
        expires_at=expires_at,
        escalates_at=None if escalation is None else now + timedelta(seconds=escalation.after_seconds),
    )


def _tells_less(locked: ApprovalRequest, *, is_exact: bool, rows: int | None) -> bool:
    """An estimate after a count; or, of a count asked of several processes, that one of them couldn't."""
    if locked.preview_at is None or not locked.preview_was_exact:
        return False
    is_answered = locked.preview_asked_at is None or locked.preview_at >= locked.preview_asked_at
    return not is_exact or (rows is None and locked.preview_rows is not None and is_answered)


def _is_cut(asked: Asked) -> bool:
    return len(asked.text.encode("utf-8", "surrogatepass")) < asked.text_bytes or any(
        one["truncated_bytes"] for one in asked.parameters
    )


def _plain(text: str) -> str:
    return text.replace(_NUL, _NUL_SHOWN)


def _plain_document(value: Any) -> Any:
    if isinstance(value, str):
        return _plain(value)
    if isinstance(value, dict):
        return {key: _plain_document(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain_document(inner) for inner in value]
    return value
