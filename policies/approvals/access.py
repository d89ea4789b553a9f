"""How views, REST and other apps obtain approvals: what waits for a person, what they may do, what was asked before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from django.conf import settings
from django.db.models import Count, QuerySet
from django.utils import timezone
from django_scopes import scope

from accounts.models import Agent, User
from policies.approvals import tally
from policies.approvals.electors import (
    Electorate,
    break_glass_objection,
    electorate_of,
    objection_to,
    standing_of,
)
from policies.approvals.models import ApprovalFlow, ApprovalRequest, ApprovalState, ApprovalVote
from policies.approvals.terms import Terms, parse_terms


@dataclass(frozen=True, slots=True)
class StageStanding:
    """A stage of a request: who may vote in it, who has said yes that counts, and how many have to."""

    name: str
    yes: int
    needed: int
    approvers: tuple[str, ...]
    is_current: bool


@dataclass(frozen=True, slots=True)
class View:
    """A request as one person sees it. The objections are empty when they may approve (or break the glass)."""

    request: ApprovalRequest
    stages: tuple[StageStanding, ...]
    votes: tuple[ApprovalVote, ...]
    objection: str
    glass_objection: str

    @property
    def may_vote(self) -> bool:
        """Yes or no is theirs to say."""
        return not self.objection

    @property
    def may_break_glass(self) -> bool:
        """They may let it pass alone."""
        return not self.glass_objection


def requests_in_scope() -> QuerySet[ApprovalRequest]:
    """All, the newest first, with what pages show of them."""
    requests: QuerySet[ApprovalRequest] = ApprovalRequest.objects.select_related("tenant", "agent", "target", "worker")
    return requests.order_by("-created_at")


def waiting_in(session_id: UUID) -> list[ApprovalRequest]:
    """What waits for a yes in this session, by the operations' numbers. In its scope."""
    return list(requests_in_scope().filter(session_id=session_id, state=ApprovalState.PENDING).order_by("op"))


def requests_waiting_for(user: User) -> list[ApprovalRequest]:
    """What this person may decide now, in the tenants in scope, the oldest first."""
    now = timezone.now()
    pending = requests_in_scope().filter(state=ApprovalState.PENDING, expires_at__gt=now).order_by("created_at")
    electorates: dict[UUID, Electorate] = {}
    waiting = []
    for request in pending:
        if request.tenant_id not in electorates:
            electorates[request.tenant_id] = electorate_of(request.tenant_id)
        electorate = electorates[request.tenant_id]
        if objection_to(request, user.pk, electorate, now=now) is None:
            waiting.append(request)
    return waiting


def view_for(request: ApprovalRequest, user: User, *, now: datetime | None = None) -> View:
    """The request with its stages and votes, and what this person may do with it."""
    now = now or timezone.now()
    with scope(tenant=request.tenant_id):
        electorate = electorate_of(request.tenant_id)
        standing = standing_of(request, electorate)
        people = electorate.people
        stages = tuple(
            StageStanding(
                name=stage.name,
                yes=standing.tally.yes[index],
                needed=stage.quorum,
                approvers=tuple(sorted(people[one].email for one in standing.electors[index])),
                is_current=request.is_pending and index == standing.tally.stage,
            )
            for index, stage in enumerate(request.parsed_terms.stages)
        )
        return View(
            request=request,
            stages=stages,
            votes=tuple(request.votes.select_related("user")),
            objection=objection_to(request, user.pk, electorate, now=now) or "",
            glass_objection=break_glass_objection(request, user.pk, electorate, now=now) or "",
        )


def history_of(agent: Agent, *, limit: int = 20) -> tuple[Mapping[str, int], list[ApprovalRequest]]:
    """What this agent has asked for: how many requests in each state, and the newest of them."""
    requests = requests_in_scope().filter(agent=agent)
    counts = requests.order_by().values_list("state").annotate(count=Count("pk"))
    return dict(counts), list(requests[:limit])


def people_asked(request: ApprovalRequest) -> list[str]:
    """The addresses of those who may decide the stage that is asked now. In its scope."""
    electorate = electorate_of(request.tenant_id)
    standing = standing_of(request, electorate)
    if not request.is_pending or standing.tally.is_passed:
        return []
    voted = set(request.votes.values_list("user_id", flat=True))
    asked = standing.electors[standing.tally.stage] - voted
    return sorted(electorate.people[one].email for one in asked)


def flows_with_approvers(tenant_id: UUID) -> dict[str, bool]:
    """The active flows by name, and whether the people of this moment could give what each asks. In its scope.

    It doesn't ask for whom: who is behind an agent, and its sponsor, may not be among those who vote.
    """
    electorate = electorate_of(tenant_id)
    flows = ApprovalFlow.objects.filter(tenant=tenant_id, is_active=True).values_list("name", "terms")
    return {name: _can_pass(parse_terms(terms), electorate) for name, terms in flows}


def url_of(request_id: UUID) -> str:
    """Where a person decides."""
    return f"{settings.NARROWGATE.public_url}/approvals/{request_id}/"


def _can_pass(terms: Terms, electorate: Electorate) -> bool:
    people = electorate.people.values()
    more = () if terms.escalation is None else (terms.escalation.approvers,)
    electors = [
        frozenset(one.id for one in people if any(one.is_among(named) for named in (stage.approvers, *more)))
        for stage in terms.stages
    ]
    return tally.count([stage.quorum for stage in terms.stages], electors=electors, approvals={}).can_pass
