"""What changes the rows of processes. It is what links report, not what somebody administers: no ledger entries."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID, uuid4

from django.db.models import Sum

from targets.models import ProxyWorker
from targets.processes.access import linked_processes
from targets.processes.models import WorkerProcess


def take_up(worker: ProxyWorker, *, number: int, processes: int, now: datetime) -> UUID:
    """A link of this process has signed on, as one of so many: the link's id. In the worker's scope.

    It takes the place of an older link of the process. What the worker ran beyond `processes` it runs no more.
    """
    link_id = uuid4()
    WorkerProcess.objects.update_or_create(
        tenant_id=worker.tenant_id,
        worker=worker,
        number=number,
        defaults={"link_id": link_id, "linked_at": now, "last_seen_at": now},
    )
    WorkerProcess.objects.filter(worker=worker, number__gte=processes).delete()
    ProxyWorker.objects.filter(pk=worker.pk).update(last_seen_at=now)
    return link_id


def note_sign_of_life(
    worker_id: UUID, *, link_id: UUID, now: datetime, reported_sessions: int, reported_journal_bytes: int
) -> None:
    """Keep what the process reports on this link, and the sum of what all of the worker's do. In its scope."""
    processes = WorkerProcess.objects.filter(worker=worker_id)
    processes.filter(link_id=link_id).update(
        last_seen_at=now, reported_sessions=reported_sessions, reported_journal_bytes=reported_journal_bytes
    )
    total = linked_processes(now=now).filter(worker=worker_id)
    sums = total.aggregate(sessions=Sum("reported_sessions"), journal_bytes=Sum("reported_journal_bytes"))
    ProxyWorker.objects.filter(pk=worker_id).update(
        last_seen_at=now,
        reported_sessions=sums["sessions"] or 0,
        reported_journal_bytes=sums["journal_bytes"] or 0,
    )


def let_go(worker_id: UUID, *, link_id: UUID) -> None:
    """This link is closed. Nothing happens if another has taken its place. In the worker's scope."""
    WorkerProcess.objects.filter(worker=worker_id, link_id=link_id).update(link_id=None)
