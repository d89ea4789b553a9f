"""Distinct values under limits: which columns of an answer show values that are counted, and what each row counts for.

    statement ─► does it read counted columns at all, by its text?      (understand, gathering, catalog)
              ├► it would keep them elsewhere: refused
    RowDescription ─► each column comes of a counted one: its values are counted
                   ├► of another one of a relation that is known: it is free
                   └► of none (an expression), of a view that reaches a counted one, of what isn't known: every row
                      counts as as many new values as it can show, and is not shown at all if that can't be told
    rows ─► `Watch.look`: up to where they may go now

Whatever isn't known for certain counts, so that no value is shown without being counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import inf
from typing import TYPE_CHECKING, Final

from policies.engine import Access, Kind
from policies.engine.columns import counted_columns
from policies.engine.operation import ALL_COLUMNS, NOTHING, UNRESOLVED
from proxyworker.gate.distinct import Look, ValuePool, strangers
from proxyworker.gate.meter import Charge
from proxyworker.gate.verdicts import RECHECK_SECONDS, Exhausted, Waiting, unknown
from proxyworker.net.tasks import spawn
from proxyworker.postgres.catalog import FIRST_OWN_OID, Catalog, CatalogUnread, Counted, look
from proxyworker.postgres.understand.catalog import quoted
from proxyworker.postgres.understand.functions import PG_CATALOG
from proxyworker.postgres.understand.gathering import gathering_of
from proxyworker.wire.postgres import backend
from proxyworker.wire.postgres.rows import new_values, whole_rows

if TYPE_CHECKING:
    from policies.engine import Limit, Obligation, Operation, Policy
    from proxyworker.contract import SessionGrant
    from proxyworker.gate.meter import Meter
    from proxyworker.postgres.names import Statement
    from proxyworker.postgres.understand import Facts
    from proxyworker.wire.postgres.backend import Field

#: Labels and columns, as a limit names them.
Named = tuple[tuple[str, ...], tuple[str, ...]]

#: Prepared statements whose answers' columns are known.
MAX_DESCRIBED: Final = 1_000
#: A longer value is digested each time that it comes.
MAX_KNOWN_BYTES: Final = 256
#: Values of one statement that needn't be digested again.
MAX_KNOWN: Final = 4_096
#: Types whose text and binary forms are the same: text, varchar, char, name, json, xml.
_TEXTS: Final = frozenset({25, 1043, 1042, 19, 114, 142})
_READING: Final = frozenset({Kind.SELECT, Kind.COPY_OUT})
#: What it shows can't be told from its text.
_OPAQUE: Final = frozenset({Kind.CALL, Kind.DO, Kind.CURSOR})
#: After these, what a name leads to may be something else.
_MOVING: Final = frozenset({Kind.DDL, Kind.DO, Kind.CALL})
_WRITING: Final = frozenset({Kind.INSERT, Kind.UPDATE, Kind.MERGE, Kind.DDL})
_CATALOGS: Final = (f"{PG_CATALOG}.", "information_schema.")
#: Of a function that no name tells, called by the protocol's own message: its result is no row.
_BY_NUMBER: Final = Access(Kind.CALL, UNRESOLVED)
_ASK_FOR_IT: Final = "Select the column itself, as it is, so that its values can be counted."


class _Limits:
    """Of the policy asked last: a new one is taken up by all sessions at once."""

    def __init__(self) -> None:
        self._policy: Policy | None = None
        self._found: list[Limit] = []

    def of(self, policy: Policy) -> list[Limit]:
        """Its limits of distinct values."""
        if policy is not self._policy:
            limits = [rule.limit for rule in policy.rules if rule.limit is not None and rule.limit.distinct]
            self._policy, self._found = policy, limits
        return self._found


_limits: Final = _Limits()


@dataclass(frozen=True, slots=True)
class Plan:
    """What a statement does with the columns of one rule.

    `derives`: columns of the answer that come of no column may show their values. `weight`: those that one row may
    show then; with `gathers` it may be any number. `constant`: places in the answer that show no column.
    """

    counted: Counted
    derives: bool
    gathers: bool
    weight: int
    constant: frozenset[int] = frozenset()


class CountedValues:
    """One session's limits, those of distinct values among them. In place of the meter that the others are asked of."""

    def __init__(self, meter: Meter, grant: SessionGrant) -> None:
        self._meter = meter
        self._grant = grant
        self._loop = asyncio.get_running_loop()
        self._catalog: Catalog | None = None
        self._looking: asyncio.Task[None] | None = None
        self._waiters: list[Callable[[], None]] = []
        self._failure: Exhausted | None = None
        self._quiet_until = -inf
        self._described: dict[tuple[bytes, bytes], tuple[Field, ...]] = {}
        #: What a row of a cursor may show.
        self._cursor_weight = 1
        self.use_policy(grant.policy)

    def use_policy(self, policy: Policy) -> None:
        """Count by this version from the next operation on."""
        self._policy = policy
        target = self._grant.target.name
        limits = _limits.of(policy)
        #: By what limits name: what they count on this target, and where that shows.
        self._counted_by = {_named(limit): counted_columns(limit, policy, target) for limit in limits}
        self._columns = frozenset[str]().union(*self._counted_by.values())
        self._places: dict[Named, Counted] = {}

    def admit(
        self, obligations: Sequence[Obligation], statement: Statement, facts: Facts
    ) -> Charge | Exhausted | Waiting | None:
        """As `Meter.admit`; a statement whose values couldn't be counted is refused."""
        plans = self._plans_for(obligations, statement, facts)
        if isinstance(plans, Exhausted | Waiting):
            return plans
        charge = self._meter.admit(obligations)
        if plans and isinstance(charge, Charge) and self._catalog is not None:
            described = self._described.get((statement.text, statement.types))
            charge.watch = Watch(
                [_Lane(pool, plan, self._catalog) for pool, plan in zip(charge.values, plans, strict=True)],
                described=described,
                on_described=lambda fields: self._describe(statement, fields),
            )
        return charge

    def check(
        self, obligations: Sequence[Obligation], statement: Statement, facts: Facts
    ) -> Exhausted | Waiting | None:
        """What `admit` would say against it, with nothing taken."""
        plans = self._plans_for(obligations, statement, facts)
        return plans if isinstance(plans, Exhausted | Waiting) else self._meter.check(obligations)

    def _plans_for(
        self, obligations: Sequence[Obligation], statement: Statement, facts: Facts
    ) -> list[Plan] | Exhausted | Waiting:
        distinct = [one for one in obligations if one.limit is not None and one.limit.distinct]
        plans: list[Plan] = []
        if distinct:
            catalog = self._known(distinct[0].rule)
            if not isinstance(catalog, Catalog):
                return catalog
            for obligation in distinct:
                plan = self._plan(obligation, statement, facts, catalog)
                if isinstance(plan, Exhausted):
                    return plan
                plans.append(plan)
        return plans

    def passed(self, facts: Facts) -> None:
        """A statement goes to the target: behind it, the same text may read something else."""
        if self._described and (
            facts.moves_names or any(access.kind in _MOVING for access in facts.operation.accesses)
        ):
            self._described.clear()

    def describing(self, statement: Statement) -> Callable[[bytes], None] | None:
        """Who hears how a prepared statement is described; None: nobody needs to."""
        if not self._columns:
            return None
        return lambda frame: self._describe(statement, backend.parse_fields(frame))

    def _describe(self, statement: Statement, fields: tuple[Field, ...]) -> None:
        if len(self._described) >= MAX_DESCRIBED:
            self._described.clear()
        self._described[statement.text, statement.types] = fields

    # ------------------------------------------------------------ the catalog

    def _known(self, rule: str) -> Catalog | Exhausted | Waiting:
        catalog = self._catalog
        if catalog is not None and self._columns <= catalog.columns:
            return catalog
        if self._looking is None:
            if self._failure is not None and self._loop.time() < self._quiet_until:
                return self._failure
            self._looking = spawn(f"catalog {self._grant.session_id}", self._look(rule))
        return Waiting(self._waiters.append)

    async def _look(self, rule: str) -> None:
        self._failure = None
        try:
            self._catalog = await look(self._grant, self._columns)
            self._places.clear()
        except CatalogUnread as error:
            self._failure = unknown(rule, error.problem)
            self._quiet_until = self._loop.time() + RECHECK_SECONDS
        finally:
            self._looking = None
            waiters, self._waiters[:] = list(self._waiters), []
            for waiter in waiters:
                self._loop.call_soon(waiter)

    # ------------------------------------------------------------ statements

    def _plan(self, obligation: Obligation, statement: Statement, facts: Facts, catalog: Catalog) -> Plan | Exhausted:
        limit = obligation.limit
        key = ((), ()) if limit is None else _named(limit)
        counted = self._places.get(key)
        if counted is None:
            counted = self._places[key] = catalog.counted(self._counted_by.get(key, ()))
        operation = facts.operation
        if any(access.kind == Kind.UNKNOWN for access in operation.accesses):
            return _refused(obligation, "what it shows can't be told from its text", "Write it as plain SQL.")
        reading = _reading(operation, counted, catalog)
        if not reading.derives:
            return Plan(counted, derives=False, gathers=False, weight=1)
        if _BY_NUMBER in operation.accesses:
            return _refused(obligation, "what a function gives that has no name here can't be counted", "Use SQL.")
        gathering = gathering_of(statement.text)
        gathers = reading.gathers or gathering.gathers or bool(facts.executes)
        weight = max(gathering.rows * reading.unit, 1)
        if reading.reads:
            writes = any(access.kind in _WRITING for access in operation.accesses)
            kept = gathering.kept if not facts.executes or not writes else frozenset({ALL_COLUMNS})
            if kept and (ALL_COLUMNS in kept or reading.reads_rows or not kept.isdisjoint(_names(counted))):
                return _refused(obligation, "it would keep their values where they aren't counted", "Leave them out.")
        if any(access.kind == Kind.CURSOR for access in operation.accesses):
            if reading.reads and gathers:
                return _refused(obligation, "a row of this cursor could show any number of their values", _ASK_FOR_IT)
            weight = self._cursor_weight = max(self._cursor_weight, weight)
        constant = frozenset[int]() if facts.executes else gathering.constant
        return Plan(counted, derives=True, gathers=gathers, weight=weight, constant=constant)


