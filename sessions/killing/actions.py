"""Stopping, and lifting what was stopped."""

from __future__ import annotations

from typing import Final

import structlog
from django.db import OperationalError, connection, transaction
from django.utils import timezone
from django_scopes import scope

from accounts.models import Agent, Tenant, User
from controlplane.errors import Refusal
from controlplane.ledger.actions import append_entry
from sessions.actions import wake_links
from sessions.killing.access import Subject, running_sessions
from sessions.killing.models import KilledSession, KillOrder, KillScope
from sessions.models import AgentSession
from targets.models import Target

log = structlog.get_logger(__name__)

#: Of PostgreSQL's advisory locks: openings of a tenant's sessions share it, an order takes it alone.
_LOCK_SPACE: Final = 0x6B69_6C6C
#: A kill waits no longer than this for openings that are under way: those that it misses are found by the links' poll.
_WAIT_MS: Final = 500


@transaction.atomic
def kill(subject: Subject, *, reason: str, acting_user: User | None) -> KillOrder:
    """Stop a session, an agent, a target or a tenant now. The caller has seen to it that the person may (`MANAGE`).

    Every session in scope ends; of an agent, target or tenant none opens until `lift`. Raises `Refusal` for a session
    that is over, or without a reason. Again makes another order: each has to be lifted.
    """
    ordered_at = timezone.now()
    if not reason.strip():
        fix = "Say why: the agents are told, and the record keeps it"
        raise Refusal(problem="there is no reason", fix=fix, field="reason")
    tenant = subject if isinstance(subject, Tenant) else subject.tenant
    with scope(tenant=tenant.pk):
        if not isinstance(subject, AgentSession):
            _await_openings(tenant)
        order = KillOrder(
            tenant=tenant, reason=reason[:200], ordered_at=ordered_at, ordered_by=acting_user, **_named(subject)
        )
        found = list(running_sessions(subject).values_list("pk", "worker_id"))
        if not found and order.scope == KillScope.SESSION:
            raise Refusal(problem="the session is over", fix="There is nothing to end")
        order.session_count = len(found)
        order.full_clean()
        order.save(force_insert=True)
        KilledSession.objects.bulk_create(
            [KilledSession(tenant=tenant, order=order, session_id=session_id) for session_id, _ in found]
        )
        unasked = AgentSession.objects.filter(pk__in=[session_id for session_id, _ in found], end_requested_at=None)
        unasked.update(
            end_requested_at=ordered_at, end_requested_by=acting_user, end_reason=order.reason, updated_at=ordered_at
        )
        append_entry(
            tenant=tenant,
            kind="kill.ordered",
            acting_user=acting_user,
            subject=f"{order.scope}:{order.subject_name}",
            before=None,
            after={"order": str(order.pk), "reason": order.reason, "sessions": order.session_count},
        )
    wake_links({worker_id for _, worker_id in found})
    log.warning("kill_ordered", order=str(order.pk), scope=order.scope, sessions=order.session_count)
    return order


@transaction.atomic
def lift(order: KillOrder, *, reason: str, acting_user: User | None) -> KillOrder:
    """Let what was stopped have sessions again, as far as no other order is about it.

    Raises `Refusal` for an order about a session, one that is lifted, or without a reason.
    """
    with scope(tenant=order.tenant_id):
        locked: KillOrder = KillOrder.objects.select_for_update(of=("self",)).get(pk=order.pk)
        if not locked.is_in_force:
            problem = "it is lifted already" if locked.lifted_at else "an order about a session holds nothing back"
            raise Refusal(problem=problem, fix="There is nothing to lift")
        if not reason.strip():
            raise Refusal(problem="there is no reason", fix="Say why it may go on", field="reason")
        locked.lifted_at, locked.lifted_by, locked.lift_reason = timezone.now(), acting_user, reason[:200]
        locked.save(update_fields=["lifted_at", "lifted_by", "lift_reason", "updated_at"])
        append_entry(
            tenant=locked.tenant,
            kind="kill.lifted",
            acting_user=acting_user,
            subject=f"{locked.scope}:{locked.subject_name}",
            before={"order": str(locked.pk), "reason": locked.reason},
            after={"order": str(locked.pk), "reason": locked.lift_reason},
        )
    return locked


def share_opening(tenant_id: object) -> None:
    """For whoever opens a session, in its transaction: an order waits until that has ended, or is seen from here on."""
    _lock("pg_advisory_xact_lock_shared", tenant_id)


def _await_openings(tenant: Tenant) -> None:
    """Wait for openings under way to commit, so that their sessions are found; not for long."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_setting('lock_timeout')")
        usual = cursor.fetchone()[0]
        try:
            with transaction.atomic():
                cursor.execute("SELECT set_config('lock_timeout', %s, true)", [f"{_WAIT_MS}ms"])
                _lock("pg_advisory_xact_lock", tenant.pk)
        except OperationalError:
            log.warning("kill_did_not_wait", tenant=tenant.slug)
        cursor.execute("SELECT set_config('lock_timeout', %s, true)", [usual])


def _lock(function: str, tenant_id: object) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {function}(%s, hashtext(%s))", [_LOCK_SPACE, str(tenant_id)])


def _named(subject: Subject) -> dict[str, object]:
    match subject:
        case AgentSession():
            return {"scope": KillScope.SESSION, "session": subject}
        case Agent():
            return {"scope": KillScope.AGENT, "agent": subject}
        case Target():
            return {"scope": KillScope.TARGET, "target": subject}
        case Tenant():
            return {"scope": KillScope.TENANT}
