"""The counters of budgets, in Redis: one hash for each budget and period, changed by scripts that run as one.

A field for each lease holds what was ever given to it, what it has used of that, and when it lapses; `reset` holds what
had been used when somebody last set the budget back. All are totals, so a repeated question changes nothing, and what a
lease reports after it has lapsed still counts.

    spent      what all leases have used, less what they had at the last reset
    held       what leases that haven't lapsed may still use
    available  limit - spent - held

Beside it, for distinct values, a set of their digests, which workers make with a key: what was shown in the period.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final, cast

from django.conf import settings
from redis import Redis
from redis.exceptions import RedisError

from policies.budgets.errors import CountersUnavailable
from proxyworker.contract import Amounts

#: A lease that isn't renewed for so long has lapsed. A worker renews it every few seconds while it is used.
LEASE_SECONDS: Final = 30.0
#: A period's counters stay for what comes late, then they go.
KEPT_SECONDS: Final = 3_600
#: Redis is near; whoever waits longer is better refused.
TIMEOUT_SECONDS: Final = 2.0

_MEASURES: Final = Amounts.__struct_fields__
#: KEYS: the hash. ARGV: now, the lease, its lapse and the hash's end in ms; then used, wanted and limit, by measure.
_RESERVE: Final = """
local now, own = tonumber(ARGV[1]), {0, 0, 0, 0, 0, 0, 0}
local spent, held = {0, 0, 0}, {0, 0, 0}
local fields = redis.call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do
  local v = {}
  for number in string.gmatch(fields[i + 1], '%d+') do v[#v + 1] = tonumber(number) end
  for m = 1, 3 do
    if fields[i] == 'reset' then
      spent[m] = spent[m] - v[m]
    elseif fields[i] == ARGV[2] then
      own = v
    else
      spent[m] = spent[m] + v[3 + m]
      if v[7] > now then held[m] = held[m] + math.max(0, v[m] - v[3 + m]) end
    end
  end
end
local line, told = '', {}
for m = 1, 3 do
  local used = math.max(own[3 + m], tonumber(ARGV[4 + m]))
  local wanted, limit = tonumber(ARGV[7 + m]), tonumber(ARGV[10 + m])
  spent[m] = spent[m] + used
  local granted = used
  if limit > 0 and wanted > 0 then
    if own[7] > now then wanted = math.max(wanted, own[m] - used) end
    granted = used + math.max(0, math.min(wanted, limit - spent[m] - held[m]))
  end
  own[m], own[3 + m] = granted, used
end
for _, number in ipairs({own[1], own[2], own[3], own[4], own[5], own[6], tonumber(ARGV[3])}) do
  line = line .. string.format('%.0f ', number)
end
redis.call('HSET', KEYS[1], ARGV[2], line)
redis.call('PEXPIREAT', KEYS[1], ARGV[4])
for m = 1, 3 do told[m], told[3 + m] = string.format('%.0f', own[m]), string.format('%.0f', spent[m]) end
return told
"""
_RESET: Final = """
local used = {0, 0, 0}
local fields = redis.call('HGETALL', KEYS[1])
if #fields == 0 then return 0 end
for i = 1, #fields, 2 do
  if fields[i] ~= 'reset' then
    local v = {}
    for number in string.gmatch(fields[i + 1], '%d+') do v[#v + 1] = tonumber(number) end
    for m = 1, 3 do used[m] = used[m] + v[3 + m] end
  end
end
redis.call('HSET', KEYS[1], 'reset', string.format('%.0f %.0f %.0f', used[1], used[2], used[3]))
return 1
"""
#: KEYS: the set. ARGV: the limit, the set's end in ms, then values. How many are in it now, from the first one on.
_COUNT: Final = """
local used, limit, accepted = redis.call('SCARD', KEYS[1]), tonumber(ARGV[1]), 0
for i = 3, #ARGV do
  if redis.call('SISMEMBER', KEYS[1], ARGV[i]) == 0 then
    if used >= limit then break end
    redis.call('SADD', KEYS[1], ARGV[i])
    used = used + 1
  end
  accepted = accepted + 1
end
redis.call('PEXPIREAT', KEYS[1], ARGV[2])
return {accepted, used}
"""
#: No lease has this id: it would be taken for what was used at the last reset.
RESET_FIELD: Final = "reset"


@dataclass(frozen=True, slots=True)
class Usage:
    """How a budget stands in a period."""

    spent: Amounts
    held: Amounts


@dataclass(frozen=True, slots=True)
class Reserved:
    """What a lease was ever given, and what all leases of the period have spent."""

    granted: Amounts
    spent: Amounts


@dataclass(frozen=True, slots=True)
class Counted:
    """How many of some values, from the first one on, are in the period's set, and how many that has."""

    accepted: int
    used: int


class Counters:
    """The counters behind one client. Each call raises `CountersUnavailable`."""

    def __init__(self, client: Redis) -> None:
        self._client = client
        self._reserve = client.register_script(_RESERVE)
        self._reset = client.register_script(_RESET)
        self._count = client.register_script(_COUNT)

    def reserve(
        self, key: str, *, lease_id: str, used: Amounts, wanted: Amounts, limit: Amounts, now: float, period_end: float
    ) -> Reserved:
        """Note what the lease has used, and give it up to `wanted` beyond that. A `limit` of 0 isn't counted."""
        times = [_ms(now), lease_id, _ms(now + LEASE_SECONDS), _ms(period_end + KEPT_SECONDS)]
        told = self._run(self._reserve, key, [*times, *_three(used), *_three(wanted), *_three(limit)])
        numbers = [int(number) for number in told]
        return Reserved(granted=Amounts(*numbers[:3]), spent=Amounts(*(max(0, number) for number in numbers[3:])))

    def count(self, key: str, values: list[bytes], *, limit: int, period_end: float) -> Counted:
        """Put the values into the period's set, in their order, until it has `limit`."""
        told = self._run(self._count, _set_of(key), [limit, _ms(period_end + KEPT_SECONDS), *values])
        return Counted(accepted=int(told[0]), used=int(told[1]))

    def distinct(self, key: str) -> int:
        """How many values the period's set has."""
        try:
            return int(self._client.scard(_set_of(key)))
        except RedisError as error:
            raise CountersUnavailable from error

    def usage(self, key: str, *, now: float) -> Usage:
        """What is spent and held."""
        spent, held = [0, 0, 0], [0, 0, 0]
        try:
            fields = cast("dict[bytes, bytes]", self._client.hgetall(key))
        except RedisError as error:
            raise CountersUnavailable from error
        for name, line in fields.items():
            numbers = [int(number) for number in line.split()]
            for at in range(3):
                if name == RESET_FIELD.encode():
                    spent[at] -= numbers[at]
                    continue
                spent[at] += numbers[3 + at]
                if numbers[6] > _ms(now):
                    held[at] += max(0, numbers[at] - numbers[3 + at])
        return Usage(spent=Amounts(*(max(0, number) for number in spent)), held=Amounts(*held))

    def reset(self, key: str) -> None:
        """Nothing is spent any more; what is held stays so."""
        self._run(self._reset, key, [])
        try:
            self._client.delete(_set_of(key))
        except RedisError as error:
            raise CountersUnavailable from error

    def _run(self, script: Any, key: str, arguments: list[Any]) -> Any:
        try:
            return script(keys=[key], args=arguments)
        except RedisError as error:
            raise CountersUnavailable from error


@lru_cache(maxsize=1)
def counters() -> Counters:
    """Those of this installation. Connections are made when they are needed."""
    client = Redis.from_url(
        settings.NARROWGATE.redis_url, socket_timeout=TIMEOUT_SECONDS, socket_connect_timeout=TIMEOUT_SECONDS
    )
    return Counters(client)


def _set_of(key: str) -> str:
    return f"{key}:values"


def _three(amounts: Amounts) -> list[int]:
    return [getattr(amounts, name) for name in _MEASURES]


def _ms(seconds: float) -> int:
    return round(seconds * 1_000)
