"""What people do: define flows, vote, break the glass, revoke what a yes still covers. Each with its ledger entry."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import structlog
from django.db import IntegrityError, transaction
from django.utils import timezone
from django_scopes import scope

from accounts.models import User
from controlplane.errors import Refusal
from controlplane.ledger.recording import save_recorded
from policies.approvals import signals
from policies.approvals.conditions import check_condition
from policies.approvals.electors import break_glass_objection, electorate_of, objection_to, standing_of
from policies.approvals.models import (
    ApprovalFlow,
    ApprovalGrant,
    ApprovalRequest,
    ApprovalState,
    ApprovalVote,
    Scope,
    Verdict,
)
from policies.approvals.settling import advance, conclude, end_grant, grant, lock, note
from policies.approvals.terms import MIN_WAIT_SECONDS, GrantScope, Terms, parse_terms, told

log = structlog.get_logger(__name__)

MAX_COMMENT_CHARACTERS: Final = 500
#: A worker answers within its timeout of some seconds; meanwhile nobody need ask again.
PREVIEW_AGAIN_AFTER: Final = timedelta(seconds=10)
_FLOW_FIELDS: Final = ("name", "description", "terms", "is_active")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an approver grants: `uses` of a template, or a window of `window_seconds`."""

    scope: GrantScope = GrantScope.ONCE
    uses: int = 1
    window_seconds: int = 0


ONCE: Final = Wanted()


# ---------------------------------------------------------------- flows


def save_flow(flow: ApprovalFlow, *, acting_user: User | None) -> bool:
    """Create or change a flow; requests that wait keep the terms they were made under. False when nothing differed.

    Raises `Refusal` or ValidationError, which name the field.
    """
    terms = parse_terms(flow.terms)
    check_condition(terms.auto_approve)
    flow.terms = told(terms)
    return save_recorded(flow, acting_user=acting_user, noun="approval_flow", fields=_FLOW_FIELDS)


# ---------------------------------------------------------------- votes


def approve(
    request: ApprovalRequest, *, acting_user: User, comment: str = "", wanted: Wanted = ONCE, via: str = ""
) -> ApprovalRequest:
    """Say yes. With the last yes that is needed, the operation passes. Raises `Refusal`: may not, or too late."""
    vote = ApprovalVote(
        verdict=Verdict.APPROVE,
        comment=comment,
        via=via,
        scope=Scope(wanted.scope.value),
        uses=wanted.uses,
        window_seconds=wanted.window_seconds,
    )
    return _vote(request, vote, acting_user=acting_user)


def reject(request: ApprovalRequest, *, acting_user: User, comment: str = "", via: str = "") -> ApprovalRequest:
    """Say no, which ends it. The agent is told the comment. Raises `Refusal`."""
    return _vote(request, ApprovalVote(verdict=Verdict.REJECT, comment=comment, via=via), acting_user=acting_user)


def break_glass(request: ApprovalRequest, *, acting_user: User, reason: str, via: str = "") -> ApprovalRequest:
    """Let it pass alone, once, where the flow permits it. People are alerted. Raises `Refusal`."""
    if not reason.strip():
        raise Refusal(field="reason", problem="is empty", fix="Say why this can't wait; it is kept and alerted")
    vote = ApprovalVote(verdict=Verdict.BREAK_GLASS, comment=reason, via=via)
    return _vote(request, vote, acting_user=acting_user)


def _vote(request: ApprovalRequest, vote: ApprovalVote, *, acting_user: User) -> ApprovalRequest:
    if len(vote.comment) > MAX_COMMENT_CHARACTERS:
        raise Refusal(field="comment", problem="is too long", fix=f"At most {MAX_COMMENT_CHARACTERS} characters")
    with scope(tenant=request.tenant_id):
        with transaction.atomic():  # what has become of it stays, whatever is made of the vote
            advance(lock(request.pk), now=timezone.now())
        try:
            with transaction.atomic():
                return _vote_locked(lock(request.pk), vote, acting_user=acting_user)
        except IntegrityError as error:
            raise _may_not("you have voted, and one person is one vote") from error


