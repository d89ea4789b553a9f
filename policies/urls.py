"""What the policies serve beside admin and REST: the inbox, and the callbacks of chats."""

from __future__ import annotations

from django.urls import path

from policies.inbox import views as inbox
from policies.notifying import views as notifying

urlpatterns = [
    path("approvals/", inbox.inbox, name="approvals"),
    path("approvals/part/", inbox.inbox_part, name="approvals-part"),
    path("approvals/<uuid:request_id>/", inbox.detail, name="approval"),
    path("approvals/<uuid:request_id>/part/", inbox.detail_part, name="approval-part"),
    path("approvals/<uuid:request_id>/approve/", inbox.approve, name="approval-approve"),
    path("approvals/<uuid:request_id>/reject/", inbox.reject, name="approval-reject"),
    path("approvals/<uuid:request_id>/break-glass/", inbox.break_glass, name="approval-break-glass"),
    path("approvals/<uuid:request_id>/preview/", inbox.preview, name="approval-preview"),
    path("hooks/slack/<uuid:channel_id>/", notifying.slack, name="hook-slack"),
    path("hooks/teams/<uuid:channel_id>/", notifying.teams, name="hook-teams"),
]
