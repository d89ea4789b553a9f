"""What becomes of sessions that nobody closes."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone
from django_scopes import scope

from sessions import tasks
from sessions.actions import (
    LOST_AFTER,
    OVERDUE_AFTER,
    REFUSALS_KEPT_FOR,
    UNOPENED_AFTER,
    forget_refusals,
    settle_unfinished,
    take_up_process,
)
from sessions.models import AgentSession, SessionRefusal
from tests.sessions.conftest import Site

SECOND = timedelta(seconds=1)


def session_with(site: Site, **fields: Any) -> AgentSession:
    """A session in that state."""
    session = site.session()
    with scope(tenant=site.tenant):
        AgentSession.objects.filter(pk=session.pk).update(**fields)
    return session


def state(site: Site, session: AgentSession) -> str:
    """How it stands now."""
    with scope(tenant=site.tenant):
        return AgentSession.objects.get(pk=session.pk).state


@pytest.fixture
def now() -> datetime:
    """One now for the whole test."""
    return timezone.now()


@pytest.mark.parametrize(("past", "expected"), [(-SECOND, "granted"), (SECOND, "closed")])
def test_a_grant_that_is_not_taken_up_is_closed(acme: Site, now: datetime, past: timedelta, expected: str) -> None:
    session = session_with(acme, granted_at=now - UNOPENED_AFTER - past)
    settle_unfinished(now=now)
    assert state(acme, session) == expected


@pytest.mark.parametrize(("past", "expected"), [(-SECOND, "live"), (SECOND, "lost")])
def test_a_session_whose_worker_is_silent_is_lost(acme: Site, now: datetime, past: timedelta, expected: str) -> None:
    with scope(tenant=acme.tenant):
        take_up_process(acme.worker, number=0, processes=1, now=now - LOST_AFTER - past)
    session = session_with(acme, state="live")
    settle_unfinished(now=now)
    assert state(acme, session) == expected


@pytest.mark.parametrize(("past", "expected"), [(-SECOND, "live"), (SECOND, "lost")])
def test_a_session_far_past_its_end_is_lost(acme: Site, now: datetime, past: timedelta, expected: str) -> None:
    with scope(tenant=acme.tenant):
        take_up_process(acme.worker, number=0, processes=1, now=now)
    session = session_with(acme, state="live", expires_at=now - OVERDUE_AFTER - past)
    settle_unfinished(now=now)
    assert state(acme, session) == expected


def test_a_worker_that_comes_back_brings_its_sessions_back_unless_they_are_past_their_end(
    acme: Site, now: datetime
) -> None:
    alive, past = session_with(acme, state="lost"), session_with(acme, state="lost", expires_at=now - SECOND)
    with scope(tenant=acme.tenant):
        take_up_process(acme.worker, number=0, processes=1, now=now)
    assert (state(acme, alive), state(acme, past)) == ("live", "lost")


def test_of_a_worker_the_sessions_of_the_silent_process_are_lost_and_come_back_with_it(
    acme: Site, now: datetime
) -> None:
    own, other = session_with(acme, state="live", process=1), session_with(acme, state="live", process=0)
    long_ago = now - LOST_AFTER - SECOND
    with scope(tenant=acme.tenant):
        take_up_process(acme.worker, number=1, processes=2, now=long_ago)
        take_up_process(acme.worker, number=0, processes=2, now=now)
    settle_unfinished(now=now)
    assert (state(acme, own), state(acme, other)) == ("lost", "live")
    with scope(tenant=acme.tenant):
        take_up_process(acme.worker, number=1, processes=2, now=now)
    assert (state(acme, own), state(acme, other)) == ("live", "live")


def test_what_a_worker_runs_no_more_is_silent(acme: Site, now: datetime) -> None:
    session = session_with(acme, state="live", process=2)
    with scope(tenant=acme.tenant):
        take_up_process(acme.worker, number=2, processes=3, now=now)
        take_up_process(acme.worker, number=0, processes=1, now=now)
    settle_unfinished(now=now)
    assert state(acme, session) == "lost"


def test_old_refusals_are_forgotten_and_new_ones_kept(acme: Site, now: datetime) -> None:
    with scope(tenant=acme.tenant):
        for name, age in (("old", REFUSALS_KEPT_FOR + SECOND), ("new", REFUSALS_KEPT_FOR - SECOND)):
            at = now - age
            fields = {"client_host": "x", "code": "denied", "reason": "no", "hour": at, "last_at": at}
            SessionRefusal.objects.create(tenant=acme.tenant, worker=acme.worker, target_name=name, **fields)
        assert forget_refusals(now=now) == 1
        assert SessionRefusal.objects.get().target_name == "new"


def test_the_tasks_do_the_same_by_the_clock(acme: Site, now: datetime) -> None:
    session = session_with(acme, granted_at=now - UNOPENED_AFTER - SECOND)
    tasks.settle_unfinished()
    tasks.forget_refusals()
    assert state(acme, session) == "closed"
