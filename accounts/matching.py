"""Conditions over a token's claims, in one line each; all conditions of a rule must hold.

    sub = repo:acme/app:ref:refs/heads/main       the claim is, or lists, exactly this text
    repository ~ acme/*                           … a text that this pattern matches; * is any text, ? any character
    /kubernetes.io/namespace = prod               a claim within claims: a JSON pointer (RFC 6901)

Pure: it knows claims, and neither models nor signatures.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

MAX_CONDITIONS: Final = 20
MAX_CONDITION_CHARACTERS: Final = 700
#: A claim lists groups or roles; what comes after so many isn't looked at, so a rule can't match by it.
MAX_VALUES: Final = 1_000

_LINE = re.compile(r"(?P<claim>\S(?:.*?\S)?) (?P<operator>[=~]) (?P<value>\S(?:.*\S)?)")


class BadCondition(ValueError):
    """A line that is no condition; the text says how one looks."""


@dataclass(frozen=True, slots=True)
class Condition:
    """One claim compared with one text."""

    claim: str
    is_pattern: bool
    value: str

    def __str__(self) -> str:
        return f"{self.claim} {'~' if self.is_pattern else '='} {self.value}"

    def holds(self, claims: Mapping[str, Any]) -> bool:
        """True when the claim is, or lists, a text that is so."""
        if self.is_pattern:
            pattern = _pattern(self.value)
            return any(pattern.fullmatch(text) for text in texts_at(claims, self.claim))
        return self.value in texts_at(claims, self.claim)


@lru_cache(maxsize=4_096)
def parse_condition(line: str) -> Condition:
    """Read a line. Raises `BadCondition`."""
    match = _LINE.fullmatch(line) if len(line) <= MAX_CONDITION_CHARACTERS and line.isprintable() else None
    if match is None:
        raise BadCondition(f"{line[:60]!r} is no condition. Write `claim = text` or `claim ~ pattern`.")
    condition = Condition(claim=match["claim"], is_pattern=match["operator"] == "~", value=match["value"])
    if condition.is_pattern and not condition.value.strip("*?"):
        raise BadCondition(f"{line[:60]!r} holds for whatever the claim says. Put some text into the pattern.")
    if condition.claim == "/":
        raise BadCondition(f"{line[:60]!r} names no claim.")
    return condition


def texts_at(claims: Mapping[str, Any], claim: str) -> list[str]:
    """The texts of a claim: its own, or those that it lists. Truth and whole numbers count as their JSON; no others."""
    value = _value_at(claims, claim)
    listed = value[:MAX_VALUES] if isinstance(value, list) else [value]
    return [text for text in (_text(entry) for entry in listed) if text is not None]


def text_at(claims: Mapping[str, Any], claim: str) -> str | None:
    """The claim's text; None when it is anything but one."""
    value = _value_at(claims, claim)
    return _text(value) if isinstance(value, str) else None


def why_not(conditions: Sequence[Condition], claims: Mapping[str, Any]) -> Iterator[str]:
    """In words, each condition that doesn't hold."""
    for condition in conditions:
        if not condition.holds(claims):
            found = texts_at(claims, condition.claim)
            shown = ", ".join(text[:100] for text in found[:5]) if found else "not there, or no text"
            yield f"{condition}: the claim is {shown}"


def _value_at(claims: Mapping[str, Any], claim: str) -> Any:
    value: Any = claims
    for key in _pointer(claim):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _pointer(claim: str) -> list[str]:
    if not claim.startswith("/"):
        return [claim]
    return [key.replace("~1", "/").replace("~0", "~") for key in claim[1:].split("/")]


def _text(value: object) -> str | None:
    """PostgreSQL refuses what JSON's texts may hold, NUL and lone surrogates: such a text is none."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value) if abs(value) < 1 << 63 else None
    return value if isinstance(value, str) and value.isprintable() else None


@lru_cache(maxsize=4_096)
def _pattern(glob: str) -> re.Pattern[str]:
    """`fnmatch` without its character classes; its translation doesn't backtrack from star to star."""
    return re.compile(fnmatch.translate(glob.replace("[", "[[]")))
