"""Orders to stop: which sessions they end, what they hold back, who lifts them, and how time to dead is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection, transaction
from django.utils import timezone
from django_scopes import scope

from accounts.actions import issue_agent_token, save_agent
from accounts.models import Agent
from controlplane.errors import Refusal
from controlplane.ledger.models import LedgerEntry
from proxyworker.contract import RefusalCode, Refused, SessionGrant
from sessions.access import standing_of
from sessions.killing import actions
from sessions.killing.access import Subject, find_subject, killed_sessions
from sessions.killing.actions import kill, lift, share_opening
from sessions.killing.models import KilledSession, KillOrder, KillScope, KillState, with_progress
from sessions.models import AgentSession
from sessions.opening import open_session
from tests.sessions.conftest import Site
from tests.sessions.linking import question

pytestmark = pytest.mark.django_db

SCOPES = list(KillScope)
#: The bound on what takes milliseconds.
PATIENCE_SECONDS = 20.0


def subject_of(site: Site, scope_name: str, session: AgentSession) -> Subject:
    """What an order of that scope would be about, for the session to be in it."""
    subjects: dict[str, Subject] = {
        "session": session, "agent": site.agent, "target": site.target, "tenant": site.tenant
    }  # fmt: skip
    return subjects[scope_name]


def other_session(site: Site, **fields: Any) -> AgentSession:
    """A session of another agent."""
    session = site.session()
    with scope(tenant=site.tenant):
        agent, _ = Agent.objects.get_or_create(tenant=site.tenant, name="helper")
        AgentSession.objects.filter(pk=session.pk).update(agent=agent, **fields)
    return session


def to_end(site: Site) -> dict[str, str]:
    """What the worker's link is told to end."""
    with scope(tenant=site.tenant):
        return standing_of(site.worker.pk, public_key=site.key.public_key().public_bytes_raw()).to_end


def told(order: KillOrder) -> KillOrder:
    """The order as it stands now."""
    with scope(tenant=order.tenant_id):
        return with_progress(KillOrder.objects.all()).get(pk=order.pk)


def opened(site: Site, token: str) -> SessionGrant | Refused:
    """Whether the site's agent has a session."""
    return open_session(site.linked, question(token), now=timezone.now())


@pytest.fixture
def token(acme: Site) -> str:
    """Of the agent."""
    return issue_agent_token(acme.agent, acting_user=None)[1].text


@pytest.mark.parametrize("scope_name", SCOPES)
def test_an_order_ends_the_sessions_in_its_scope_and_no_other(acme: Site, globex: Site, scope_name: str) -> None:
    session, other, foreign = acme.session(), other_session(acme), globex.session()
    order = kill(subject_of(acme, scope_name, session), reason="it runs wild", acting_user=None)
    expected = {"session": {session.pk}, "agent": {session.pk}}.get(scope_name, {session.pk, other.pk})
    assert to_end(acme) == {str(pk): "it runs wild" for pk in expected}
    assert to_end(globex) == {}
    assert order.session_count == len(expected)
    with scope(tenant=acme.tenant):
        assert set(KilledSession.objects.values_list("session_id", flat=True)) == expected
        entry = LedgerEntry.objects.get(kind="kill.ordered")
    assert (entry.after["reason"], entry.after["sessions"]) == ("it runs wild", len(expected))
    with scope(tenant=globex.tenant):
        assert foreign.pk in AgentSession.objects.filter(end_requested_at=None).values_list("pk", flat=True)


@pytest.mark.parametrize("scope_name", SCOPES)
def test_while_an_order_holds_no_session_opens_and_the_agent_is_told_why(
    acme: Site, globex: Site, token: str, scope_name: str
) -> None:
    kill(subject_of(acme, scope_name, acme.session()), reason="it runs wild", acting_user=None)
    answer = opened(acme, token)
    if scope_name == KillScope.SESSION:
        assert isinstance(answer, SessionGrant)
        return
    assert isinstance(answer, Refused)
    assert (answer.code, "is stopped since" in answer.reason) == (RefusalCode.DENIED, True)
    assert answer.reason.endswith("it runs wild")
    assert "lifts" in answer.help
    assert isinstance(opened(globex, issue_agent_token(globex.agent, acting_user=None)[1].text), SessionGrant)


