"""Leases of budgets over the link, their page and endpoint, and how many sessions there may be at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from django.db import connection
from django.utils import timezone
from django_scopes import scope
from redis import Redis

from accounts.actions import issue_agent_token, save_agent
from accounts.models import Agent
from controlplane.authority import Role
from controlplane.ledger.models import LedgerEntry
from policies.actions import publish_version
from policies.budgets import access as budgets_access
from policies.budgets import actions as budgets_actions
from policies.budgets.counters import LEASE_SECONDS, Counters, counters
from policies.budgets.models import Budget
from policies.engine import Limit, LimitOf, LimitPer
from policies.models import Policy
from proxyworker.contract import (
    MAX_COUNTED_VALUES,
    Amounts,
    BudgetLease,
    CountValues,
    RefusalCode,
    Refused,
    ReserveBudget,
    SessionGrant,
    ValuesCounted,
)
from sessions.budgets import count_values, reserve_budget
from sessions.errors import PeerFault
from sessions.link import CLOSE_FAULT
from sessions.models import AgentSession
from sessions.opening import open_session
from tests.sessions.conftest import AT, Site
from tests.sessions.linking import question, signed_on
from tests.sessions.people import MANAGERS, person, signed_in
from tests.sessions.test_link import agent_token, run

pytestmark = pytest.mark.django_db

LEASE = "a" * 32
OTHER_LEASE = "b" * 32
DAILY = Limit(per=LimitPer.DAY, operations=10)


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    """Nothing stays in the counters."""
    yield
    for key in counters()._client.scan_iter("narrowgate:budget:*"):
        counters()._client.delete(key)


@pytest.fixture
def take_redis_away(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Once called, nobody listens where the counters should be."""
    away = Counters(Redis(host="127.0.0.1", port=1, socket_connect_timeout=1))

    def take() -> None:
        for module in (budgets_access, budgets_actions):
            monkeypatch.setattr(module, "counters", lambda: away)

    return take


def asked(session: AgentSession, **changes: Any) -> ReserveBudget:
    """A question of the session's worker."""
    frame = ReserveBudget(
        request_id=5, session_id=str(session.pk), rule="support/often", limit=DAILY, lease_id=LEASE, period_start=0.0,
        used=Amounts(), wanted=Amounts(operations=4),
    )  # fmt: skip
    return msgspec.structs.replace(frame, **changes)


def leased(site: Site, frame: ReserveBudget, now: datetime = AT) -> BudgetLease:
    """The answer, which is a lease."""
    answer = reserve_budget(site.linked, frame, now=now)
    assert isinstance(answer, BudgetLease)
    return answer


def test_a_worker_leases_and_reports_and_the_answer_says_what_is_left_until_when(acme: Site) -> None:
    session = acme.session()
    lease = leased(acme, asked(session))
    assert (lease.request_id, lease.granted, lease.left) == (5, Amounts(4), Amounts(10))
    assert (lease.lasts_seconds, datetime.fromtimestamp(lease.resets_at, UTC).isoformat()) == (
        LEASE_SECONDS,
        "2026-11-24T00:00:00+00:00",
    )
    again = leased(acme, asked(session, used=Amounts(3), period_start=lease.period_start))
    assert (again.granted, again.left) == (Amounts(7), Amounts(7))


@pytest.mark.parametrize(
    ("of", "shared_by_agents", "shared_on_targets"),
    [(LimitOf.AGENT, False, True), (LimitOf.TARGET, True, False), (LimitOf.RULE, True, True),
     (LimitOf.AGENT_ON_TARGET, False, False)],
)  # fmt: skip
def test_a_budget_is_shared_by_whom_the_rule_says(
    acme: Site, of: LimitOf, shared_by_agents: bool, shared_on_targets: bool
) -> None:
    limit = msgspec.structs.replace(DAILY, of=of)
    sessions = [acme.session() for _ in range(3)]
    with scope(tenant=acme.tenant):
        helper = save_agent(Agent(tenant=acme.tenant, name="helper"), acting_user=None)
        acme.target.pk, acme.target.name = uuid4(), "archive"
        acme.target.save(force_insert=True)
        AgentSession.objects.filter(pk=sessions[1].pk).update(agent=helper)
        AgentSession.objects.filter(pk=sessions[2].pk).update(target=acme.target)
    given = [
        leased(acme, asked(session, limit=limit, lease_id=str(at) * 32, wanted=Amounts(10))).granted.operations
        for at, session in enumerate(sessions)
    ]
    assert [bool(number) for number in given] == [True, not shared_by_agents, not shared_on_targets]


