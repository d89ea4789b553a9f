"""The base of every row that belongs to a tenant. `objects` sees the active scope only, and raises without one."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

from django.db import models
from django_scopes import ScopedManager

if TYPE_CHECKING:
    from accounts.models import Tenant


class TenantOwned(models.Model):
    """A row of one tenant. A tenant with rows can't be deleted, only deactivated."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    tenant: models.ForeignKey[Tenant, Tenant] = models.ForeignKey(
        "accounts.Tenant", on_delete=models.PROTECT, related_name="+", db_index=True
    )
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    objects: Any = ScopedManager(tenant="tenant")

    class Meta:
        abstract = True
