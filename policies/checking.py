"""What is wrong with a policy's document, for whoever is about to save it: in its own terms, and for the tenant."""

from __future__ import annotations

from typing import Any, Final
from uuid import UUID

from django.db.models import QuerySet
from django.utils import timezone

from accounts.federation.models import FederatedIdentity
from accounts.models import Agent, Membership, OidcTrust
from accounts.scim.models import ScimUser
from policies.access import describe_target, effective_policy
from policies.approvals.access import flows_with_approvers
from policies.budgets.checking import findings_of_limits
from policies.documents import PolicyDocument, check_document, parse_document
from policies.engine import PolicyError
from policies.engine.beside import check_beside
from policies.engine.check import Finding, Known, check_policy
from policies.engine.columns import labels_asked_for
from policies.filters import findings_of_filters
from policies.models import Policy
from targets.access import labels_of_targets
from targets.models import Target

#: Agents, people and targets whose names are checked; where there are more, they aren't.
MAX_KNOWN: Final = 20_000


def findings_of(tenant_id: UUID, data: Any) -> list[Finding]:
    """Everything that keeps the document from being published in the tenant; in its scope."""
    try:
        document = check_document(data)
        policy = parse_document(document, version="")
    except PolicyError as error:
        return [Finding(field=error.field, problem=error.problem, fix=error.fix)]
    known = known_of(tenant_id)
    labels = labels_of_targets(tenant_id) if labels_asked_for(policy) else {}
    return [
        *findings_of_limits(policy, known.targets or {}, labels),
        *findings_of_filters(policy),
        *check_policy(policy, known=known),
    ]


def warnings_of(policy: Policy, data: Any) -> list[Finding]:
    """What whoever publishes the document as this policy should know, beside what `findings_of` says; in its scope."""
    try:
        parsed = parse_document(check_document(data), version="")
        others = effective_policy(policy.tenant_id, instead={policy.pk: PolicyDocument()})
    except PolicyError:
        return []
    return list(check_beside(parsed, others, known=known_of(policy.tenant_id)))


def refuse_unsound(tenant_id: UUID, document: PolicyDocument) -> None:
    """Raises `PolicyError` for the first of the findings."""
    for finding in findings_of(tenant_id, {"scope": document.scope, "rules": document.rules}):
        raise PolicyError(finding.field, finding.problem, finding.fix)


def known_of(tenant_id: UUID) -> Known:
    """What the tenant has."""
    agents = list(Agent.objects.filter(tenant=tenant_id).values_list("name", "groups")[: MAX_KNOWN + 1])
    targets = list(Target.objects.filter(tenant=tenant_id)[: MAX_KNOWN + 1])
    groups_come_with_tokens = OidcTrust.objects.filter(tenant=tenant_id).exclude(groups_claim="").exists()
    are_all = len(agents) <= MAX_KNOWN
    sponsors, others = _people_of(tenant_id)
    return Known(
        agents=frozenset(name for name, _ in agents) if are_all else None,
        groups=frozenset(group for _, groups in agents for group in groups)
        if are_all and not groups_come_with_tokens
        else None,
        sponsors=sponsors,
        people=None if sponsors is None or others is None else sponsors | others,
        targets={target.name: describe_target(target) for target in targets} if len(targets) <= MAX_KNOWN else None,
        flows={name: int(can_pass) for name, can_pass in flows_with_approvers(tenant_id).items()},
        now=timezone.now().timestamp(),
    )


def _people_of(tenant_id: UUID) -> tuple[frozenset[str] | None, frozenset[str] | None]:
    """Who can answer for an agent, or does; and what providers and directories call people."""
    members = Membership.objects.filter(tenant=tenant_id, user__is_active=True).values_list("user__email", flat=True)
    answering = Agent.objects.filter(tenant=tenant_id, sponsor__isnull=False).values_list("sponsor__email", flat=True)
    subjects = FederatedIdentity.objects.filter(tenant=tenant_id).values_list("subject", flat=True)
    in_directory = ScimUser.objects.filter(tenant=tenant_id).values_list("user_name", "external_id")
    sponsors = _few(members.union(answering))
    names = _few(subjects)
    directory = _few(in_directory)
    if names is None or directory is None:
        return sponsors, None
    return sponsors, names | frozenset(name for pair in directory for name in pair)


def _few(rows: QuerySet[Any, Any]) -> frozenset[Any] | None:
    """All of them, unless there are too many."""
    found = list(rows[: MAX_KNOWN + 1])
    return frozenset(found) if len(found) <= MAX_KNOWN else None
