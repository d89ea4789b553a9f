"""How other code obtains orders to stop: those in force, and the row that a person names."""

from __future__ import annotations

from uuid import UUID

from django.db.models import Exists, Q, QuerySet

from accounts.models import Agent, Tenant
from controlplane.errors import Refusal
from sessions.killing.models import KilledSession, KillOrder, KillScope
from sessions.models import AgentSession, SessionState
from targets.models import Target

#: What an order may be about.
Subject = AgentSession | Agent | Target | Tenant


def orders_in_force() -> QuerySet[KillOrder]:
    """The orders in scope that keep sessions from opening."""
    orders: QuerySet[KillOrder] = KillOrder.objects.filter(lifted_at=None).exclude(scope=KillScope.SESSION)
    return orders


def order_against(agent: Agent, target: Target | None) -> KillOrder | None:
    """The newest order in force that keeps the agent from a session on the target."""
    about = Q(scope=KillScope.TENANT) | Q(agent=agent)
    if target is not None:
        about |= Q(target=target)
    return orders_in_force().filter(about).order_by("-ordered_at").first()


def is_stopped() -> Q:
    """Of sessions in scope: true of those that an order in force is about, whenever they opened."""
    orders = orders_in_force()
    return (
        Q(Exists(orders.filter(scope=KillScope.TENANT)))
        | Q(agent__in=orders.filter(scope=KillScope.AGENT).values("agent"))
        | Q(target__in=orders.filter(scope=KillScope.TARGET).values("target"))
    )


def running_sessions(subject: Subject) -> QuerySet[AgentSession]:
    """The sessions that stopping it would end. In its tenant's scope."""
    unfinished = AgentSession.objects.exclude(state=SessionState.CLOSED)
    match subject:
        case AgentSession():
            return unfinished.filter(pk=subject.pk)
        case Agent():
            return unfinished.filter(agent=subject)
        case Target():
            return unfinished.filter(target=subject)
        case Tenant():
            return unfinished.filter(tenant=subject)


def find_subject(tenant: Tenant, scope: str, name: str) -> Subject:
    """What is to be stopped, by its name; a session by its id. In the tenant's scope. Raises `Refusal`."""
    found: Subject | None = None
    match scope:
        case KillScope.TENANT:
            found = tenant if name in ("", tenant.slug) else None
        case KillScope.AGENT:
            found = Agent.objects.filter(tenant=tenant, name=name).first()
        case KillScope.TARGET:
            found = Target.objects.filter(tenant=tenant, name=name).first()
        case KillScope.SESSION:
            session_id = _uuid(name)
            if session_id is not None:
                found = AgentSession.objects.filter(tenant=tenant, pk=session_id).first()
    if found is None:
        raise Refusal(problem=f"there is no {scope} {name!r}", fix="Use its name, or a session's id", field="subject")
    return found


def killed_sessions(order: KillOrder) -> QuerySet[KilledSession]:
    """The order's sessions, those that aren't over first, then the slowest."""
    killed: QuerySet[KilledSession] = KilledSession.objects.filter(order=order)
    related = killed.select_related("order", "session__agent", "session__target", "session__worker")
    return related.order_by("-session__closed_at", "pk")  # PostgreSQL sorts NULL as the greatest


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
