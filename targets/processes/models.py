"""One row for each process of a worker."""

from __future__ import annotations

from django.db import models

from accounts.tenancy import TenantOwned


class WorkerProcess(TenantOwned):
    """A process of a worker, while the worker runs with so many. `number` counts from 0.

    `link_id` is of the link that it has now, None between two. A newer link of the same number takes the row over.
    """

    worker = models.ForeignKey("targets.ProxyWorker", on_delete=models.CASCADE, related_name="processes")
    number = models.PositiveSmallIntegerField()
    link_id = models.UUIDField(null=True)
    linked_at = models.DateTimeField()
    last_seen_at = models.DateTimeField()
    reported_sessions = models.PositiveIntegerField(default=0)
    reported_journal_bytes = models.PositiveBigIntegerField(default=0)

    class Meta:
        ordering = ["number"]
        constraints = [models.UniqueConstraint(fields=["worker", "number"], name="worker_process_unique")]

    def __str__(self) -> str:
        return f"process {self.number}"

    @property
    def has_link(self) -> bool:
        """Whether it has a link, as far as the control plane noticed."""
        return self.link_id is not None
