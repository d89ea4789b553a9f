"""Saving and deleting a row together with its ledger entry: what most actions of most apps do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django.contrib.auth.base_user import AbstractBaseUser
from django.core.exceptions import ValidationError
from django.db import models, transaction
from django_scopes import scope

from controlplane.ledger.actions import append_entry


def save_recorded(
    row: models.Model,
    *,
    acting_user: AbstractBaseUser | None,
    noun: str,
    fields: Sequence[str],
    also: Mapping[str, Any] | None = None,
    tenant: models.Model | None = None,
    is_platforms: bool = False,
) -> bool:
    """Validate and save a tenant's row and append `<noun>.created` or `<noun>.changed`. False when nothing differed.

    `fields` are what the entry tells; `also` says more of the new state, such as {"secret": True} for "it was set".
    `tenant` is whose ledger, where that isn't `row.tenant`; what `is_platforms` is told in the platform's, too.
    Raises Django's ValidationError, also when the row refers to a row of another tenant.
    """
    owner = tenant or _tenant_of(row)
    with transaction.atomic(), scope(tenant=owner.pk):
        before = None
        if not row._state.adding:
            kept = type(row)._base_manager.select_for_update(of=("self",)).get(pk=row.pk)
            before = describe(kept, fields)
        after = {**describe(row, fields), **(also or {})}
        if before == after:
            return False
        row.full_clean()
        _refuse_foreign(row, owner)
        row.save()
        for ledger in (owner, None) if is_platforms else (owner,):
            append_entry(
                tenant=ledger,
                kind=f"{noun}.created" if before is None else f"{noun}.changed",
                acting_user=acting_user,
                subject=subject_of(noun, row),
                before=before,
                after=after,
            )
        return True


def delete_recorded(
    row: models.Model, *, acting_user: AbstractBaseUser | None, noun: str, fields: Sequence[str]
) -> None:
    """Delete a tenant's row and append `<noun>.deleted`. Raises ProtectedError when others need it."""
    owner = _tenant_of(row)
    with transaction.atomic(), scope(tenant=owner.pk):
        append_entry(
            tenant=owner,
            kind=f"{noun}.deleted",
            acting_user=acting_user,
            subject=subject_of(noun, row),
            before=describe(row, fields),
            after=None,
        )
        row.delete()


def describe(row: models.Model, fields: Sequence[str]) -> dict[str, Any]:
    """The fields as the ledger tells them: a related row by its name."""
    told: dict[str, Any] = {}
    for name in fields:
        value = getattr(row, name)
        told[name] = str(value) if isinstance(value, models.Model) else value
    return told


def subject_of(noun: str, row: models.Model) -> str:
    """How the ledger names a row: `agent:reporter`."""
    return f"{noun}:{row}"


def _tenant_of(row: models.Model) -> models.Model:
    tenant: models.Model = row.tenant  # type: ignore[attr-defined]
    return tenant


def _refuse_foreign(row: models.Model, owner: models.Model) -> None:
    """The database can't see that a foreign key crosses tenants; we do."""
    for field in row._meta.concrete_fields:
        if isinstance(field, models.ForeignKey) and field.name != "tenant":
            related = getattr(row, field.name)
            if getattr(related, "tenant_id", owner.pk) != owner.pk:
                raise ValidationError({field.name: "It belongs to another tenant. Choose one of this tenant."})
