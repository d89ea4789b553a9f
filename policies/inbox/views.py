"""The inbox's pages. What a page shows that changes by itself is a part of its own, fetched again while it is open.

Whoever may read the record sees a tenant's requests; who may decide is said by `policies.approvals.access`, at the
moment of the vote again by the action.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import wraps
from typing import Any, Final, cast
from urllib.parse import urlencode
from uuid import UUID

from django.contrib import admin, messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, HttpResponseNotModified
from django.shortcuts import redirect
from django.template.loader import render_to_string
from django.template.response import TemplateResponse
from django.urls import reverse
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_POST

from accounts.models import User
from controlplane.authority import Power, authority_of
from controlplane.errors import Refusal
from policies.approvals import actions
from policies.approvals.access import history_of, requests_in_scope, requests_waiting_for, view_for
from policies.approvals.actions import Wanted
from policies.approvals.models import ApprovalRequest, ApprovalState
from policies.approvals.terms import GrantScope
from policies.inbox.waking import make_ticket

#: Beside what waits for the person.
MAX_OTHERS: Final = 50
MAX_DECIDED: Final = 20
MAX_HISTORY: Final = 8
VIA: Final = "inbox"

Page = Callable[..., HttpResponseBase]


def _for_readers(page: Page) -> Page:
    """For whoever may read the record of a tenant; in the ORM's scope of theirs, which the middleware has entered."""

    @wraps(page)
    @never_cache
    @login_required
    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if not authority_of(request).may(Power.AUDIT):
            raise PermissionDenied
        return page(request, *args, **kwargs)

    return guarded


@require_GET
@_for_readers
def inbox(request: HttpRequest) -> HttpResponseBase:
    """What waits for this person, what waits for others, and what was decided last."""
    context = {**admin.site.each_context(request), "title": "Approvals", "socket": _socket(request), **_listed(request)}
    return TemplateResponse(request, "policies/inbox.html", context)


@require_GET
@_for_readers
def inbox_part(request: HttpRequest) -> HttpResponseBase:
    """The lists alone."""
    return _part(request, "policies/inbox_part.html", _listed(request))


@require_GET
@_for_readers
def detail(request: HttpRequest, request_id: UUID) -> HttpResponseBase:
    """One request, with all that an approver should know, and the form to decide."""
    asked = _find(request, request_id)
    counts, earlier = history_of(asked.agent, limit=MAX_HISTORY + 1)
    context = {
        **admin.site.each_context(request),
        "title": str(asked),
        "counts": [(state.label, counts[state]) for state in ApprovalState if state in counts],
        "earlier": [one for one in earlier if one.pk != asked.pk][:MAX_HISTORY],
        "offers_template": GrantScope.TEMPLATE in asked.parsed_terms.scopes,
        "offers_window": GrantScope.WINDOW in asked.parsed_terms.scopes,
        "terms": asked.parsed_terms,
        "max_window_minutes": asked.parsed_terms.max_window_seconds // 60,
        "socket": _socket(request),
        **_standing(request, asked),
    }
    return TemplateResponse(request, "policies/approval.html", context)


@require_GET
@_for_readers
def detail_part(request: HttpRequest, request_id: UUID) -> HttpResponseBase:
    """What of it changes by itself: state, stages, votes, preview."""
    return _part(request, "policies/approval_part.html", _standing(request, _find(request, request_id)))


@require_POST
@_for_readers
def approve(request: HttpRequest, request_id: UUID) -> HttpResponseBase:
    """Say yes."""

    def act(asked: ApprovalRequest, user: User, comment: str) -> str:
        actions.approve(asked, acting_user=user, comment=comment, wanted=_wanted(request), via=VIA)
        return "Your approval is on record."

    return _decide(request, request_id, act)


@require_POST
@_for_readers
def reject(request: HttpRequest, request_id: UUID) -> HttpResponseBase:
    """Say no."""

    def act(asked: ApprovalRequest, user: User, comment: str) -> str:
        actions.reject(asked, acting_user=user, comment=comment, via=VIA)
        return "Your rejection is on record; the agent is told."

    return _decide(request, request_id, act)


