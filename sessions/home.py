"""The admin's first page: what is going on, what waits for this person, and what isn't set up yet.

Each part is shown to those who hold its power: the record to auditors, the set-up to everybody with a role. Counts stop
at `MAX_COUNTED`, so that a wild agent's million refusals cost the page no more than ten thousand do.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, cast
from urllib.parse import urlencode

from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils import timezone

from accounts.models import Agent, User
from controlplane.authority import Power, authority_of
from policies.approvals.access import requests_waiting_for
from policies.approvals.models import ApprovalRequest, ApprovalState
from policies.models import DraftState, Policy, PolicyDraft
from sessions.killing.access import orders_in_force
from sessions.models import AgentSession, Operation, OperationStatus, SessionRefusal, SessionState
from targets.models import SILENT_AFTER_SECONDS, ProxyWorker, Target

#: Beyond this a number says only that there are many.
MAX_COUNTED: Final = 10_000
#: Rows of each list; the list's own page has the rest.
MAX_ROWS: Final = 8
#: What counts as lately.
LATELY: Final = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Tile:
    """A number with what it counts, and where its rows are. `tone`: good, warning, bad, or empty."""

    label: str
    number: str
    note: str
    url: str
    tone: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """Something that has to be there before an agent can be let in."""

    title: str
    explanation: str
    url: str
    is_done: bool


def overview(request: HttpRequest, context: dict[str, Any]) -> dict[str, Any]:
    """Unfold's dashboard callback. Runs in the person's scope."""
    authority = authority_of(request)
    now = timezone.now()
    context |= {"title": "Overview", "has_role": bool(authority.roles), "is_operator": authority.is_operator}
    if authority.may(Power.READ):
        context |= _set_up(authority.tenant_ids(Power.READ), may_manage=authority.may(Power.MANAGE), now=now)
    if authority.may(Power.AUDIT):
        tenants = authority.tenant_ids(Power.AUDIT)
        waiting = requests_waiting_for(cast("User", request.user)) if authority.may(Power.APPROVE) else []
        context |= _record(tenants, waiting=waiting, now=now)
        context["tiles"] = [*_record_tiles(tenants, waiting=waiting, now=now), *context["tiles"]]
    elif authority.may(Power.READ):
        context["tiles"] += _set_up_tiles(authority.tenant_ids(Power.READ))
    return context


def _record(tenants: tuple[Any, ...], *, waiting: list[ApprovalRequest], now: datetime) -> dict[str, Any]:
    """What agents do, and what they were not let do."""
    refusals: QuerySet[SessionRefusal] = SessionRefusal.objects.filter(tenant__in=tenants, last_at__gte=now - LATELY)
    refused = Operation.objects.filter(tenant__in=tenants, status=OperationStatus.DENIED, at__gte=now - LATELY)
    return {
        "waiting": waiting[:MAX_ROWS],
        "running": _running(tenants).select_related("agent", "target")[:MAX_ROWS],
        "refused": refused.select_related("session__agent", "session__target").order_by("-at")[:MAX_ROWS],
        "turned_away": refusals.select_related("agent").order_by("-last_at")[:MAX_ROWS],
        "stopped": orders_in_force().filter(tenant__in=tenants).select_related("agent", "target", "tenant")[:MAX_ROWS],
        "reviews": PolicyDraft.objects.filter(tenant__in=tenants, state=DraftState.PROPOSED)
        .select_related("policy", "author")
        .order_by("-updated_at")[:MAX_ROWS],
    }


def _record_tiles(tenants: tuple[Any, ...], *, waiting: list[ApprovalRequest], now: datetime) -> list[Tile]:
    since = now - LATELY
    pending = ApprovalRequest.objects.filter(tenant__in=tenants, state=ApprovalState.PENDING, expires_at__gt=now)
    lately = Operation.objects.filter(tenant__in=tenants, at__gte=since)
    denied = lately.filter(status=OperationStatus.DENIED)
    unknown = lately.filter(status=OperationStatus.UNKNOWN)
    operations = reverse("admin:agent_sessions_operation_changelist")
    tiles = [
        Tile("Sessions now", _count(_running(tenants)), "agents at work", _sessions_url("live")),
        Tile(
            "Waiting for a yes",
            _count(pending),
            f"{len(waiting)} for you" if waiting else "none of it for you",
            reverse("approvals"),
            "warning" if waiting else "",
        ),
        Tile("Statements", _count(lately), "in 24 hours", operations),
        Tile(
            "Denied",
            _count(denied),
            "in 24 hours",
            f"{operations}?{urlencode({'status__exact': OperationStatus.DENIED})}",
            "bad" if denied.exists() else "",
        ),
    ]
    if unknown.exists():
        url = f"{operations}?{urlencode({'status__exact': OperationStatus.UNKNOWN})}"
        tiles.append(Tile("Outcome unknown", _count(unknown), "may have been done", url, "bad"))
    return tiles


def _set_up(tenants: tuple[Any, ...], *, may_manage: bool, now: datetime) -> dict[str, Any]:
    """The workers, and what is missing before an agent can be let in."""
    active = ProxyWorker.objects.filter(tenant__in=tenants, is_active=True)
    workers = list(active.values_list("last_seen_at", flat=True))
    heard_since = now - timedelta(seconds=SILENT_AFTER_SECONDS)
    connected = sum(1 for seen in workers if seen is not None and seen >= heard_since)
    tone = "good" if connected == len(workers) else "warning"
    tile = Tile(
        "Workers",
        f"{connected} of {len(workers)}",
        "connected",
        reverse("admin:targets_proxyworker_changelist"),
        tone if connected else "bad",
    )
    targets = Target.objects.filter(tenant__in=tenants, is_active=True)
    steps = (
        Step(
            "A worker",
            "It stands near your targets. Issue a join token, and start it with that.",
            reverse("admin:targets_jointoken_changelist"),
            bool(workers),
        ),
        Step(
            "A target",
            "A database that agents shall reach, under a name of your own.",
            reverse("admin:targets_target_changelist"),
            targets.exists(),
        ),
        Step(
            "Its credential",
            "How the gate signs on there. It is sealed, and no agent ever sees it.",
            reverse("admin:targets_credential_changelist"),
            targets.filter(credential__isnull=False).exists(),
        ),
        Step(
            "An agent",
            "With a token, or a trust in the provider that it comes from.",
            reverse("admin:accounts_agent_changelist"),
            Agent.objects.filter(tenant__in=tenants, is_active=True).exists(),
        ),
        Step(
            "A policy",
            "What no rule allows is denied. Publish one that lets the agent do its work.",
            reverse("admin:policies_policy_changelist"),
            Policy.objects.filter(tenant__in=tenants, is_active=True, current__isnull=False).exists(),
        ),
    )
    missing = may_manage and not all(step.is_done for step in steps)
    return {"tiles": [tile], "steps": steps if missing else ()}


def _set_up_tiles(tenants: tuple[Any, ...]) -> list[Tile]:
    """For those who don't see the record."""
    active: tuple[tuple[str, QuerySet[Any], str], ...] = (
        ("Agents", Agent.objects.all(), "admin:accounts_agent_changelist"),
        ("Targets", Target.objects.all(), "admin:targets_target_changelist"),
        ("Policies", Policy.objects.all(), "admin:policies_policy_changelist"),
    )
    return [
        Tile(label, _count(rows.filter(tenant__in=tenants, is_active=True)), "active", reverse(page))
        for label, rows, page in active
    ]


def _running(tenants: tuple[Any, ...]) -> QuerySet[AgentSession]:
    states = (SessionState.GRANTED, SessionState.LIVE)
    running: QuerySet[AgentSession] = AgentSession.objects.filter(tenant__in=tenants, state__in=states)
    return running.order_by("-granted_at")


def _sessions_url(state: str) -> str:
    return f"{reverse('admin:agent_sessions_agentsession_changelist')}?{urlencode({'state__exact': state})}"


def _count(rows: QuerySet[Any]) -> str:
    number = rows.order_by().values("pk")[: MAX_COUNTED + 1].count()
    return f"{number:,}" if number <= MAX_COUNTED else f"over {MAX_COUNTED:,}"
