"""The smallest policy that allows what was seen: each kind of operation on each object, with the hazards it had.

Pure: it knows no database. Only what was seen is named. Wildcards stand for what is known completely: `http:*` for all
methods when each was seen. What can't be named exactly, such as an object that isn't known, is left out and counted.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Final

from policies.engine import Access, Effect, Hazard, Kind, Operation
from policies.engine.operation import ALL_COLUMNS, NOTHING, UNRESOLVED

#: Kinds on objects that are told apart; an agent with more needs a policy that somebody thinks about.
MAX_SEEN: Final = 20_000
#: No such object: a rule with it covers only what touches none, such as `SELECT 1`.
NO_OBJECT: Final = "-"

_NAMEABLE: Final = re.compile(r"[A-Za-z0-9_.:@/()-]{1,200}")
_PREFIXES: Final = ("http:", "ssh:", "sftp:")


@dataclass(slots=True)
class _Seen:
    hazards: set[str] = field(default_factory=set)
    columns: set[str] = field(default_factory=set)


#: What a rule says beside kinds, objects and targets: hazards and columns.
_Terms = tuple[tuple[str, ...], tuple[str, ...]]


@dataclass(slots=True)
class Observer:
    """Sees what an agent did, one operation at a time; `rules` are what would have allowed it."""

    agent: str
    by_column: bool = False
    observed: int = 0
    left_out: int = 0
    _seen: dict[tuple[str, str, str], _Seen] = field(default_factory=dict)

    def add(self, target: str, operation: Operation | None) -> None:
        """Take in an operation that was done on the target; None: its facts weren't recorded."""
        if operation is None or not all(_is_nameable(access) for access in operation.accesses):
            self.left_out += 1
            return
        new = {(target, access.kind, access.object) for access in operation.accesses} - self._seen.keys()
        if len(self._seen) + len(new) > MAX_SEEN:
            self.left_out += 1
            return
        self.observed += 1
        for access in operation.accesses:
            seen = self._seen.setdefault((target, access.kind, access.object), _Seen())
            seen.hazards.update(operation.hazards)
            seen.columns.update(access.columns)

    def rules(self) -> list[dict[str, Any]]:
        """As in a policy's document, without targets or kinds that nothing was seen of."""
        kinds_of: dict[tuple[str, str, _Terms], set[str]] = defaultdict(set)
        for (target, kind, name), seen in self._seen.items():
            kinds_of[target, name, self._terms(seen)].add(kind)
        objects_of: dict[tuple[str, tuple[str, ...], _Terms], set[str]] = defaultdict(set)
        for (target, name, terms), kinds in kinds_of.items():
            objects_of[target, _merged(kinds), terms].add(name)
        targets_of: dict[tuple[tuple[str, ...], tuple[str, ...], _Terms], set[str]] = defaultdict(set)
        for (target, kinds_, terms), names in objects_of.items():
            targets_of[kinds_, _named(names), terms].add(target)
        rules: list[dict[str, Any]] = []
        for (kinds_, names_, (hazards, columns)), targets in sorted(targets_of.items()):
            rule = {
                "name": f"{len(rules) + 1}-{'-'.join(kinds_)}"[:60],
                "effect": Effect.ALLOW.value,
                "agents": [self.agent],
                "targets": sorted(targets),
                "operations": list(kinds_),
                "objects": list(names_),
                "columns": list(columns),
                "hazards": list(hazards),
            }
            rules.append({name: value for name, value in rule.items() if value})
        return rules

    def _terms(self, seen: _Seen) -> _Terms:
        hazards = tuple(sorted(seen.hazards)) or (Hazard.NONE.value,)
        columns = () if not self.by_column or ALL_COLUMNS in seen.columns else tuple(sorted(seen.columns))
        return hazards, columns


def _is_nameable(access: Access) -> bool:
    """Whether a rule can name just this: what isn't understood, and names with wildcards in them, it can't."""
    if access.kind == Kind.UNKNOWN or access.object == UNRESOLVED:
        return False
    return access.object == NOTHING or _NAMEABLE.fullmatch(access.object) is not None


def _merged(kinds: set[str]) -> tuple[str, ...]:
    """In order; all kinds with a prefix, when each of them was seen, as a pattern."""
    merged = set(kinds)
    for prefix in _PREFIXES:
        members = {kind.value for kind in Kind if kind.startswith(prefix)}
        if members <= merged:
            merged = (merged - members) | {f"{prefix}*"}
    return tuple(sorted(merged))


def _named(names: set[str]) -> tuple[str, ...]:
    """Objects of a rule. One that names some covers what touches none as well."""
    return tuple(sorted(names - {NOTHING})) or (NO_OBJECT,)
