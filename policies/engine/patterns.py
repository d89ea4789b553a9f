"""Patterns for names: `*` stands for any text, `?` for any one character, everything else for itself.

Objects of SQL are `schema.name`. A text that names no schema leaves it to the target's search path, so such a name is
read for the worse: where a rule allows, it is `public`'s; where a rule restricts, it may be any schema's.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final

#: Lists of patterns whose compiled form is kept: a few policies of the greatest size.
COMPILED_LISTS: Final = 8_192

#: True for the names that one of some patterns matches.
Matches = Callable[[str], bool]

_WILDCARD: Final = re.compile(r"[*?]")
#: A schema, quoted or not, and what follows its dot.
_QUALIFIED: Final = re.compile(r'("(?:[^"]|"")*"|[^".]*)\.(.+)', re.DOTALL)
_ANYTHING: Final = re.compile(r"\*+")


@lru_cache(maxsize=COMPILED_LISTS)
def matcher(patterns: tuple[str, ...]) -> Matches:
    """Of several patterns, one of which must match."""
    exact = frozenset(pattern for pattern in patterns if not has_wildcard(pattern))
    globs = [_regex(pattern) for pattern in patterns if has_wildcard(pattern)]
    if not globs:
        return exact.__contains__
    if any(is_everything(pattern) for pattern in patterns):
        return _always
    matches = re.compile("|".join(globs), re.DOTALL).fullmatch
    return lambda name: name in exact or matches(name) is not None


def matches_any(patterns: tuple[str, ...], name: str) -> bool:
    """Whether one of the patterns matches."""
    return matcher(patterns)(name)


def has_wildcard(pattern: str) -> bool:
    """Whether it stands for more than itself."""
    return _WILDCARD.search(pattern) is not None


def is_everything(pattern: str) -> bool:
    """Whether it takes in whatever there is, what can't be told included."""
    return _ANYTHING.fullmatch(pattern) is not None


def is_within(pattern: str, wider: str) -> bool:
    """Whether all that `pattern` matches is matched by `wider`: certain when True, unknown when False.

    A wildcard of `wider` takes in those of `pattern` that stand in its place; `?` takes in no `*`.
    """
    if pattern == wider or not has_wildcard(wider):
        return pattern == wider
    return _takes_in(wider).fullmatch(pattern) is not None


def are_within(patterns: tuple[str, ...], wider: tuple[str, ...]) -> bool:
    """Whether each of the patterns is within one of the wider ones."""
    return patterns == wider or all(any(is_within(pattern, one) for one in wider) for pattern in patterns)


def is_qualified(name: str) -> bool:
    """Whether a name, or a pattern for names, says its schema."""
    return _QUALIFIED.fullmatch(name) is not None


@lru_cache(maxsize=COMPILED_LISTS)
def allowed_name(name: str) -> str:
    """An object of SQL, or a pattern for some, as a rule that allows reads it: `customers` is `public.customers`."""
    if is_everything(name) or is_qualified(name):
        return name
    # pg_catalog is searched before the search path.
    return f"pg_catalog.{name}" if name.startswith("pg_") else f"public.{name}"


def bare_name(name: str) -> str:
    """Without its schema."""
    found = _QUALIFIED.fullmatch(name)
    return name if found is None else found[2]


def tails(pattern: str) -> tuple[str, ...]:
    """What a restricting pattern means for a name without a schema: itself, and what follows each of its dots."""
    parts = pattern.split(".")
    return tuple(".".join(parts[index:]) for index in range(len(parts)))


def literals(pattern: str) -> tuple[str, str, str]:
    """Of a pattern with a wildcard: the text before the first, the longest between two, the text after the last."""
    begin, *middle, end = _WILDCARD.split(pattern)
    return begin, max(middle, key=len, default=""), end


@lru_cache(maxsize=COMPILED_LISTS)
def _takes_in(wider: str) -> re.Pattern[str]:
    return re.compile(_regex(wider, any_one="[^*]"), re.DOTALL)


def _always(_: str) -> bool:
    return True


def _regex(pattern: str, *, any_one: str = ".") -> str:
    """What lies between two stars is taken where it is first found and never again: no pattern takes long."""
    first, *chunks = [
        "".join(any_one if character == "?" else re.escape(character) for character in chunk)
        for chunk in _ANYTHING.split(pattern)
    ]
    if not chunks:
        return first
    *middle, last = chunks
    return first + "".join(f"(?>.*?{chunk})" for chunk in middle) + ".*" + last
