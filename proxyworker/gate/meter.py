"""How much of a limit is left: leases parts of budgets from the control plane, and uses them up without asking.

    admit ─► each budget has something left ─► one operation is taken from each: a `Charge`
          ├► it isn't known yet             ─► `Waiting`, until the control plane has answered
          └► nothing is left                ─► `Exhausted`, in words for the agent
    Charge.settle: rows and bytes that were shown are taken likewise, after each read of the target

All sessions of a worker share its leases. Operations never exceed a limit; rows and bytes do so by at most what one
read of the target's socket held, for each statement that runs. What a crash of the worker forgets is what was used
within `REPORT_SECONDS`. Everything fails closed: a lease that can't be renewed lapses.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import inf
from typing import TYPE_CHECKING, Final, Protocol

from policies.engine import LimitOf, LimitPer
from proxyworker.contract import Amounts
from proxyworker.errors import BudgetRefused, LinkUnavailable
from proxyworker.gate.distinct import SharedValuePool, ValuePool, ValuesLink, ValueWatch, worst
from proxyworker.gate.verdicts import ASK_SECONDS, RECHECK_SECONDS, WHOM, Exhausted, Waiting, unknown
from proxyworker.net.tasks import spawn

if TYPE_CHECKING:
    from policies.engine import Limit, Obligation
    from proxyworker.contract import BudgetLease, SessionGrant

#: A lease is this part of a limit: few questions, and little that one worker keeps from another.
SHARE: Final = 20
#: What was used is reported this often, and a lease that nobody uses is given back after twice that.
REPORT_SECONDS: Final = 5.0
#: At a worker's end, for the last reports.
CLOSE_SECONDS: Final = 1.0

_MEASURES: Final = Amounts.__struct_fields__
_ALL: Final = range(len(_MEASURES))
#: Of a statement that runs: it is one operation already.
_SHOWN: Final = (1, 2)
_NOTHING: Final = Amounts()


class BudgetLink(ValuesLink, Protocol):
    """What is asked of the link."""

    async def reserve_budget(
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
        """Raises `BudgetRefused` or `LinkUnavailable`."""


class Charge:
    """What one operation has taken, and goes on taking. `rows` and `bytes` gather until `settle`.

    `statement_seconds`: how long it may run, 0 for as long as it takes; `seconds_rule` says so. `values`: the budgets
    of distinct values; what becomes of those, `watch` sees, which is the protocol's.
    """

    __slots__ = ("_pools", "bytes", "rows", "seconds_rule", "statement_seconds", "values", "watch")

    def __init__(
        self,
        pools: Sequence[_Pool],
        *,
        statement_seconds: int,
        seconds_rule: str,
        values: Sequence[ValuePool] = (),
    ) -> None:
        self._pools = pools
        self.values = values
        self.watch: ValueWatch | None = None
        self.statement_seconds = statement_seconds
        self.seconds_rule = seconds_rule
        self.rows = 0
        self.bytes = 0
        for pool in pools:
            pool.hold()
        for one in values:
            one.hold()

    def settle(self) -> Exhausted | Waiting | None:
        """Take what was shown. None: it may go on."""
        rows, size, self.rows, self.bytes = self.rows, self.bytes, 0, 0
        for pool in self._pools:
            pool.use(0, rows, size)
        return worst(pool.check(_SHOWN) for pool in self._pools)

    def close(self) -> None:
        """The operation is over."""
        for pool in self._pools:
            pool.use(0, self.rows, self.bytes)
            pool.let_go()
        for one in self.values:
            one.let_go()
        self._pools = self.values = ()


class Budgets:
    """Every budget that this worker's sessions use. `clock` gives seconds since the epoch."""

    def __init__(self, link: BudgetLink, clock: Callable[[], float]) -> None:
        self.link = link
        self.clock = clock
        self._pools: dict[tuple[str, ...], _Leased] = {}
        self._values: dict[tuple[str, ...], SharedValuePool] = {}
        self._timer: asyncio.TimerHandle | None = None

    def meter(self, grant: SessionGrant) -> Meter:
        """For one session."""
        return Meter(self, grant)

    def pool(self, rule: str, limit: Limit, grant: SessionGrant) -> _Pool:
        """The budget that the session shares in."""
        key = _key(rule, limit, grant)
        pool = self._pools.get(key)
        if pool is None:
            pool = self._pools[key] = _Leased(self, rule, limit)
            self._start()
        pool.follow(limit)
        pool.session_id = grant.session_id
        return pool

    def values(self, rule: str, limit: Limit, grant: SessionGrant) -> ValuePool:
        """The budget of distinct values that the session shares in."""
        key = _key(rule, limit, grant)
        pool = self._values.get(key)
        if pool is None:
            pool = self._values[key] = SharedValuePool(self.link, self.clock, rule, limit)
            self._start()
        pool.follow(limit)
        pool.session_id = grant.session_id
        return pool

    async def close(self) -> None:
        """Report what was used and give back the rest, as far as there is time and a link."""
        if self._timer is not None:
            self._timer.cancel()
        tasks = [task for pool in self._pools.values() if (task := pool.give_back()) is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_SECONDS)

    def _start(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(REPORT_SECONDS, self._tick)

    def _tick(self) -> None:
        for key, pool in list(self._pools.items()):
            if pool.is_idle:
                pool.give_back()
                del self._pools[key]
            else:
                pool.renew()
        for key, values in list(self._values.items()):
            if values.is_idle:
                del self._values[key]
        self._timer = None
        if self._pools or self._values:
            self._start()


@dataclass(slots=True)
class _Asked:
    """What the rules that an operation is under say: the budgets, and the shortest time."""

    pools: list[_Pool] = field(default_factory=list)
    values: list[ValuePool] = field(default_factory=list)
    seconds: int = 0
    seconds_rule: str = ""

    def problem(self) -> Exhausted | Waiting | None:
        """What keeps the operation back."""
        return worst([*(pool.check(_ALL) for pool in self.pools), *(pool.ready() for pool in self.values)])


class Meter:
    """What one session may still do."""

    def __init__(self, budgets: Budgets, grant: SessionGrant) -> None:
        self._budgets = budgets
        self._grant = grant
        self._own: dict[str, _Pool] = {}
        self._own_values: dict[str, ValuePool] = {}

    def admit(self, obligations: Sequence[Obligation]) -> Charge | Exhausted | Waiting | None:
        """Take one operation from each budget that these rules set; None: they set none. A refusal takes nothing."""
        asked = self._ask(obligations)
        if not asked.pools and not asked.values and not asked.seconds:
            return None
        problem = asked.problem()
        if problem is not None:
            return problem
        for pool in asked.pools:
            pool.use(1, 0, 0)
        return Charge(
            asked.pools, statement_seconds=asked.seconds, seconds_rule=asked.seconds_rule, values=asked.values
        )

    def check(self, obligations: Sequence[Obligation]) -> Exhausted | Waiting | None:
        """What `admit` would say against the operation, with nothing taken."""
        return self._ask(obligations).problem()

    def _ask(self, obligations: Sequence[Obligation]) -> _Asked:
        asked = _Asked()
        for obligation in obligations:
            limit = obligation.limit
            if limit is None:
                continue
            if limit.statement_seconds and (not asked.seconds or limit.statement_seconds < asked.seconds):
                asked.seconds, asked.seconds_rule = limit.statement_seconds, obligation.rule
            if limit.operations or limit.rows or limit.bytes:
                asked.pools.append(self._pool(obligation.rule, limit))
            if limit.distinct:
                asked.values.append(self.values_of(obligation.rule, limit))
        return asked

    def values_of(self, rule: str, limit: Limit) -> ValuePool:
        """The rule's budget of distinct values."""
        if limit.per is not LimitPer.SESSION:
            return self._budgets.values(rule, limit, self._grant)
        own = self._own_values.setdefault(rule, ValuePool(rule, limit))
        own.follow(limit)
        return own

    def _pool(self, rule: str, limit: Limit) -> _Pool:
        if limit.per is not LimitPer.SESSION:
            return self._budgets.pool(rule, limit, self._grant)
        own = self._own.setdefault(rule, _Pool(rule, limit))
        own.follow(limit)
        return own


class _Pool:
    """A budget of one session's own: all of it is there from the beginning."""

    def __init__(self, rule: str, limit: Limit) -> None:
        self.rule = rule
        self.limit = limit
        #: One of those that it is used by.
        self.session_id = ""
        self._used = [0, 0, 0]
        #: What nobody has used, as last known.
        self._left = [0, 0, 0]
        self._holders = 0

    @property
    def _caps(self) -> tuple[int, int, int]:
        return (self.limit.operations, self.limit.rows, self.limit.bytes)

    def check(self, measures: Sequence[int]) -> Exhausted | Waiting | None:
        """Whether something is left of each of these measures."""
        caps = self._caps
        if all(not caps[at] or self._used[at] < caps[at] for at in measures):
            return None
        self._left = [max(0, cap - used) for cap, used in zip(caps, self._used, strict=True)]
        return self._exhausted(next(at for at in measures if caps[at] and not self._left[at]))

    def use(self, operations: int, rows: int, size: int) -> None:
        """So much was taken."""
        for at, amount in enumerate((operations, rows, size)):
            self._used[at] += amount

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

    def _exhausted(self, out: int) -> Exhausted:
        caps, left = self._caps, self._left
        what = f"{caps[out]:,} {_MEASURES[out]} per {self.limit.per.value} for {WHOM[self.limit.of]}"
        state = "used up" if left[out] <= 0 else "leased out: other sessions are about to use what is left"
        told = ", ".join(f"{left[at]:,} of {caps[at]:,} {_MEASURES[at]}" for at in _ALL if caps[at])
        return Exhausted(f"the limit of {what} is {state} (rule {self.rule!r})", f"Left: {told}. {self._hint}")


class _Leased(_Pool):
    """A budget that workers share: what is here was leased."""

    def __init__(self, budgets: Budgets, rule: str, limit: Limit) -> None:
        super().__init__(rule, limit)
        self._budgets = budgets
        self._loop = asyncio.get_running_loop()
        self._asking: asyncio.Task[None] | None = None
        self._waiters: list[Callable[[], None]] = []
        self._used_at = self._loop.time()
        self._quiet_until = -inf
        #: Why nothing is known; and of which measures the last answer gave nothing. Both hold until `_quiet_until`.
        self._failure: Exhausted | None = None
        self._out: frozenset[int] = frozenset()
        self._start_lease()

    def _start_lease(self) -> None:
        self._lease_id = secrets.token_hex(16)
        self._used, self._granted, self._left = [0, 0, 0], [0, 0, 0], [0, 0, 0]
        self._told = _NOTHING
        self._period_start = 0.0
        self._resets_at = inf
        self._lapses_at = -inf

    @property
    def is_idle(self) -> bool:
        """Nothing takes from it, and nothing has lately."""
        is_asking = self._asking is not None  # what comes of it would be nobody's, and could not be given back
        return not self._holders and not is_asking and self._loop.time() - self._used_at > 2 * REPORT_SECONDS

    @property
    def _wanted(self) -> Amounts:
        return Amounts(*(cap and max(1, cap // SHARE) for cap in self._caps))

    def check(self, measures: Sequence[int]) -> Exhausted | Waiting | None:
        """As of a session's own; what isn't known is asked for."""
        dry = [at for at in measures if self._caps[at] and self._used[at] >= self._granted[at]]
        if self._is_good and not dry:
            return None
        if self._asking is None:
            if self._loop.time() < self._quiet_until and (self._failure is not None or not self._out.isdisjoint(dry)):
                return self._failure or self._exhausted(min(self._out.intersection(dry)))
            self._ask(self._wanted)
        return Waiting(self._waiters.append)

    def use(self, operations: int, rows: int, size: int) -> None:
        """As of a session's own; more is asked for ahead of need."""
        super().use(operations, rows, size)
        self._used_at = self._loop.time()
        wanted = _amounts(self._wanted)
        is_low = any(wanted[at] and self._granted[at] - self._used[at] < wanted[at] // 2 for at in _ALL)
        if is_low and self._asking is None and self._used_at >= self._quiet_until:
            self._ask(self._wanted)

    def follow(self, limit: Limit) -> None:
        """As of a session's own; what was leased under another limit is asked for anew."""
        if limit != self.limit:
            self.limit = limit
            self._lapses_at = self._quiet_until = -inf

    def renew(self) -> None:
        """Report what was used, and keep the lease from lapsing."""
        if self._asking is None:
            self._ask(self._wanted)

    def give_back(self) -> asyncio.Task[None] | None:
        """Report what was used, and want nothing more. None: there is nothing to say."""
        if self._asking is None and (self._granted != self._used or self._told != Amounts(*self._used)):
            self._ask(_NOTHING)
        return self._asking

    @property
    def _hint(self) -> str:
        return f"It resets at {datetime.fromtimestamp(self._resets_at, UTC):%Y-%m-%d %H:%M:%S} UTC."

    @property
    def _is_good(self) -> bool:
        return self._loop.time() < self._lapses_at and self._budgets.clock() < self._resets_at

    def _ask(self, wanted: Amounts) -> None:
        self._asking = spawn(f"budget {self.rule}", self._run(wanted))

    async def _run(self, wanted: Amounts) -> None:
        self._failure, self._out = None, frozenset()
        try:
            async with asyncio.timeout(ASK_SECONDS):
                if self._budgets.clock() >= self._resets_at:
                    if self._told != Amounts(*self._used):
                        await self._lease(_NOTHING)  # it counts for its own period
                    self._start_lease()
                await self._lease(wanted)
        except (LinkUnavailable, TimeoutError):
            self._failure = unknown(self.rule, "the gate has lost its control plane")
        except BudgetRefused as error:
            self._failure = unknown(self.rule, error.refused.reason)
        else:
            if wanted != _NOTHING:
                self._out = frozenset(at for at in _ALL if self._caps[at] and self._used[at] >= self._granted[at])
        finally:
            self._asking = None
            is_no = self._failure is not None or self._out
            self._quiet_until = self._loop.time() + RECHECK_SECONDS if is_no else -inf
            waiters, self._waiters[:] = list(self._waiters), []
            for waiter in waiters:
                self._loop.call_soon(waiter)

    async def _lease(self, wanted: Amounts) -> None:
        asked_at, used = self._loop.time(), Amounts(*self._used)
        lease = await self._budgets.link.reserve_budget(
            session_id=self.session_id,
            rule=self.rule,
            limit=self.limit,
            lease_id=self._lease_id,
            period_start=self._period_start,
            used=used,
            wanted=wanted,
        )
        self._told = used
        self._granted = list(_amounts(lease.granted))
        self._left = list(_amounts(lease.left))
        self._period_start, self._resets_at = lease.period_start, lease.resets_at
        self._lapses_at = asked_at + lease.lasts_seconds


def _key(rule: str, limit: Limit, grant: SessionGrant) -> tuple[str, ...]:
    agent = grant.principal.id if limit.of in (LimitOf.AGENT, LimitOf.AGENT_ON_TARGET) else ""
    target = grant.target.id if limit.of in (LimitOf.TARGET, LimitOf.AGENT_ON_TARGET) else ""
    return (rule, limit.per.value, limit.of.value, agent, target)


def _amounts(amounts: Amounts) -> tuple[int, int, int]:
    return (amounts.operations, amounts.rows, amounts.bytes)
