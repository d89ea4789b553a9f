"""The arithmetic of leases, in a real Valkey, against a model in Python."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
from django.conf import settings
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from redis import Redis

from policies.budgets.counters import LEASE_SECONDS, Counters, counters
from policies.budgets.errors import CountersUnavailable
from proxyworker.contract import Amounts

NOW = 1_800_000_000.0
END = NOW + 86_400
LEASES = ["0" * 32, "1" * 32, "2" * 32]

_numbers = count()


def fresh_key() -> str:
    """Nobody's yet."""
    return f"narrowgate:test:budget:{next(_numbers)}"


def operations(number: int) -> Amounts:
    """So many of them."""
    return Amounts(operations=number)


class Leasing:
    """One budget of operations, under its counters."""

    def __init__(self, limit: int, *, end: float = END) -> None:
        self.key = fresh_key()
        self.limit = limit
        self.end = end

    def ask(self, lease: str, *, used: int = 0, wanted: int = 0, at: float = NOW) -> tuple[int, int]:
        """What was ever given, and what is spent."""
        told = counters().reserve(
            self.key, lease_id=lease, used=operations(used), wanted=operations(wanted),
            limit=operations(self.limit), now=at, period_end=self.end,
        )  # fmt: skip
        return told.granted.operations, told.spent.operations


def forget_all() -> None:
    """What tests have counted."""
    for key in counters()._client.scan_iter("narrowgate:test:budget:*"):
        counters()._client.delete(key)


@pytest.fixture(autouse=True, scope="module")
def clean() -> Iterator[None]:
    """Nothing of an earlier run is there, and nothing stays."""
    forget_all()
    yield
    forget_all()


def test_a_lease_is_given_what_it_wants_as_far_as_it_is_there() -> None:
    budget = Leasing(10)
    assert budget.ask(LEASES[0], wanted=6) == (6, 0)
    assert budget.ask(LEASES[1], wanted=6) == (4, 0)
    assert budget.ask(LEASES[2], wanted=1) == (0, 0)


def test_a_question_may_be_repeated() -> None:
    budget = Leasing(10)
    for _ in range(3):
        assert budget.ask(LEASES[0], used=0, wanted=4) == (4, 0)
    for _ in range(3):
        assert budget.ask(LEASES[0], used=3, wanted=4) == (7, 3)
    assert budget.ask(LEASES[1], wanted=10) == (3, 3)


def test_what_is_given_back_is_there_for_others() -> None:
    budget = Leasing(10)
    budget.ask(LEASES[0], wanted=10)
    assert budget.ask(LEASES[0], used=4) == (4, 4)
    assert budget.ask(LEASES[1], wanted=10) == (6, 4)


def test_a_dead_workers_unused_part_returns_and_what_it_reported_stays_spent() -> None:
    budget = Leasing(10)
    budget.ask(LEASES[0], wanted=5)
    budget.ask(LEASES[0], used=2, wanted=8)
    assert budget.ask(LEASES[1], wanted=10, at=NOW + LEASE_SECONDS - 0.001) == (0, 2)
    assert budget.ask(LEASES[1], wanted=10, at=NOW + LEASE_SECONDS) == (8, 2)


def test_a_lease_that_lapsed_starts_from_what_it_used() -> None:
    budget = Leasing(10)
    budget.ask(LEASES[0], wanted=10)
    later = NOW + LEASE_SECONDS
    assert budget.ask(LEASES[1], wanted=3, at=later) == (3, 0)
    assert budget.ask(LEASES[0], used=6, wanted=10, at=later) == (7, 6)  # late, but counted: 10 - 6 - 3 held


def test_what_was_used_beyond_the_lease_counts_and_nothing_more_is_given() -> None:
    budget = Leasing(10)
    budget.ask(LEASES[0], wanted=5)
    assert budget.ask(LEASES[0], used=13, wanted=5) == (13, 13)
    assert budget.ask(LEASES[1], wanted=5) == (0, 13)


def test_a_lowered_limit_takes_back_what_was_not_used() -> None:
    budget = Leasing(10)
    budget.ask(LEASES[0], wanted=10)
    budget.limit = 4
    assert budget.ask(LEASES[0], used=3, wanted=7) == (4, 3)


def test_setting_back_forgets_what_was_spent_and_not_what_is_held() -> None:
    budget = Leasing(10)
    budget.ask(LEASES[0], wanted=6)
    budget.ask(LEASES[0], used=5, wanted=4)
    counters().reset(budget.key)
    usage = counters().usage(budget.key, now=NOW)
    assert (usage.spent, usage.held) == (operations(0), operations(4))
    assert budget.ask(LEASES[1], wanted=10) == (6, 0)
    assert budget.ask(LEASES[0], used=7, wanted=0) == (7, 2)


