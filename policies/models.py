"""Policies and their immutable versions. What a version means is `policies.engine`'s.

Rows are changed by `policies.actions` only. A version is never changed or deleted: the model refuses, and so does a
trigger of the database.
"""

from __future__ import annotations

from typing import Any, Final, NoReturn

from django.conf import settings
from django.core.validators import RegexValidator
from django.db import models

from accounts.tenancy import TenantOwned
from policies.errors import ImmutableVersion
from policies.notifying.models import (  # noqa: F401  # Django looks for models here
    ChatIdentity,
    ChatLinkCode,
    DeliveryAttempt,
    Notification,
    NotificationChannel,
)

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


class PolicyVersion(TenantOwned):
    """What a policy said from its publication on. `number` counts from 1 within the policy."""

    policy = models.ForeignKey(Policy, on_delete=models.PROTECT, related_name="versions")
    number = models.PositiveIntegerField()
    rules = models.JSONField()
    author = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    message = models.CharField(max_length=500, blank=True)

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
