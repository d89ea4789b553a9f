"""Where the pages of policies are."""

from __future__ import annotations

from django.urls import reverse

from policies.models import Policy, PolicyDraft


def editor_url(policy: Policy) -> str:
    """Of the editor of its rules, on the person's own draft."""
    return reverse("admin:policies_policy_edit_rules", args=[policy.pk])


def draft_url(draft: PolicyDraft) -> str:
    """Of the draft's own page."""
    return reverse("admin:policies_policydraft_change", args=[draft.pk])
