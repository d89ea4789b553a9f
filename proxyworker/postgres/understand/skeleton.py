"""A text without its literals: what two texts have in common that are the same statement with other values.

Only such integers and strings are left out as PostgreSQL's lexer can't take for anything else where they stand. Whether
they do stand where it begins a constant isn't seen here, but in the tree of one text (`Tree.has_constants_at`): texts
of the same skeleton then have the same tokens, and trees of the same shape. Pure, and without a parser.
"""

from __future__ import annotations

import re
from typing import Final

#: In a longer text there is more to look at than to gain.
MAX_SKELETON_BYTES: Final = 4 * 1024

#: Neither a quote nor a backslash within; no letter before (E'…', U&'…'), no quote behind ('it''s').
_STRING: Final = re.compile(rb"(?<=[ =(,<>])'[^'\\]*'(?=[ ,);]|\Z)")
#: At most nine digits: more may be no integer to the grammar.
_INTEGER: Final = re.compile(rb"(?<=[ =(,<>])[0-9]{1,9}(?=[ ,);]|\Z)")
#: No text has a NUL.
_A_STRING: Final = b"\x00s"
_AN_INTEGER: Final = b"\x00i"


def skeleton_of(text: bytes) -> bytes:
    """The skeleton; empty for a text that has none."""
    if len(text) > MAX_SKELETON_BYTES or not text.isascii():
        return b""
    plain = _STRING.sub(_A_STRING, text) if b"'" in text else text
    return _INTEGER.sub(_AN_INTEGER, plain)


def literals_of(text: bytes) -> set[int]:
    """Where the literals begin that its skeleton leaves out."""
    strings = [match.span() for match in _STRING.finditer(text)]
    blank = bytearray(text)
    for start, end in strings:
        blank[start:end] = b"'" * (end - start)
    return {start for start, _ in strings} | {match.start() for match in _INTEGER.finditer(blank)}