@require_POST
@_for_readers
def break_glass(request: HttpRequest, request_id: UUID) -> HttpResponseBase:
    """Let it pass alone."""

    def act(asked: ApprovalRequest, user: User, comment: str) -> str:
        actions.break_glass(asked, acting_user=user, reason=comment, via=VIA)
        return "It may pass. Everybody who has to know is being told."

    return _decide(request, request_id, act)


@require_POST
@_for_readers
def preview(request: HttpRequest, request_id: UUID) -> HttpResponseBase:
    """Have the rows estimated, or counted."""

    def act(asked: ApprovalRequest, user: User, comment: str) -> str:
        del comment
        actions.ask_preview(asked, exact=request.POST.get("exact") == "1", acting_user=user)
        return "The worker was asked; the answer appears here."

    return _decide(request, request_id, act)


def _decide(
    request: HttpRequest, request_id: UUID, act: Callable[[ApprovalRequest, User, str], str]
) -> HttpResponseBase:
    asked = _find(request, request_id)
    try:
        said = act(asked, cast("User", request.user), request.POST.get("comment", "").strip())
    except Refusal as refusal:
        messages.error(request, f"Not done: {refusal.problem}. {refusal.fix}.")
    except ValidationError as error:
        messages.error(request, f"Not done: {' '.join(error.messages)}")
    else:
        messages.success(request, said)
    return redirect("approval", request_id=request_id)


def _wanted(request: HttpRequest) -> Wanted:
    """What the form grants. Raises `Refusal`."""
    scope = request.POST.get("scope", GrantScope.ONCE)
    try:
        return Wanted(
            scope=GrantScope(scope),
            uses=int(request.POST.get("uses") or 1) if scope == GrantScope.TEMPLATE else 1,
            window_seconds=60 * int(request.POST.get("minutes") or 0) if scope == GrantScope.WINDOW else 0,
        )
    except ValueError as error:
        raise Refusal(field="scope", problem="is no number", fix="Give whole numbers") from error


def _socket(request: HttpRequest) -> str:
    """Where an open page hears that it should look again."""
    ticket = make_ticket(authority_of(request).tenant_ids(Power.AUDIT))
    return f"{reverse('approvals')}live/?{urlencode({'ticket': ticket})}"


def _find(request: HttpRequest, request_id: UUID) -> ApprovalRequest:
    """Raises Http404 also for a tenant that the person may not read."""
    tenants = authority_of(request).tenant_ids(Power.AUDIT)
    found = requests_in_scope().filter(pk=request_id, tenant__in=tenants).first()
    if found is None:
        raise Http404
    return found


def _listed(request: HttpRequest) -> dict[str, Any]:
    tenants = authority_of(request).tenant_ids(Power.AUDIT)
    mine = requests_waiting_for(cast("User", request.user))
    readable = requests_in_scope().filter(tenant__in=tenants)
    others = readable.filter(state=ApprovalState.PENDING).exclude(pk__in=[one.pk for one in mine])
    decided = readable.exclude(state=ApprovalState.PENDING).order_by("-decided_at")
    return {
        "mine": mine,
        "others": list(others[:MAX_OTHERS]),
        "decided": list(decided[:MAX_DECIDED]),
        "shows_tenant": len(tenants) > 1,
    }


def _standing(request: HttpRequest, asked: ApprovalRequest) -> dict[str, Any]:
    return {"asked": asked, "view": view_for(asked, cast("User", request.user))}


def _part(request: HttpRequest, template: str, context: dict[str, Any]) -> HttpResponseBase:
    """A part of a page; 304 while the browser has what it would be."""
    body = render_to_string(template, context, request=request)
    etag = f'"{hashlib.sha256(body.encode()).hexdigest()[:32]}"'
    if request.headers.get("if-none-match") == etag:
        return HttpResponseNotModified(headers={"ETag": etag})
    return HttpResponse(body, headers={"ETag": etag})
