"""Delivery in the background. The schedule is in the settings."""

from __future__ import annotations

from uuid import UUID

from celery import shared_task
from django.utils import timezone

from policies.notifying import actions


@shared_task(name="policies.notifying.tasks.deliver_due")
def deliver_due() -> int:
    """Take what is due and have each sent by a task of its own: a slow peer holds up nobody else."""
    taken = actions.take_due(now=timezone.now())
    for notification_id, attempt in taken:
        deliver.delay(str(notification_id), attempt)
    return len(taken)


@shared_task(name="policies.notifying.tasks.deliver")
def deliver(notification_id: str, attempt: int) -> bool:
    """Make a try that was taken."""
    return actions.deliver(UUID(notification_id), attempt, now=timezone.now())


@shared_task(name="policies.notifying.tasks.forget_link_codes")
def forget_link_codes() -> int:
    """Delete codes that nobody used."""
    return actions.forget_old(now=timezone.now())
