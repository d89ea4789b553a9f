"""Limits in a worker: leases, what waits and what is refused, periods, and what becomes of a lost control plane."""

from __future__ import annotations

import asyncio
from math import inf
from typing import Any

import msgspec
import pytest

from policies.engine import Limit, LimitOf, LimitPer, Obligation, Policy, Principal
from proxyworker.contract import (
    Amounts,
    BudgetLease,
    Secret,
    SessionGrant,
    SessionLimits,
    TargetEndpoint,
    TlsMode,
    UpstreamCredential,
    ValuesCounted,
)
from proxyworker.errors import LinkUnavailable
from proxyworker.gate import meter as meter_module
from proxyworker.gate.meter import SHARE, Budgets, Charge, Meter
from proxyworker.gate.verdicts import Exhausted, Waiting
from tests.proxyworker.budgets import CountedBudgets
from tests.proxyworker.records import AT

RULE = "support/few"


class Clock:
    """Stands still until it is set."""

    def __init__(self) -> None:
        self.now = AT

    def __call__(self) -> float:
        return self.now


class Link:
    """Asks the counters, while there is a link."""

    def __init__(self, counted: CountedBudgets) -> None:
        self.counted = counted
        self.is_up = True

    async def reserve_budget(self, **asked: Any) -> BudgetLease:
        await asyncio.sleep(0)
        if not self.is_up:
            raise LinkUnavailable("there is no link")
        return self.counted.reserve(**asked)

    async def count_values(self, **asked: Any) -> ValuesCounted:
        return self.counted.count(**asked)


class Worker:
    """A worker's budgets; workers with the same `counted` share them."""

    def ask_again(self) -> None:
        """Have the next operation ask, as it would a second after a no."""
        for pool in self.budgets._pools.values():
            pool._quiet_until = -inf

    def __init__(self, counted: CountedBudgets, clock: Clock) -> None:
        self.link = Link(counted)
        self.budgets = Budgets(self.link, clock)

    def session(self, agent: str = "a1", target: str = "t1") -> Meter:
        """What a session of the agent may do."""
        return self.budgets.meter(
            SessionGrant(
                request_id=1,
                session_id="s1",
                tenant_id="t",
                principal=Principal(id=agent, name=agent),
                target=TargetEndpoint(target, target, "postgres", "h", 1, "d", TlsMode.DISABLE),
                credential=UpstreamCredential("u", Secret("s")),
                policy=Policy(version="v"),
                limits=SessionLimits(),
                expires_at=AT + 60,
            )
        )


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def counted(clock: Clock) -> CountedBudgets:
    return CountedBudgets(clock)


@pytest.fixture
def worker(counted: CountedBudgets, clock: Clock) -> Worker:
    return Worker(counted, clock)


def limited(**limit: Any) -> tuple[Obligation, ...]:
    """By one rule."""
    return (Obligation(rule=RULE, limit=Limit(**{"per": LimitPer.DAY, **limit})),)


async def answered(waiting: Waiting) -> None:
    """Wait until asking again makes sense."""
    known = asyncio.Event()
    waiting.then(known.set)
    await known.wait()


async def admitted(session: Meter, obligations: tuple[Obligation, ...]) -> Charge | Exhausted | None:
    """The answer, waited for."""
    while isinstance(found := session.admit(obligations), Waiting):
        await answered(found)
    return found


async def settled(charge: Charge, *, rows: int = 0, size: int = 0) -> Exhausted | None:
    """After a read of the target, what came of charging it."""
    charge.rows, charge.bytes = rows, size
    while isinstance(found := charge.settle(), Waiting):
        await answered(found)
    return found


async def used_up(session: Meter, obligations: tuple[Obligation, ...], bound: int = 100) -> int:
    """How many operations pass."""
    for passed in range(bound):
        if isinstance(await admitted(session, obligations), Exhausted):
            return passed
    raise AssertionError("nothing stops it")


async def test_without_a_limit_nothing_is_charged(worker: Worker, counted: CountedBudgets) -> None:
    session = worker.session()
    assert session.admit(()) is None
    assert session.admit((Obligation(rule="m", filter="x"),)) is None
    assert session.admit(limited(sessions=3)) is None
    assert counted.asked == []


async def test_so_many_operations_pass_and_the_refusal_says_what_is_left_and_until_when(worker: Worker) -> None:
    session = worker.session()
    assert await used_up(session, limited(operations=7)) == 7
    refused = await admitted(session, limited(operations=7))
    assert isinstance(refused, Exhausted)
    assert refused.message == "the limit of 7 operations per day for the agent is used up (rule 'support/few')"
    assert refused.hint == "Left: 0 of 7 operations. It resets at 2027-01-16 00:00:00 UTC."


