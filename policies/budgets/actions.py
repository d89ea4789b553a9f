"""Leasing parts of budgets, counting distinct values, and setting both back."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

import msgspec
from django.db import transaction
from django.utils import timezone
from django.utils.crypto import salted_hmac
from django_scopes import scope

from accounts.models import User
from controlplane.errors import Refusal
from controlplane.ledger.actions import append_entry
from policies.budgets.access import Measures, key_of
from policies.budgets.counters import KEPT_SECONDS, LEASE_SECONDS, Reserved, counters
from policies.budgets.errors import CountersUnavailable
from policies.budgets.models import Budget
from policies.budgets.periods import Period, period_at
from policies.engine import Limit, LimitOf, LimitPer
from proxyworker.contract import (
    VALUE_BYTES,
    Amounts,
    BudgetLease,
    CountValues,
    ReserveBudget,
    Secret,
    ValuesCounted,
)

#: `last_used_at` is for people: writing it at every question would make each a write.
USE_NOTED_EVERY: Final = timedelta(minutes=1)
_NOTHING: Final = Amounts()


@dataclass(frozen=True, slots=True)
class Sharer:
    """Whose operations are counted."""

    tenant_id: UUID
    agent_id: UUID
    target_id: UUID


def reserve(asked: ReserveBudget, sharer: Sharer, *, now: datetime) -> BudgetLease:
    """Give the lease what it wants of its budget, as far as it is there. In the tenant's scope.

    Raises `CountersUnavailable`.
    """
    limit = asked.limit
    limits = Amounts(operations=limit.operations, rows=limit.rows, bytes=limit.bytes)
    budget = _budget(asked.rule, limit, sharer, now=now)
    period = period_at(limit.per, now)
    if asked.period_start not in (0.0, period.start):
        _settle_late(budget, asked, limits, now=now)
        reserved = Reserved(granted=asked.used, spent=_NOTHING)
        period = _asked_period(asked, limit)
    else:
        reserved = counters().reserve(
            key_of(budget, period),
            lease_id=asked.lease_id,
            used=asked.used,
            wanted=asked.wanted,
            limit=limits,
            now=now.timestamp(),
            period_end=period.end,
        )
    left = (max(0, getattr(limits, name) - getattr(reserved.spent, name)) for name in Amounts.__struct_fields__)
    return BudgetLease(
        request_id=asked.request_id,
        granted=reserved.granted,
        left=Amounts(*left),
        period_start=period.start,
        resets_at=period.end,
        lasts_seconds=LEASE_SECONDS,
    )


def count(asked: CountValues, sharer: Sharer, *, now: datetime) -> ValuesCounted:
    """Count values as shown, as far as the limit goes. In the tenant's scope. Raises `CountersUnavailable`."""
    budget = _budget(asked.rule, asked.limit, sharer, now=now)
    period = period_at(asked.limit.per, now)
    values = [asked.values[at : at + VALUE_BYTES] for at in range(0, len(asked.values), VALUE_BYTES)]
    counted = counters().count(key_of(budget, period), values, limit=asked.limit.distinct, period_end=period.end)
    # Redis holds no value, nor a digest that could be looked up: without this key nobody can tell what was shown.
    key = salted_hmac("narrowgate.budgets.values", str(budget.pk), algorithm="sha256").hexdigest()
    return ValuesCounted(
        request_id=asked.request_id,
        accepted=counted.accepted,
        used=counted.used,
        key=Secret(key),
        period_start=period.start,
        resets_at=period.end,
    )


@transaction.atomic
def reset_budget(budget: Budget, *, acting_user: User | None) -> Budget:
    """Have the current period start anew: nothing is spent, what workers have leased stays theirs.

    Raises `Refusal` while the counters can't be reached.
    """
    now = timezone.now()
    key = key_of(budget, period_at(LimitPer(budget.per), now))
    with scope(tenant=budget.tenant_id):
        try:
            spent = counters().usage(key, now=now.timestamp()).spent
            distinct = counters().distinct(key)
            append_entry(
                tenant=budget.tenant,
                kind="budget.reset",
                acting_user=acting_user,
                subject=f"budget:{budget}",
                before={"used": {**msgspec.structs.asdict(spent), "distinct": distinct}},
                after={"used": msgspec.structs.asdict(Measures())},
            )
            counters().reset(key)
        except CountersUnavailable:
            raise Refusal(problem="Redis, which counts, can't be reached", fix="Try again in a minute") from None
    return budget


def _budget(rule: str, limit: Limit, sharer: Sharer, *, now: datetime) -> Budget:
    """The row, made or brought up to date."""
    told = {name: getattr(limit, name) for name in Measures.__struct_fields__}
    key: dict[str, Any] = {
        "tenant_id": sharer.tenant_id,
        "rule": rule,
        "per": limit.per.value,
        "of": limit.of.value,
        "agent_id": sharer.agent_id if limit.of in (LimitOf.AGENT, LimitOf.AGENT_ON_TARGET) else None,
        "target_id": sharer.target_id if limit.of in (LimitOf.TARGET, LimitOf.AGENT_ON_TARGET) else None,
    }
    budget, is_new = Budget.objects.get_or_create(**key, defaults={"limits": told, "last_used_at": now})
    if not is_new and (budget.limits != told or now - budget.last_used_at >= USE_NOTED_EVERY):
        budget.limits, budget.last_used_at = told, now
        budget.save(update_fields=["limits", "last_used_at", "updated_at"])
    return budget


def _settle_late(budget: Budget, asked: ReserveBudget, limits: Amounts, *, now: datetime) -> None:
    """Count what was used in a period that has passed, while its counters are kept."""
    period = _asked_period(asked, asked.limit)
    if period.start == asked.period_start and now.timestamp() < period.end + KEPT_SECONDS:
        counters().reserve(
            key_of(budget, period),
            lease_id=asked.lease_id,
            used=asked.used,
            wanted=_NOTHING,
            limit=limits,
            now=now.timestamp(),
            period_end=period.end,
        )


def _asked_period(asked: ReserveBudget, limit: Limit) -> Period:
    return period_at(limit.per, datetime.fromtimestamp(asked.period_start, UTC))
