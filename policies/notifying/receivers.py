"""Announces what happens to approval requests and to drafts of policies.

The rows are written in the transaction of what happens, and sent after it.
"""

from __future__ import annotations

from typing import Any, Final

from django.conf import settings
from django.dispatch import receiver
from django.urls import reverse

from controlplane.visible import visible
from policies.access import people_who_review
from policies.approvals import signals
from policies.approvals.access import people_asked, url_of
from policies.approvals.models import ApprovalRequest, ApprovalState
from policies.models import DraftState, PolicyDraft
from policies.notifying.actions import announce
from policies.notifying.models import Event
from policies.signals import draft_moved

#: Objects that a message lists; the page has them all.
MAX_OBJECTS = 8
_STANDINGS: Final = {
    DraftState.APPROVED: "Approved", DraftState.PUBLISHED: "Published", DraftState.DISCARDED: "Discarded"
}  # fmt: skip


@receiver(signals.opened)
def _opened(request: ApprovalRequest, **_: Any) -> None:
    _announce(request, Event.APPROVAL_OPENED, title=f"Approval needed: {request}", key=f"{request.pk}:opened")


@receiver(signals.advanced)
def _advanced(request: ApprovalRequest, **_: Any) -> None:
    title = f"Approval needed, stage {request.stage + 1}: {request}"
    _announce(request, Event.APPROVAL_OPENED, title=title, key=f"{request.pk}:stage-{request.stage}")


@receiver(signals.escalated)
def _escalated(request: ApprovalRequest, **_: Any) -> None:
    title = f"Approval still needed: {request}"
    _announce(request, Event.APPROVAL_ESCALATED, title=title, key=f"{request.pk}:escalated")


@receiver(signals.decided)
def _decided(request: ApprovalRequest, **_: Any) -> None:
    said = ApprovalState(request.state).label.capitalize()
    also = [("Why", request.decision_reason)] if request.decision_reason else []
    _announce(
        request, Event.APPROVAL_DECIDED, title=f"{said}: {request}", key=f"{request.pk}:{request.state}", also=also
    )


@receiver(signals.glass_broken)
def _glass_broken(request: ApprovalRequest, vote: Any, **_: Any) -> None:
    also = [("By", str(vote.user)), ("Why", vote.comment)]
    title = f"Glass broken: {request}"
    _announce(request, Event.BREAK_GLASS, title=title, key=f"{request.pk}:glass", also=also)


@receiver(draft_moved)
def _draft_moved(draft: PolicyDraft, was: DraftState, **_: Any) -> None:
    is_asked = draft.state == DraftState.PROPOSED
    if was == DraftState.DRAFT and not is_asked:
        return  # nobody was asked to review it
    said = "Review needed" if is_asked else _STANDINGS.get(DraftState(draft.state), "Sent back")
    if draft.state == DraftState.DRAFT and draft.reviewer is None:
        said = "Taken back"
    announce(
        tenant=draft.tenant,
        event=Event.POLICY_PROPOSED if is_asked else Event.POLICY_DECIDED,
        key=f"{draft.pk}:{draft.state}:{draft.updated_at.isoformat()}",  # a draft may be proposed many times
        title=f"{said}: policy {draft.policy}",
        url=f"{settings.NARROWGATE.public_url}{reverse('admin:policies_policydraft_change', args=[draft.pk])}",
        facts=_facts_of_draft(draft),
        text=draft.diff,
        subject_id=draft.pk,
        recipients=people_who_review(draft) if is_asked else _author_of(draft),
    )


def _author_of(draft: PolicyDraft) -> list[str]:
    return [draft.author.email] if draft.author is not None and draft.author.is_active else []


def _facts_of_draft(draft: PolicyDraft) -> list[tuple[str, str]]:
    facts = [
        ("Draft by", str(draft.author or "manage.py apply")),
        ("Changes", str(draft.base or "nothing: it is the first version")),
        ("Message", draft.message),
        ("Reviewed by", str(draft.reviewer or "")),
        ("Comment", draft.review_comment),
        ("Now", str(draft.version or "")),
    ]
    return [(name, text) for name, text in facts if text]


def _announce(
    request: ApprovalRequest, event: Event, *, title: str, key: str, also: list[tuple[str, str]] | None = None
) -> None:
    announce(
        tenant=request.tenant,
        event=event,
        key=key,
        title=title,
        url=url_of(request.pk),
        facts=[*_facts(request), *(also or [])],
        text=visible(request.text),
        subject_id=request.pk,
        is_open=request.is_pending,
        recipients=people_asked(request) if request.is_pending else (),
    )


def _facts(request: ApprovalRequest) -> list[tuple[str, str]]:
    """What every message says. Whose secret could stand in it, the statement, only some do."""
    principal = request.principal
    touched = list(dict.fromkeys(str(access[1]) for access in request.accesses if len(access) > 1 and access[1]))
    listed = ", ".join(touched[:MAX_OBJECTS]) + (" …" if len(touched) > MAX_OBJECTS else "")
    facts = [
        ("Agent", str(principal.get("name", ""))),
        ("On behalf of", str(principal.get("on_behalf_of", ""))),
        ("Target", request.target.name),
        ("Does", request.verb or request.kind),
        ("Touches", listed),
        ("Hazards", ", ".join(request.hazards).replace("_", " ")),
        ("Rule", request.rule),
        ("Reason", request.rule_reason),
        ("Until", f"{request.expires_at:%Y-%m-%d %H:%M} UTC" if request.is_pending else ""),
    ]
    return [(name, visible(text, is_line=True)) for name, text in facts if text]
