"""Where Celery looks for this app's tasks: each part of it has its own."""

from __future__ import annotations

from policies.approvals.tasks import review_open_approvals, settle_due_approvals
from policies.notifying.tasks import deliver, deliver_due, forget_link_codes

__all__ = ["deliver", "deliver_due", "forget_link_codes", "review_open_approvals", "settle_due_approvals"]
