"""What limits say that nobody could keep. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final

from policies.engine import Policy, Rule, Target
from policies.engine.check import Finding, targets_of

_NOBODY: Final[Mapping[str, Target]] = MappingProxyType({})
_NO_LABELS: Final[Mapping[str, frozenset[str]]] = MappingProxyType({})


def findings_of_limits(
    policy: Policy,
    targets: Mapping[str, Target] = _NOBODY,
    labels: Mapping[str, frozenset[str]] = _NO_LABELS,
) -> Iterator[Finding]:
    """Limits that don't mean what they seem to. `labels`: those that columns of each of the `targets` have."""
    for index, rule in enumerate(policy.rules):
        limit = rule.limit
        if limit is None:
            continue
        at = f"rules[{index}].limit"
        asked = (rule.operations, rule.objects, rule.columns, rule.hazards, rule.condition, rule.when)
        if limit.sessions and any(asked):
            problem = "sessions are counted as they open, when no operation is known"
            yield Finding(f"{at}.sessions", problem, "Give it a rule of its own that says only whom and where")
        yield from _unknown_labels(f"{at}.labels", rule, targets, labels)


def _unknown_labels(
    at: str, rule: Rule, targets: Mapping[str, Target], labels: Mapping[str, frozenset[str]]
) -> Iterator[Finding]:
    """A label that no column has counts nothing."""
    if rule.limit is None or not targets:
        return
    there = frozenset[str]().union(*(labels.get(target.name, ()) for target in targets_of(rule, targets)))
    for label in rule.limit.labels:
        if label not in there:
            problem = f"no column of the rule's targets has the label {label!r}, so nothing would be counted"
            known = ", ".join(sorted(there)[:10])
            yield Finding(
                at, problem, f"Label the columns first, or name one of {known}" if known else "Label the columns first"
            )