async def test_a_lease_is_asked_for_ahead_of_need_and_used_without_asking(
    worker: Worker, counted: CountedBudgets
) -> None:
    session = worker.session()
    limit = limited(operations=10 * SHARE)
    await admitted(session, limit)
    for _ in range(4):
        assert isinstance(session.admit(limit), Charge)
    assert len(counted.asked) == 1
    for _ in range(2):
        assert isinstance(session.admit(limit), Charge)  # the first of them leaves less than half
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [asked["used"].operations for asked in counted.asked] == [0, 7]
    for _ in range(4):
        assert isinstance(session.admit(limit), Charge)


@pytest.mark.parametrize("workers", [1, 2, 3])
async def test_workers_and_sessions_that_share_a_budget_never_exceed_it(
    counted: CountedBudgets, clock: Clock, workers: int
) -> None:
    limit = limited(operations=50)
    sessions = [Worker(counted, clock).session() for _ in range(workers) for _ in range(2)]
    passed = await asyncio.gather(*(used_up(session, limit) for session in sessions))
    assert sum(passed) <= 50
    if workers == 1:
        # Two sessions on leases of their own worker: nothing is kept from anybody.
        assert sum(passed) == 50


async def test_rows_exceed_a_limit_by_one_read_of_each_running_statement_at_most(
    counted: CountedBudgets, clock: Clock
) -> None:
    read, limit = 30, limited(rows=100)

    async def show(session: Meter) -> int:
        charge = await admitted(session, limit)
        if not isinstance(charge, Charge):
            return 0
        shown = read
        while await settled(charge, rows=read) is None:
            shown += read
        charge.close()
        return shown

    sessions = [Worker(counted, clock).session() for _ in range(3)]
    shown = await asyncio.gather(*(show(session) for session in sessions))
    assert 100 <= sum(shown) <= 100 + len(sessions) * read
    assert await used_up(sessions[0], limit) == 0


async def test_a_refusal_takes_nothing_of_any_budget(worker: Worker, counted: CountedBudgets) -> None:
    session = worker.session()
    many = Obligation(rule="support/many", limit=Limit(operations=SHARE * 5))
    few = Obligation(rule=RULE, limit=Limit(operations=1))
    assert isinstance(await admitted(session, (many, few)), Charge)
    for _ in range(3):
        assert isinstance(await admitted(session, (many, few)), Exhausted)
    await worker.budgets.close()
    assert counted.spent("support/many", Limit(operations=1)).operations == 1


async def test_a_crashed_workers_lease_returns_when_it_lapses(counted: CountedBudgets, clock: Clock) -> None:
    limit = limited(operations=2 * SHARE)
    dead, worker = Worker(counted, clock), Worker(counted, clock)
    alive = worker.session()
    await admitted(dead.session(), limit)  # has leased two, used one, and says nothing more
    assert await used_up(alive, limit) == 2 * SHARE - 2
    refused = await admitted(alive, limit)
    assert isinstance(refused, Exhausted)
    assert "leased out" in refused.message
    clock.now += 30
    worker.ask_again()
    assert await used_up(alive, limit) == 2  # the one that it had not reported is forgotten


async def test_a_new_period_starts_anew_and_the_old_ones_rest_is_reported(
    worker: Worker, counted: CountedBudgets, clock: Clock
) -> None:
    session, limit = worker.session(), limited(operations=3, per=LimitPer.HOUR)
    charge = await admitted(session, limit)
    assert isinstance(charge, Charge)
    assert await used_up(session, limit) == 2
    yesterday = clock.now
    clock.now += 3_600
    worker.ask_again()
    assert await used_up(session, limit) == 3
    clock.now = yesterday
    assert counted.spent(RULE, Limit(per=LimitPer.HOUR, operations=3)).operations == 3


async def test_a_sessions_own_limit_is_nobody_elses(worker: Worker, counted: CountedBudgets) -> None:
    limit = limited(operations=2, per=LimitPer.SESSION)
    sessions = [worker.session(), worker.session()]
    assert [await used_up(session, limit) for session in sessions] == [2, 2]
    refused = sessions[0].admit(limit)
    assert isinstance(refused, Exhausted)
    assert refused.hint == "Left: 0 of 2 operations. A new session starts anew."
    assert counted.asked == []


