"""Budgets of distinct values: which values were shown already, and how many more may be.

    take ─► all of these were shown before, or could be counted: they may be shown
         ├► up to one that isn't known here: the control plane is asked, and `Waiting` says when to take again
         └► up to one that is too many: `Exhausted`

A value is counted before it is shown, for all workers together, so a limit is never exceeded. Values come as digests,
made with the budget's key: neither this module's memory nor Redis holds one. Everything fails closed.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b
from math import inf
from typing import TYPE_CHECKING, Final, Protocol

from proxyworker.contract import MAX_COUNTED_VALUES, VALUE_BYTES
from proxyworker.errors import BudgetRefused, LinkUnavailable
from proxyworker.gate.verdicts import ASK_SECONDS, RECHECK_SECONDS, WHOM, Exhausted, Waiting, unknown
from proxyworker.net.tasks import spawn

if TYPE_CHECKING:
    from policies.engine import Limit
    from proxyworker.contract import ValuesCounted

#: Values shown before are asked for again after this time: a budget that was set back counts them anew.
KEPT_SECONDS: Final = 10.0


class ValuesLink(Protocol):
    """What is asked of the link."""

    async def count_values(self, *, session_id: str, rule: str, limit: Limit, values: bytes) -> ValuesCounted:
        """Raises `BudgetRefused` or `LinkUnavailable`."""


@dataclass(frozen=True, slots=True)
class Look:
    """Rows up to `end`, `count` of them, may be shown now. `problem`: what keeps the next one back, if anything."""

    end: int
    count: int
    problem: Exhausted | Waiting | None


class ValueWatch(Protocol):
    """What a protocol knows of an operation's answer: which values of it count."""

    @property
    def looks(self) -> bool:
        """Whether its rows have to be looked at."""

    @property
    def hides_messages(self) -> bool:
        """Whether the target's errors and notices may quote values that count, and are withheld."""

    def heed(self, kind: int, data: bytes, start: int, end: int, *, is_final: bool) -> None:
        """A message of the target that is no row; if that `is_final`, values will come in just that form."""

    def look(self, data: bytes, start: int, end: int) -> Look:
        """How far these rows may go now."""


class ValuePool:
    """A budget of one session's own: nothing was shown before it began."""

    def __init__(self, rule: str, limit: Limit) -> None:
        self.rule = rule
        self.limit = limit
        #: One of those that it is used by.
        self.session_id = ""
        self._key = secrets.token_bytes(32)
        self._shown: set[bytes] = set()
        self._used = 0
        self._holders = 0

    def ready(self) -> Exhausted | Waiting | None:
        """Whether values can be counted at all."""
        return None

    def digest(self, kind: bytes, value: bytes) -> bytes:
        """What stands for a value. Those of one `kind` are equal if their bytes are."""
        return blake2b(value, digest_size=VALUE_BYTES, key=self._key, person=kind).digest()

    def take(self, values: Sequence[bytes]) -> tuple[int, Exhausted | Waiting | None]:
        """How many of these digests, from the first one on, may be shown now; and what keeps the next one back."""
        for at, value in enumerate(values):
            if value not in self._shown:
                if len(self._shown) >= self.limit.distinct:
                    return at, self._exhausted()
                self._shown.add(value)
                self._used = len(self._shown)
        return len(values), None

    def follow(self, limit: Limit) -> None:
        """This is what the rule says now."""
        self.limit = limit

    def hold(self) -> None:
        """Another operation takes from it."""
        self._holders += 1

    def let_go(self) -> None:
        """One fewer does."""
        self._holders -= 1

    @property
    def _hint(self) -> str:
        """What ends the refusals."""
        return "A new session starts anew."

    def _exhausted(self) -> Exhausted:
        limit = self.limit
        of = ", ".join((*limit.labels, *limit.columns))
        left = max(0, limit.distinct - self._used)
        return Exhausted(
            f"the limit of {limit.distinct:,} distinct values of {of} per {limit.per.value} for {WHOM[limit.of]} "
            f"is used up (rule {self.rule!r})",
            f"Left: {left:,} of {limit.distinct:,}. Values shown before may be shown again. {self._hint}",
        )


