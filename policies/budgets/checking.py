"""What limits say that nobody could keep. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from policies.engine import Policy
from policies.engine.check import Finding


def findings_of_limits(policy: Policy) -> Iterator[Finding]:
    """Limits that can't be counted, and such as don't mean what they seem to."""
    for index, rule in enumerate(policy.rules):
        limit = rule.limit
        if limit is None:
            continue
        at = f"rules[{index}].limit"
        if limit.distinct:
            yield Finding(f"{at}.distinct", "distinct values can't be counted yet", "Limit rows instead")
        asked = (rule.operations, rule.objects, rule.columns, rule.hazards, rule.condition, rule.when)
        if limit.sessions and any(asked):
            problem = "sessions are counted as they open, when no operation is known"
            yield Finding(f"{at}.sessions", problem, "Give it a rule of its own that says only whom and where")
