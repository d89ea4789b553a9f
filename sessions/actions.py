"""What changes sessions, other than their records (`ingest`) and their grants (`opening`)."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final
from uuid import UUID

from asgiref.sync import async_to_sync
from channels.layers import get_channel_layer
from django.db import transaction
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.utils import timezone

from controlplane.tenancy import every_tenant
from sessions.models import AgentSession, SessionRefusal, SessionState
from targets.models import ProxyWorker
from targets.processes.actions import take_up
from targets.processes.models import WorkerProcess

#: A process that has been silent for so long is gone as far as people are told. It may be back: see `take_up_process`.
LOST_AFTER: Final = timedelta(minutes=2)
#: A grant is taken up within the worker's connection to its target, or not at all.
UNOPENED_AFTER: Final = timedelta(minutes=5)
#: A session's end is bounded by its grant; its record may take this much longer to arrive.
OVERDUE_AFTER: Final = timedelta(minutes=10)
#: Refused attempts are of use while somebody asks why; the log keeps the rest.
REFUSALS_KEPT_FOR: Final = timedelta(days=90)


def worker_group(worker_id: UUID) -> str:
    """The channel layer's group in which a worker's links listen for wake-ups."""
    return f"worker.{worker_id.hex}"


def wake_links(worker_ids: set[UUID]) -> None:
    """When the transaction commits, have these workers' links look at their sessions. Links also poll."""
    # Robust: the change is made, and without the channel layer the links still poll.
    transaction.on_commit(lambda: _send_wake_ups(worker_ids), robust=True)


def wake_links_of(sessions: Q) -> None:
    """`wake_links` of the workers with unfinished sessions that match."""
    with every_tenant():
        unfinished = AgentSession.objects.exclude(state=SessionState.CLOSED).filter(sessions)
        worker_ids = set(unfinished.values_list("worker_id", flat=True))
    wake_links(worker_ids)


def withdraw_sessions(sessions: Q) -> None:
    """Have the unfinished sessions that match end: a right that they lived on is taken away, in this transaction."""
    with every_tenant():
        unfinished = AgentSession.objects.exclude(state=SessionState.CLOSED).filter(sessions)
        unfinished.filter(withdrawn_at=None).update(withdrawn_at=timezone.now())
    wake_links_of(sessions)


def note_closed(session_id: UUID, *, worker_id: UUID, reason: str, now: datetime) -> None:
    """The worker says that the session is over. Its record, when it comes, says when and why for good. In its scope."""
    sessions = AgentSession.objects.filter(pk=session_id, worker_id=worker_id, closed_at=None)
    sessions.update(state=SessionState.CLOSED, closed_at=now, close_reason=reason[:200], updated_at=now)


@transaction.atomic
def take_up_process(worker: ProxyWorker, *, number: int, processes: int, now: datetime) -> UUID:
    """This process of the worker is back, as one of so many: the id of its new link, which takes an older one's place.

    What was lost with it may be alive, until its journal says otherwise or the grant expires. In its scope.
    """
    link_id = take_up(worker, number=number, processes=processes, now=now)
    lost = AgentSession.objects.filter(worker=worker, process=number, state=SessionState.LOST)
    lost.filter(expires_at__gt=now).update(state=SessionState.LIVE, updated_at=now)
    wake_links({worker.pk})
    return link_id


def settle_unfinished(*, now: datetime) -> dict[str, int]:
    """Say of unfinished sessions what has become of them: never opened, or lost. Returns how many of each."""
    with every_tenant():
        return _settle(AgentSession.objects.all(), now=now)


def forget_refusals(*, now: datetime) -> int:
    """Delete refused attempts older than `REFUSALS_KEPT_FOR`. Returns how many."""
    with every_tenant():
        count: int = SessionRefusal.objects.filter(last_at__lt=now - REFUSALS_KEPT_FOR).delete()[0]
    return count


def _settle(unfinished: QuerySet[AgentSession], *, now: datetime) -> dict[str, int]:
    unopened = unfinished.filter(state=SessionState.GRANTED, granted_at__lt=now - UNOPENED_AFTER)
    own_process = WorkerProcess.objects.filter(worker=OuterRef("worker"), number=OuterRef("process"))
    is_silent = ~Exists(own_process.filter(last_seen_at__gte=now - LOST_AFTER))
    is_overdue = Q(expires_at__lt=now - OVERDUE_AFTER)
    lost = unfinished.filter(Q(is_silent) | is_overdue, state=SessionState.LIVE)
    return {
        "unopened": unopened.update(
            state=SessionState.CLOSED, closed_at=now, close_reason="never opened", updated_at=now
        ),
        "lost": lost.update(state=SessionState.LOST, updated_at=now),
    }


def _send_wake_ups(worker_ids: set[UUID]) -> None:
    layer = get_channel_layer()
    for worker_id in worker_ids:
        async_to_sync(layer.group_send)(worker_group(worker_id), {"type": "link.wake"})