FEW_VALUES = Limit(per=LimitPer.DAY, distinct=5, labels=("email",))


def counted(site: Site, session: AgentSession, *values: int, now: datetime = AT, **changes: Any) -> ValuesCounted:
    """The answer to a question about these values."""
    digests = b"".join(value.to_bytes(16, "big") for value in values)
    frame = CountValues(request_id=5, session_id=str(session.pk), rule="support/few", limit=FEW_VALUES, values=digests)
    answer = count_values(site.linked, msgspec.structs.replace(frame, **changes), now=now)
    assert isinstance(answer, ValuesCounted)
    return answer


def test_values_are_counted_once_in_their_order_until_the_limit(acme: Site) -> None:
    session = acme.session()
    first = counted(acme, session, 1, 2, 1, 3)
    assert (first.accepted, first.used) == (4, 3)
    assert datetime.fromtimestamp(first.resets_at, UTC).isoformat() == "2026-11-24T00:00:00+00:00"
    second = counted(acme, session, 3, 4, 5, 1, 6, 2)
    assert (second.accepted, second.used) == (4, 5)
    assert counted(acme, session, 1, 2, 3, 4, 5).accepted == 5
    assert counted(acme, session, 7, now=AT.replace(day=AT.day + 1)).used == 1


def test_a_budget_has_one_key_for_all_workers_and_no_other_budget_has_it(acme: Site, globex: Site) -> None:
    session = acme.session()
    key = counted(acme, session).key
    assert counted(acme, acme.session(), now=AT.replace(day=AT.day + 1)).key == key
    assert len(bytes.fromhex(key.value)) == 32
    assert counted(acme, session, rule="support/other").key != key
    assert counted(globex, globex.session()).key != key


@pytest.mark.parametrize(
    "changes",
    [
        {"values": b"x" * 15}, {"values": b"x" * 16 * (MAX_COUNTED_VALUES + 1)}, {"rule": ""},
        {"limit": DAILY}, {"limit": Limit(distinct=200_000)}, {"limit": Limit(per=LimitPer.SESSION, distinct=1)},
        {"session_id": str(uuid4())},
    ],
)  # fmt: skip
def test_values_that_no_sound_worker_counts_end_the_link(acme: Site, changes: dict[str, Any]) -> None:
    with pytest.raises(PeerFault):
        counted(acme, acme.session(), 1, **changes)


def test_without_redis_no_value_is_counted(acme: Site, take_redis_away: Callable[[], None]) -> None:
    take_redis_away()
    frame = CountValues(5, str(acme.session().pk), "support/few", FEW_VALUES, b"")
    refused = count_values(acme.linked, frame, now=AT)
    assert isinstance(refused, Refused)
    assert refused.code is RefusalCode.UNAVAILABLE


def test_distinct_values_stand_beside_the_rest_and_are_set_back_with_it(acme: Site) -> None:
    session = acme.session()
    now = timezone.now()
    counted(acme, session, 1, 2, now=now)
    with scope(tenant=acme.tenant):
        budget = Budget.objects.get()
    manager = signed_in(person(acme.tenant, Role.ADMIN))
    where = f"/api/v1/budgets/{budget.pk}/"
    told = manager.get(where).json()["now"]
    assert (told["limit"]["distinct"], told["used"]["distinct"]) == (5, 2)
    assert "2 of 5 distinct values" in manager.get(f"/admin/policies/budget/{budget.pk}/change/").content.decode()
    assert manager.post(f"{where}reset/").json()["now"]["used"]["distinct"] == 0
    assert counted(acme, session, 3, now=now).used == 1


def test_tenants_and_rules_and_periods_have_budgets_of_their_own(acme: Site, globex: Site) -> None:
    session, foreign = acme.session(), globex.session()
    everything = {"wanted": Amounts(10)}
    assert leased(acme, asked(session, **everything)).granted == Amounts(10)
    assert leased(globex, asked(foreign, **everything)).granted == Amounts(10)
    assert leased(acme, asked(session, **everything, rule="support/other")).granted == Amounts(10)
    hourly = msgspec.structs.replace(DAILY, per=LimitPer.HOUR)
    assert leased(acme, asked(session, **everything, limit=hourly)).granted == Amounts(10)
    with scope(tenant=acme.tenant):
        assert Budget.objects.count() == 3