@dataclass(slots=True)
class _Reading:
    """What a text reads. `reads`: counted columns, by name; `reads_rows`: whole rows that they are in.

    `unit`: how many counted values there are for each row that it reads.
    """

    derives: bool = False
    reads: bool = False
    reads_rows: bool = False
    gathers: bool = False
    unit: int = 1


def _reading(operation: Operation, counted: Counted, catalog: Catalog) -> _Reading:
    found = _Reading()
    for access in operation.accesses:
        if access.kind in _OPAQUE:
            found.derives = True
        if access.kind not in _READING or access.object == NOTHING:
            continue
        relations = catalog.named(access.object)
        if not relations:
            is_catalogs = access.object.startswith(_CATALOGS) and access.object != UNRESOLVED
            is_telling = access.object.startswith((f"{PG_CATALOG}.pg_stats", f"{PG_CATALOG}.pg_statistic"))
            found.derives = found.derives or not is_catalogs or is_telling
            found.gathers = found.gathers or is_telling
        for oid in relations:
            names, view = counted.names.get(oid), counted.views.get(oid)
            is_whole = ALL_COLUMNS in access.columns
            if names and (is_whole or any(one in access.columns or quoted(one) in access.columns for one in names)):
                found.derives = found.reads = True
                found.reads_rows = found.reads_rows or is_whole
                found.unit = max(found.unit, len(names))
            if view is not None:
                found.derives = found.reads = found.reads_rows = True
                found.gathers = found.gathers or view.gathers
                found.unit = max(found.unit, view.weight)
    return found


