"""How other code obtains the processes of workers. Within the active scope."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from django.db.models import QuerySet

from targets.models import SILENT_AFTER_SECONDS
from targets.processes.models import WorkerProcess

SILENT_AFTER: Final = timedelta(seconds=SILENT_AFTER_SECONDS)


def is_current(worker_id: UUID, link_id: UUID) -> bool:
    """Whether no newer link of the same process has taken this one's place."""
    return bool(WorkerProcess.objects.filter(worker=worker_id, link_id=link_id).exists())


def linked_processes(*, now: datetime) -> QuerySet[WorkerProcess, Any]:
    """The processes in scope that have a link on which something was heard lately."""
    processes: QuerySet[WorkerProcess, Any] = WorkerProcess.objects.all()
    return processes.filter(link_id__isnull=False, last_seen_at__gte=now - SILENT_AFTER)
