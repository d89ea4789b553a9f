"""How requests move on: each step under the row's lock, with its ledger entry and its signal in the same transaction.

    conclude   a request ends in a state
    advance    what time, votes, and changes of people or policy have made of a request; all others call it
    the rest   calls it for whatever a wake-up or a task is about

Locks are taken in this order: request, grant, the ledger's head. A statement of the ledger holds no text of an
operation, only digests: texts may be somebody's data.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import structlog
from django.db import transaction
from django.db.models import Q, QuerySet
from django.utils import timezone
from django_scopes import scope

from accounts.models import User
from controlplane.ledger.actions import append_entry
from controlplane.tenancy import every_tenant
from policies.access import effective_version
from policies.approvals import signals
from policies.approvals.electors import Standing, electorate_of, standing_of
from policies.approvals.models import (
    TRANSITIONS,
    ApprovalGrant,
    ApprovalRequest,
    ApprovalState,
    ApprovalVote,
    Mode,
    Scope,
    Verdict,
)
from policies.approvals.terms import Terms

log = structlog.get_logger(__name__)

MAX_REASON_CHARACTERS: Final = 500
#: Requests that a task looks at in one round; the next round takes the rest.
MAX_ROUND: Final = 1_000

_SCOPES_BY_WIDTH: Final = (Scope.ONCE, Scope.TEMPLATE, Scope.WINDOW)
#: Granted, and the gate doesn't know yet.
_UNUSED: Final = Q(state=ApprovalState.GRANTED, mode=Mode.HOLD, used_at=None)
_PENDING: Final = Q(state=ApprovalState.PENDING)


def lock(request_id: UUID) -> ApprovalRequest:
    """The request under its row's lock, in a transaction. Raises `ApprovalRequest.DoesNotExist`."""
    requests = ApprovalRequest.objects.select_for_update(of=("self",))
    return requests.select_related("tenant", "agent", "target").get(pk=request_id)


def conclude(
    locked: ApprovalRequest,
    *,
    state: ApprovalState,
    reason: str,
    acting_user: User | None = None,
    now: datetime,
    also: dict[str, Any] | None = None,
) -> None:
    """End it so. `reason` may be shown to the agent. Raises ValueError for what it can't become."""
    if state not in TRANSITIONS[locked.state]:
        raise ValueError(f"{locked.state} does not become {state}")
    before = locked.state
    locked.state, locked.decided_at, locked.decision_reason = state, now, reason[:MAX_REASON_CHARACTERS]
    locked.save(update_fields=("state", "decided_at", "decision_reason", "is_break_glass", "used_at", "updated_at"))
    note(
        locked,
        state.value,
        acting_user=acting_user,
        before={"state": before},
        after={"state": state.value, "reason": locked.decision_reason, **(also or {})},
    )
    signals.decided.send(sender=ApprovalRequest, request=locked)


def note(
    request: ApprovalRequest,
    what: str,
    *,
    acting_user: User | None,
    before: dict[str, Any] | None,
    after: dict[str, Any] | None,
) -> None:
    """Enter `approval.<what>` into the tenant's ledger."""
    append_entry(
        tenant=request.tenant,
        kind=f"approval.{what}",
        acting_user=acting_user,
        subject=f"approval:{request.pk}",
        before=before,
        after=after,
    )


def advance(locked: ApprovalRequest, *, now: datetime, acting_user: User | None = None) -> None:
    """Bring a locked request up to date. `acting_user`: whose vote it may be that completes it."""
    if locked.state == ApprovalState.GRANTED:
        if locked.mode == Mode.HOLD and locked.used_at is None and _is_outdated(locked):
            conclude(locked, state=ApprovalState.VOID, reason=_outdated(locked), now=now)
        return
    if not locked.is_pending:
        return
    if now >= locked.expires_at:
        conclude(locked, state=ApprovalState.EXPIRED, reason="nobody decided in time", now=now)
        return
    if _is_outdated(locked):
        conclude(locked, state=ApprovalState.VOID, reason=_outdated(locked), now=now)
        return
    terms = locked.parsed_terms
    electorate = electorate_of(locked.tenant_id)
    standing = standing_of(locked, electorate)
    is_due = locked.escalates_at is not None and now >= locked.escalates_at
    can_escalate = terms.escalation is not None and locked.escalated_at is None
    if can_escalate and (is_due or not standing.tally.can_pass):
        _escalate(locked, now=now, why="nobody decided" if standing.tally.can_pass else "nobody was left to decide")
        standing = standing_of(locked, electorate)
    if standing.tally.is_passed:
        grant(locked, terms, now=now, acting_user=acting_user, counted=_counted(locked, standing))
    elif not standing.tally.can_pass:
        conclude(locked, state=ApprovalState.EXPIRED, reason="nobody is left who could approve it", now=now)
    elif standing.tally.stage != locked.stage:
        is_later = standing.tally.stage > locked.stage
        locked.stage = standing.tally.stage
        locked.save(update_fields=("stage", "updated_at"))
        if is_later:
            signals.advanced.send(sender=ApprovalRequest, request=locked)