class Watch:
    """One operation's answer. See `gate.distinct.ValueWatch`."""

    def __init__(
        self,
        lanes: Sequence[_Lane],
        *,
        described: tuple[Field, ...] | None,
        on_described: Callable[[tuple[Field, ...]], None],
    ) -> None:
        self._lanes = lanes
        self._on_described = on_described
        for lane in lanes:
            lane.describe(described, is_final=False)

    @property
    def looks(self) -> bool:
        """Whether its rows have to be looked at."""
        return any(lane.looks for lane in self._lanes)

    @property
    def hides_messages(self) -> bool:
        """Whether errors and notices may quote values: one error, any number of them."""
        return any(lane.derives for lane in self._lanes)

    def heed(self, kind: int, data: bytes, start: int, end: int, *, is_final: bool) -> None:
        """A message of the target that is no row."""
        if kind == backend.ROW_DESCRIPTION:
            fields = backend.parse_fields(data[start:end])
            self._on_described(fields)
            for lane in self._lanes:
                lane.describe(fields, is_final=is_final)
        elif kind == backend.COPY_OUT:
            for lane in self._lanes:
                lane.describe(None, is_final=True)

    def look(self, data: bytes, start: int, end: int) -> Look:
        """How far these rows may go now; a row that isn't whole yet may not."""
        count, whole_end = whole_rows(data, start, end, end - start)
        until, kept_back = whole_end, None
        for lane in self._lanes:
            if lane.looks:
                reached, problem = lane.look(data, start, until)
                if problem is not None and reached <= until:
                    until, kept_back = reached, problem
        if until < whole_end:
            count = whole_rows(data, start, until, count)[0]
        for lane in self._lanes:
            lane.passed(data, start, until, count)
        return Look(until, count, kept_back)