@pytest.mark.parametrize("of", list(LimitOf))
async def test_who_shares_is_as_the_rule_says(worker: Worker, of: LimitOf) -> None:
    first = worker.session("a1", "t1")
    await admitted(first, limited(operations=1000, of=of))
    pools = worker.budgets._pools
    for agent, target in (("a2", "t1"), ("a1", "t2")):
        await admitted(worker.session(agent, target), limited(operations=1000, of=of))
    assert len(pools) == {LimitOf.AGENT: 2, LimitOf.TARGET: 2, LimitOf.AGENT_ON_TARGET: 3, LimitOf.RULE: 1}[of]


async def test_without_a_link_what_was_leased_is_used_and_then_nothing_passes(worker: Worker) -> None:
    session, limit = worker.session(), limited(operations=3 * SHARE)
    await admitted(session, limit)
    worker.link.is_up = False
    assert await used_up(session, limit) == 2
    refused = await admitted(session, limit)
    assert isinstance(refused, Exhausted)
    assert "isn't known: the gate has lost its control plane" in refused.message
    worker.link.is_up = True
    worker.ask_again()
    assert await used_up(session, limit) == 3 * SHARE - 3


async def test_without_redis_nothing_passes(worker: Worker, counted: CountedBudgets) -> None:
    counted.refuses = True
    refused = await admitted(worker.session(), limited(rows=10))
    assert isinstance(refused, Exhausted)
    assert "can't be counted now" in refused.message


async def test_a_lease_lapses_in_a_worker_that_cannot_renew_it(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    session, limit = worker.session(), limited(operations=1000)
    await admitted(session, limit)
    worker.link.is_up = False
    [pool] = worker.budgets._pools.values()
    monkeypatch.setattr(pool, "_lapses_at", asyncio.get_running_loop().time())
    assert isinstance(await admitted(session, limit), Exhausted)


async def test_after_a_no_the_control_plane_is_not_asked_at_every_try(worker: Worker, counted: CountedBudgets) -> None:
    session, limit = worker.session(), limited(operations=1)
    assert await used_up(session, limit) == 1
    asked = len(counted.asked)
    for _ in range(50):
        assert isinstance(session.admit(limit), Exhausted)
    assert len(counted.asked) == asked


async def test_what_is_idle_is_given_back_and_what_is_used_is_reported(
    counted: CountedBudgets, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meter_module, "REPORT_SECONDS", 0.01)
    first, second = Worker(counted, clock), Worker(counted, clock)
    limit = limited(operations=2 * SHARE)
    charge = await admitted(first.session(), limit)
    assert isinstance(charge, Charge)
    charge.close()
    async with asyncio.timeout(20):
        while first.budgets._pools or counted.spent(RULE, Limit(operations=1)).operations != 1:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert await used_up(second.session(), limit) == 2 * SHARE - 1


async def test_at_its_end_a_worker_reports_and_gives_back(counted: CountedBudgets, clock: Clock) -> None:
    worker, limit = Worker(counted, clock), limited(operations=10 * SHARE)
    for _ in range(3):
        await admitted(worker.session(), limit)
    await worker.budgets.close()
    assert counted.spent(RULE, Limit(operations=1)).operations == 3
    other = Worker(counted, clock)
    assert await used_up(other.session(), limit, bound=1_000) == 10 * SHARE - 3


@pytest.mark.parametrize("per", [LimitPer.DAY, LimitPer.SESSION])
async def test_a_limit_that_a_new_policy_changed_holds_at_once(worker: Worker, per: LimitPer) -> None:
    session = worker.session()
    for _ in range(5):
        assert isinstance(await admitted(session, limited(operations=1000, per=per)), Charge)
    assert await used_up(session, limited(operations=8, per=per)) == 3
    assert await used_up(session, limited(operations=10, per=per)) == 2


async def test_the_shortest_time_counts_and_needs_no_budget(worker: Worker, counted: CountedBudgets) -> None:
    rules = (*limited(statement_seconds=30), Obligation(rule="short", limit=Limit(statement_seconds=5)))
    charge = worker.session().admit(rules)
    assert isinstance(charge, Charge)
    assert (charge.statement_seconds, charge.seconds_rule, counted.asked) == (5, "short", [])
    assert charge.settle() is None


def test_amounts_are_in_the_order_of_the_measures() -> None:
    assert msgspec.structs.astuple(Amounts(1, 2, 3)) == (1, 2, 3)