def test_a_new_period_starts_anew_and_what_comes_late_counts_for_the_old_one(acme: Site) -> None:
    session = acme.session()
    today, tomorrow = AT, AT.replace(day=AT.day + 1)
    lease = leased(acme, asked(session, wanted=Amounts(10)), today)
    late = leased(acme, asked(session, used=Amounts(9), wanted=Amounts(1), period_start=lease.period_start), tomorrow)
    assert (late.granted, late.resets_at) == (Amounts(9), lease.resets_at)
    fresh = leased(acme, asked(session, lease_id=OTHER_LEASE, wanted=Amounts(10)), tomorrow)
    assert (fresh.granted, fresh.left) == (Amounts(10), Amounts(10))


def test_a_worker_asks_for_its_own_sessions_only(acme: Site, globex: Site) -> None:
    with pytest.raises(PeerFault):
        reserve_budget(acme.linked, asked(globex.session()), now=AT)


@pytest.mark.parametrize(
    "changes",
    [
        {"session_id": "x"}, {"rule": ""}, {"rule": "x" * 201}, {"lease_id": "reset"}, {"lease_id": "A" * 32},
        {"used": Amounts(-1)}, {"wanted": Amounts(rows=2**53)}, {"limit": Limit(sessions=1)},
        {"limit": Limit(per=LimitPer.SESSION, rows=1)}, {"period_start": -1.0}, {"period_start": float("nan")},
    ],
)  # fmt: skip
def test_what_no_sound_worker_asks_is_a_fault(acme: Site, changes: dict[str, Any]) -> None:
    with pytest.raises(PeerFault):
        reserve_budget(acme.linked, asked(acme.session(), **changes), now=AT)


def test_without_redis_nothing_is_leased_and_the_reason_says_so(
    acme: Site, take_redis_away: Callable[[], None]
) -> None:
    take_redis_away()
    refused = reserve_budget(acme.linked, asked(acme.session()), now=AT)
    assert isinstance(refused, Refused)
    assert (refused.code, "can't be counted" in refused.reason) == (RefusalCode.UNAVAILABLE, True)


@pytest.mark.django_db(transaction=True)
async def test_over_the_link_a_lease_is_an_answer_and_a_fault_ends_the_link(acme: Site, globex: Site) -> None:
    foreign = await run(globex, globex.session)
    async with signed_on(acme) as worker:
        await worker.send(question(await agent_token(acme)))
        grant = await worker.receive(SessionGrant)
        session = await run(acme, AgentSession.objects.get)
        assert str(session.pk) == grant.session_id
        await worker.send(asked(session))
        assert (await worker.receive(BudgetLease)).granted == Amounts(4)
        await worker.send(CountValues(6, str(session.pk), "support/few", FEW_VALUES, b"a" * 16 + b"b" * 16))
        told = await worker.receive(ValuesCounted)
        assert (told.request_id, told.accepted, told.used) == (6, 2, 2)
        await worker.send(asked(foreign))
        assert await worker.closed_with() == CLOSE_FAULT


# ---------------------------------------------------------------- people


def test_budgets_are_seen_by_auditors_and_set_back_by_managers(acme: Site, globex: Site) -> None:
    session = acme.session()
    now = timezone.now()
    leased(acme, asked(session, used=Amounts(3)), now)
    with scope(tenant=acme.tenant):
        budget = Budget.objects.get()
    auditor, manager = (signed_in(person(acme.tenant, role)) for role in (Role.AUDITOR, Role.ADMIN))
    stranger = signed_in(person(globex.tenant, Role.OWNER))
    where = f"/api/v1/budgets/{budget.pk}/"
    told = auditor.get(where).json()
    assert (told["rule"], told["agent"], told["target"]) == ("support/often", "reporter", None)
    assert told["now"]["limit"] == {"operations": 10, "rows": 0, "bytes": 0, "distinct": 0}
    assert (told["now"]["used"]["operations"], told["now"]["held"]["operations"]) == (3, 4)
    page = f"/admin/policies/budget/{budget.pk}/"
    assert "3 of 10 operations" in auditor.get(f"{page}change/").content.decode()
    assert "3 of 10 operations" in auditor.get("/admin/policies/budget/").content.decode()
    assert (stranger.get(where).status_code, stranger.get(f"{page}change/").status_code) == (404, 404)
    assert auditor.post(f"{where}reset/").status_code == 403
    assert auditor.post(f"{page}reset/").status_code == 403
    assert manager.post(f"{where}reset/").json()["now"]["used"]["operations"] == 0
    assert manager.get(f"{page}reset/").status_code == 200
    assert manager.post(f"{page}reset/").status_code == 302
    with scope(tenant=acme.tenant):
        first = LedgerEntry.objects.filter(kind="budget.reset").order_by("seq")[0]
    assert (first.before["used"]["operations"], first.actor) == (3, "admin@acme.example")


