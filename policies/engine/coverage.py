"""Whether one rule takes in all of another: certain when True, unknown when False."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from policies.engine.masks import PatternMasks, places, union
from policies.engine.model import Effect, Rule, Scope
from policies.engine.operation import Hazard, Kind, is_sql
from policies.engine.patterns import (
    COMPILED_LISTS,
    allowed_name,
    are_within,
    bare_name,
    is_everything,
    is_qualified,
    matches_any,
    tails,
)
from policies.engine.rules import COVERING, ORDINARY_HAZARDS

_ALL: Final = frozenset(Kind)
_ALL_BUT_UNKNOWN: Final = _ALL - {Kind.UNKNOWN}
#: Kinds that have an object, but for a `SELECT` of nothing.
_WITH_OBJECT: Final = frozenset({Kind.SELECT, Kind.INSERT, Kind.UPDATE, Kind.DELETE, Kind.MERGE, Kind.TRUNCATE})


def is_shadowed(rule: Rule, other: Rule) -> bool:
    """Whether `rule` never has an effect, because `other` denies all that it speaks of."""
    if other.effect is not Effect.DENY or rule.effect is Effect.DENY:
        return False
    return _touches_all(rule, other) and _is_wider(rule, other)


def is_redundant(rule: Rule, other: Rule) -> bool:
    """Whether `other`, of the same effect, takes in all that `rule` does."""
    if rule.effect is not other.effect or rule.effect is Effect.LIMIT:
        return False  # two limits count apart
    if (rule.approval, rule.mask, rule.filter) != (other.approval, other.mask, other.filter):
        return False
    return (
        (rule.effect not in COVERING or _covers_all(rule, other))
        and (rule.effect is Effect.ALLOW or _touches_all(rule, other))
        and _is_wider(rule, other)
    )


class Overlaps:
    """Which of many rules may take in another: not each of a thousand is compared with each."""

    _FIELDS: Final = ("agents", "targets", "objects")

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        self._all = (1 << len(rules)) - 1
        self._index = {
            field: PatternMasks((place, getattr(rule, field)) for place, rule in enumerate(rules))
            for field in self._FIELDS
        }

    def of(self, rule: Rule) -> list[int]:
        """The places of all that may, itself included."""
        found = self._all
        for field, index in self._index.items():
            may = index.unasked
            for scope in _scopes(rule):
                patterns: tuple[str, ...] = getattr(scope, field, ())
                if patterns:
                    first = patterns[0]
                    names = {first, bare_name(first), allowed_name(first)} if field == "objects" else {first}
                    may |= union(map(index.find, names))
            found &= may
        return list(places(found))


def _is_wider(rule: Rule, other: Rule) -> bool:
    """Who, where and when."""
    return (
        _is_wider_scope(_scopes(rule), _scopes(other))
        and (other.when is None or other.when == rule.when)
        and (not other.condition or other.condition == rule.condition)
    )


def _scopes(rule: Rule) -> tuple[Scope, ...]:
    """Its own and its policy's; both hold."""
    return (rule,) if rule.within is None else (rule, rule.within)


def _is_wider_scope(scopes: tuple[Scope, ...], wider: tuple[Scope, ...]) -> bool:
    """Whether whatever all of `scopes` take in, all the wider ones do: of each field, one of them is narrow enough."""
    if any(":" in agent for scope in scopes for agent in scope.agents):
        return False  # whom a policy names needs a rule of their own: the name alone has an effect
    lists = ("agents", "groups", "sponsors", "targets", "environments")
    return all(
        not getattr(other, field)
        or any(getattr(one, field) and are_within(getattr(one, field), getattr(other, field)) for one in scopes)
        for other in wider
        for field in lists
    ) and all(
        any(_is_wider_mapping(getattr(one, field), getattr(other, field)) for one in scopes)
        for other in wider
        for field in ("claims", "target_labels")
    )


