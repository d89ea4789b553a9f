"""Who may vote on a request now, and why somebody may not: by their membership, role and groups of this moment.

A person is known by their address and by what their identity providers and directory call them, so that nobody
approves under one name what was asked on their behalf under another.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from accounts.federation.models import FederatedIdentity
from accounts.models import Membership
from accounts.scim.models import ScimMember, ScimUser
from policies.approvals import tally
from policies.approvals.models import ApprovalRequest, Verdict
from policies.approvals.tally import Tally
from policies.approvals.terms import VOTING_ROLES, Approvers, Terms


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody with a role that may vote. `names`, in small letters: their address, and what providers call them."""

    id: UUID
    email: str
    role: str
    groups: frozenset[str]
    names: frozenset[str]

    def is_among(self, approvers: Approvers) -> bool:
        """Whether one of the lists names them."""
        return (
            self.role in approvers.roles
            or self.email in approvers.people
            or not self.groups.isdisjoint(approvers.groups)
        )


@dataclass(frozen=True, slots=True)
class Electorate:
    """All who may vote in a tenant at all."""

    tenant_id: UUID
    people: Mapping[UUID, Person]


@dataclass(frozen=True, slots=True)
class Standing:
    """A request's tally, and who may vote in each stage, those who have included."""

    tally: Tally
    electors: tuple[frozenset[UUID], ...]

    @property
    def stage(self) -> int:
        """The stage that is asked now, or was last."""
        return min(self.tally.stage, len(self.electors) - 1)


def electorate_of(tenant_id: UUID) -> Electorate:
    """In its scope."""
    members = Membership.objects.filter(tenant=tenant_id, user__is_active=True, role__in=VOTING_ROLES)
    rows = list(members.values_list("user_id", "user__email", "role"))
    groups: dict[UUID, set[str]] = defaultdict(set)
    names: dict[UUID, set[str]] = defaultdict(set)
    identities = FederatedIdentity.objects.filter(tenant=tenant_id, user__in=members.values("user"))
    for user_id, subject, told, is_active in identities.values_list(
        "user_id", "subject", "groups", "provider__is_active"
    ):
        names[user_id].add(subject.lower())
        if is_active:
            groups[user_id].update(told)
    in_directory = ScimUser.objects.filter(tenant=tenant_id, user__in=members.values("user"))
    for user_id, user_name, external_id in in_directory.values_list("user_id", "user_name", "external_id"):
        names[user_id].update(name.lower() for name in (user_name, external_id) if name)
    directory = ScimMember.objects.filter(tenant=tenant_id, member__is_active=True)
    for user_id, group in directory.values_list("member__user_id", "group__display_name"):
        groups[user_id].add(group)
    people = {
        user_id: Person(user_id, email, role, frozenset(groups[user_id]), frozenset(names[user_id] | {email.lower()}))
        for user_id, email, role in rows
    }
    return Electorate(tenant_id=tenant_id, people=people)


def standing_of(request: ApprovalRequest, electorate: Electorate) -> Standing:
    """The votes of those who may still vote."""
    terms = request.parsed_terms
    allowed = [person for person in electorate.people.values() if personal_objection(request, terms, person) is None]
    electors = tuple(
        frozenset(person.id for person in allowed if person.is_among(_asked_in(request, terms, stage)))
        for stage in range(len(terms.stages))
    )
    approvals = dict(request.votes.filter(verdict=Verdict.APPROVE).values_list("user_id", "stage"))
    quorums = [stage.quorum for stage in terms.stages]
    return Standing(tally=tally.count(quorums, electors=electors, approvals=approvals), electors=electors)


def objection_to(request: ApprovalRequest, user_id: UUID, electorate: Electorate, *, now: datetime) -> str | None:
    """Why this person may not vote on the request now; None: they may."""
    terms = request.parsed_terms
    person = electorate.people.get(user_id)
    if person is None:
        return _closed(request, now=now) or "your role doesn't permit approving"
    objection = _closed(request, now=now) or personal_objection(request, terms, person)
    if objection is not None:
        return objection
    if request.votes.filter(user=user_id).exclude(verdict=Verdict.BREAK_GLASS).exists():
        return "you have voted, and one person is one vote"
    standing = standing_of(request, electorate)
    stage = standing.stage
    if user_id in standing.electors[stage]:
        return None
    name = terms.stages[stage].name
    return f"it is in stage {stage + 1}{f' ({name})' if name else ''}, which asks others"


def break_glass_objection(
    request: ApprovalRequest, user_id: UUID, electorate: Electorate, *, now: datetime
) -> str | None:
    """Why this person may not let the request pass alone; None: they may."""
    terms = request.parsed_terms
    person = electorate.people.get(user_id)
    if terms.break_glass is None:
        return "its flow has no break-glass"
    if person is None or not person.is_among(terms.break_glass):
        return "its flow doesn't let you break the glass"
    return _closed(request, now=now) or personal_objection(request, terms, person)


def personal_objection(request: ApprovalRequest, terms: Terms, person: Person) -> str | None:
    """Why this person may never vote on it: it is their own, their agent's, or their rule's."""
    principal = request.principal
    behind = [principal.get("on_behalf_of", ""), *principal.get("actors", ())]
    if any(name.lower().removeprefix("actor:").removeprefix("person:") in person.names for name in behind if name):
        return "it was asked on your behalf, and nobody approves their own"
    is_sponsor = principal.get("sponsor", "").lower() in person.names or request.agent.sponsor_id == person.id
    if terms.forbid_sponsor and is_sponsor:
        return "you are the agent's sponsor, and its flow asks somebody else"
    if terms.forbid_sponsor and any(address.lower() in person.names for address in principal.get("issued_by", ())):
        return "you issued the agent's token, and its flow asks somebody else"
    if terms.forbid_author and request.rule_author_id == person.id:
        return "you published the rule, and its flow asks somebody else"
    return None


def _closed(request: ApprovalRequest, *, now: datetime) -> str | None:
    if not request.is_pending:
        return f"it is {request.get_state_display()} already"
    return "it has expired" if now >= request.expires_at else None


def _asked_in(request: ApprovalRequest, terms: Terms, stage: int) -> Approvers:
    approvers = terms.stages[stage].approvers
    if terms.escalation is None or request.escalated_at is None:
        return approvers
    more = terms.escalation.approvers
    return Approvers(
        roles=approvers.roles + more.roles,
        groups=approvers.groups + more.groups,
        people=approvers.people + more.people,
    )