def test_while_redis_is_away_pages_say_so_and_nothing_is_set_back(
    acme: Site, take_redis_away: Callable[[], None]
) -> None:
    leased(acme, asked(acme.session()), timezone.now())
    with scope(tenant=acme.tenant):
        budget = Budget.objects.get()
    take_redis_away()
    manager = signed_in(person(acme.tenant, next(iter(MANAGERS))))
    assert manager.get(f"/api/v1/budgets/{budget.pk}/").json()["now"]["used"] is None
    assert "Redis is away" in manager.get("/admin/policies/budget/").content.decode()
    assert manager.post(f"/api/v1/budgets/{budget.pk}/reset/").status_code == 409
    with scope(tenant=acme.tenant):
        assert not LedgerEntry.objects.filter(kind="budget.reset").exists()


# ---------------------------------------------------------------- sessions at once


def limit_sessions(site: Site, **limit: Any) -> None:
    """Publish a limit beside what is allowed."""
    everywhere = {"agents": ["*"], "targets": ["*"]}
    rules = [
        {"name": "all", "effect": "allow", **everywhere},
        {"name": "few", "effect": "limit", **everywhere, "limit": {"sessions": 2, **limit}},
    ]
    with scope(tenant=site.tenant):
        publish_version(Policy.objects.get(), rules=rules, message="few", acting_user=None)


def opened(site: Site, agent: Agent | None = None) -> SessionGrant | Refused:
    """Whether a further session opens."""
    token = issue_agent_token(agent or site.agent, acting_user=None)[1].text
    return open_session(site.linked, question(token), now=timezone.now())


def test_so_many_sessions_at_once_and_then_a_clear_no_until_one_has_ended(acme: Site) -> None:
    limit_sessions(acme)
    assert isinstance(opened(acme), SessionGrant)
    assert isinstance(opened(acme), SessionGrant)
    refused = opened(acme)
    assert isinstance(refused, Refused)
    assert refused.code is RefusalCode.BUSY
    assert "rule 'support/few' allows 2 sessions at once for agent reporter" in refused.reason
    with scope(tenant=acme.tenant):
        AgentSession.objects.filter(pk=AgentSession.objects.order_by("granted_at")[0].pk).update(state="closed")
    assert isinstance(opened(acme), SessionGrant)


@pytest.mark.parametrize(("of", "is_shared"), [("agent", False), ("target", True), ("rule", True)])
def test_sessions_at_once_are_counted_for_whom_the_rule_says(acme: Site, of: str, is_shared: bool) -> None:
    limit_sessions(acme, of=of)
    with scope(tenant=acme.tenant):
        helper = save_agent(Agent(tenant=acme.tenant, name="helper"), acting_user=None)
    assert [type(opened(acme)) for _ in range(2)] == [SessionGrant, SessionGrant]
    assert isinstance(opened(acme, helper), Refused if is_shared else SessionGrant)


def test_a_silent_workers_sessions_count_until_their_grant_expires(acme: Site) -> None:
    limit_sessions(acme)
    assert [type(opened(acme)) for _ in range(2)] == [SessionGrant, SessionGrant]
    with scope(tenant=acme.tenant):
        AgentSession.objects.update(state="lost")
        assert isinstance(opened(acme), Refused)
        AgentSession.objects.update(expires_at=timezone.now())
    assert isinstance(opened(acme), SessionGrant)


@pytest.mark.django_db(transaction=True)
def test_of_many_openings_at_once_no_more_pass_than_the_limit(acme: Site) -> None:
    limit_sessions(acme)
    together = threading.Barrier(6)

    def one() -> type:
        try:
            together.wait(20)
            return type(opened(acme))
        finally:
            connection.close()

    with ThreadPoolExecutor(max_workers=6) as threads:
        answers = [answer.result() for answer in [threads.submit(one) for _ in range(6)]]
    assert sorted(answer.__name__ for answer in answers) == ["Refused"] * 4 + ["SessionGrant"] * 2
