"""One decision on one operation.

For each party and each access: a rule that restricts and *touches* the access applies. Then some rule, an allowing one
or one that requires an approval, has to *cover* it, or it is denied: so an approval lets nothing pass that no rule
covers. The conditions of all rules that match otherwise are asked, until a deny is found; one that fails denies.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import Final

import msgspec

from policies.engine.conditions import Ask, ConditionFailed, Scene
from policies.engine.decision import DEFAULT_DENY, Decision, Obligation
from policies.engine.index import RuleIndex
from policies.engine.masks import first_place, places
from policies.engine.model import Approval, ApprovalMode, Effect, Mask, Rule
from policies.engine.operation import NOTHING, Access, Kind, Operation, Target
from policies.engine.rules import ReadyRule
from policies.engine.words import (
    RETRYING,
    join,
    names,
    noun,
    say_access,
    say_missing,
    say_unqualified,
)

#: Rules nearly covering an access that a refusal tells of.
MAX_MISSING: Final = 3


@dataclass(frozen=True, slots=True)
class Party:
    """One of those who need to be allowed; `rules` are those in scope."""

    name: str
    rules: int


@dataclass(frozen=True, slots=True)
class Bound:
    """What holds for a whole session. `answers`: of conditions that ask for nothing else."""

    version: str
    target: Target
    scene: Scene
    index: RuleIndex
    parties: tuple[Party, ...]
    answers: dict[str, bool]


class Deciding:
    """One decision in the making. `read_text`, `read_time`: a condition that was asked read the text, or the time."""

    __slots__ = (
        "_allowing",
        "_answers",
        "_approving",
        "_ask",
        "_bound",
        "_covering",
        "_hazards",
        "_index",
        "_obligations",
        "_operation",
        "_touching",
        "read_text",
        "read_time",
    )

    def __init__(self, bound: Bound, operation: Operation, *, are_open: int, now: float, text: str) -> None:
        self._bound = bound
        self._index = index = bound.index
        self._operation = operation
        self._hazards = frozenset(operation.hazards)
        self._touching = are_open & index.touching_hazards(self._hazards)
        self._covering = are_open & index.covering_hazards(self._hazards)
        self._ask: Ask = bound.scene.ask(operation, now=now, text=text)
        self._answers: dict[str, bool] = {}
        self._allowing: Rule | None = None
        self._approving: dict[str, Rule] = {}
        self._obligations: dict[tuple[str, str, tuple[str, ...]], Obligation] = {}
        self.read_text = False
        self.read_time = False

    def decide(self) -> Decision:
        """Deny, for the first that denies; else what all need together."""
        for party in self._bound.parties:
            for access in self._operation.accesses:
                denied = self._weigh(party, access)
                if denied is not None:
                    return denied
        if self._approving:
            return self._approval()
        if self._allowing is None:  # no access at all
            return self._default_deny(self._bound.parties[0], Access(Kind.UNKNOWN), ())
        return self._decision(
            Effect.ALLOW, self._allowing, self._allowing.reason or f"rule {self._allowing.name!r} allows it"
        )

    def _weigh(self, party: Party, access: Access) -> Decision | None:
        index = self._index
        covers, touches = index.of_kind(access.kind)
        touching = party.rules & touches & self._touching
        if touching:
            touching &= index.touching_object(access)
        if touching:
            touching &= index.touching_columns(access)
        try:
            for place in places(touching):
                ready = index.ready[place]
                if self._holds(ready):
                    if ready.rule.effect is Effect.DENY:
                        return self._denied(party, ready.rule, access)
                    self._note(ready, access)
            return self._cover(party, access, party.rules & covers)
        except _RuleFailed as failed:
            reason = f"rule {failed.rule.name!r} could not be applied: {failed.problem}"
            return self._decision(Effect.DENY, failed.rule, reason, RETRYING)

    def _cover(self, party: Party, access: Access, of_kind: int) -> Decision | None:
        index = self._index
        near = of_kind & index.covering_object(access)
        matching = near & self._covering
        if matching:
            matching &= index.covering_columns(access)
        asking = matching & index.asking
        holding = matching ^ asking
        for place in places(asking):
            if self._holds(index.ready[place]):
                holding |= 1 << place
        if not holding:
            return self._default_deny(party, access, [index.ready[n] for n in islice(places(near), MAX_MISSING)])
        if self._allowing is None:
            self._allowing = index.ready[first_place(holding)].rule
        return None

    def _holds(self, ready: ReadyRule) -> bool:
        condition = ready.condition
        if condition is None or ready.problem:
            if ready.problem:
                raise _RuleFailed(ready.rule, ready.problem)
            return True
        answers = self._bound.answers if condition.is_lasting else self._answers
        answer = answers.get(ready.question)
        if answer is None:
            self.read_text |= condition.reads_text
            self.read_time |= condition.reads_time
            try:
                answer = answers[ready.question] = self._ask(condition, ready.zone)
            except ConditionFailed as failed:
                raise _RuleFailed(ready.rule, f"its condition gives no answer: {failed.problem}") from failed
        return answer

    def _note(self, ready: ReadyRule, access: Access) -> None:
        rule = ready.rule
        if rule.effect is Effect.REQUIRE_APPROVAL:
            self._approving[rule.name] = rule
            return
        about, columns = access.object, ready.columns_meant(access)
        if rule.effect is Effect.LIMIT:
            about, columns = NOTHING, ()  # of the operation as a whole
        elif rule.effect is Effect.FILTER:
            columns = ()
        self._obligations[rule.name, about, columns] = Obligation(
            rule=rule.name,
            limit=rule.limit,
            mask=(rule.mask or Mask()) if rule.effect is Effect.MASK else None,
            filter=rule.filter,
            object=about,
            columns=columns,
        )

    # ------------------------------------------------------------ words

    def _denied(self, party: Party, rule: Rule, access: Access) -> Decision:
        said = say_access(access)
        because = f": {rule.reason}" if rule.reason else ""
        reason = f"rule {rule.name!r} denies {party.name} on {self._bound.target.name}: {said}{because}"
        unqualified = say_unqualified(access) if rule.objects else ""
        what_helps = join(RETRYING, unqualified, self._index.say_allowed(party.rules))
        return self._decision(Effect.DENY, rule, reason, what_helps)

    def _default_deny(self, party: Party, access: Access, missing: Iterable[ReadyRule]) -> Decision:
        target = self._bound.target.name
        near = [
            say_missing(
                ready.rule,
                access,
                columns=not ready.covers_columns(access),
                hazards=ready.uncovered(self._hazards),
            )
            for ready in missing
        ]
        return Decision(
            effect=Effect.DENY,
            policy_version=self._bound.version,
            rule=DEFAULT_DENY,
            reason=f"no rule allows {party.name} on {target}: {say_access(access)}",
            help=join(
                f"But {'; '.join(near)}." if near else "",
                say_unqualified(access),
                self._index.say_allowed(party.rules),
                f"For more, ask an administrator for a policy rule that allows {noun(party.name)} on target {target}.",
            ),
        )

    def _approval(self) -> Decision:
        rules = [self._approving[name] for name in sorted(self._approving)]
        first, *others = _merge([rule.approval for rule in rules if rule.approval is not None])
        if len(rules) == 1:
            reason = rules[0].reason or f"rule {rules[0].name!r} requires an approval"
        else:
            reason = f"rules {names(repr(rule.name) for rule in rules)} require an approval"
        decision = self._decision(Effect.REQUIRE_APPROVAL, rules[0], reason)
        return msgspec.structs.replace(decision, approval=first, further_approvals=tuple(others))

    def _decision(self, effect: Effect, rule: Rule, reason: str, what_helps: str = "") -> Decision:
        return Decision(
            effect=effect,
            policy_version=self._bound.version,
            rule=rule.name,
            reason=reason,
            help=what_helps,
            obligations=() if effect is Effect.DENY else tuple(self._obligations.values()),
        )


class _RuleFailed(Exception):
    """A rule that would have to be asked can't be."""

    def __init__(self, rule: Rule, problem: str) -> None:
        super().__init__(problem)
        self.rule = rule
        self.problem = problem


def _merge(approvals: list[Approval]) -> list[Approval]:
    """One for each flow. All wait in one way: not at all if one defers, else for the shortest time."""
    mode = ApprovalMode.DEFER if any(one.mode is ApprovalMode.DEFER for one in approvals) else ApprovalMode.HOLD
    held = min((one.hold_seconds for one in approvals if one.hold_seconds), default=0)
    hold_seconds = held if mode is ApprovalMode.HOLD else 0
    flows = dict.fromkeys(one.flow for one in approvals)
    return [Approval(flow=flow, mode=mode, hold_seconds=hold_seconds) for flow in flows]
