"""Rules made ready for one session: found by kind and object in little time, however many there are."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final
from zoneinfo import ZoneInfo

from policies.engine.conditions import Condition, compile_condition
from policies.engine.model import Effect, PolicyError, Rule
from policies.engine.operation import (
    ALL_COLUMNS,
    GRAVE_HAZARDS,
    NOTHING,
    OPAQUE_KINDS,
    UNRESOLVED,
    Access,
    Hazard,
    Kind,
    is_sql,
)
from policies.engine.patterns import (
    PatternIndex,
    allowed_name,
    bare_name,
    is_everything,
    is_qualified,
    matcher,
    tails,
)
from policies.engine.windows import Window, compile_window

#: What an allowing rule that names no hazard covers. A hazard that this version doesn't know is not among them.
ORDINARY_HAZARDS: Final = frozenset(Hazard) - GRAVE_HAZARDS
_NO_HAZARDS: Final[frozenset[str]] = frozenset()
#: The order in which rules are asked and cited: a deny first, and among equals by name, never by place.
ORDER: Final = {effect: rank for rank, effect in enumerate(Effect)} | {Effect.DENY: -1}
#: A rule that can let an operation pass. An approval does once it is given.
COVERING: Final = frozenset({Effect.ALLOW, Effect.REQUIRE_APPROVAL})


class ReadyRule:
    """A rule with its patterns, window and condition compiled. `problem`: why it can't be asked, which denies."""

    __slots__ = (
        "_covers_columns",
        "_has_every_column",
        "_hazards",
        "_takes_in_every_hazard",
        "condition",
        "is_open",
        "problem",
        "rule",
        "window",
        "zone",
    )

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.problem = ""
        self.condition: Condition | None = None
        self.window: Window | None = None
        self.zone: ZoneInfo | None = None
        #: Whether its window is open now; kept by whoever asks.
        self.is_open = True
        try:
            if rule.condition:
                self.condition = compile_condition(rule.condition)
            if rule.when is not None:
                self.window = compile_window(rule.when)
                self.zone = self.window.zone
        except PolicyError as error:
            self.problem = error.problem
        self._covers_columns = matcher(rule.columns)
        self._has_every_column = not rule.columns or any(is_everything(pattern) for pattern in rule.columns)
        self._takes_in_every_hazard = any(is_everything(pattern) for pattern in rule.hazards)
        self._hazards = frozenset(filter(matcher(rule.hazards), Hazard)) if rule.hazards else ORDINARY_HAZARDS

    def has_kind(self, kind: str) -> bool:
        """Whether it speaks of operations of this kind."""
        if self.rule.operations:
            return matcher(self.rule.operations)(kind)
        return kind != Kind.UNKNOWN or self.rule.effect is not Effect.ALLOW

    def covers_kind(self, kind: str) -> bool:
        """Whether it can let operations of this kind pass: what is unknown has to be named."""
        named = bool(self.rule.operations) or kind != Kind.UNKNOWN
        return self.rule.effect in COVERING and named and self.has_kind(kind)

    def touches_kind(self, kind: str) -> bool:
        """Whether it can restrict operations of this kind: what can't be seen into may be whatever it speaks of."""
        return self.rule.effect is not Effect.ALLOW and (kind in OPAQUE_KINDS or self.has_kind(kind))

    def covers_columns(self, access: Access) -> bool:
        """Whether it takes in all columns of the access."""
        return self._has_every_column or all(
            column != ALL_COLUMNS and self._covers_columns(column) for column in access.columns
        )

    def uncovered(self, hazards: frozenset[str]) -> frozenset[str]:
        """What is dangerous about the operation and not taken in."""
        return _NO_HAZARDS if not hazards or self._takes_in_every_hazard else hazards - self._hazards

    def touches_columns(self, access: Access) -> bool:
        """Whether it means one of the columns of the access."""
        return not self.rule.columns or any(
            column == ALL_COLUMNS or self._covers_columns(column) for column in access.columns
        )

    def touches_hazards(self, hazards: frozenset[str]) -> bool:
        """Whether it means one of the operation's hazards, or asks for none. What is unparsed may have any."""
        if not self.rule.hazards or Hazard.UNPARSED in hazards:
            return True
        return bool(hazards) and (self._takes_in_every_hazard or not hazards.isdisjoint(self._hazards))

    def columns_meant(self, access: Access) -> tuple[str, ...]:
        """The columns of the access that it means; its patterns where the access may mean any."""
        if ALL_COLUMNS in access.columns:
            return self.rule.columns or (ALL_COLUMNS,)
        if not self.rule.columns:
            return access.columns
        return tuple(column for column in access.columns if self._covers_columns(column))


