"""The base of every row that belongs to a tenant. `objects` sees the active scope only, and raises without one."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from django.db import models
from django_scopes import ScopedManager

if TYPE_CHECKING:
    from accounts.models import Tenant

M = TypeVar("M", bound=models.Model)

if TYPE_CHECKING:

    class TenantManager(models.Manager[M]):
        """What type checkers see of the scoped manager."""

        def with_scope(self, **scope: Any) -> Self:
            """For this query, the scope given."""

        def with_scopes_disabled(self) -> Self:
            """For this query, every tenant's rows."""

else:

    class TenantManager(type(ScopedManager(tenant="tenant"))):
        """Of django-scopes, under a name that type checkers find."""


class TenantOwned(models.Model):
    """A row of one tenant. A tenant with rows can't be deleted, only deactivated."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    tenant: models.ForeignKey[Tenant, Tenant] = models.ForeignKey(
        "accounts.Tenant", on_delete=models.PROTECT, related_name="+", db_index=True
    )
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    objects: ClassVar[TenantManager[Self]] = TenantManager()

    class Meta:
        abstract = True
