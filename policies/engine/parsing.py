"""From a document to a policy: decoded YAML or JSON in, a `Policy` out, or the field that is wrong and a fix."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import Any, Final

import msgspec

from policies.engine.columns import split_column
from policies.engine.conditions import check_condition
from policies.engine.model import (
    LABEL_PATTERN,
    MASK_METHODS,
    MAX_CONDITIONS,
    MAX_COUNT,
    MAX_DISTINCT,
    MAX_FILTER_CHARACTERS,
    MAX_HOLD_SECONDS,
    MAX_NAME_CHARACTERS,
    MAX_PATTERN_CHARACTERS,
    MAX_PATTERNS,
    MAX_REASON_CHARACTERS,
    MAX_RULES,
    Approval,
    ApprovalMode,
    Effect,
    Limit,
    LimitOf,
    LimitPer,
    Policy,
    PolicyError,
    Rule,
    Scope,
    When,
)
from policies.engine.operation import Hazard, Kind
from policies.engine.patterns import has_wildcard, matches_any
from policies.engine.windows import compile_window

_PATTERN: Final = re.compile(r"[A-Za-z0-9_.:@/*?-]+")
_LABEL: Final = re.compile(LABEL_PATTERN)
_FLOW: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_AT: Final = re.compile(r"(.*) - at `(?:key in `)?\$?(.*?)`+\Z", re.DOTALL)
_UNKNOWN_FIELD: Final = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_MISSING_FIELD: Final = re.compile(r"Object missing required field `(.*)`", re.DOTALL)
_NAME_LISTS: Final = ("agents", "groups", "sponsors", "targets", "environments")
#: Fields that belong to one effect, and what they hold.
_OF_EFFECT: Final = {
    "approval": Effect.REQUIRE_APPROVAL,
    "mask": Effect.MASK,
    "limit": Effect.LIMIT,
    "filter": Effect.FILTER,
}
_CHOICES: Final[Mapping[str, type[StrEnum]]] = {"effect": Effect, "mode": ApprovalMode, "per": LimitPer, "of": LimitOf}
_FORM: Final = "See docs/policy.md for the form of a rule"


def parse_policy(version: str, rules: Any, *, within: Any = None) -> Policy:
    """Build a policy from decoded YAML or JSON: a list of mappings with the fields of `Rule`, and the policy's scope.

    Raises `PolicyError`, which names the field, for anything that isn't plainly a policy.
    """
    scope = None if within is None or within == {} else _convert("scope", within, Scope)
    if scope is not None:
        _check_scope("scope", scope)
    parsed = _convert("rules", rules, tuple[Rule, ...])
    if len(parsed) > MAX_RULES:
        raise PolicyError("rules", f"{len(parsed)} rules", f"A policy has at most {MAX_RULES}")
    if sum(bool(rule.condition) for rule in parsed) > MAX_CONDITIONS:
        raise PolicyError("rules", "has too many conditions", f"A policy has at most {MAX_CONDITIONS}")
    seen: set[str] = set()
    for index, rule in enumerate(parsed):
        at = f"rules[{index}]"
        _check_name(at, rule.name)
        if rule.name in seen:
            raise PolicyError(f"{at}.name", f"{rule.name!r} is used twice", "Names are unique within a policy")
        seen.add(rule.name)
        _check_rule(at, rule, scope)
    if scope is not None:
        parsed = tuple(msgspec.structs.replace(rule, within=scope) for rule in parsed)
    return Policy(version=version, rules=parsed)


def _check_rule(at: str, rule: Rule, scope: Scope | None) -> None:
    if rule.within is not None:
        raise PolicyError(f"{at}.within", "is no field of a rule", "Give the policy a scope instead")
    _check_scope(at, rule)
    scopes = (rule,) if scope is None else (rule, scope)
    if not any(one.agents or one.groups or one.sponsors or one.claims for one in scopes):
        raise PolicyError(f"{at}.agents", "is empty, and so are groups, sponsors and claims", 'Name whom, "*" for all')
    if not any(one.targets or one.environments or one.target_labels for one in scopes):
        raise PolicyError(f"{at}.targets", "is empty, and so are environments and labels", 'Name what, "*" for all')
    _check_words(f"{at}.operations", rule.operations, Kind, "kind of operation")
    _check_words(f"{at}.hazards", rule.hazards, Hazard, "hazard")
    _check_texts(f"{at}.objects", rule.objects)
    _check_texts(f"{at}.columns", rule.columns)
    if rule.when is not None:
        _check_when(f"{at}.when", rule)
    if rule.condition:
        check_condition(rule.condition, field=f"{at}.condition")
    _check_effect(at, rule)
    if len(rule.reason) > MAX_REASON_CHARACTERS:
        raise PolicyError(f"{at}.reason", f"has over {MAX_REASON_CHARACTERS} characters", "Say it shorter")
    if not all(character.isprintable() or character in "\n\t" for character in rule.reason):
        raise PolicyError(f"{at}.reason", "has control characters", "Agents are told it as it is")


# ---------------------------------------------------------------- names and patterns


def _check_name(at: str, name: str) -> None:
    field = f"{at}.name"
    if not name.strip():
        raise PolicyError(field, "is empty", "Give the rule a name: decisions cite it")
    if len(name) > MAX_NAME_CHARACTERS or not name.isprintable():
        raise PolicyError(field, "is too long, or not printable", f"Use up to {MAX_NAME_CHARACTERS} characters")


def _check_scope(at: str, scope: Scope) -> None:
    for field in _NAME_LISTS:
        _check_patterns(f"{at}.{field}", getattr(scope, field))
    for field in ("claims", "target_labels"):
        _check_mapping(f"{at}.{field}", getattr(scope, field))


def _check_patterns(field: str, patterns: tuple[str, ...]) -> None:
    _check_count(field, patterns)
    for index, pattern in enumerate(patterns):
        if len(pattern) > MAX_PATTERN_CHARACTERS or not _PATTERN.fullmatch(pattern):
            problem = f"{pattern[:50]!r} is no name or pattern"
            raise PolicyError(f"{field}[{index}]", problem, "Letters, digits, . _ : @ / - * and ?")


def _check_texts(field: str, patterns: tuple[str, ...]) -> None:
    """Objects and columns: names of the target's making, which may hold almost anything."""
    _check_count(field, patterns)
    for index, pattern in enumerate(patterns):
        _check_text(f"{field}[{index}]", pattern)


