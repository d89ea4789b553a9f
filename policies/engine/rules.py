"""One rule made ready to be asked, and what all rules have in common. `index` finds them."""

from __future__ import annotations

from typing import Final
from zoneinfo import ZoneInfo

from policies.engine.conditions import Condition, compile_condition
from policies.engine.model import Effect, PolicyError, Rule
from policies.engine.operation import ALL_COLUMNS, GRAVE_HAZARDS, Access, Hazard
from policies.engine.patterns import is_everything, matcher
from policies.engine.windows import Window, compile_window

#: What an allowing rule that names no hazard covers. A hazard that this version doesn't know is not among them.
ORDINARY_HAZARDS: Final = frozenset(Hazard) - GRAVE_HAZARDS
#: The order in which rules are asked and cited: a deny first, and among equals by name, never by place.
ORDER: Final = {effect: rank for rank, effect in enumerate(Effect)} | {Effect.DENY: -1}
#: A rule that can let an operation pass. An approval does once it is given.
COVERING: Final = frozenset({Effect.ALLOW, Effect.REQUIRE_APPROVAL})


class ReadyRule:
    """A rule with its window and condition compiled. `problem`: why it can't be asked, which denies.

    `question` is the same for rules whose conditions have the same answer.
    """

    __slots__ = ("condition", "problem", "question", "rule", "window", "zone")

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.problem = ""
        self.condition: Condition | None = None
        self.window: Window | None = None
        self.zone: ZoneInfo | None = None
        self.question = rule.condition
        try:
            if rule.condition:
                self.condition = compile_condition(rule.condition)
            if rule.when is not None:
                self.window = compile_window(rule.when)
                self.zone = self.window.zone
        except PolicyError as error:
            self.problem = error.problem
        if self.condition is not None and self.condition.reads_time and rule.when is not None:
            self.question = f"{rule.when.timezone} {rule.condition}"

    def covers_columns(self, access: Access) -> bool:
        """Whether it takes in all columns of the access."""
        columns = self.rule.columns
        if not columns or any(map(is_everything, columns)):
            return True
        takes_in = matcher(columns)
        return all(column != ALL_COLUMNS and takes_in(column) for column in access.columns)

    def uncovered(self, hazards: frozenset[str]) -> frozenset[str]:
        """What is dangerous about the operation and not taken in."""
        named = self.rule.hazards
        if not named:
            return hazards - ORDINARY_HAZARDS
        if any(map(is_everything, named)):
            return frozenset()
        takes_in = matcher(named)
        return hazards - {hazard for hazard in Hazard if takes_in(hazard)}

    def columns_meant(self, access: Access) -> tuple[str, ...]:
        """The columns of the access that it means; its patterns where the access may mean any."""
        columns = self.rule.columns
        if ALL_COLUMNS in access.columns:
            return columns or (ALL_COLUMNS,)
        return tuple(filter(matcher(columns), access.columns)) if columns else access.columns
