"""Has open requests looked at again, when the people who could decide them, or the policy, change."""

from __future__ import annotations

from functools import partial
from typing import Any
from uuid import UUID

from django.db import transaction
from django.db.models.signals import post_delete, post_save
from django.dispatch import receiver

from accounts.models import Membership, User
from accounts.scim.models import ScimMember
from controlplane.tenancy import every_tenant
from policies.approvals.settling import reconsider_tenant
from policies.models import Policy


@receiver(post_save, sender=Policy)
def _policy_saved(instance: Policy, **_: Any) -> None:
    _look_again(instance.tenant_id)


@receiver([post_save, post_delete], sender=Membership)
def _membership_changed(instance: Membership, **_: Any) -> None:
    _look_again(instance.tenant_id)


@receiver(post_delete, sender=ScimMember)
def _left_group(instance: ScimMember, **_: Any) -> None:
    _look_again(instance.tenant_id)


@receiver(post_save, sender=User)
def _person_saved(instance: User, created: bool, **_: Any) -> None:
    if created or instance.is_active:
        return
    with every_tenant():
        for tenant_id in Membership.objects.filter(user=instance).values_list("tenant_id", flat=True):
            _look_again(tenant_id)


def _look_again(tenant_id: UUID) -> None:
    """After the commit, in transactions of their own; robust, because a task looks as well."""
    transaction.on_commit(partial(reconsider_tenant, tenant_id), robust=True)