def _check_text(field: str, pattern: str) -> None:
    if not 0 < len(pattern) <= MAX_PATTERN_CHARACTERS or not pattern.isprintable() or pattern.strip() != pattern:
        raise PolicyError(
            field,
            f"{pattern[:50]!r} is no name or pattern",
            f"1 to {MAX_PATTERN_CHARACTERS} printable characters, without blanks at the ends",
        )


def _check_mapping(field: str, mapping: Mapping[str, str]) -> None:
    _check_count(field, mapping)
    for key, pattern in mapping.items():
        if not key or len(key) > MAX_PATTERN_CHARACTERS or not key.isprintable():
            raise PolicyError(field, f"{key[:50]!r} is no name", "Name a claim or label")
        if pattern:  # an empty one asks for what isn't there
            _check_text(f"{field}.{key}", pattern)


def _check_count(field: str, patterns: Iterable[str]) -> None:
    count = sum(1 for _ in patterns)
    if count > MAX_PATTERNS:
        raise PolicyError(field, f"has {count} patterns", f"At most {MAX_PATTERNS} may stand there")


def _check_words(field: str, patterns: tuple[str, ...], words: type[StrEnum], noun: str) -> None:
    _check_texts(field, patterns)
    for index, pattern in enumerate(patterns):
        if not any(matches_any((pattern,), word) for word in words):
            what = f"matches no {noun}" if has_wildcard(pattern) else f"is no {noun}"
            raise PolicyError(f"{field}[{index}]", f"{pattern[:50]!r} {what}", _suggest(pattern, words))


def _suggest(word: str, words: type[StrEnum]) -> str:
    close = difflib.get_close_matches(word[:50].lower(), [str(one) for one in words], n=3)
    return f"Did you mean {' or '.join(close)}?" if close else "See docs/policy.md for the list"


# ---------------------------------------------------------------- what belongs to an effect


def _check_when(at: str, rule: Rule) -> None:
    when = rule.when or When()
    try:
        window = compile_window(when)
    except PolicyError as error:
        raise PolicyError(f"{at}.{error.field}", error.problem, error.fix) from error
    tells_zone = bool(rule.condition) and "time." in rule.condition
    if not (when.days or when.hours or when.since or when.until or tells_zone):
        raise PolicyError(at, "says nothing", "Give days, hours, since or until, or leave it out")
    if window.since is not None and window.until is not None and window.since >= window.until:
        raise PolicyError(f"{at}.until", "is not after since", "A rule holds from since until, not including, until")


def _check_effect(at: str, rule: Rule) -> None:
    for field, effect in _OF_EFFECT.items():
        if getattr(rule, field) and rule.effect is not effect:
            raise PolicyError(f"{at}.{field}", f"has no meaning with {rule.effect}", f"It belongs to effect: {effect}")
    if rule.effect is Effect.REQUIRE_APPROVAL:
        _check_approval(f"{at}.approval", rule.approval)
    elif rule.effect is Effect.MASK:
        if not rule.columns:
            raise PolicyError(f"{at}.columns", "is empty", 'Name the columns to mask, "*" for all')
        if rule.mask is not None and rule.mask.method not in MASK_METHODS:
            problem = f"{rule.mask.method[:20]!r} is no way to mask"
            raise PolicyError(f"{at}.mask.method", problem, f"One of {', '.join(MASK_METHODS)}")
    elif rule.effect is Effect.LIMIT:
        _check_limit(at, rule)
    elif rule.effect is Effect.FILTER:
        _check_filter(at, rule)


