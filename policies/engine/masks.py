"""Sets of rules as bits of one number, found by patterns: a thousand rules are met with in a few operations.

Bit n stands for the rule at place n. Nothing here knows what a rule is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from policies.engine.patterns import has_wildcard, is_everything, literals, matches_any

#: The empty set.
NO_RULES: Final = 0


def places(mask: int) -> Iterator[int]:
    """The places in it, in order."""
    if mask:
        digits = bin(mask)[:1:-1]
        place = digits.find("1")
        while place >= 0:
            yield place
            place = digits.find("1", place + 1)


def first_place(mask: int) -> int:
    """The least; the mask may not be empty."""
    return (mask & -mask).bit_length() - 1


def mask_of(all_places: Iterable[int]) -> int:
    """The set of these."""
    mask = NO_RULES
    for place in all_places:
        mask |= 1 << place
    return mask


def union(masks: Iterable[int]) -> int:
    """What is in one of them."""
    found = NO_RULES
    for mask in masks:
        found |= mask
    return found


class PatternMasks:
    """Which of many lists of patterns match a name, in time that hardly grows with their number.

    Patterns are looked up by the literal text before their first wildcard and after their last one; those that have
    neither are told apart by the longest text between. `unasked` are the lists without a pattern, which `find` leaves
    out, `everything` those that have `*`.
    """

    __slots__ = ("_by_ends", "_ends", "_exact", "everything", "unasked")

    def __init__(self, lists: Iterable[tuple[int, Iterable[str]]]) -> None:
        unasked: list[int] = []
        everything: list[int] = []
        by_pattern: dict[str, list[int]] = {}
        for place, patterns in lists:
            is_empty = True
            for pattern in patterns:
                is_empty = False
                by_pattern.setdefault(pattern, []).append(place)
            if is_empty:
                unasked.append(place)
        self._exact: dict[str, int] = {}
        self._by_ends: dict[tuple[str, str], list[tuple[str, tuple[str], int]]] = {}
        for pattern, having in by_pattern.items():
            if not has_wildcard(pattern):
                self._exact[pattern] = mask_of(having)
            elif is_everything(pattern):
                everything += having
            else:
                begin, longest, end = literals(pattern)
                self._by_ends.setdefault((begin, end), []).append((longest, (pattern,), mask_of(having)))
        self._ends = sorted({(len(begin), len(end)) for begin, end in self._by_ends})
        self.unasked = mask_of(unasked)
        self.everything = mask_of(everything)

    def find(self, name: str) -> int:
        """The lists of which a pattern matches."""
        found = self.everything | self._exact.get(name, NO_RULES)
        length = len(name)
        for begin, end in self._ends:
            if begin + end <= length:
                for longest, pattern, mask in self._by_ends.get((name[:begin], name[length - end :]), ()):
                    # Compiled when first needed, and kept: of a thousand patterns few are.
                    if longest in name and matches_any(pattern, name):
                        found |= mask
        return found