def _vote_locked(locked: ApprovalRequest, vote: ApprovalVote, *, acting_user: User) -> ApprovalRequest:
    now = timezone.now()  # after the wait for the lock
    electorate = electorate_of(locked.tenant_id)
    is_glass = vote.verdict == Verdict.BREAK_GLASS
    objection = (break_glass_objection if is_glass else objection_to)(locked, acting_user.pk, electorate, now=now)
    if objection is not None:
        raise _may_not(objection)
    terms = locked.parsed_terms
    if vote.verdict == Verdict.APPROVE:
        _check_wanted(locked, terms, vote)
    vote.tenant, vote.request, vote.user = locked.tenant, locked, acting_user
    vote.stage = standing_of(locked, electorate).stage
    vote.full_clean(exclude=("request", "user"), validate_unique=False, validate_constraints=False)
    vote.save(force_insert=True)
    said = {"verdict": vote.verdict, "comment": vote.comment, "stage": vote.stage, "scope": vote.scope, "via": vote.via}
    note(locked, "voted", acting_user=acting_user, before=None, after=said)
    match vote.verdict:
        case Verdict.REJECT:
            reason = f"rejected by {acting_user}" + (f": {vote.comment}" if vote.comment else "")
            conclude(locked, state=ApprovalState.REJECTED, reason=reason, acting_user=acting_user, now=now)
        case Verdict.BREAK_GLASS:
            locked.is_break_glass = True
            log.warning("approval_glass_broken", approval=str(locked.pk), user=str(acting_user))
            signals.glass_broken.send(sender=ApprovalRequest, request=locked, vote=vote)
            grant(locked, terms, now=now, acting_user=acting_user, counted=[vote])
        case _:
            advance(locked, now=now, acting_user=acting_user)
    return locked


def _check_wanted(locked: ApprovalRequest, terms: Terms, vote: ApprovalVote) -> None:
    """Raises `Refusal` when the flow doesn't let so much be granted."""
    if vote.scope == Scope.ONCE:
        return
    if vote.scope not in terms.scopes:
        offered = ", ".join(dict.fromkeys(("once", *terms.scopes)))
        raise Refusal(field="scope", problem=f"{vote.scope} isn't offered by its flow", fix=f"Choose of: {offered}")
    if vote.scope == Scope.TEMPLATE:
        if locked.template_sha256 is None:
            raise Refusal(field="scope", problem="this operation has no template", fix="Grant it once")
        if not 1 <= vote.uses <= terms.max_uses:
            raise Refusal(field="uses", problem=f"is {vote.uses}", fix=f"Its flow offers 1 to {terms.max_uses}")
    elif not MIN_WAIT_SECONDS <= vote.window_seconds <= terms.max_window_seconds:
        fix = f"Its flow offers {MIN_WAIT_SECONDS} to {terms.max_window_seconds} seconds"
        raise Refusal(field="window_seconds", problem=f"is {vote.window_seconds}", fix=fix)


def _may_not(objection: str) -> Refusal:
    return Refusal(problem=f"You can't decide this: {objection}", fix="See the request for who can")


# ---------------------------------------------------------------- previews and grants


def ask_preview(request: ApprovalRequest, *, exact: bool, acting_user: User) -> ApprovalRequest:
    """Have the worker find out what the operation would touch: an estimate, or a count. Raises `Refusal`."""
    with scope(tenant=request.tenant_id), transaction.atomic():
        locked, now = lock(request.pk), timezone.now()
        if not locked.is_pending:
            raise Refusal(problem=f"it is {locked.get_state_display()} already", fix="There is nothing to find out")
        asked_at = locked.preview_asked_at
        if asked_at is not None and now < asked_at + PREVIEW_AGAIN_AFTER:
            raise Refusal(problem="it was asked for just now", fix="Wait some seconds for the answer")
        locked.preview_asked_at, locked.preview_is_exact = now, exact
        locked.save(update_fields=("preview_asked_at", "preview_is_exact", "updated_at"))
        note(locked, "preview_asked", acting_user=acting_user, before=None, after={"exact": exact})
        signals.preview_asked.send(sender=ApprovalRequest, request=locked)
        return locked


@transaction.atomic
def revoke_grant(given: ApprovalGrant, *, acting_user: User | None, reason: str = "revoked") -> ApprovalGrant:
    """Let it cover nothing more. Raises `Refusal` for one that is over."""
    now = timezone.now()
    with scope(tenant=given.tenant_id):
        if not given.is_usable(now) or not end_grant(given, reason=reason, acting_user=acting_user, now=now):
            raise Refusal(problem="it covers nothing any more", fix="There is nothing to revoke")
    return given
