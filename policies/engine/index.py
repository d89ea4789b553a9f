"""The rules of one policy version, found by whom, where and what: made once, and shared by all sessions under it.

Each part of a rule is an index of its own, made when it is first asked; what all parts of a rule match, the rule does.
Rules stand in the order in which they are asked, and sets of them are bits (`masks`).
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Final

from policies.engine.masks import NO_RULES, PatternMasks, mask_of, places
from policies.engine.model import Effect, Policy, Rule
from policies.engine.operation import (
    ALL_COLUMNS,
    NOTHING,
    OPAQUE_KINDS,
    UNRESOLVED,
    Access,
    Hazard,
    Kind,
    is_sql,
)
from policies.engine.patterns import allowed_name, bare_name, is_everything, is_qualified, tails
from policies.engine.rules import COVERING, ORDER, ORDINARY_HAZARDS, ReadyRule
from policies.engine.subjects import SubjectIndex
from policies.engine.words import say_allowed

#: Policies whose index is kept: those of a worker's tenant, or of the tenants that a control plane serves just now.
MAX_SHARED: Final = 16
#: Sets of rules whose words are kept.
MAX_SAID: Final = 256
_KINDS: Final = frozenset(Kind)
_HAZARDS: Final = frozenset(Hazard)


class RuleIndex:
    """What can be told of a policy before any session is known. Use `index_of`.

    It changes only by what it works out on first use, which is the same whoever asks: threads may share it.
    """

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        ordered = sorted(policy.rules, key=lambda rule: (ORDER[rule.effect], rule.name))
        self.ready = [ReadyRule(rule) for rule in ordered]
        self.all = (1 << len(ordered)) - 1
        self._by_effect = {
            effect: mask_of(n for n, rule in enumerate(ordered) if rule.effect is effect) for effect in Effect
        }
        self.covering = self._by_effect[Effect.ALLOW] | self._by_effect[Effect.REQUIRE_APPROVAL]
        #: Those that ask a condition, or would if they could: each that matches otherwise has to be asked.
        self.asking = mask_of(n for n, ready in enumerate(self.ready) if ready.condition is not None or ready.problem)
        self._windows = [(n, ready.window) for n, ready in enumerate(self.ready) if ready.window is not None]
        self.windowed = mask_of(n for n, _ in self._windows)
        self._kinds: dict[str, tuple[int, int]] = {}
        self._hazards: dict[str, tuple[int, int]] = {}
        self._open_at = (-1, self.all)
        self._said: dict[int, str] = {}

    @cached_property
    def subjects(self) -> SubjectIndex:
        """Whom, and on which targets, they speak of."""
        return SubjectIndex([ready.rule for ready in self.ready])

    @cached_property
    def denies_everything(self) -> int:
        """Those that deny whatever is done."""
        return mask_of(n for n, rule in self._rules() if rule.effect is Effect.DENY and _is_about_everything(rule))

    @cached_property
    def hides_columns(self) -> bool:
        """Whether a rule speaks of columns, or of rows: then what is shown isn't all there is."""
        return any(_speaks_of_columns(rule) for _, rule in self._rules())

    def open_at(self, minute: int) -> int:
        """Those whose window is open, or that have none, in this minute since the epoch."""
        known, mask = self._open_at
        if known != minute:
            mask = self.all & ~mask_of(n for n, window in self._windows if not window.is_open(minute))
            self._open_at = minute, mask
        return mask

    def of_kind(self, kind: str) -> tuple[int, int]:
        """Those that cover operations of this kind, and those that touch them."""
        found = self._kinds.get(kind)
        if found is None:
            found = self._find_kind(kind)
            if kind in _KINDS:  # other words are not bounded in number
                self._kinds[kind] = found
        return found

    def covering_object(self, access: Access) -> int:
        """Those that take in the access's object."""
        name = access.object
        if name == NOTHING:
            return self.all
        sql = is_sql(access.kind)
        objects = self._allowed_objects if sql else self._objects
        everywhere = objects.unasked | objects.everything
        if name == UNRESOLVED:
            return everywhere
        return everywhere | objects.find(allowed_name(name) if sql else name)

    def touching_object(self, access: Access) -> int:
        """Those that may mean the access's object."""
        name = access.object
        if name == UNRESOLVED:
            return self.all
        if name == NOTHING:
            return self._objects.unasked | self._objects.everything
        if not is_sql(access.kind):
            return self._objects.unasked | self._objects.find(name)
        if not is_qualified(name):
            return self._objects.unasked | self._objects_without_schema.find(name)
        # Patterns that name no schema mean a name in any of them.
        return self._objects.unasked | self._objects.find(name) | self._bare_objects.find(bare_name(name))

    def covering_columns(self, access: Access) -> int:
        """Those that take in all columns of the access."""
        columns = self._columns
        found = self.all
        for column in access.columns:
            found &= columns.find(column) if column != ALL_COLUMNS else columns.everything
            if not found:
                break
        return columns.unasked | columns.everything | found

    def touching_columns(self, access: Access) -> int:
        """Those that mean one of the columns of the access."""
        columns = self._columns
        if ALL_COLUMNS in access.columns:
            return self.all
        found = columns.unasked
        for column in access.columns:
            found |= columns.find(column)
        return found

    def covering_hazards(self, hazards: Iterable[str]) -> int:
        """Those that take in all of them."""
        found = self.all
        for hazard in hazards:
            found &= self._hazard(hazard)[0]
        return found

    def touching_hazards(self, hazards: frozenset[str]) -> int:
        """Those that mean one of them, or ask for none. What is unparsed may have any."""
        if Hazard.UNPARSED in hazards:
            return self.all
        found = self._hazard_lists.unasked
        for hazard in hazards:
            found |= self._hazard(hazard)[1]
        return found

    def say_allowed(self, mask: int) -> str:
        """What those of them that cover let pass, in short."""
        said = self._said.get(mask)
        if said is None:
            if len(self._said) >= MAX_SAID:
                self._said.clear()
            said = say_allowed(self.ready[n].rule for n in places(mask & self.covering))
            self._said[mask] = said
        return said

    # ------------------------------------------------------------ the parts

    def _rules(self) -> Iterable[tuple[int, Rule]]:
        return ((n, ready.rule) for n, ready in enumerate(self.ready))

    @cached_property
    def _operations(self) -> PatternMasks:
        return PatternMasks((n, rule.operations) for n, rule in self._rules())

    @cached_property
    def _objects(self) -> PatternMasks:
        return PatternMasks((n, rule.objects) for n, rule in self._rules())

    @cached_property
    def _allowed_objects(self) -> PatternMasks:
        return PatternMasks(
            (n, map(allowed_name, rule.objects)) for n, rule in self._rules() if rule.effect in COVERING
        )

    @cached_property
    def _bare_objects(self) -> PatternMasks:
        return PatternMasks(
            (n, [pattern for pattern in rule.objects if not is_qualified(pattern)])
            for n, rule in self._rules()
            if rule.effect is not Effect.ALLOW
        )

    @cached_property
    def _objects_without_schema(self) -> PatternMasks:
        return PatternMasks(
            (n, [tail for pattern in rule.objects for tail in tails(pattern)])
            for n, rule in self._rules()
            if rule.effect is not Effect.ALLOW
        )

    @cached_property
    def _columns(self) -> PatternMasks:
        return PatternMasks((n, rule.columns) for n, rule in self._rules())

    @cached_property
    def _hazard_lists(self) -> PatternMasks:
        return PatternMasks((n, rule.hazards) for n, rule in self._rules())

    def _find_kind(self, kind: str) -> tuple[int, int]:
        named = self._operations.find(kind)
        having = named | self._operations.unasked
        allowing = self._by_effect[Effect.ALLOW]
        # What can't be seen into may be whatever a rule speaks of; to be covered, what is unknown has to be named.
        covers = (named if kind == Kind.UNKNOWN else having) & self.covering
        touches = (self.all if kind in OPAQUE_KINDS else having) & ~allowing
        return covers, touches

    def _hazard(self, hazard: str) -> tuple[int, int]:
        """Those that take it in, and those that name it. Of one that this version doesn't know: those that name all."""
        if hazard not in _HAZARDS:
            return self._hazard_lists.everything, self._hazard_lists.everything
        found = self._hazards.get(hazard)
        if found is None:
            named = self._hazard_lists.find(hazard)
            ordinary = self._hazard_lists.unasked if hazard in ORDINARY_HAZARDS else NO_RULES
            found = self._hazards[hazard] = named | ordinary, named
        return found


class _Shared:
    """The indexes made last. A race of threads costs an index, nothing else."""

    def __init__(self) -> None:
        self._recent: tuple[RuleIndex, ...] = ()

    def find(self, policy: Policy) -> RuleIndex:
        """That of an equal policy, or a new one."""
        recent = self._recent
        found = next((index for index in recent if index.policy is policy or index.policy == policy), None)
        if found is None:
            found = RuleIndex(policy)
        if not recent or recent[0] is not found:
            self._recent = (found, *(index for index in recent if index is not found))[:MAX_SHARED]
        return found


index_of = _Shared().find


def _is_about_everything(rule: Rule) -> bool:
    asked = (rule.columns, rule.hazards, rule.when, rule.condition)
    return not any(asked) and all(
        not patterns or any(is_everything(pattern) for pattern in patterns)
        for patterns in (rule.operations, rule.objects)
    )


def _speaks_of_columns(rule: Rule) -> bool:
    counts = rule.limit is not None and rule.limit.distinct > 0
    return bool(rule.columns) or counts or rule.effect in (Effect.MASK, Effect.FILTER)
