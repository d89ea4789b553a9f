"""SCIM's filters (RFC 7644, 3.4.2.2): text in, a Django condition out. What isn't known is refused, never left out.

    filter   = or ;  or = and *("or" and) ;  and = term *("and" term)
    term     = ["not"] "(" filter ")" / attribute "pr" / attribute operator value

scim2-filter-parser was rejected: it gives "and" and "or" one precedence, and drops attributes that it doesn't know, so
that a filter with a typing error lists everybody. Ordering operators and value paths aren't offered.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from django.db.models import Q

MAX_FILTER_CHARACTERS: Final = 2_000
MAX_TERMS: Final = 50
MAX_DEPTH: Final = 10

_TOKEN = re.compile(r'\s*(?:(?P<mark>[()])|(?P<text>"(?:[^"\\]|\\.)*")|(?P<word>[^\s()"\[\]]+))')
_LOOKUPS: Final = {"eq": "iexact", "ne": "iexact", "co": "icontains", "sw": "istartswith", "ew": "iendswith"}


class BadFilter(ValueError):
    """A filter that can't be used; the text says why."""


@dataclass(frozen=True, slots=True)
class Attribute:
    """Where an attribute is kept, and what it is: a text, true or false, or an id."""

    path: str
    kind: type[str | bool | UUID] = str


Attributes = Mapping[str, Attribute]


def parse_filter(text: str, attributes: Attributes) -> Q:
    """The condition. `attributes` are by name in small letters. Raises `BadFilter`."""
    if len(text) > MAX_FILTER_CHARACTERS or "\x00" in text:
        raise BadFilter("the filter is too long")
    reader = _Reader(_tokens(text), attributes)
    found = reader.any_of(depth=0)
    if reader.peek() is not None:
        raise BadFilter("the filter goes on after its end")
    return found


def _tokens(text: str) -> list[str]:
    tokens, at = [], 0
    text = text.rstrip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise BadFilter("the filter can't be read")
        tokens.append(match[match.lastgroup or 0])
        at = match.end()
    return tokens


class _Reader:
    """Recursive descent over the tokens."""

    def __init__(self, tokens: list[str], attributes: Attributes) -> None:
        self._tokens = tokens
        self._attributes = attributes
        self._at = 0
        self._terms = 0

    def peek(self) -> str | None:
        """The next token."""
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def any_of(self, *, depth: int) -> Q:
        """Terms with "and" and "or", of which "and" binds more tightly."""
        if depth > MAX_DEPTH:
            raise BadFilter("the filter is nested too deeply")
        found = self._all_of(depth)
        while self._takes("or"):
            found |= self._all_of(depth)
        return found

    def _all_of(self, depth: int) -> Q:
        found = self._term(depth)
        while self._takes("and"):
            found &= self._term(depth)
        return found

    def _term(self, depth: int) -> Q:
        self._terms += 1
        if self._terms > MAX_TERMS:
            raise BadFilter("the filter has too many terms")
        is_negated = self._takes("not")
        if self._takes("("):
            found = self.any_of(depth=depth + 1)
            if not self._takes(")"):
                raise BadFilter("a parenthesis is missing")
            return ~found if is_negated else found
        if is_negated:
            raise BadFilter("write not (…)")
        return self._comparison()

    def _comparison(self) -> Q:
        name, operator = self._take(), self._take().lower()
        attribute = self._attributes.get(name.lower())
        if attribute is None:
            raise BadFilter("the filter names an attribute that can't be filtered by")
        if operator == "pr":
            return ~Q(**{attribute.path: ""}) if attribute.kind is str else Q(**{f"{attribute.path}__isnull": False})
        if operator not in _LOOKUPS:
            raise BadFilter("the filter has an operator that isn't offered")
        value = _value(self._take())
        if attribute.kind is not str:
            found = _exactly(attribute, operator, value)
        elif isinstance(value, str):
            found = Q(**{f"{attribute.path}__{_LOOKUPS[operator]}": value})
        else:
            raise BadFilter("the attribute is compared with a text")
        return ~found if operator == "ne" else found

    def _takes(self, word: str) -> bool:
        token = self.peek()
        if token is None or token.lower() != word:
            return False
        self._at += 1
        return True

    def _take(self) -> str:
        token = self.peek()
        if token is None or token in {"(", ")"}:
            raise BadFilter("the filter is incomplete")
        self._at += 1
        return token


def _exactly(attribute: Attribute, operator: str, value: Any) -> Q:
    if operator not in {"eq", "ne"}:
        raise BadFilter("the attribute is compared by eq and ne only")
    if attribute.kind is bool and isinstance(value, bool):
        return Q(**{attribute.path: value})
    if attribute.kind is UUID and isinstance(value, str):
        try:
            return Q(**{attribute.path: UUID(value)})
        except ValueError:
            return Q(pk__in=())  # an id that is none is nobody's
    raise BadFilter("the value is of another kind")


def _value(token: str) -> Any:
    """JSON's text, true or false."""
    try:
        value = json.loads(token)
    except ValueError:
        raise BadFilter("a value is no JSON") from None
    if isinstance(value, str) and not value.isprintable():
        raise BadFilter("a value has control characters")
    return value