def make_ready(rules: Iterable[Rule]) -> list[ReadyRule]:
    """In the order in which they are asked."""
    ordered = sorted(rules, key=lambda rule: (ORDER[rule.effect], rule.name))
    return [ReadyRule(rule) for rule in ordered]


class KindRules:
    """The rules that speak of one kind, found by an access's object. Numbers are places in the list of ready rules."""

    __slots__ = ("_cover", "_is_sql", "_touch", "_touch_bare", "_touch_unqualified")

    def __init__(self, rules: list[ReadyRule], kind: str) -> None:
        self._is_sql = sql = is_sql(kind)
        covering = [(number, ready) for number, ready in enumerate(rules) if ready.covers_kind(kind)]
        touching = [(number, ready) for number, ready in enumerate(rules) if ready.touches_kind(kind)]
        self._cover = _ByObject((n, map(allowed_name, r.rule.objects) if sql else r.rule.objects) for n, r in covering)
        self._touch = _ByObject((n, r.rule.objects) for n, r in touching)
        #: Patterns that name no schema mean a name in any of them.
        self._touch_bare = PatternIndex(
            (pattern, n) for n, r in touching for pattern in r.rule.objects if not is_qualified(pattern)
        )
        self._touch_unqualified = _ByObject(
            (n, [tail for pattern in r.rule.objects for tail in tails(pattern)]) for n, r in touching
        )

    def covering(self, access: Access) -> list[int]:
        """The rules that take in the access's object."""
        name = access.object
        if name == NOTHING:
            return self._cover.all
        if name == UNRESOLVED:
            return self._cover.everywhere
        return self._cover.find(allowed_name(name) if self._is_sql else name)

    def touching(self, access: Access) -> list[int]:
        """The rules, none that allows, which may mean the access's object."""
        name = access.object
        if name == UNRESOLVED:
            return self._touch.all
        if name == NOTHING:
            return self._touch.everywhere
        if not self._is_sql:
            return self._touch.find(name)
        if not is_qualified(name):
            return self._touch_unqualified.find(name)
        return self._touch.find(name, self._touch_bare.find(bare_name(name)))


class _ByObject:
    """Numbers of rules by patterns for objects. Rules without one, or with `*`, are `everywhere`."""

    __slots__ = ("_index", "all", "everywhere")

    def __init__(self, patterns_of: Iterable[tuple[int, Iterable[str]]]) -> None:
        self.all: list[int] = []
        self.everywhere: list[int] = []
        narrow: list[tuple[str, int]] = []
        for number, objects in patterns_of:
            patterns = tuple(objects)
            self.all.append(number)
            if not patterns or any(is_everything(pattern) for pattern in patterns):
                self.everywhere.append(number)
            else:
                narrow += ((pattern, number) for pattern in patterns)
        self._index = PatternIndex(narrow)

    def find(self, name: str, others: set[int] | None = None) -> list[int]:
        """All that match, and the others, in order."""
        found = self._index.find(name)
        if others:
            found |= others
        if not found:
            return self.everywhere
        return sorted(found.union(self.everywhere))
