"""How other code sees budgets."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec

from policies.budgets.counters import counters
from policies.budgets.errors import CountersUnavailable
from policies.budgets.models import Budget
from policies.budgets.periods import Period, period_at
from policies.engine import LimitPer


class Measures(msgspec.Struct, frozen=True):
    """How much of everything that is counted over periods."""

    operations: int = 0
    rows: int = 0
    bytes: int = 0
    distinct: int = 0


@dataclass(frozen=True, slots=True)
class Standing:
    """How a budget stands in the period that is on. `used` and `held` are None while the counters can't be read."""

    limit: Measures
    used: Measures | None
    held: Measures | None
    period_start: datetime
    resets_at: datetime


def standing_of(budget: Budget, *, now: datetime) -> Standing:
    """How the budget stands now."""
    period = period_at(LimitPer(budget.per), now)
    used = held = None
    try:
        key = key_of(budget, period)
        usage = counters().usage(key, now=now.timestamp())
        distinct = counters().distinct(key)
        used = Measures(**msgspec.structs.asdict(usage.spent), distinct=distinct)
        held = Measures(**msgspec.structs.asdict(usage.held))
    except CountersUnavailable:
        pass  # said by the None
    return Standing(
        limit=Measures(**budget.limits),
        used=used,
        held=held,
        period_start=datetime.fromtimestamp(period.start, UTC),
        resets_at=datetime.fromtimestamp(period.end, UTC),
    )


def key_of(budget: Budget, period: Period) -> str:
    """Where the counters of the period are. The budget's id stands for its rule and whose it is."""
    return f"narrowgate:budget:{budget.tenant_id}:{budget.pk}:{budget.per}:{int(period.start)}"
