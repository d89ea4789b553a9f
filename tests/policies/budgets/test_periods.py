"""Where periods begin and end."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.budgets.periods import period_at
from policies.engine import LimitPer

#: A Tuesday.
NOW = datetime(2026, 12, 29, 23, 59, 59, 999_999, tzinfo=UTC)
OF_THE_CLOCK = [per for per in LimitPer if per is not LimitPer.SESSION]


@pytest.mark.parametrize(
    ("per", "start", "end"),
    [
        ("minute", "2026-12-29T23:59", "2026-12-30T00:00"),
        ("hour", "2026-12-29T23:00", "2026-12-30T00:00"),
        ("day", "2026-12-29T00:00", "2026-12-30T00:00"),
        ("week", "2026-12-28T00:00", "2027-01-04T00:00"),
        ("month", "2026-12-01T00:00", "2027-01-01T00:00"),
    ],
)
def test_a_period_is_a_full_one_of_utc(per: str, start: str, end: str) -> None:
    period = period_at(LimitPer(per), NOW)
    told = [f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M}" for at in (period.start, period.end)]
    assert told == [start, end]


@given(st.integers(31_536_000, 4_102_444_800), st.integers(-14, 14), st.sampled_from(OF_THE_CLOCK))
def test_every_moment_is_in_one_period_whatever_its_time_zone(at: int, hours: int, per: LimitPer) -> None:
    now = datetime.fromtimestamp(at, timezone(timedelta(hours=hours)))
    period = period_at(per, now)
    assert period.start <= now.timestamp() < period.end
    assert period_at(per, datetime.fromtimestamp(period.start, UTC)) == period
    assert period_at(per, datetime.fromtimestamp(period.end, UTC)).start == period.end


def test_a_session_has_none() -> None:
    with pytest.raises(ValueError, match="session"):
        period_at(LimitPer.SESSION, NOW)
