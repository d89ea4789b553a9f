"""What happens to accounts by the clock."""

from __future__ import annotations

from celery import shared_task
from django.utils import timezone

from accounts import actions


@shared_task
def forget_old_tokens() -> int:
    """Delete tokens that ended long ago."""
    return actions.forget_old_tokens(now=timezone.now())
