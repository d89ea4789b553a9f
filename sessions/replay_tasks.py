"""Simulations and suggestions in the background: a row that is begun is run once, and says how it ended."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, Final, TypeVar
from uuid import UUID

from billiard.exceptions import SoftTimeLimitExceeded
from celery import shared_task
from django.db import transaction
from django.db.models.signals import post_save
from django.dispatch import receiver
from django.utils import timezone
from django_scopes import scope

from controlplane.tenancy import every_tenant
from policies.engine import PolicyError
from policies.simulation.actions import fail, take_up
from policies.simulation.models import Run, RunState, Simulation, Suggestion
from sessions.replaying import replay, suggest

#: A million operations take some minutes.
RUN_SECONDS: Final = 30 * 60
#: A run that waits for longer has lost its message.
WAITS_AT_MOST: Final = timedelta(minutes=1)

R = TypeVar("R", bound=Run)


@shared_task(soft_time_limit=RUN_SECONDS, time_limit=RUN_SECONDS + 60)
def replay_simulation(simulation_id: str) -> None:
    """Find out what a policy's document would change."""
    _run(Simulation, simulation_id, replay)


@shared_task(soft_time_limit=RUN_SECONDS, time_limit=RUN_SECONDS + 60)
def make_suggestion(suggestion_id: str) -> None:
    """Make a policy of what an agent did."""
    _run(Suggestion, suggestion_id, suggest)


@shared_task
def run_forgotten() -> None:
    """Take up simulations and suggestions whose message was lost."""
    overdue = {"state": RunState.WAITING, "created_at__lt": timezone.now() - WAITS_AT_MOST}
    with every_tenant():
        simulations = list(Simulation.objects.filter(**overdue).values_list("pk", flat=True))
        suggestions = list(Suggestion.objects.filter(**overdue).values_list("pk", flat=True))
    for pk in simulations:
        replay_simulation.delay(str(pk))
    for pk in suggestions:
        make_suggestion.delay(str(pk))


@receiver(post_save, sender=Simulation)
def _simulation_saved(instance: Simulation, created: bool, **_: Any) -> None:
    if created:  # robust: without the broker it waits for `run_forgotten`
        transaction.on_commit(lambda: replay_simulation.delay(str(instance.pk)), robust=True)


@receiver(post_save, sender=Suggestion)
def _suggestion_saved(instance: Suggestion, created: bool, **_: Any) -> None:
    if created:
        transaction.on_commit(lambda: make_suggestion.delay(str(instance.pk)), robust=True)


def _run(model: type[R], run_id: str, work: Callable[[R], None]) -> None:
    """Do the work in the run's tenant. What fails is told in its row, and logged."""
    with every_tenant():
        run = take_up(model, UUID(run_id))
    if run is None:
        return
    with scope(tenant=run.tenant):
        try:
            work(run)
        except SoftTimeLimitExceeded:
            fail(run, problem="It took too long. Choose a shorter period.")
        except PolicyError as error:
            fail(run, problem=str(error))
        except Exception:
            fail(run, problem="Something went wrong. The reason is in the log of the background worker.")
            raise
