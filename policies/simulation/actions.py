"""What begins, moves on and ends simulations and suggestions. `sessions` does the work between."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Final, TypeVar
from uuid import UUID

from django.db import transaction
from django.db.models import F, Q
from django.utils import timezone

from accounts.models import Agent, Tenant, User
from controlplane.errors import Refusal
from controlplane.ledger.actions import append_entry
from policies.documents import check_document
from policies.models import Policy, PolicyDraft
from policies.simulation.models import Run, RunState, Simulation, Suggestion

#: Longer looks back answer no question about today's agents.
MAX_PERIOD: Final = timedelta(days=366)
#: A tenant's runs share the background workers with everybody's.
MAX_UNFINISHED: Final = 5
#: Older ones are forgotten: a simulation is soon out of date.
MAX_KEPT: Final = 100

R = TypeVar("R", bound=Run)


@transaction.atomic
def start_simulation(
    policy: Policy,
    *,
    scope: Any,
    rules: Any,
    since: datetime,
    until: datetime,
    acting_user: User | None,
    draft: PolicyDraft | None = None,
) -> Simulation:
    """Have this document replayed, in place of what the policy says now. Raises `PolicyError` and `Refusal`."""
    document = check_document({"scope": scope, "rules": rules})
    simulation = Simulation(
        tenant=policy.tenant, policy=policy, draft=draft, scope=document.scope, rules=document.rules
    )
    return _start(simulation, since=since, until=until, acting_user=acting_user, subject=f"policy:{policy}")


@transaction.atomic
def start_suggestion(
    agent: Agent, *, since: datetime, until: datetime, acting_user: User | None, by_column: bool = False
) -> Suggestion:
    """Have a policy made of what the agent did. Raises `Refusal`."""
    suggestion = Suggestion(tenant=agent.tenant, agent=agent, by_column=by_column)
    return _start(suggestion, since=since, until=until, acting_user=acting_user, subject=f"agent:{agent}")


def take_up(model: type[R], run_id: UUID) -> R | None:
    """The run, now running; None when it is finished or gone. Taken up again, it starts anew."""
    taken = model.objects.filter(pk=run_id, state__in=(RunState.WAITING, RunState.RUNNING))
    if not taken.update(state=RunState.RUNNING, percent=0, updated_at=timezone.now()):
        return None
    run: R | None = model.objects.select_related("tenant").filter(pk=run_id).first()
    return run


def move_on(run: Run, *, percent: int) -> None:
    """Say how far it is."""
    if percent != run.percent:
        run.percent = percent
        type(run).objects.filter(pk=run.pk).update(percent=percent, updated_at=timezone.now())


def finish(run: Run, **result: Any) -> None:
    """Keep what came of it."""
    for name, value in result.items():
        setattr(run, name, value)
    run.state, run.percent, run.finished_at = RunState.DONE, 100, timezone.now()
    run.save()


def fail(run: Run, *, problem: str) -> None:
    """Keep why nothing came of it."""
    run.state, run.problem, run.finished_at = RunState.FAILED, problem[:500], timezone.now()
    run.save()


def _start(run: R, *, since: datetime, until: datetime, acting_user: User | None, subject: str) -> R:
    Tenant.objects.select_for_update().get(pk=run.tenant_id)  # of two at once, the second counts the first
    _refuse_period(since, until)
    runs: Any = type(run).objects
    if runs.filter(tenant=run.tenant_id).exclude(_FINISHED).count() >= MAX_UNFINISHED:
        raise Refusal(problem=f"{MAX_UNFINISHED} are under way already", fix="Wait until one of them is done")
    run.since, run.until, run.requested_by = since, until, acting_user
    run.full_clean()
    run.save()
    kept = runs.filter(tenant=run.tenant_id).order_by(F("created_at").desc()).values("pk")[:MAX_KEPT]
    runs.filter(_FINISHED, tenant=run.tenant_id).exclude(pk__in=kept).delete()
    append_entry(
        tenant=run.tenant,
        kind=f"{run._meta.model_name}.started",
        acting_user=acting_user,
        subject=subject,
        before=None,
        after={"since": since, "until": until},
    )
    return run


def _refuse_period(since: datetime, until: datetime) -> None:
    if since >= until:
        raise Refusal(field="until", problem="is not after since", fix="Choose a later end")
    if until - since > MAX_PERIOD:
        raise Refusal(field="since", problem="is too long ago", fix=f"Choose at most {MAX_PERIOD.days} days")


_FINISHED: Final = Q(state__in=(RunState.DONE, RunState.FAILED))