def test_setting_back_what_nobody_has_used_changes_nothing() -> None:
    budget = Leasing(10)
    counters().reset(budget.key)
    assert budget.ask(LEASES[0], wanted=10) == (10, 0)


def test_measures_are_counted_apart_and_those_without_a_limit_not_at_all() -> None:
    key = fresh_key()
    told = counters().reserve(
        key, lease_id=LEASES[0], used=Amounts(1, 20, 300), wanted=Amounts(5, 5, 5), limit=Amounts(0, 22, 10_000),
        now=NOW, period_end=END,
    )  # fmt: skip
    assert (told.granted, told.spent) == (Amounts(1, 22, 305), Amounts(1, 20, 300))


def test_numbers_stay_whole_however_large_they_are() -> None:
    budget = Leasing(2**53 - 1)
    assert budget.ask(LEASES[0], wanted=2**53 - 1) == (2**53 - 1, 0)
    assert budget.ask(LEASES[0], used=2**53 - 2, wanted=0) == (2**53 - 2, 2**53 - 2)


def test_a_periods_counters_go_after_it() -> None:
    budget = Leasing(10)
    budget.ask(LEASES[0], wanted=1)
    assert counters()._client.pexpiretime(budget.key) == (END + 3_600) * 1_000


def test_without_redis_nothing_is_counted() -> None:
    away = Counters(Redis(host="127.0.0.1", port=1, socket_connect_timeout=1))
    amounts: dict[str, Any] = {"used": Amounts(), "wanted": Amounts(), "limit": Amounts(1)}
    with pytest.raises(CountersUnavailable):
        away.reserve(fresh_key(), lease_id=LEASES[0], now=NOW, period_end=END, **amounts)
    with pytest.raises(CountersUnavailable):
        away.usage(fresh_key(), now=NOW)
    with pytest.raises(CountersUnavailable):
        away.reset(fresh_key())


def test_the_counters_are_those_of_the_installation() -> None:
    told = counters()._client.connection_pool.connection_kwargs
    assert f"{told['host']}:{told['port']}" in settings.NARROWGATE.redis_url


# ---------------------------------------------------------------- against a model


@dataclass
class ModelLease:
    """What was given, what was told as used, what is used, and when it lapses."""

    granted: int = 0
    told: int = 0
    used: int = 0
    lapses: float = 0.0


@dataclass
class Model:
    """A budget, as its description has it: no cleverness."""

    limit: int
    leases: dict[str, ModelLease] = field(default_factory=dict)

    def ask(self, lease: str, wanted: int, now: float) -> int:
        one = self.leases.setdefault(lease, ModelLease())
        if now >= one.lapses or wanted == 0:
            one.granted = one.used
        one.told = one.used
        one.granted = max(one.granted, one.used)
        others = sum(
            other.told + (max(0, other.granted - other.told) if now < other.lapses else 0)
            for name, other in self.leases.items()
            if name != lease
        )
        while one.granted < one.used + wanted and others + one.granted < self.limit:
            one.granted += 1
        one.lapses = now + LEASE_SECONDS
        return one.granted


STEPS = st.lists(
    st.tuples(
        st.sampled_from(LEASES),
        st.integers(0, 4),  # used since
        st.integers(0, 6),  # wanted
        st.sampled_from([0.0, 1.0, LEASE_SECONDS / 2, LEASE_SECONDS]),  # time that passes
        st.booleans(),  # it dies without a word instead of asking
    ),
    max_size=30,
)


@hypothesis_settings(deadline=None, max_examples=150)
@given(limit=st.integers(1, 15), steps=STEPS)
def test_the_script_does_as_the_model_does_and_never_exceeds_the_limit(limit: int, steps: list[Any]) -> None:
    budget, model, now = Leasing(limit), Model(limit), NOW
    for lease, wish, wanted, seconds, dies in steps:
        now += seconds
        mine = model.leases.setdefault(lease, ModelLease())
        if now < mine.lapses:  # a sound worker uses no more than it was given, while it holds
            mine.used += min(wish, mine.granted - mine.used)
        if dies:
            # It comes back under another name, with nothing told: that is what a crash forgets.
            mine.used = mine.told
            continue
        assert budget.ask(lease, used=mine.used, wanted=wanted, at=now)[0] == model.ask(lease, wanted, now)
        spent = sum(one.told for one in model.leases.values())
        held = sum(max(0, one.granted - one.told) for one in model.leases.values() if now < one.lapses)
        assert spent + held <= limit
        usage = counters().usage(budget.key, now=now)
        assert (usage.spent.operations, usage.held.operations) == (spent, held)
