"""What time does to approvals. A task may run twice, or late: rows and their locks decide, and votes check again."""

from __future__ import annotations

import structlog
from celery import shared_task
from django.utils import timezone

from policies.approvals import settling

log = structlog.get_logger(__name__)


@shared_task
def settle_due_approvals() -> int:
    """Expire and escalate what is due. Returns how many requests were."""
    count = settling.reconsider_due(now=timezone.now())
    if count:
        log.info("approvals_due", count=count)
    return count


@shared_task
def review_open_approvals() -> int:
    """Look at all that is open: have people left, has the policy changed? Returns how many requests there were."""
    return settling.reconsider_all(now=timezone.now())
