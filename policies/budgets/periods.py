"""The periods of limits: full minutes, hours, days, weeks (from Monday) and months of UTC. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from policies.engine import LimitPer


@dataclass(frozen=True, slots=True)
class Period:
    """From `start` on, before `end`; seconds since the epoch."""

    start: float
    end: float


def period_at(per: LimitPer, now: datetime) -> Period:
    """The period that `now` is in. Raises `ValueError` for a session, which the clock doesn't end."""
    at = now.astimezone(UTC)
    midnight = at.replace(hour=0, minute=0, second=0, microsecond=0)
    match per:
        case LimitPer.MINUTE:
            start = at.replace(second=0, microsecond=0)
            end = start + timedelta(minutes=1)
        case LimitPer.HOUR:
            start = at.replace(minute=0, second=0, microsecond=0)
            end = start + timedelta(hours=1)
        case LimitPer.DAY:
            start = midnight
            end = start + timedelta(days=1)
        case LimitPer.WEEK:
            start = midnight - timedelta(days=at.weekday())
            end = start + timedelta(weeks=1)
        case LimitPer.MONTH:
            start = midnight.replace(day=1)
            end = (start + timedelta(days=31)).replace(day=1)
        case LimitPer.SESSION:
            raise ValueError("a session has no period of the clock")
    return Period(start=start.timestamp(), end=end.timestamp())
