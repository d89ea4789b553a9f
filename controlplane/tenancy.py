"""Which tenants a piece of code may see, for the ORM and for PostgreSQL alike.

    with scope(tenant=tenant):   of django-scopes: the rows of this tenant, or of a list of tenants
    with every_tenant():         the system's own door, for what can't know a tenant yet or serves them all

`controlplane.database` tells PostgreSQL before each statement, where row-level security holds everything to it, raw SQL
included. Outside of both, no tenant's row is there. A manager's `with_scope` reaches the ORM only: don't use it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from django.db import models
from django_scopes import get_scope, scopes_disabled  # here is the door


@dataclass(frozen=True, slots=True)
class Visibility:
    """What row-level security lets a statement see and write: the `tenants` (ids, joined by commas), or all of them."""

    tenants: str = ""
    is_system: bool = False


#: What is seen before anybody has said for whom.
NOTHING: Final = Visibility()


@contextmanager
def every_tenant() -> Iterator[None]:
    """See all tenants' rows: to find whose a credential is, and for tasks, tools and links that serve all tenants."""
    with scopes_disabled():
        yield


def current_visibility() -> Visibility:
    """What the active scope lets a statement see. Raises ValueError for a scope that names no tenant's id."""
    active = get_scope()
    if not active.get("_enabled", True):
        return Visibility(is_system=True)
    named = active.get("tenant")
    if named is None:
        return NOTHING
    tenants = named if isinstance(named, list | tuple) else (named,)
    return Visibility(tenants=",".join(_id_of(tenant) for tenant in tenants))


def _id_of(tenant: models.Model | UUID | str) -> str:
    return str(UUID(str(tenant.pk if isinstance(tenant, models.Model) else tenant)))
