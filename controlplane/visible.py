"""Texts that agents wrote, for people to judge: what can't be seen is written out.

Marks that turn the direction of writing show an approver another statement than the target reads (CVE-2021-42574), and
characters without width or with too much of it hide a part. What is printable, spaces and ends of lines stay.
"""

from __future__ import annotations

from typing import Final

_LAYOUT: Final = frozenset("\n\t")


def visible(text: str, *, is_line: bool = False) -> str:
    """The text with `⟨U+202E⟩` for what can't be seen; with `is_line`, for ends of lines too."""
    if text.isprintable():
        return text
    kept = frozenset() if is_line else _LAYOUT
    return "".join(one if one.isprintable() or one in kept else f"⟨U+{ord(one):04X}⟩" for one in text)