def _check_approval(at: str, approval: Approval | None) -> None:
    if approval is None:
        raise PolicyError(at, "is missing", "Name the flow: approval: {flow: …}")
    if not _FLOW.fullmatch(approval.flow):
        problem = f"{approval.flow[:50]!r} is no name of an approval flow"
        raise PolicyError(f"{at}.flow", problem, "Small letters, digits and hyphens")
    if not 0 <= approval.hold_seconds <= MAX_HOLD_SECONDS:
        raise PolicyError(f"{at}.hold_seconds", "is out of range", f"0 (the flow's time) to {MAX_HOLD_SECONDS}")
    if approval.hold_seconds and approval.mode is ApprovalMode.DEFER:
        raise PolicyError(f"{at}.hold_seconds", "has no meaning with defer", "Nothing waits; leave it out")


def _check_limit(at: str, rule: Rule) -> None:
    limit = rule.limit
    if limit is None:
        raise PolicyError(f"{at}.limit", "is missing", "Say how much: limit: {per: day, rows: 10000}")
    counts = {name: value for name, value in msgspec.structs.asdict(limit).items() if isinstance(value, int)}
    for name, value in counts.items():
        if not 0 <= value <= MAX_COUNT:
            raise PolicyError(f"{at}.limit.{name}", f"{value} is out of range", "0 means no limit")
    if not any(counts.values()):
        raise PolicyError(f"{at}.limit", "limits nothing", f"Give one of {', '.join(counts)}")
    _check_distinct(at, rule, limit)


def _check_distinct(at: str, rule: Rule, limit: Limit) -> None:
    """What is counted is named by the limit; a rule that limits distinct values speaks of whatever may show them."""
    if not limit.distinct:
        if limit.labels or limit.columns:
            field = "labels" if limit.labels else "columns"
            raise PolicyError(f"{at}.limit.{field}", "has no meaning without distinct", "Give distinct: how many")
        return
    if limit.distinct > MAX_DISTINCT:
        raise PolicyError(f"{at}.limit.distinct", f"{limit.distinct} is out of range", f"At most {MAX_DISTINCT}")
    for field in ("operations", "objects", "columns"):
        if getattr(rule, field):
            fix = "Leave it out: limit.labels or limit.columns say what is counted, however it is asked for"
            raise PolicyError(f"{at}.{field}", "has no meaning with distinct", fix)
    if not limit.labels and not limit.columns:
        fix = "Name what is counted: labels: [email], or columns: [public.customers.email]"
        raise PolicyError(f"{at}.limit.labels", "is empty, and so is columns", fix)
    _check_count(f"{at}.limit.labels", limit.labels)
    for index, label in enumerate(limit.labels):
        if not _LABEL.fullmatch(label):
            fix = "Small letters, digits, dots, hyphens and underscores"
            raise PolicyError(f"{at}.limit.labels[{index}]", f"{label[:50]!r} is no label of a column", fix)
    _check_count(f"{at}.limit.columns", limit.columns)
    for index, column in enumerate(limit.columns):
        if len(column) > MAX_PATTERN_CHARACTERS or split_column(column) is None:
            fix = "schema.table.column, each in full; names with dots or capitals in double quotes"
            raise PolicyError(f"{at}.limit.columns[{index}]", f"{column[:50]!r} is no column", fix)


def _check_filter(at: str, rule: Rule) -> None:
    if not rule.filter.strip():
        raise PolicyError(f"{at}.filter", "is missing", "Write a predicate, such as \"region = 'eu'\"")
    if len(rule.filter) > MAX_FILTER_CHARACTERS or "\x00" in rule.filter:
        raise PolicyError(f"{at}.filter", f"has over {MAX_FILTER_CHARACTERS} characters", "Make it a view")
    if not rule.objects:
        raise PolicyError(f"{at}.objects", "is empty", "Name the objects that have what the predicate names")


# ---------------------------------------------------------------- msgspec's words


def _convert(root: str, data: Any, form: Any) -> Any:
    try:
        return msgspec.convert(data, form)
    except msgspec.ValidationError as error:
        raise _from_msgspec(root, str(error)) from error


def _from_msgspec(root: str, said: str) -> PolicyError:
    found = _AT.fullmatch(said)
    problem, path = (found[1], found[2]) if found else (said, "")
    for shape, what, fix in (
        (_UNKNOWN_FIELD, "is no field", ""),
        (_MISSING_FIELD, "is missing", "It is needed"),
    ):
        about = shape.fullmatch(problem)
        if about is not None:
            known = fix or _suggest_field(about[1])
            return PolicyError(f"{root}{path}.{about[1][:50]}", what, known)
    last = path.rpartition(".")[2]
    if last in _CHOICES:
        return PolicyError(f"{root}{path}", _lower(problem), f"One of {', '.join(_CHOICES[last])}")
    if "got `date" in problem or "got `null`" in problem:
        return PolicyError(f"{root}{path}", _lower(problem), "Write it in quotes")
    return PolicyError(f"{root}{path}", _lower(problem), _FORM)


def _suggest_field(name: str) -> str:
    known = {field for form in (Rule, When, Approval, Limit) for field in form.__struct_fields__} - {"within"}
    close = difflib.get_close_matches(name[:50].lower(), sorted(known), n=1)
    return f"Did you mean {close[0]}?" if close else _FORM


def _lower(problem: str) -> str:
    return problem[:1].lower() + problem[1:200].replace("`", "")
