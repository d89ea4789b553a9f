"""What a signed-in person may do: the roles, what each permits, and the tenants it holds in.

An `Authority` is on every request (`accounts.middleware`, or the REST token's authenticator puts it there). Admin pages
and REST both ask it; this module knows no model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Final
from uuid import UUID

from django.db import models
from django.http import HttpRequest
from django_scopes import scope


class Role(models.TextChoices):
    """A person's part in a tenant."""

    OWNER = "owner", "Owner"
    ADMIN = "admin", "Administrator"
    APPROVER = "approver", "Approver"
    AUDITOR = "auditor", "Auditor"
    VIEWER = "viewer", "Viewer"


class Power(Enum):
    """What a role permits: READ the set-up, AUDIT the record, MANAGE the set-up, OWN who belongs to the tenant."""

    READ = "read"
    AUDIT = "audit"
    APPROVE = "approve"
    MANAGE = "manage"
    OWN = "own"


ROLE_POWERS: Final[Mapping[Role, frozenset[Power]]] = {
    Role.OWNER: frozenset({Power.READ, Power.AUDIT, Power.APPROVE, Power.MANAGE, Power.OWN}),
    Role.ADMIN: frozenset({Power.READ, Power.AUDIT, Power.APPROVE, Power.MANAGE}),
    Role.APPROVER: frozenset({Power.READ, Power.AUDIT, Power.APPROVE}),
    Role.AUDITOR: frozenset({Power.READ, Power.AUDIT}),
    Role.VIEWER: frozenset({Power.READ}),
}


@dataclass(frozen=True, slots=True)
class Authority:
    """The roles by tenant id. An operator manages the tenants themselves; inside of them, they have what roles give."""

    roles: Mapping[UUID, Role] = field(default_factory=dict)
    is_operator: bool = False

    def may(self, power: Power, tenant_id: UUID | None = None) -> bool:
        """True when the power is held in that tenant; without one, in any."""
        if tenant_id is None:
            return any(power in ROLE_POWERS[role] for role in self.roles.values())
        role = self.roles.get(tenant_id)
        return role is not None and power in ROLE_POWERS[role]

    def tenant_ids(self, power: Power) -> tuple[UUID, ...]:
        """The tenants in which the power is held."""
        return tuple(tenant_id for tenant_id, role in self.roles.items() if power in ROLE_POWERS[role])

    def within(self, tenant_id: UUID) -> Authority:
        """What is left of it in that tenant alone: a role, never an operator's power."""
        return Authority(roles={tenant_id: self.roles[tenant_id]} if tenant_id in self.roles else {})

    @contextmanager
    def scope(self) -> Iterator[None]:
        """Let the ORM see the tenants of this authority and nothing else."""
        with scope(tenant=list(self.roles)):
            yield


#: Nobody is signed in.
NO_AUTHORITY: Final = Authority()


def authority_of(request: HttpRequest) -> Authority:
    """The request's authority, `NO_AUTHORITY` when nobody put one there."""
    found = getattr(request, "authority", NO_AUTHORITY)
    return found if isinstance(found, Authority) else NO_AUTHORITY