def _is_wider_mapping(patterns: Mapping[str, str], wider: Mapping[str, str]) -> bool:
    return all(name in patterns and are_within((patterns[name],), (text,)) for name, text in wider.items())


# ---------------------------------------------------------------- what a rule lets pass


def _covers_all(rule: Rule, other: Rule) -> bool:
    """Each access that `rule` covers, `other` covers."""
    return (
        _is_wider_list(rule.objects, other.objects)
        and _covered_kinds(rule) <= _covered_kinds(other)
        and _is_wider_list(tuple(map(allowed_name, rule.objects)), tuple(map(allowed_name, other.objects)))
        and _is_wider_list(rule.columns, other.columns)
        and _covered_hazards(rule) <= _covered_hazards(other)
    )


def _covered_kinds(rule: Rule) -> frozenset[Kind]:
    return _kinds(rule) if rule.operations else _kinds(rule) - {Kind.UNKNOWN}


def _covered_hazards(rule: Rule) -> frozenset[str]:
    if any(is_everything(pattern) for pattern in rule.hazards):
        return frozenset(Hazard) | {"*"}
    if not rule.hazards:
        return ORDINARY_HAZARDS
    return frozenset(hazard for hazard in Hazard if matches_any(rule.hazards, hazard))


# ---------------------------------------------------------------- what a rule speaks of


def _touches_all(rule: Rule, other: Rule) -> bool:
    """Each access that `rule` speaks of, `other` touches; but for a `SELECT` of nothing."""
    return (
        _touches_all_objects(rule, other)
        and _kinds(rule) <= _kinds(other)
        and _touches_all_hazards(rule, other)
        and _touches_all_columns(rule, other)
    )


def _kinds(rule: Rule) -> frozenset[Kind]:
    if rule.operations:
        return _kinds_named(rule.operations)
    return _ALL_BUT_UNKNOWN if rule.effect is Effect.ALLOW else _ALL


@lru_cache(maxsize=COMPILED_LISTS)
def _kinds_named(operations: tuple[str, ...]) -> frozenset[Kind]:
    return frozenset(kind for kind in Kind if matches_any(operations, kind))


def _touches_all_hazards(rule: Rule, other: Rule) -> bool:
    """A rule that covers takes in what has no hazard; another that names some speaks of nothing else."""
    if not other.hazards:
        return True
    return rule.effect not in COVERING and bool(rule.hazards) and are_within(rule.hazards, other.hazards)


def _touches_all_columns(rule: Rule, other: Rule) -> bool:
    """A rule that covers takes in what names no column; another that names some speaks of nothing else."""
    if not other.columns:
        return True
    return rule.effect not in COVERING and bool(rule.columns) and are_within(rule.columns, other.columns)


def _touches_all_objects(rule: Rule, other: Rule) -> bool:
    if not other.objects or any(is_everything(pattern) for pattern in other.objects):
        return True
    kinds = _kinds(rule)
    if not rule.objects or (rule.effect in COVERING and not kinds <= _WITH_OBJECT):
        return False
    if not any(is_sql(kind) for kind in kinds):
        return are_within(rule.objects, other.objects)
    if kinds.isdisjoint(_kinds(other)):
        return False
    own = tuple(map(allowed_name, rule.objects)) if rule.effect in COVERING else rule.objects
    wider = (*other.objects, *(f"*.{pattern}" for pattern in other.objects if not is_qualified(pattern)))
    if not all(is_sql(kind) for kind in kinds):
        own, wider = (*own, *rule.objects), other.objects
    if not are_within(own, wider):
        return False
    without_schema = tuple(tail for pattern in own for tail in tails(pattern)[1:] or (pattern,))
    return are_within(without_schema, tuple(tail for pattern in other.objects for tail in tails(pattern)))


def _is_wider_list(patterns: tuple[str, ...], wider: tuple[str, ...]) -> bool:
    if not wider or any(is_everything(pattern) for pattern in wider):
        return True
    return bool(patterns) and are_within(patterns, wider)
