"""Announces what happens to approval requests. The rows are written in the same transaction, and sent after it."""

from __future__ import annotations

from typing import Any

from django.dispatch import receiver

from policies.approvals import signals
from policies.approvals.access import people_asked, url_of
from policies.approvals.models import ApprovalRequest, ApprovalState
from policies.notifying.actions import announce
from policies.notifying.models import Event

#: Objects that a message lists; the page has them all.
MAX_OBJECTS = 8


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
        text=request.text,
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
    return [(name, text) for name, text in facts if text]
