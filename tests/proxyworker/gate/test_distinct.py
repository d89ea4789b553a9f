"""Budgets of distinct values: what is asked, what is known, and what becomes of a lost control plane."""

from __future__ import annotations

import asyncio
from math import inf
from typing import Any

import pytest

from policies.engine import Limit, LimitPer
from proxyworker.contract import MAX_COUNTED_VALUES, ValuesCounted
from proxyworker.errors import LinkUnavailable
from proxyworker.gate.distinct import SharedValuePool, ValuePool, strangers
from proxyworker.gate.verdicts import Exhausted, Waiting
from tests.proxyworker.budgets import CountedBudgets
from tests.proxyworker.records import AT

FIVE = Limit(per=LimitPer.DAY, distinct=5, labels=("email",))


class Link:
    """Asks the counters, while there is a link."""

    def __init__(self, counted: CountedBudgets) -> None:
        self.counted = counted
        self.is_up = True

    async def count_values(self, **asked: Any) -> ValuesCounted:
        await asyncio.sleep(0)
        if not self.is_up:
            raise LinkUnavailable("there is no link")
        return self.counted.count(**asked)


class Clock:
    """Stands still until it is set."""

    def __init__(self) -> None:
        self.now = AT

    def __call__(self) -> float:
        return self.now


class Worker:
    """One worker's pool of a budget; those with the same `counted` share it."""

    def __init__(self, counted: CountedBudgets, clock: Clock, limit: Limit = FIVE) -> None:
        self.link = Link(counted)
        self.pool = SharedValuePool(self.link, clock, "few", limit)

    async def take(self, *values: int) -> tuple[int, Exhausted | None]:
        """How many may be shown, however often that has to be asked; a no of before doesn't count."""
        self.pool._quiet_until = -inf
        await self._until(self.pool.ready)
        digests = [self.pool.digest(b"text", str(value).encode()) for value in values]
        found: tuple[int, Exhausted | None] = (0, None)

        def again() -> Exhausted | Waiting | None:
            nonlocal found
            count, problem = self.pool.take(digests)
            found = (count, problem if isinstance(problem, Exhausted) else None)
            return problem

        await self._until(again)
        return found

    @staticmethod
    async def _until(ask: Any) -> None:
        while isinstance(problem := ask(), Waiting):
            known = asyncio.Event()
            problem.then(known.set)
            await known.wait()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def counted(clock: Clock) -> CountedBudgets:
    return CountedBudgets(clock)


async def test_what_was_shown_is_shown_again_without_asking(counted: CountedBudgets, clock: Clock) -> None:
    worker = Worker(counted, clock)
    assert await worker.take(1, 2, 1) == (3, None)
    asked = len(counted.counted)
    assert await worker.take(2, 1) == (2, None)
    assert len(counted.counted) == asked
    count, problem = await worker.take(1, 3, 4, 5, 6)
    assert count == 4
    assert problem is not None
    assert problem.message == ("the limit of 5 distinct values of email per day for the agent is used up (rule 'few')")
    assert "It resets at 20" in problem.hint
    assert counted.distinct("few", FIVE) == 5


async def test_workers_share_what_was_shown(counted: CountedBudgets, clock: Clock) -> None:
    one, other = Worker(counted, clock), Worker(counted, clock)
    assert await one.take(1, 2, 3) == (3, None)
    assert await other.take(3, 2, 1, 4, 5) == (5, None)
    assert (await one.take(6))[0] == 0
    assert await one.take(5, 4) == (2, None)


async def test_a_new_period_starts_anew(counted: CountedBudgets, clock: Clock) -> None:
    worker = Worker(counted, clock)
    assert await worker.take(*range(5)) == (5, None)
    clock.now += 24 * 3600
    assert await worker.take(*range(10, 15)) == (5, None)
    assert (await worker.take(0))[0] == 0


async def test_what_is_known_is_asked_for_again_after_a_while(counted: CountedBudgets, clock: Clock) -> None:
    worker = Worker(counted, clock)
    assert await worker.take(1) == (1, None)
    worker.pool._stale_at = -inf
    worker.link.is_up = False
    count, problem = await worker.take(1)
    assert count == 0
    assert problem is not None
    assert "isn't known: the gate has lost its control plane" in problem.message


async def test_more_than_one_question_holds_is_asked_in_several(counted: CountedBudgets, clock: Clock) -> None:
    many = MAX_COUNTED_VALUES + 10
    worker = Worker(counted, clock, Limit(per=LimitPer.DAY, distinct=2 * many, labels=("email",)))
    assert await worker.take(*range(many)) == (many, None)
    assert [len(one["values"]) // 16 for one in counted.counted] == [0, MAX_COUNTED_VALUES, 10]


async def test_while_counters_are_away_nothing_new_is_shown(counted: CountedBudgets, clock: Clock) -> None:
    counted.refuses = True
    worker = Worker(counted, clock)
    problem = worker.pool.ready()
    assert isinstance(problem, Waiting)
    known = asyncio.Event()
    problem.then(known.set)
    await known.wait()
    worker.pool._quiet_until = inf
    assert isinstance(worker.pool.ready(), Exhausted)


def test_a_session_of_its_own_knows_all_and_asks_nobody() -> None:
    pool = ValuePool("few", FIVE)
    digests = [pool.digest(b"text", bytes((value,))) for value in (1, 2, 3, 4, 5, 1, 6)]
    count, problem = pool.take(digests)
    assert count == 6
    assert isinstance(problem, Exhausted)
    assert "A new session starts anew." in problem.hint


def test_values_of_other_kinds_and_other_budgets_have_other_digests() -> None:
    pool = ValuePool("few", FIVE)
    assert pool.digest(b"text", b"x") == pool.digest(b"text", b"x")
    assert pool.digest(b"20 1", b"x") != pool.digest(b"text", b"x")
    assert ValuePool("few", FIVE).digest(b"text", b"x") != pool.digest(b"text", b"x")
    assert len(set(strangers(100))) == 100