class _Lane:
    """The values of one rule."""

    def __init__(self, pool: ValuePool, plan: Plan, catalog: Catalog) -> None:
        self._pool = pool
        self._plan = plan
        self._catalog = catalog
        #: Wanted columns by the kind of their values, and values of them that needn't be looked at again.
        self._wanted: dict[bytes, bytes] = {}
        self._known: dict[bytes, set[bytes]] = {}
        #: What every row counts for beside them, and what stands for that of the next rows.
        self._weight = 0
        self._strangers: list[bytes] = []
        self._problem: Exhausted | None = None

    @property
    def derives(self) -> bool:
        """Whether what comes of no column may show values."""
        return self._plan.derives

    @property
    def looks(self) -> bool:
        """Whether rows count for anything."""
        return bool(self._wanted) or self._weight > 0

    def describe(self, fields: tuple[Field, ...] | None, *, is_final: bool) -> None:
        """Rows have these columns from now on; None: it isn't known which. Formats are known if that is final."""
        plan = self._plan
        self._strangers.clear()
        wanted: dict[bytes, bytearray] = {}
        is_derived, gathers = fields is None and plan.derives, plan.gathers
        for place, field in enumerate(fields or ()):
            oid, attribute = field.table, field.attribute
            view = plan.counted.views.get(oid)
            relation = self._catalog.relations.get(oid)
            if attribute in plan.counted.attributes.get(oid, ()) and (is_final or field.type in _TEXTS):
                mask = wanted.setdefault(_kind_of(field), bytearray(len(fields or ())))
                mask[place] = 1
            elif oid == 0:
                is_derived = is_derived or (plan.derives and place not in plan.constant)
            elif attribute == 0 and oid in plan.counted.attributes:  # a whole row
                is_derived = True
            elif view is not None or oid in self._catalog.statistics:
                is_derived, gathers = True, gathers or view is None or view.gathers
            elif oid >= FIRST_OWN_OID:
                is_free = (
                    relation is not None
                    and attribute <= relation.attributes
                    and attribute not in plan.counted.attributes.get(oid, ())
                )
                is_derived = is_derived or not is_free
        self._wanted = {kind: bytes(mask) for kind, mask in wanted.items()}
        self._known = {kind: set() for kind in wanted}
        self._weight = plan.weight if is_derived else 0
        self._problem = None
        if is_derived and gathers:
            rule, limit = self._pool.rule, self._pool.limit
            self._problem = Exhausted(
                f"rule {rule!r} limits distinct values of {', '.join((*limit.labels, *limit.columns))}, and a row of "
                "this could show any number of them",
                _ASK_FOR_IT,
            )

    def look(self, data: bytes, start: int, end: int) -> tuple[int, Exhausted | Waiting | None]:
        """Up to which row these may be shown, and what keeps the next one back."""
        if self._problem is not None and end > start:
            return start, self._problem
        found: list[tuple[int, bytes]] = []
        for kind, mask in self._wanted.items():
            digest = self._pool.digest
            values = new_values(data, start, end, mask, self._known[kind])
            found += [(at, digest(kind, value)) for at, value in values]
        if self._weight:
            found += self._of_rows(data, start, end)
            found.sort(key=lambda one: one[0])
        elif len(self._wanted) > 1:
            found.sort(key=lambda one: one[0])
        taken, problem = self._pool.take([value for _, value in found])
        if problem is None:
            return end, None
        if self._weight and isinstance(problem, Exhausted):
            told = "every row of this counts as a new value" if self._weight == 1 else "its rows count as several"
            problem = Exhausted(f"{problem.message}; {told}, for values can't be told apart here", problem.hint)
        return found[taken][0], problem

    def passed(self, data: bytes, start: int, end: int, count: int) -> None:
        """So many rows, up to there, are shown."""
        if self._weight:
            del self._strangers[: count * self._weight]
        for kind, mask in self._wanted.items():
            known = self._known[kind]
            if len(known) > MAX_KNOWN:
                known.clear()
            known.update(
                value for _, value in new_values(data, start, end, mask, known) if len(value) <= MAX_KNOWN_BYTES
            )

    def _of_rows(self, data: bytes, start: int, end: int) -> Iterable[tuple[int, bytes]]:
        """What stands for the values of each row, up to one row more than can be allowed."""
        most = self._pool.limit.distinct // self._weight + 1
        found: list[tuple[int, bytes]] = []
        at = start
        for number in range(most):
            count, after = whole_rows(data, at, end, 1)
            if not count:
                break
            missing = (number + 1) * self._weight - len(self._strangers)
            if missing > 0:
                self._strangers += strangers(missing)
            own = self._strangers[number * self._weight : (number + 1) * self._weight]
            found += [(at, value) for value in own]
            at = after
        return found


def _named(limit: Limit) -> Named:
    return (limit.labels, limit.columns)


def _names(counted: Counted) -> frozenset[str]:
    return frozenset[str]().union(*counted.names.values())


def _kind_of(field: Field) -> bytes:
    """Values of one kind are equal if their bytes are. At most 16 bytes."""
    return b"text" if field.type in _TEXTS else b"%d %d" % (field.type, field.format)


def _refused(obligation: Obligation, why: str, what_helps: str) -> Exhausted:
    limit = obligation.limit
    named = "" if limit is None else ", ".join((*limit.labels, *limit.columns))
    return Exhausted(f"rule {obligation.rule!r} limits distinct values of {named}, and {why}", what_helps)
