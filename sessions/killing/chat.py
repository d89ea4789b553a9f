"""The kill switch by chat: `kill agent reporter it deletes orders`, for whoever manages the tenant."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from django.conf import settings
from django.db.models.signals import post_save
from django.dispatch import receiver
from django.urls import reverse

from accounts.models import Membership, User
from controlplane.authority import ROLE_POWERS, Power, Role
from controlplane.errors import Refusal
from policies.notifying.actions import announce
from policies.notifying.commands import Speaker, register_command
from policies.notifying.models import Event
from sessions.killing.access import find_subject
from sessions.killing.actions import kill
from sessions.killing.models import KillOrder

USAGE: Final = "kill session|agent|target <its id or name> <reason>, or: kill tenant <its slug> <reason>"


def kill_by_chat(speaker: Speaker, user: User, said: str, now: datetime) -> str:
    """Stop what is named. Raises `Refusal`."""
    del now
    tenant = speaker.channel.tenant
    membership = Membership.objects.filter(user=user, tenant=tenant).first()
    if membership is None or Power.MANAGE not in ROLE_POWERS[Role(membership.role)]:
        raise Refusal(problem="your role doesn't permit that", fix="Ask an administrator or an owner.")
    kind, _, rest = said.partition(" ")
    name, _, reason = rest.strip().partition(" ")
    if not name:
        raise Refusal(problem="that names nothing to stop", fix=f"Say: {USAGE}.")
    subject = find_subject(tenant, kind.lower(), name)
    order = kill(subject, reason=reason.strip() or f"stopped by {user} in {speaker.channel.kind}", acting_user=user)
    return f"Stopped: {order.scope} {order.subject_name}, {order.session_count} running sessions. {_url(order)}"


@receiver(post_save, sender=KillOrder)
def _ordered(instance: KillOrder, created: bool, **_: Any) -> None:  # Django's signal
    if not created:
        return
    announce(
        tenant=instance.tenant,
        event=Event.KILLED,
        key=f"{instance.pk}:ordered",
        title=f"Stopped: {instance.scope} {instance.subject_name}",
        url=_url(instance),
        facts=[
            ("By", str(instance.ordered_by or "the system")),
            ("Why", instance.reason),
            ("Running sessions", str(instance.session_count)),
        ],
        subject_id=instance.pk,
    )


def _url(order: KillOrder) -> str:
    return f"{settings.NARROWGATE.public_url}{reverse('admin:agent_sessions_killorder_change', args=[order.pk])}"


register_command("kill", kill_by_chat, usage=USAGE)
