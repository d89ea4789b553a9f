"""What two policies say of the same operations, and where they differ. Pure: it knows no database.

Operations are fed in one by one; what is kept is bounded, however many there are.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

import msgspec

from policies.engine import Decision, Effect, Operation, Policy, Principal, SessionPolicy, Target

#: Combinations of agent, target and rules that are told apart; more of them are counted together.
MAX_GROUPS: Final = 500
#: Operations shown of each.
EXAMPLES: Final = 3
MAX_EXAMPLE_CHARACTERS: Final = 300
#: Bound pairs of policies, and decided facts, that are kept; when there are more, both are forgotten and learnt anew.
MAX_BOUND: Final = 2_000
MAX_DECIDED: Final = 50_000


class Difference(StrEnum):
    """How the new decision differs."""

    DENIED = "newly_denied"
    ALLOWED = "newly_allowed"
    HELD = "newly_held"
    #: Allowed or held as before, but masked, filtered or limited otherwise, or approved by others.
    TERMS = "other_terms"


@dataclass(frozen=True, slots=True)
class Subject:
    """Who did something, and where."""

    principal: Principal
    target: Target

    @property
    def key(self) -> bytes:
        """The same for subjects that every policy treats alike."""
        return msgspec.msgpack.encode((self.principal, self.target))


@dataclass(frozen=True, slots=True)
class Recorded:
    """One operation of the record. `facts` is its `engine.Operation` as JSON, `session` and `op` say where it is."""

    session: str
    op: int
    at: float
    text: str
    facts: str


class Group(msgspec.Struct):
    """Operations that differ in one way, for one agent on one target, by the same rules."""

    difference: Difference
    agent: str
    target: str
    rule_before: str
    rule_after: str
    reason: str
    count: int = 0
    examples: list[dict[str, Any]] = []


@dataclass(slots=True)
class Comparison:
    """Decides each operation by both policies; `result` is what there is to tell."""

    before: Policy
    after: Policy
    operations: int = 0
    left_out: int = 0
    _counts: Counter[str] = field(default_factory=Counter)
    _groups: dict[tuple[str, ...], Group] = field(default_factory=dict)
    _others: int = 0
    _bound: dict[bytes, tuple[SessionPolicy, SessionPolicy]] = field(default_factory=dict)
    _decided: dict[tuple[bytes, str], tuple[Decision, Decision]] = field(default_factory=dict)

    def add(self, subject: Subject, recorded: Recorded) -> None:
        """Take one operation in; one whose facts weren't recorded is left out."""
        self.operations += 1
        if not recorded.facts:
            self.left_out += 1
            return
        before, after = self._decide(subject, recorded)
        difference = difference_of(before, after)
        if difference is not None:
            self._count(difference, subject, recorded, before=before, after=after)

    def result(self) -> dict[str, Any]:
        """As JSON: `operations`, `left_out`, `counts` by difference, `groups` with examples, most frequent first."""
        groups = sorted(self._groups.values(), key=lambda group: (-group.count, group.agent, group.rule_after))
        told: dict[str, Any] = {
            "operations": self.operations,
            "left_out": self.left_out,
            "counts": {difference.value: self._counts[difference] for difference in Difference},
            "groups": msgspec.to_builtins(groups),
            "in_other_groups": self._others,
        }
        return told

    def _decide(self, subject: Subject, recorded: Recorded) -> tuple[Decision, Decision]:
        who = subject.key
        known = self._decided.get((who, recorded.facts))
        if known is not None:
            return known
        bound = self._bind(who, subject)
        operation = msgspec.json.decode(recorded.facts, type=Operation)
        before, after = (one.decide(operation, now=recorded.at, text=recorded.text) for one in bound)
        if not (is_changeable(self.before) or is_changeable(self.after)):
            if len(self._decided) >= MAX_DECIDED:
                self._decided.clear()
            self._decided[who, recorded.facts] = before, after
        return before, after

    def _bind(self, who: bytes, subject: Subject) -> tuple[SessionPolicy, SessionPolicy]:
        bound = self._bound.get(who)
        if bound is None:
            if len(self._bound) >= MAX_BOUND:
                self._bound.clear()
            before, after = (
                SessionPolicy(policy, principal=subject.principal, target=subject.target)
                for policy in (self.before, self.after)
            )
            bound = self._bound[who] = before, after
        return bound

    def _count(
        self, difference: Difference, subject: Subject, recorded: Recorded, *, before: Decision, after: Decision
    ) -> None:
        self._counts[difference] += 1
        who, where = subject.principal.name, subject.target.name
        key = (difference.value, who, where, before.rule, after.rule)
        group = self._groups.get(key)
        if group is None:
            if len(self._groups) >= MAX_GROUPS:
                self._others += 1
                return
            group = Group(difference, who, where, before.rule, after.rule, after.reason, examples=[])
            self._groups[key] = group
        group.count += 1
        if len(group.examples) < EXAMPLES:
            text = recorded.text[:MAX_EXAMPLE_CHARACTERS]
            example = {"session": recorded.session, "op": recorded.op, "at": recorded.at, "text": text}
            if all(shown["text"] != text for shown in group.examples):
                group.examples.append(example)


def difference_of(before: Decision, after: Decision) -> Difference | None:
    """None when the agent would notice nothing."""
    if before.effect is not after.effect:
        return _BY_EFFECT[after.effect]
    if after.effect is not Effect.DENY and (before.obligations, before.approval) != (after.obligations, after.approval):
        return Difference.TERMS
    return None


def is_changeable(policy: Policy) -> bool:
    """Whether the same facts may be decided differently: at another time, or for another text."""
    return any(rule.when or rule.condition for rule in policy.rules)


_BY_EFFECT: Final = {
    Effect.DENY: Difference.DENIED,
    Effect.ALLOW: Difference.ALLOWED,
    Effect.REQUIRE_APPROVAL: Difference.HELD,
}
