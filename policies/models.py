"""Policies, their drafts, and their immutable versions. What a version means is `policies.engine`'s.

Rows are changed by `policies.actions` only. A version is never changed or deleted: the model refuses, and so does a
trigger of the database. A draft's state:

    draft ──► proposed ──► approved ──► published
      ▲          │            │
      └──────────┴────────────┘         sent back, or its rules changed; discarded from anywhere before publication

Where the tenant asks for no review, a draft is published as it is.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, Final, NoReturn

from django.conf import settings
from django.core.validators import RegexValidator
from django.db import models

from accounts.tenancy import TenantOwned
from policies.approvals.models import (  # noqa: F401  # Django looks for models here
    ApprovalFlow,
    ApprovalGrant,
    ApprovalRequest,
    ApprovalUse,
    ApprovalVote,
)
from policies.budgets.models import Budget  # noqa: F401  # Django looks for models here
from policies.documents import PolicyDocument, diff_of
from policies.errors import ImmutableVersion
from policies.notifying.models import (  # noqa: F401  # Django looks for models here
    ChatIdentity,
    ChatLinkCode,
    DeliveryAttempt,
    Notification,
    NotificationChannel,
)
from policies.simulation.models import Simulation, Suggestion  # noqa: F401  # Django looks for models here

#: A policy's name is part of a version string ("support@3"), so it has no "@", "+" or "/".
POLICY_NAME_PATTERN: Final = r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z"

policy_name_validator = RegexValidator(
    POLICY_NAME_PATTERN, "Use 1 to 63 small letters, digits and hyphens, with a letter or digit at both ends."
)


class Policy(TenantOwned):
    """A named list of rules with a history. The tenant's active policies apply together."""

    name = models.CharField(max_length=63, validators=[policy_name_validator])
    description = models.CharField(max_length=500, blank=True)
    is_active = models.BooleanField("active", default=True, help_text="Off: none of its rules apply.")
    current = models.ForeignKey(
        "policies.PolicyVersion", null=True, blank=True, editable=False, on_delete=models.PROTECT, related_name="+"
    )

    class Meta:
        verbose_name_plural = "policies"
        ordering = ["name"]
        constraints = [models.UniqueConstraint(fields=["tenant", "name"], name="policy_name_unique_in_tenant")]

    def __str__(self) -> str:
        return self.name


class Documented(TenantOwned):
    """Base of what holds a policy's document. `scope` holds for all of its `rules`; both are as in docs/policy.md."""

    scope = models.JSONField(default=dict, blank=True)
    rules = models.JSONField(default=list, blank=True)

    class Meta:
        abstract = True

    @property
    def document(self) -> PolicyDocument:
        """Scope and rules."""
        return PolicyDocument(scope=self.scope, rules=self.rules)


class PolicyVersion(Documented):
    """What a policy said from its publication on. `number` counts from 1 within the policy.

    `diff` is against the version before, as YAML. `restores` is the earlier version whose document this is again.
    """

    policy = models.ForeignKey(Policy, on_delete=models.PROTECT, related_name="versions")
    number = models.PositiveIntegerField()
    author = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    reviewer = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    message = models.CharField(max_length=500, blank=True)
    diff = models.TextField(blank=True)
    restores = models.ForeignKey("self", null=True, blank=True, on_delete=models.PROTECT, related_name="+")

    class Meta:
        ordering = ["policy__name", "-number"]
        constraints = [models.UniqueConstraint(fields=["policy", "number"], name="policy_version_number_unique")]

    def __str__(self) -> str:
        return f"{self.policy.name}@{self.number}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Insert. Raises `ImmutableVersion` for a row that exists."""
        if not self._state.adding:
            raise ImmutableVersion(str(self))
        super().save(*args, **kwargs)

    def delete(self, *_: Any, **__: Any) -> NoReturn:
        """Raises `ImmutableVersion`."""
        raise ImmutableVersion(str(self))


class DraftState(models.TextChoices):
    """Where a draft is. See the module."""

    DRAFT = "draft", "draft"
    PROPOSED = "proposed", "waits for review"
    APPROVED = "approved", "approved"
    PUBLISHED = "published", "published"
    DISCARDED = "discarded", "discarded"


#: A draft in one of these may still become a version.
OPEN_STATES: Final = (DraftState.DRAFT, DraftState.PROPOSED, DraftState.APPROVED)


class PolicyDraft(Documented):
    """What somebody wants a policy to say. `base`: the version that it changes; `version`: what it became.

    `author` None: it came by `manage.py apply`.
    """

    policy = models.ForeignKey(Policy, on_delete=models.PROTECT, related_name="drafts")
    base = models.ForeignKey(PolicyVersion, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    restores = models.ForeignKey(PolicyVersion, null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    message = models.CharField(max_length=500, blank=True, help_text="Why the rules change, for the history.")
    author = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    state = models.CharField(max_length=10, choices=DraftState.choices, default=DraftState.DRAFT)
    reviewer = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    reviewed_at = models.DateTimeField(null=True, blank=True)
    review_comment = models.CharField(max_length=1000, blank=True)
    version = models.OneToOneField(PolicyVersion, null=True, blank=True, on_delete=models.PROTECT, related_name="draft")

    class Meta:
        verbose_name = "policy draft"
        ordering = ["-updated_at"]
        indexes = [models.Index(fields=["tenant", "-updated_at"], name="policy_draft_recent")]

    def __str__(self) -> str:
        return f"draft of {self.policy} by {self.author or 'manage.py apply'}"

    @property
    def is_open(self) -> bool:
        """True while it may still become a version."""
        return self.state in OPEN_STATES

    @property
    def is_out_of_date(self) -> bool:
        """True when another version has been published since it was begun."""
        return self.is_open and self.base_id != self.policy.current_id

    @property
    def digest(self) -> str:
        """Of what a reviewer approves, in hex: the base, and what shall be said instead."""
        told = json.dumps([str(self.base_id), self.scope, self.rules, self.message], sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()

    @property
    def diff(self) -> str:
        """Against its base, as YAML; when published, as the version keeps it."""
        if self.version is not None:
            return self.version.diff
        before = None if self.base is None else self.base.document
        return diff_of(before, self.document, before_name=str(self.base or "nothing"), after_name="draft")
