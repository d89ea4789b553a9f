"""Time windows: when a rule holds. All of them open and close at full minutes, so what holds, holds for that minute.

A window over midnight belongs to the day on which it opens: `days: [fri]`, `hours: [22:00-06:00]` ends on Saturday.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

from policies.engine.model import PolicyError, When

DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
#: Windows whose compiled form is kept.
COMPILED_WINDOWS: Final = 1_024
_MINUTES_A_DAY: Final = 24 * 60

_HOURS: Final = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-(?:([01]\d|2[0-3]):([0-5]\d)|(24):(00))")
_ZONE: Final = re.compile(r"[A-Za-z0-9_+/-]{1,64}")
_MOMENT: Final = re.compile(r"\d{4}-\d\d-\d\d(?:T\d\d:\d\d(?::00)?(?:Z|[+-]\d\d:\d\d)?)?", re.ASCII)
_FIX_DATE: Final = 'Write a date, "2026-11-23", or a time in full minutes, "2026-11-23T18:00+01:00"'


@dataclass(frozen=True, slots=True)
class Window:
    """A `When`, ready to be asked. `days` are numbers (Monday is 0), `hours` minutes of the day, times minutes."""

    zone: ZoneInfo
    days: frozenset[int]
    hours: tuple[tuple[int, int], ...]
    since: int | None
    until: int | None

    def is_open(self, minute: int) -> bool:
        """Whether it holds in this minute since the epoch."""
        if (self.since is not None and minute < self.since) or (self.until is not None and minute >= self.until):
            return False
        if not self.days and not self.hours:
            return True
        local = datetime.fromtimestamp(minute * 60, self.zone)
        today = local.weekday()
        if not self.hours:
            return today in self.days
        now = local.hour * 60 + local.minute
        return any(self._is_in(now, today, begins, ends) for begins, ends in self.hours)

    def _is_in(self, now: int, today: int, begins: int, ends: int) -> bool:
        if begins < ends:
            return begins <= now < ends and self._is_day(today)
        return (now >= begins and self._is_day(today)) or (now < ends and self._is_day((today - 1) % 7))

    def _is_day(self, day: int) -> bool:
        return not self.days or day in self.days


@lru_cache(maxsize=COMPILED_WINDOWS)
def compile_window(when: When) -> Window:
    """Ready to be asked. Raises `PolicyError` with the field within `When` that is wrong."""
    return Window(
        zone=zone_named(when.timezone),
        days=_days(when),
        hours=tuple(_hours(index, text) for index, text in enumerate(when.hours)),
        since=_minute("since", when.since, when.timezone),
        until=_minute("until", when.until, when.timezone),
    )


def zone_named(name: str) -> ZoneInfo:
    """The time zone. Raises `PolicyError`."""
    try:
        if _ZONE.fullmatch(name):
            return ZoneInfo(name)
    except (OSError, ValueError):  # ZoneInfoNotFoundError is a KeyError; a folder's name gives an OSError
        pass
    except KeyError:
        pass
    raise PolicyError("timezone", f"there is no time zone {name[:64]!r}", "Write one such as UTC or Europe/Berlin")


def say_when(when: When) -> str:
    """In words, such as "mon, tue 09:00-17:00 Europe/Berlin, until 2026-12-01"."""
    parts = [", ".join(when.days), ", ".join(when.hours), when.timezone]
    said = [" ".join(part for part in parts if part)]
    said += [f"since {when.since}"] * bool(when.since) + [f"until {when.until}"] * bool(when.until)
    return ", ".join(said)


def _days(when: When) -> frozenset[int]:
    for index, day in enumerate(when.days):
        if day not in DAYS:
            raise PolicyError(f"days[{index}]", f"{day[:20]!r} is no day", f"One of {', '.join(DAYS)}")
        if day in when.days[:index]:
            raise PolicyError(f"days[{index}]", f"{day} stands there twice", "Name each day once")
    return frozenset(DAYS.index(day) for day in when.days)


def _hours(index: int, text: str) -> tuple[int, int]:
    found = _HOURS.fullmatch(text)
    if found is None:
        raise PolicyError(f"hours[{index}]", f"{text[:20]!r} is no span of hours", 'Write it as "09:00-17:30"')
    hour, minute, end_hour, end_minute = (int(one) for one in found.groups() if one is not None)
    begins, ends = hour * 60 + minute, end_hour * 60 + end_minute
    if begins == ends or (begins, ends) == (0, _MINUTES_A_DAY):
        raise PolicyError(f"hours[{index}]", "begins where it ends", "Leave hours out for the whole day")
    return begins, ends


def _minute(field: str, text: str, timezone: str) -> int | None:
    if not text:
        return None
    try:
        if _MOMENT.fullmatch(text) is None:
            raise ValueError(text)
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise PolicyError(field, f"{text[:40]!r} is no date and no full minute", _FIX_DATE) from error
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=zone_named(timezone))
    try:
        return int(moment.timestamp()) // 60
    except (OverflowError, ValueError) as error:
        raise PolicyError(field, f"{text[:40]!r} is out of range", _FIX_DATE) from error