def test_whoever_may_not_reach_a_target_does_not_hear_that_it_is_stopped(acme: Site) -> None:
    with scope(tenant=acme.tenant):
        stranger = save_agent(Agent(tenant=acme.tenant, name="stranger"), acting_user=None)
    kill(acme.target, reason="a breach", acting_user=None)
    refused = opened(acme, issue_agent_token(stranger, acting_user=None)[1].text)
    assert isinstance(refused, Refused)
    assert "breach" not in refused.reason


@pytest.mark.parametrize("scope_name", ["agent", "target", "tenant"])
def test_a_lifted_order_holds_nothing_back_and_brings_no_session_back(acme: Site, token: str, scope_name: str) -> None:
    session = acme.session()
    order = kill(subject_of(acme, scope_name, session), reason="it runs wild", acting_user=None)
    assert isinstance(opened(acme, token), Refused)
    lifted = lift(order, reason="it is mended", acting_user=None)
    assert (lifted.is_in_force, lifted.lift_reason) == (False, "it is mended")
    grant = opened(acme, token)
    assert isinstance(grant, SessionGrant)
    assert to_end(acme) == {str(session.pk): "it runs wild"}
    with scope(tenant=acme.tenant):
        assert LedgerEntry.objects.get(kind="kill.lifted").after["reason"] == "it is mended"
    with pytest.raises(Refusal, match="lifted already"):
        lift(order, reason="again", acting_user=None)


def test_two_orders_about_the_same_are_lifted_one_by_one(acme: Site, token: str) -> None:
    first, second = (kill(acme.agent, reason=reason, acting_user=None) for reason in ("first", "second"))
    lift(first, reason="fine", acting_user=None)
    refused = opened(acme, token)
    assert isinstance(refused, Refused)
    assert refused.reason.endswith("second")
    lift(second, reason="fine", acting_user=None)
    assert isinstance(opened(acme, token), SessionGrant)


def test_a_session_that_opened_past_an_order_is_ended_by_the_order_in_force(acme: Site) -> None:
    order = kill(acme.agent, reason="it runs wild", acting_user=None)
    late = acme.session()  # as by an opening that the order did not wait for
    assert set(to_end(acme)) == {str(late.pk)}
    assert told(order).session_count == 0
    lift(order, reason="fine", acting_user=None)
    assert to_end(acme) == {}


def test_an_order_without_a_reason_and_one_about_what_is_over_are_refused(acme: Site) -> None:
    session = acme.session()
    with pytest.raises(Refusal, match="no reason"):
        kill(acme.agent, reason="  ", acting_user=None)
    order = kill(session, reason="enough", acting_user=None)
    with pytest.raises(Refusal, match="holds nothing back"):
        lift(order, reason="why not", acting_user=None)
    with scope(tenant=acme.tenant):
        AgentSession.objects.update(state="closed")
    with pytest.raises(Refusal, match="over"):
        kill(session, reason="enough", acting_user=None)
    with scope(tenant=acme.tenant):
        assert KillOrder.objects.count() == 1


def test_the_first_reason_and_time_of_an_ending_session_stay(acme: Site) -> None:
    session = acme.session()
    kill(session, reason="first", acting_user=None)
    kill(acme.agent, reason="second", acting_user=None)
    with scope(tenant=acme.tenant):
        assert AgentSession.objects.get().end_reason == "first"
        assert KilledSession.objects.filter(session=session).count() == 2


