"""Time windows: days, hours over midnight, zones with their changes of the clock, dates."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest

from policies.engine import Access, Effect, Operation, Principal, SessionPolicy, Target, When, parse_policy
from policies.engine.windows import compile_window, say_when


def is_open(when: dict[str, Any], local: str) -> bool:
    """At this time of Berlin."""
    moment = datetime.fromisoformat(local).replace(tzinfo=ZoneInfo("Europe/Berlin"))
    window = compile_window(msgspec.convert({"timezone": "Europe/Berlin", **when}, When))
    return window.is_open(int(moment.timestamp()) // 60)


@pytest.mark.parametrize(
    ("when", "local", "expected"),
    [
        ({"days": ["mon"]}, "2026-11-23T00:00", True),
        ({"days": ["mon"]}, "2026-11-24T00:00", False),
        ({"hours": ["09:00-17:30"]}, "2026-11-23T08:59", False),
        ({"hours": ["09:00-17:30"]}, "2026-11-23T09:00", True),
        ({"hours": ["09:00-17:30"]}, "2026-11-23T17:29", True),
        ({"hours": ["09:00-17:30"]}, "2026-11-23T17:30", False),
        ({"hours": ["20:00-24:00"]}, "2026-11-23T23:59", True),
        ({"hours": ["00:00-01:00", "05:00-06:00"]}, "2026-11-23T05:30", True),
        # Over midnight, the window is of the day on which it opens.
        ({"days": ["fri"], "hours": ["22:00-06:00"]}, "2026-11-27T22:00", True),
        ({"days": ["fri"], "hours": ["22:00-06:00"]}, "2026-11-28T05:59", True),
        ({"days": ["fri"], "hours": ["22:00-06:00"]}, "2026-11-28T06:00", False),
        ({"days": ["fri"], "hours": ["22:00-06:00"]}, "2026-11-27T05:00", False),
        ({"days": ["mon"], "hours": ["22:00-06:00"]}, "2026-11-29T23:00", False),
        ({"days": ["sun"], "hours": ["22:00-06:00"]}, "2026-11-30T01:00", True),
        # Summer time begins on 29 March 2026, and the hour from 2 to 3 does not exist.
        ({"hours": ["02:00-04:00"]}, "2026-03-29T03:30", True),
        ({"hours": ["01:00-03:00"]}, "2026-03-29T03:00", False),
        ({"since": "2026-11-23"}, "2026-11-22T23:59", False),
        ({"since": "2026-11-23"}, "2026-11-23T00:00", True),
        ({"until": "2026-11-23"}, "2026-11-22T23:59", True),
        ({"until": "2026-11-23"}, "2026-11-23T00:00", False),
        ({"until": "2026-11-23T12:00"}, "2026-11-23T11:59", True),
        ({"until": "2026-11-23T12:00Z"}, "2026-11-23T12:59", True),
        ({"until": "2026-11-23T12:00+00:00"}, "2026-11-23T13:00", False),
    ],
)
def test_a_window_is_open_in_its_zone(when: dict[str, Any], local: str, expected: bool) -> None:
    assert is_open(when, local) is expected


def test_a_session_follows_its_windows_minute_by_minute() -> None:
    rule = {
        "name": "r", "effect": "allow", "agents": ["*"], "targets": ["*"],
        "when": {"hours": ["00:01-00:03"], "timezone": "UTC"},
    }  # fmt: skip
    policy = SessionPolicy(
        parse_policy("p@1", [rule]), principal=Principal(id="1", name="r"), target=Target(name="shop")
    )
    read = Operation(accesses=(Access("select", "a"),))
    seen = [policy.decide(read, now=now).effect is Effect.ALLOW for now in (59.9, 60.0, 119.0, 179.9, 180.0, 61.0)]
    assert seen == [False, True, True, True, False, True]


def test_a_window_is_told_in_words() -> None:
    when = When(days=("mon", "tue"), hours=("09:00-17:00",), timezone="Europe/Berlin", until="2026-12-01")
    assert say_when(when) == "mon, tue 09:00-17:00 Europe/Berlin, until 2026-12-01"
