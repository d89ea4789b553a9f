"""Ends sessions, or has them follow, when rights change elsewhere. The lower apps know no sessions: saves are heard.

A receiver only wakes links up; what they then find in the rows decides (`access.standing_of`).
"""

from __future__ import annotations

from typing import Any

from django.db.models import Q
from django.db.models.signals import post_delete, post_save
from django.dispatch import receiver

from accounts.models import Agent, AgentToken, Membership, OidcTrust, Tenant, User
from accounts.scim.models import ScimUser
from policies.approvals import signals as approvals
from policies.approvals.models import ApprovalRequest
from policies.models import Policy
from sessions.actions import wake_links, wake_links_of, withdraw_sessions
from targets.models import ColumnLabel, ProxyWorker, Target


@receiver(post_save, sender=Agent)
def _agent_saved(instance: Agent, **_: Any) -> None:
    if not instance.is_active:
        withdraw_sessions(Q(agent=instance))


@receiver(post_save, sender=Target)
def _target_saved(instance: Target, **_: Any) -> None:
    if not instance.is_active:
        withdraw_sessions(Q(target=instance))


@receiver(post_save, sender=Policy)
def _policy_saved(instance: Policy, **_: Any) -> None:
    wake_links_of(Q(tenant=instance.tenant_id))


@receiver([post_save, post_delete], sender=ColumnLabel)
def _column_labelled(instance: ColumnLabel, **_: Any) -> None:
    wake_links_of(Q(tenant=instance.tenant_id))


@receiver([approvals.decided, approvals.preview_asked])
def _approval_changed(request: ApprovalRequest, **_: Any) -> None:
    wake_links({request.worker_id})


@receiver(post_save, sender=Tenant)
def _tenant_saved(instance: Tenant, **_: Any) -> None:
    if not instance.is_active:
        withdraw_sessions(Q(tenant=instance))


@receiver(post_save, sender=ProxyWorker)
def _worker_saved(instance: ProxyWorker, **_: Any) -> None:
    if not instance.is_active:
        withdraw_sessions(Q(worker=instance))
        wake_links({instance.pk})


@receiver(post_save, sender=AgentToken)
def _token_saved(instance: AgentToken, **_: Any) -> None:
    if instance.revoked_at is not None:
        withdraw_sessions(Q(credential_id=f"token:{instance.token_id}"))


@receiver(post_save, sender=OidcTrust)
def _trust_saved(instance: OidcTrust, **_: Any) -> None:
    if not instance.is_active:
        withdraw_sessions(Q(credential_id=f"trust:{instance.pk}"))


@receiver(post_delete, sender=OidcTrust)
def _trust_deleted(instance: OidcTrust, **_: Any) -> None:
    withdraw_sessions(Q(credential_id=f"trust:{instance.pk}"))


@receiver(post_save, sender=User)
def _person_saved(instance: User, **_: Any) -> None:
    if not instance.is_active:
        withdraw_sessions(Q(agent__sponsor=instance) | Q(principal__on_behalf_of__iexact=instance.email))


@receiver(post_delete, sender=Membership)
def _membership_deleted(instance: Membership, **_: Any) -> None:
    withdraw_sessions(Q(agent__sponsor=instance.user_id, tenant=instance.tenant_id))


@receiver(post_save, sender=ScimUser)
def _directory_saved(instance: ScimUser, **_: Any) -> None:
    if not instance.is_active:  # nobody acts on behalf of whoever has left
        withdraw_sessions(Q(tenant=instance.tenant_id, principal__on_behalf_of__iexact=instance.user_name))