def grant(
    locked: ApprovalRequest,
    terms: Terms,
    *,
    now: datetime,
    acting_user: User | None,
    counted: Iterable[ApprovalVote],
    is_used: bool = False,
) -> None:
    """Grant it as these votes say: as much as every one of them grants. `is_used`: the gate hears it right now."""
    votes = list(counted)
    if is_used:
        locked.used_at = now
    said = ", ".join(f"{vote.user} ({vote.comment})" if vote.comment else str(vote.user) for vote in votes)
    verb = "passed by break-glass of" if locked.is_break_glass else "approved by"
    reason = f"{verb} {said}" if said else "approved by its flow's condition"
    given = _grant_of(locked, terms, votes, now=now)
    also = None if given is None else {"scope": given.scope, "uses": given.uses, "until": given.expires_at}
    conclude(locked, state=ApprovalState.GRANTED, reason=reason, acting_user=acting_user, now=now, also=also)
    if given is not None:
        given.save(force_insert=True)


def reconsider(requests: QuerySet[ApprovalRequest], *, now: datetime) -> int:
    """`advance` each of them in a transaction of its own. Returns how many were looked at. In a scope."""
    ids = list(requests.order_by("created_at").values_list("pk", flat=True)[:MAX_ROUND])
    for request_id in ids:
        with transaction.atomic():
            advance(lock(request_id), now=now)
    return len(ids)


def reconsider_tenant(tenant_id: UUID) -> None:
    """People, groups or policies of the tenant have changed: see what that makes of what is open."""
    now = timezone.now()
    with scope(tenant=tenant_id):
        reconsider(ApprovalRequest.objects.filter(_PENDING | _UNUSED), now=now)
        end_outdated_grants(now=now)


def reconsider_due(*, now: datetime) -> int:
    """What time has done to requests, in all tenants. Returns how many were due."""
    due = _PENDING & (Q(expires_at__lte=now) | Q(escalates_at__lte=now, escalated_at=None))
    with every_tenant():
        tenants = list(ApprovalRequest.objects.filter(due).order_by().values_list("tenant_id", flat=True).distinct())
    count = 0
    for tenant_id in tenants:
        with scope(tenant=tenant_id):
            count += reconsider(ApprovalRequest.objects.filter(due), now=now)
    return count


def reconsider_all(*, now: datetime) -> int:
    """Look at everything that is open, in all tenants: the net below the wake-ups. Returns how many there were."""
    with every_tenant():
        open_requests = ApprovalRequest.objects.filter(_PENDING | _UNUSED)
        open_grants = ApprovalGrant.objects.filter(ended_at=None, expires_at__gt=now)
        tenants = {
            *open_requests.order_by().values_list("tenant_id", flat=True).distinct(),
            *open_grants.order_by().values_list("tenant_id", flat=True).distinct(),
        }
        count = open_requests.count()
    for tenant_id in tenants:
        reconsider_tenant(tenant_id)
    return count


def end_outdated_grants(*, now: datetime) -> None:
    """In a tenant's scope: end the grants that another version of the policy was behind."""
    open_grants = ApprovalGrant.objects.filter(ended_at=None, expires_at__gt=now)
    for tenant_id in set(open_grants.order_by().values_list("tenant_id", flat=True)):
        version = effective_version(tenant_id)
        for given in open_grants.filter(tenant=tenant_id).exclude(policy_version=version).exclude(uses_left=0):
            with transaction.atomic():
                end_grant(given, reason="the policy has changed", acting_user=None, now=now)


