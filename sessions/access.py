"""How other code obtains sessions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from django.db.models import Count, Exists, OuterRef, Q, QuerySet
from django.db.models.fields.json import KT
from django.db.models.functions import Lower, Substr

from accounts.access import departed_people, inactive_people, suspended_agents
from accounts.models import AgentToken, OidcTrust
from policies.access import effective_policy
from policies.engine import Policy
from sessions.killing.access import is_stopped
from sessions.models import AgentSession, Operation, OperationStatus, SessionState
from targets.access import find_worker

#: What an agent is told when a right was taken away, not the session.
_NO_LONGER_ALLOWED: Final = "access was withdrawn"


@dataclass(frozen=True, slots=True)
class Standing:
    """What a link has to act on. `is_welcome` False: close the link. `to_end`: reasons by session id.

    `policy`: what the tenant's running sessions are to be decided by.
    """

    is_welcome: bool
    to_end: dict[str, str]
    policy: Policy | None = None


def standing_of(worker_id: UUID, *, public_key: bytes, process: int = 0) -> Standing:
    """In its scope: whether the worker may still serve under that key, and which of the process's sessions must end."""
    own = AgentSession.objects.filter(worker=worker_id, process=process)
    unfinished = own.annotate(person=Lower(KT("principal__on_behalf_of")))
    revoked = AgentToken.objects.filter(revoked_at__isnull=False)
    proof_revoked = Exists(revoked.filter(token_id=Substr(OuterRef("credential_id"), len("token:") + 1)))
    withdrawn = Q(agent__is_active=False) | Q(target__is_active=False) | Q(proof_revoked)
    withdrawn |= is_stopped() | Q(agent__in=suspended_agents()) | Q(person__in=departed_people().values("user_name"))
    withdrawn |= Q(person__in=inactive_people().values("email"))
    trusts = OidcTrust.objects.filter(is_active=True).values_list("pk", flat=True)
    withdrawn |= Q(credential_id__startswith="trust:") & ~Q(credential_id__in=[f"trust:{pk}" for pk in trusts])
    ending = Q(end_requested_at__isnull=False) | Q(withdrawn_at__isnull=False) | withdrawn
    rows = unfinished.exclude(state=SessionState.CLOSED).filter(ending).values_list("pk", "end_reason")
    to_end = {str(pk): reason or _NO_LONGER_ALLOWED for pk, reason in rows}
    worker = find_worker(worker_id)  # last: of a worker that is withdrawn meanwhile, all sessions end for that reason
    if worker is None or not worker.is_active or not worker.tenant.is_active or bytes(worker.public_key) != public_key:
        return Standing(is_welcome=False, to_end={})
    return Standing(is_welcome=True, to_end=to_end, policy=effective_policy(worker.tenant_id))


def has_open_sessions(worker_id: UUID, *, process: int) -> bool:
    """In its scope: whether the worker's process has yet to say how a session of its ended."""
    own = AgentSession.objects.filter(worker=worker_id, process=process)
    return bool(own.filter(state__in=(SessionState.GRANTED, SessionState.LIVE)).exists())


def statements_of(session: AgentSession, *, containing: str = "", status: str = "") -> QuerySet[Operation]:
    """The session's operations in their order, narrowed by a word of the text and by status."""
    operations: QuerySet[Operation] = Operation.objects.filter(session=session).order_by("op")
    if containing:
        operations = operations.filter(text__icontains=containing)
    return operations.filter(status=status) if status else operations


def outcomes_of(session: AgentSession) -> dict[str, int]:
    """How many of the session's operations came out how, by the status's words."""
    counted = Operation.objects.filter(session=session).order_by("status").values_list("status")
    return {OperationStatus(status).label: count for status, count in counted.annotate(count=Count("pk"))}


def sessions_with_statement(containing: str) -> QuerySet[Operation, Any]:
    """The ids of the sessions in scope in which a statement holds this text."""
    found: QuerySet[Operation, Any] = Operation.objects.filter(text__icontains=containing).values("session_id")
    return found