class SharedValuePool(ValuePool):
    """A budget that workers share. `clock` gives seconds since the epoch."""

    def __init__(self, link: ValuesLink, clock: Callable[[], float], rule: str, limit: Limit) -> None:
        super().__init__(rule, limit)
        self._link = link
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._asking: asyncio.Task[None] | None = None
        self._waiters: list[Callable[[], None]] = []
        self._has_key = False
        self._resets_at = 0.0
        self._stale_at = -inf
        self._used_at = self._loop.time()
        #: Until then nothing is asked: nothing is known, or the last answer was a no.
        self._quiet_until = -inf
        self._failure: Exhausted | None = None
        self._is_full = False

    @property
    def is_idle(self) -> bool:
        """Nothing takes from it, and nothing has lately."""
        return not self._holders and self._asking is None and self._loop.time() - self._used_at > KEPT_SECONDS

    def ready(self) -> Exhausted | Waiting | None:
        """As of a session's own; the key is asked for."""
        if self._has_key:
            return None
        return self._say_no() or self._ask(())

    def take(self, values: Sequence[bytes]) -> tuple[int, Exhausted | Waiting | None]:
        """As of a session's own; what isn't known is asked for."""
        now = self._used_at = self._loop.time()
        if now >= self._stale_at or self._clock() >= self._resets_at:
            self._shown.clear()
        at = next((at for at, value in enumerate(values) if value not in self._shown), None)
        if at is None:
            return len(values), None
        no = self._say_no()
        if no is not None:
            return at, no
        unknown_values = (value for value in values[at:] if value not in self._shown)
        return at, self._ask(list(dict.fromkeys(unknown_values))[:MAX_COUNTED_VALUES])

    def follow(self, limit: Limit) -> None:
        """As of a session's own."""
        if limit != self.limit:
            self.limit = limit
            self._quiet_until = -inf

    @property
    def _hint(self) -> str:
        return f"It resets at {datetime.fromtimestamp(self._resets_at, UTC):%Y-%m-%d %H:%M:%S} UTC."

    def _say_no(self) -> Exhausted | None:
        if self._asking is not None or self._loop.time() >= self._quiet_until:
            return None
        return self._failure or (self._exhausted() if self._is_full else None)

    def _ask(self, values: Sequence[bytes]) -> Waiting:
        if self._asking is None:
            self._asking = spawn(f"values {self.rule}", self._run_and_wake(values))
        return Waiting(self._waiters.append)

    async def _run_and_wake(self, values: Sequence[bytes]) -> None:
        try:
            await self._run(values)
        finally:
            self._asking = None
            waiters, self._waiters[:] = list(self._waiters), []
            for waiter in waiters:
                self._loop.call_soon(waiter)

    async def _run(self, values: Sequence[bytes]) -> None:
        asked_at = self._loop.time()
        self._failure, self._is_full = None, False
        try:
            async with asyncio.timeout(ASK_SECONDS):
                told = await self._link.count_values(
                    session_id=self.session_id, rule=self.rule, limit=self.limit, values=b"".join(values)
                )
        except (LinkUnavailable, TimeoutError):
            self._failure = unknown(self.rule, "the gate has lost its control plane")
        except BudgetRefused as error:
            self._failure = unknown(self.rule, error.refused.reason)
        else:
            self._heed(told, values, asked_at=asked_at)
        if self._failure is not None or self._is_full:
            self._quiet_until = self._loop.time() + RECHECK_SECONDS

    def _heed(self, told: ValuesCounted, values: Sequence[bytes], *, asked_at: float) -> None:
        key = bytes.fromhex(told.key.value)
        if key != self._key or told.resets_at != self._resets_at or asked_at >= self._stale_at:
            self._shown.clear()
            self._stale_at = asked_at + KEPT_SECONDS
        self._key, self._has_key = key, True
        self._resets_at, self._used = told.resets_at, told.used
        self._shown.update(values[: told.accepted])
        self._is_full = told.accepted < len(values)


def strangers(count: int) -> list[bytes]:
    """Digests of values that can't be told from others: each counts as a new one."""
    drawn = secrets.token_bytes(count * VALUE_BYTES)
    return [drawn[at : at + VALUE_BYTES] for at in range(0, len(drawn), VALUE_BYTES)]


def worst(found: Iterable[Exhausted | Waiting | None]) -> Exhausted | Waiting | None:
    """What keeps an operation back: a no before what isn't known."""
    waiting: Waiting | None = None
    for one in found:
        if isinstance(one, Exhausted):
            return one
        waiting = waiting or one
    return waiting
