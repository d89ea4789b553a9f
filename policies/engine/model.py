"""What a policy says: an immutable list of rules. How it is applied is in `decision`."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Any

import msgspec

#: A policy is read by people; a larger one is a mistake, and matching is linear in it.
MAX_RULES = 1_000
#: Longer patterns name nothing that a tenant can have created.
MAX_PATTERN_CHARACTERS = 200

_PATTERN = re.compile(r"[A-Za-z0-9_.:@/*?-]+")


class PolicyError(ValueError):
    """A policy document that can't be used. `field` is the path to what is wrong, `fix` says what would be right."""

    def __init__(self, field: str, problem: str, fix: str) -> None:
        super().__init__(f"{field}: {problem}. {fix}")
        self.field = field
        self.problem = problem
        self.fix = fix


class Effect(StrEnum):
    """What a rule, or a decision, says of an operation."""

    ALLOW = "allow"
    DENY = "deny"


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Agents × targets, each a list of names in which `*` and `?` stand for any text and any character.

    `agents` may also name who is behind an agent: `person:ada@acme.example`, `actor:planner`.
    """

    name: str
    effect: Effect
    agents: tuple[str, ...]
    targets: tuple[str, ...]
    reason: str = ""


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One immutable version. The empty policy allows nothing."""

    version: str
    rules: tuple[Rule, ...] = ()


def parse_policy(version: str, rules: Any) -> Policy:
    """Build a policy from decoded YAML or JSON: a list of mappings with the fields of `Rule`.

    Raises `PolicyError`, which names the field, for anything that isn't plainly a policy.
    """
    try:
        policy = Policy(version=version, rules=msgspec.convert(rules, tuple[Rule, ...]))
    except msgspec.ValidationError as error:
        raise PolicyError("rules", str(error), "See docs/policy.md for the form of a rule") from error
    if len(policy.rules) > MAX_RULES:
        raise PolicyError("rules", f"{len(policy.rules)} rules", f"A policy has at most {MAX_RULES}")
    seen: set[str] = set()
    for index, rule in enumerate(policy.rules):
        at = f"rules[{index}]"
        if not rule.name.strip():
            raise PolicyError(f"{at}.name", "is empty", "Give the rule a name: decisions cite it")
        if rule.name in seen:
            raise PolicyError(f"{at}.name", f"{rule.name!r} is used twice", "Names are unique within a policy")
        seen.add(rule.name)
        for field, patterns in (("agents", rule.agents), ("targets", rule.targets)):
            _check_patterns(f"{at}.{field}", patterns)
    return policy


def _check_patterns(field: str, patterns: tuple[str, ...]) -> None:
    if not patterns:
        raise PolicyError(field, "is empty, so the rule never matches", 'Name what it covers, or "*" for all')
    for pattern in patterns:
        if len(pattern) > MAX_PATTERN_CHARACTERS or not _PATTERN.fullmatch(pattern):
            raise PolicyError(field, f"{pattern[:50]!r} is no name or pattern", "Letters, digits, . _ : @ / - * and ?")
