"""Orders to stop, and the sessions that each of them found. Rows are changed by `killing.actions` only."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

from django.conf import settings
from django.db import models
from django.db.models import Count, Max, Q, QuerySet

from accounts.tenancy import TenantOwned

MAX_REASON_CHARACTERS: Final = 200
#: `AgentSession.state` of one that is over.
_OVER: Final = "closed"


class KillScope(models.TextChoices):
    """What is stopped."""

    SESSION = "session", "a session"
    AGENT = "agent", "an agent"
    TARGET = "target", "a target"
    TENANT = "tenant", "the whole tenant"


class KillState(models.TextChoices):
    """How far an order has come."""

    DEAD = "dead", "dead"
    WAITING = "waiting", "waiting for a silent worker"


class KillOrder(TenantOwned):
    """Somebody stopped something. One about a session is done with the session; others hold until they are lifted."""

    scope = models.CharField(max_length=8, choices=KillScope.choices)
    session = models.ForeignKey(
        "agent_sessions.AgentSession", null=True, blank=True, on_delete=models.PROTECT, related_name="+"
    )
    agent = models.ForeignKey("accounts.Agent", null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    target = models.ForeignKey("targets.Target", null=True, blank=True, on_delete=models.PROTECT, related_name="+")
    reason = models.CharField(max_length=MAX_REASON_CHARACTERS, help_text="The agents are told.")
    ordered_at = models.DateTimeField()
    ordered_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    session_count = models.PositiveIntegerField("sessions", help_text="How many ran at that moment.")
    lifted_at = models.DateTimeField(null=True, blank=True)
    lifted_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, blank=True, on_delete=models.SET_NULL, related_name="+"
    )
    lift_reason = models.CharField(max_length=MAX_REASON_CHARACTERS, blank=True)

    class Meta:
        ordering = ["-ordered_at"]
        constraints = [
            models.CheckConstraint(
                name="kill_order_names_its_subject",
                condition=(
                    Q(scope="session", session__isnull=False, agent=None, target=None)
                    | Q(scope="agent", agent__isnull=False, session=None, target=None)
                    | Q(scope="target", target__isnull=False, session=None, agent=None)
                    | Q(scope="tenant", session=None, agent=None, target=None)
                ),
            ),
        ]
        indexes = [
            models.Index(fields=["tenant", "-ordered_at"], name="kill_order_recent"),
            # What each opening of a session and each link's poll asks for.
            models.Index(
                fields=["tenant"], name="kill_order_in_force", condition=Q(lifted_at=None) & ~Q(scope="session")
            ),
        ]

    def __str__(self) -> str:
        return f"{self.scope} {self.subject_name}"

    @property
    def subject(self) -> Any:
        """The row that is stopped."""
        return self.tenant if self.scope == KillScope.TENANT else getattr(self, self.scope)

    @property
    def subject_name(self) -> str:
        """As people and the API name it: a session by its id."""
        return str(self.session_id) if self.scope == KillScope.SESSION else str(self.subject)

    @property
    def is_in_force(self) -> bool:
        """True while it keeps new sessions from opening."""
        return self.lifted_at is None and self.scope != KillScope.SESSION

    @property
    def alive(self) -> int:
        """How many of its sessions aren't over. Of an order `with_progress`, as are the next two."""
        return int(vars(self)["_alive"])

    @property
    def state(self) -> KillState:
        """Dead: by the workers' records all of its sessions are over."""
        return KillState.WAITING if self.alive else KillState.DEAD

    @property
    def seconds_to_dead(self) -> float | None:
        """From the order to the end of the last session, by its worker's clock; None: not yet, or there was none."""
        last: datetime | None = vars(self)["_last_closed_at"]
        return None if self.alive or last is None else seconds_between(self, last)


class KilledSession(TenantOwned):
    """A session that ran when the order was given. Append-only."""

    order = models.ForeignKey(KillOrder, on_delete=models.PROTECT, related_name="killed", db_index=False)
    session = models.ForeignKey("agent_sessions.AgentSession", on_delete=models.PROTECT, related_name="+")

    class Meta:
        ordering = ["order", "created_at"]
        constraints = [models.UniqueConstraint(fields=["order", "session"], name="killed_session_once")]

    def __str__(self) -> str:
        return str(self.session)

    @property
    def seconds_to_dead(self) -> float | None:
        """From the order to the session's end; None while it has none."""
        at: datetime | None = self.session.closed_at
        return None if at is None else seconds_between(self.order, at)


def with_progress(orders: QuerySet[KillOrder]) -> QuerySet[KillOrder]:
    """The orders with what `alive`, `state` and `seconds_to_dead` need, the newest first."""
    return orders.order_by("-ordered_at").annotate(
        _alive=Count("killed", filter=~Q(killed__session__state=_OVER)),
        _last_closed_at=Max("killed__session__closed_at"),
    )


def seconds_between(order: KillOrder, at: datetime) -> float:
    """From the order to then, 0 at least: the session's end is by its worker's clock."""
    return max(0.0, (at - order.ordered_at).total_seconds())
