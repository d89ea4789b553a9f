"""Who is told that a policy's draft waits for a review, and what became of it."""

from __future__ import annotations

from typing import Any

import pytest
from django.utils import timezone
from django_scopes import scope

from accounts.actions import save_tenant
from accounts.models import User
from controlplane.authority import Role
from policies.actions import (
    discard_draft,
    propose_draft,
    publish_draft,
    publish_version,
    review_draft,
    save_draft,
    save_policy,
)
from policies.models import Policy, PolicyDraft
from policies.notifying.actions import deliver, take_due
from policies.notifying.models import ChannelKind, Event, Notification, NotificationChannel
from tests.policies.notifying.conftest import Office, person

READ: dict[str, Any] = {"name": "read", "effect": "allow", "agents": ["*"], "targets": ["*"], "operations": ["select"]}


@pytest.fixture
def author(office: Office) -> User:
    """Who may write drafts and review those of others."""
    return person(office.tenant, "alan", Role.ADMIN)


@pytest.fixture
def draft(office: Office, author: User) -> PolicyDraft:
    """Alan's, of a policy that lets everybody read, where the tenant wants a review."""
    with scope(tenant=office.tenant):
        policy = Policy(tenant=office.tenant, name="support")
        save_policy(policy, acting_user=None)
        publish_version(policy, rules=[READ], message="first", acting_user=None)
        office.tenant.requires_review = True
        save_tenant(office.tenant, acting_user=None)
        draft = PolicyDraft(policy=policy)
        write(draft, "insert")
    return draft


def write(draft: PolicyDraft, operation: str) -> None:
    """Let its author make the draft allow this as well."""
    rules = [READ, {**READ, "name": "write", "operations": [operation]}]
    author = draft.author or User.objects.get(email="alan@acme.example")
    save_draft(draft, scope={}, rules=rules, message="for the new report", acting_user=author)


def told(channel: NotificationChannel) -> list[tuple[str, str, list[str]]]:
    """Event, title and recipients of what the channel is told, in order."""
    with scope(tenant=channel.tenant_id):
        notifications = Notification.objects.filter(channel=channel).order_by("created_at")
        return [(one.event, one.payload["title"], one.recipients) for one in notifications]


def test_those_who_may_review_are_told_and_the_author_hears_what_became_of_it(
    office: Office, draft: PolicyDraft, author: User, mailoutbox: list[Any]
) -> None:
    person(office.tenant, "vera", Role.VIEWER)
    channel = office.channel(ChannelKind.EMAIL)
    with scope(tenant=office.tenant):
        propose_draft(draft, acting_user=author)
        review_draft(draft, digest=draft.digest, is_approved=True, comment="fine", acting_user=office.ada)
        publish_draft(draft, acting_user=author)
    assert told(channel) == [
        (Event.POLICY_PROPOSED, "Review needed: policy support", ["ada@acme.example"]),
        (Event.POLICY_DECIDED, "Approved: policy support", ["alan@acme.example"]),
        (Event.POLICY_DECIDED, "Published: policy support", ["alan@acme.example"]),
    ]
    now = timezone.now()
    assert [deliver(one, attempt, now=now) for one, attempt in take_due(now=now)] == [True] * 3
    first = next(mail for mail in mailoutbox if "Review needed" in mail.subject)
    assert first.bcc == ["ada@acme.example"]
    assert f"/admin/policies/policydraft/{draft.pk}/change/" in first.body
    assert "Message: for the new report" in first.body
    assert "operations" not in first.body, "the change itself is told where the channel shows statements"


def test_each_proposal_is_told_and_so_is_what_is_sent_back_or_taken_back(
    office: Office, draft: PolicyDraft, author: User
) -> None:
    channel = office.channel(ChannelKind.WEBHOOK)
    with scope(tenant=office.tenant):
        propose_draft(draft, acting_user=author)
        review_draft(draft, digest=draft.digest, is_approved=False, comment="why?", acting_user=office.ada)
        write(draft, "update")  # it is a draft already: nothing to tell
        propose_draft(draft, acting_user=author)
        write(draft, "delete")
        propose_draft(draft, acting_user=author)
        discard_draft(draft, acting_user=author)
    assert [title for _, title, _ in told(channel)] == [
        "Review needed: policy support",
        "Sent back: policy support",
        "Review needed: policy support",
        "Taken back: policy support",
        "Review needed: policy support",
        "Discarded: policy support",
    ]


def test_a_draft_that_nobody_was_asked_to_review_is_told_to_nobody(
    office: Office, draft: PolicyDraft, author: User
) -> None:
    channel = office.channel(ChannelKind.WEBHOOK)
    with scope(tenant=office.tenant):
        discard_draft(draft, acting_user=author)
    assert told(channel) == []


def test_the_change_is_told_where_the_channel_shows_statements(
    office: Office, draft: PolicyDraft, author: User
) -> None:
    channel = office.channel(ChannelKind.WEBHOOK, shows_text=True)
    with scope(tenant=office.tenant):
        propose_draft(draft, acting_user=author)
        assert "+  operations: [insert]" in Notification.objects.get(channel=channel).payload["text"]
