"""What is done for sessions in the background. The schedule is in the settings."""

from __future__ import annotations

import structlog
from celery import shared_task
from django.utils import timezone

from sessions import actions
from sessions.approving import withdraw_orphans

log = structlog.get_logger(__name__)


@shared_task
def settle_unfinished() -> None:
    """Close sessions that never opened; mark those whose worker is gone."""
    settled = actions.settle_unfinished(now=timezone.now())
    if any(settled.values()):
        log.info("sessions_settled", **settled)
    withdraw_orphans(now=timezone.now())


@shared_task
def forget_refusals() -> None:
    """Delete refused attempts that are too old to be asked about."""
    count = actions.forget_refusals(now=timezone.now())
    if count:
        log.info("refusals_forgotten", count=count)