def end_grant(given: ApprovalGrant, *, reason: str, acting_user: User | None, now: datetime) -> bool:
    """Let it cover nothing more; False when it had ended before. In a transaction."""
    ended = ApprovalGrant.objects.filter(pk=given.pk, ended_at=None)
    if not ended.update(ended_at=now, end_reason=reason[:200], updated_at=now):
        return False
    given.refresh_from_db()
    append_entry(
        tenant=given.tenant,
        kind="approval_grant.ended",
        acting_user=acting_user,
        subject=f"approval_grant:{given.pk}",
        before={"uses_left": given.uses_left, "expires_at": given.expires_at},
        after={"reason": given.end_reason},
    )
    return True


def withdraw_held(requests: Q, *, reason: str, now: datetime) -> int:
    """Nobody waits for these any more, in any tenant: withdraw what is held and void what was granted and not used."""
    with every_tenant():
        held = ApprovalRequest.objects.filter(requests, _PENDING & Q(mode=Mode.HOLD) | _UNUSED)
        ids = list(held.values_list("tenant_id", "pk"))
    for tenant_id, request_id in ids:
        with scope(tenant=tenant_id), transaction.atomic():
            withdraw_locked(lock(request_id), reason=reason, now=now)
    return len(ids)


def withdraw_locked(locked: ApprovalRequest, *, reason: str, now: datetime) -> None:
    """The one who waited for this held operation waits no more."""
    if locked.mode != Mode.HOLD:
        return
    if locked.is_pending:
        conclude(locked, state=ApprovalState.WITHDRAWN, reason=reason, now=now)
    elif locked.state == ApprovalState.GRANTED and locked.used_at is None:
        conclude(locked, state=ApprovalState.VOID, reason=reason, now=now)


def _escalate(locked: ApprovalRequest, *, now: datetime, why: str) -> None:
    locked.escalated_at = now
    locked.save(update_fields=("escalated_at", "updated_at"))
    note(locked, "escalated", acting_user=None, before=None, after={"why": why})
    signals.escalated.send(sender=ApprovalRequest, request=locked)


def _counted(locked: ApprovalRequest, standing: Standing) -> list[ApprovalVote]:
    votes = locked.votes.filter(verdict=Verdict.APPROVE).select_related("user").order_by("created_at")
    return [vote for vote in votes if vote.user_id in standing.electors[vote.stage]]


def _grant_of(
    locked: ApprovalRequest, terms: Terms, votes: list[ApprovalVote], *, now: datetime
) -> ApprovalGrant | None:
    """What is left to use when the operation itself has passed. None: nothing."""
    granting = [vote for vote in votes if vote.verdict == Verdict.APPROVE]
    scope_ = min((Scope(vote.scope) for vote in granting), key=_SCOPES_BY_WIDTH.index, default=Scope.ONCE)
    passes_now = locked.mode == Mode.HOLD or locked.used_at is not None
    uses: int | None = None
    lifetime = terms.unused_after_seconds
    if scope_ is Scope.WINDOW:
        covers = b""
        lifetime = min(vote.window_seconds for vote in granting)
    else:
        uses = 1 if scope_ is Scope.ONCE else min(vote.uses for vote in granting if vote.scope == Scope.TEMPLATE)
        uses -= passes_now
        covers = bytes(locked.binding if scope_ is Scope.ONCE else locked.template_sha256 or locked.binding)
        if not uses:
            return None
    return ApprovalGrant(
        tenant=locked.tenant,
        request=locked,
        scope=scope_,
        agent=locked.agent,
        target=locked.target,
        flow=locked.flow,
        principal_sha256=locked.principal_sha256,
        policy_version=locked.policy_version,
        covers=covers,
        uses=uses,
        uses_left=uses,
        expires_at=now + timedelta(seconds=lifetime),
    )


def _is_outdated(request: ApprovalRequest) -> bool:
    return effective_version(request.tenant_id) != request.policy_version


def _outdated(request: ApprovalRequest) -> str:
    return f"the policy has changed since it was asked under {request.policy_version}; ask again"