def test_dead_is_when_every_session_is_and_the_slowest_one_gives_the_time(acme: Site) -> None:
    first, second = acme.session(), acme.session()
    order = kill(acme.agent, reason="it runs wild", acting_user=None)
    assert (told(order).state, told(order).alive, told(order).seconds_to_dead) == (KillState.WAITING, 2, None)
    with scope(tenant=acme.tenant):
        for session, seconds in ((first, 0.25), (second, 1.5)):
            at = order.ordered_at + timedelta(seconds=seconds)
            AgentSession.objects.filter(pk=session.pk).update(state="closed", closed_at=at)
            if session == first:
                assert (told(order).state, told(order).alive) == (KillState.WAITING, 1)
        assert [killed.seconds_to_dead for killed in killed_sessions(order)] == [1.5, 0.25]
    assert (told(order).state, told(order).seconds_to_dead) == (KillState.DEAD, 1.5)


def test_a_lost_session_keeps_an_order_waiting(acme: Site) -> None:
    session = acme.session()
    with scope(tenant=acme.tenant):
        AgentSession.objects.filter(pk=session.pk).update(state="lost")
    order = kill(acme.tenant, reason="a breach", acting_user=None)
    assert (told(order).state.label, told(order).alive) == ("waiting for a silent worker", 1)


def test_an_order_that_finds_nothing_is_dead_at_once(acme: Site) -> None:
    order = told(kill(acme.target, reason="a breach", acting_user=None))
    assert (order.state, order.session_count, order.seconds_to_dead, order.is_in_force) == ("dead", 0, None, True)


@pytest.mark.parametrize(
    ("scope_name", "name"),
    [("agent", "nobody"), ("target", ""), ("session", "x"), ("session", "00000000-0000-4000-8000-000000000000"),
     ("tenant", "globex"), ("galaxy", "x")],
)  # fmt: skip
def test_what_is_not_there_is_not_stopped(acme: Site, scope_name: str, name: str) -> None:
    with scope(tenant=acme.tenant), pytest.raises(Refusal, match="there is no"):
        find_subject(acme.tenant, scope_name, name)


def test_people_name_what_is_stopped(acme: Site) -> None:
    session = acme.session()
    with scope(tenant=acme.tenant):
        found = [
            find_subject(acme.tenant, *named)
            for named in (("agent", "reporter"), ("target", "shop"), ("session", str(session.pk)), ("tenant", ""))
        ]
    assert found == [acme.agent, acme.target, session, acme.tenant]


# ---------------------------------------------------------------- an opening under way


def an_order_waits() -> bool:
    """Whether somebody waits for the openings of this database."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        return bool(cursor.fetchone()[0])


@contextmanager
def opening_under_way(site: Site, *, until: Callable[[], bool]) -> Iterator[None]:
    """Another transaction, about to open a session, and doing so once that is true."""
    is_held, deadline = threading.Event(), time.monotonic() + PATIENCE_SECONDS

    def run() -> None:
        try:
            with scope(tenant=site.tenant), transaction.atomic():
                share_opening(site.tenant.pk)
                is_held.set()
                while not until() and time.monotonic() < deadline:
                    time.sleep(0.01)
                site.session()
        finally:
            connection.close()

    thread = threading.Thread(target=run)
    thread.start()
    assert is_held.wait(PATIENCE_SECONDS)
    yield
    thread.join()


@pytest.mark.django_db(transaction=True)
def test_an_order_waits_for_an_opening_under_way_and_finds_its_session(
    acme: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actions, "_WAIT_MS", int(1_000 * PATIENCE_SECONDS))
    with opening_under_way(acme, until=an_order_waits):
        order = kill(acme.agent, reason="it runs wild", acting_user=None)
    assert order.session_count == 1


@pytest.mark.django_db(transaction=True)
def test_an_order_does_not_wait_for_long(acme: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actions, "_WAIT_MS", 10)
    is_given = threading.Event()
    with opening_under_way(acme, until=is_given.is_set):
        order = kill(acme.agent, reason="it runs wild", acting_user=None)
        is_given.set()
    assert order.session_count == 0
    assert len(to_end(acme)) == 1
