"""What counts limits for workers in tests: the control plane's counters, in a real Valkey, without its database."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

from policies.budgets.counters import KEPT_SECONDS, LEASE_SECONDS, counters
from policies.budgets.periods import period_at
from policies.engine import Limit
from proxyworker.contract import (
    VALUE_BYTES,
    Amounts,
    BudgetLease,
    RefusalCode,
    Refused,
    Secret,
    ValuesCounted,
)
from proxyworker.errors import BudgetRefused


@dataclass
class CountedBudgets:
    """Budgets by rule, as if all sessions shared them. Several workers may have the same one."""

    clock: Callable[[], float] = time.time
    refuses: bool = False
    asked: list[dict[str, Any]] = field(default_factory=list)
    counted: list[dict[str, Any]] = field(default_factory=list)
    _name: str = field(default_factory=lambda: secrets.token_hex(8))

    def reserve(
        self,
        *,
        session_id: str,
        rule: str,
        limit: Limit,
        lease_id: str,
        period_start: float,
        used: Amounts,
        wanted: Amounts,
    ) -> BudgetLease:
        """As `policies.budgets.actions.reserve`. Raises `BudgetRefused`."""
        self.asked.append({"session_id": session_id, "rule": rule, "used": used, "wanted": wanted})
        if self.refuses:
            refused = Refused(0, RefusalCode.UNAVAILABLE, "what is left of the limit can't be counted now")
            raise BudgetRefused(refused)
        now = self.clock()
        limits = Amounts(limit.operations, limit.rows, limit.bytes)
        period = period_at(limit.per, datetime.fromtimestamp(now, UTC))
        is_late = period_start not in (0.0, period.start)
        counted = period_at(limit.per, datetime.fromtimestamp(period_start, UTC)) if is_late else period
        reserved = counters().reserve(
            self._key(rule, counted.start),
            lease_id=lease_id,
            used=used,
            wanted=Amounts() if is_late else wanted,
            limit=limits,
            now=now,
            period_end=max(counted.end, time.time() - KEPT_SECONDS + 600),  # Valkey's own clock isn't ours to set
        )
        left = (max(0, cap - spent) for cap, spent in zip(_three(limits), _three(reserved.spent), strict=True))
        return BudgetLease(0, reserved.granted, Amounts(*left), counted.start, counted.end, LEASE_SECONDS)

    def count(self, *, session_id: str, rule: str, limit: Limit, values: bytes) -> ValuesCounted:
        """As `policies.budgets.actions.count`. Raises `BudgetRefused`."""
        self.counted.append({"session_id": session_id, "rule": rule, "values": values})
        if self.refuses:
            raise BudgetRefused(Refused(0, RefusalCode.UNAVAILABLE, "what is left of the limit can't be counted now"))
        period = period_at(limit.per, datetime.fromtimestamp(self.clock(), UTC))
        digests = [values[at : at + VALUE_BYTES] for at in range(0, len(values), VALUE_BYTES)]
        end = max(period.end, time.time() - KEPT_SECONDS + 600)
        counted = counters().count(self._key(rule, period.start), digests, limit=limit.distinct, period_end=end)
        key = Secret(sha256(f"{self._name} {rule}".encode()).hexdigest())
        return ValuesCounted(0, counted.accepted, counted.used, key, period.start, period.end)

    def distinct(self, rule: str, limit: Limit) -> int:
        """How many values were shown in this period."""
        period = period_at(limit.per, datetime.fromtimestamp(self.clock(), UTC))
        return counters().distinct(self._key(rule, period.start))

    def spent(self, rule: str, limit: Limit) -> Amounts:
        """What workers have told in this period."""
        now = self.clock()
        period = period_at(limit.per, datetime.fromtimestamp(now, UTC))
        return counters().usage(self._key(rule, period.start), now=now).spent

    def _key(self, rule: str, start: float) -> str:
        return f"narrowgate:test:budget:{self._name}:{rule}:{int(start)}"


def _three(amounts: Amounts) -> tuple[int, int, int]:
    return (amounts.operations, amounts.rows, amounts.bytes)
