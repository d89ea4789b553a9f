"""What is worth knowing of a policy before it is published, though nothing of it is wrong.

Above all what becomes of it beside the tenant's other policies, for all apply together: a deny of one takes away what
another allows. Others may change at any time, so none of it refuses anything.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from policies.engine.check import MAX_FINDINGS, Finding, Known
from policies.engine.coverage import Overlaps, is_shadowed
from policies.engine.model import Effect, Policy, Rule
from policies.engine.patterns import has_wildcard

#: Rules of others that one warning names.
MAX_NAMED: Final = 5


def check_beside(policy: Policy, others: Policy, *, known: Known) -> tuple[Finding, ...]:
    """Of a policy, as `parse_policy` made it, beside the rules of others, which are named "policy/rule"."""
    found = [*_people_nobody_knows(policy, known), *_denied_by(policy, others), *_denying(policy, others)]
    return tuple(found[:MAX_FINDINGS])


def _people_nobody_knows(policy: Policy, known: Known) -> Iterator[Finding]:
    """Whom an agent acts for is its provider's to say: somebody unknown may come by a token, or be misspelt."""
    if known.people is None:
        return
    for index, rule in enumerate(policy.rules):
        for name in rule.agents:
            kind, _, person = name.partition(":")
            if kind == "person" and not has_wildcard(person) and person not in known.people:
                problem = f"nobody who is known here is called {person!r}"
                fix = "Leave it if a provider names somebody so in its tokens; otherwise correct it"
                yield Finding(f"rules[{index}].agents", problem, fix)


def _denied_by(policy: Policy, others: Policy) -> Iterator[Finding]:
    denying = _denies(others)
    overlaps = Overlaps(denying)
    for index, rule in enumerate(policy.rules):
        name = next((denying[place].name for place in overlaps.of(rule) if is_shadowed(rule, denying[place])), None)
        if name is not None:
            fix = "Narrow one of the two, if this one shall have an effect"
            yield Finding(f"rules[{index}]", f"has no effect: {name!r} denies all of it", fix)


def _denying(policy: Policy, others: Policy) -> Iterator[Finding]:
    denying = _denies(policy)
    overlaps = Overlaps(denying)
    denied: dict[str, list[str]] = {}
    for other in others.rules:
        for place in overlaps.of(other):
            if is_shadowed(other, denying[place]):
                denied.setdefault(denying[place].name, []).append(other.name)
    for index, rule in enumerate(policy.rules):
        names = denied.get(rule.name)
        if names is not None:
            said = ", ".join(map(repr, names[:MAX_NAMED])) + (" and others" if len(names) > MAX_NAMED else "")
            yield Finding(f"rules[{index}]", f"takes all effect from {said}", "Narrow it, if they shall have one")


def _denies(policy: Policy) -> tuple[Rule, ...]:
    return tuple(rule for rule in policy.rules if rule.effect is Effect.DENY)
