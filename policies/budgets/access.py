"""How other code sees budgets."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from policies.budgets.counters import counters
from policies.budgets.errors import CountersUnavailable
from policies.budgets.models import Budget
from policies.budgets.periods import Period, period_at
from policies.engine import LimitPer
from proxyworker.contract import Amounts


@dataclass(frozen=True, slots=True)
class Standing:
    """How a budget stands in the period that is on. `used` and `held` are None while the counters can't be read."""

    limit: Amounts
    used: Amounts | None
    held: Amounts | None
    period_start: datetime
    resets_at: datetime


def standing_of(budget: Budget, *, now: datetime) -> Standing:
    """How the budget stands now."""
    period = period_at(LimitPer(budget.per), now)
    used = held = None
    try:
        usage = counters().usage(key_of(budget, period), now=now.timestamp())
        used, held = usage.spent, usage.held
    except CountersUnavailable:
        pass  # said by the None
    return Standing(
        limit=Amounts(**budget.limits),
        used=used,
        held=held,
        period_start=datetime.fromtimestamp(period.start, UTC),
        resets_at=datetime.fromtimestamp(period.end, UTC),
    )


def key_of(budget: Budget, period: Period) -> str:
    """Where the counters of the period are. The budget's id stands for its rule and whose it is."""
    return f"narrowgate:budget:{budget.tenant_id}:{budget.pk}:{budget.per}:{int(period.start)}"
