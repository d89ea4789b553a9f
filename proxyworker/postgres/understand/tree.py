"""From a text to the parser's tree: lists and mappings as libpg_query writes them in JSON.

A node is a mapping of one key, its type: `{"ColumnRef": {…}}`; where the grammar allows one type only, the field holds
the inner mapping alone. libpg_query bounds its own stack and memory, and says so as a parse error; msgspec bounds the
nesting that it decodes. (pglast's Python tree bounds nothing and overflows the C stack; it is not used here.)
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any, Final

import msgspec
from pglast.parser import ParseError, parse_sql_json

Node = Mapping[str, Any]

#: A longer text is not parsed: 1 MiB of bulk INSERT takes some 100 ms of the event loop, in which nothing else moves.
MAX_UNDERSTOOD_BYTES: Final = 1024 * 1024
#: Trees from here on are read without their constants: a bulk INSERT is mostly those, and shrinks to one row. What a
#: constant would have told, such as which setting `set_config` sets, is then taken for the worst.
LARGE_TREE_CHARACTERS: Final = 16 * 1024

#: Quotes within JSON's strings are escaped, so these never begin inside of one.
_CONSTANT: Final = re.compile(
    r'\{"A_Const":\{(?:"[a-z]+":(?:true|\{(?:"[a-z]+":(?:"[^"\\]*(?:\\.[^"\\]*)*"|[^"{}]*))?\}))?'
    r',?(?:"location":-?\d+)?\}\}'
    r'|\{"ParamRef":\{(?:"number":\d+)?,?(?:"location":-?\d+)?\}\}'
)
_ANY_CONSTANT: Final = '{"A_Const":{}}'
_CONSTANT_LIST: Final = re.compile(r'"items":\[\{"A_Const":\{\}\}(?:,\{"A_Const":\{\}\})*\]')
_ANY_CONSTANT_LIST: Final = f'"items":[{_ANY_CONSTANT}]'
_SAME_ROWS: Final = re.compile(r'(\{"List":\{"items":\[\{"A_Const":\{\}\}\]\}\})(?:,\1)+')
#: An integer or a string, where it stands in the text; of a string with braces in it nothing is said.
_PLACED: Final = re.compile(r'\{"A_Const":\{"[is]val":\{[^{}]*\},"location":(\d+)\}\}')
_PLACE: Final = re.compile(r',?"(?:[a-z_]*location|stmt_len|[a-z_]*list_(?:start|end)|version)":-?\d+')


class Unreadable(Exception):
    """The text is no SQL that can be read within the bounds."""


class Tree:
    """A text's tree, as libpg_query wrote it. `shape`: that without constants and places in the text."""

    def __init__(self, written: str) -> None:
        self._written = written
        self._plain = without_constants(written)
        self.shape = _PLACE.sub("", self._plain)

    def statements(self) -> list[tuple[str, Node]]:
        """The statements, each with its type such as "SelectStmt". Raises `Unreadable`."""
        is_large = len(self._written) > LARGE_TREE_CHARACTERS
        try:
            decoded = msgspec.json.decode(self._plain if is_large else self._written)
        except (ValueError, RecursionError) as error:
            raise Unreadable(type(error).__name__) from error
        found: list[tuple[str, Node]] = []
        for raw in decoded["stmts"]:
            statement = raw.get("stmt")
            if statement:  # an empty statement between semicolons is none
                found.extend(statement.items())
        return found

    def has_constants_at(self, places: set[int]) -> bool:
        """Whether an integer or a string of the tree begins at each of these bytes of the text, which is ASCII."""
        return places <= set(map(int, _PLACED.findall(self._written)))

    def template(self, *, with_constants: bool) -> str:
        """What texts that mean the same have in common, as 32 hex digits; constants count where `with_constants`.

        libpg_query's own fingerprint isn't used: it has 64 bits, and what is nested over 100 deep is alike to it. An
        approval for a template would then cover what nobody saw.
        """
        return digest_of(_PLACE.sub("", self._written) if with_constants else self.shape)


def digest_of(shape: str) -> str:
    """A template's 32 hex digits."""
    return hashlib.sha256(shape.encode()).hexdigest()[:32]


def parse(text: bytes) -> Tree:
    """Parse a text. Raises `Unreadable`."""
    if len(text) > MAX_UNDERSTOOD_BYTES:
        raise Unreadable("longer than is read")
    try:
        return Tree(parse_sql_json(text.decode()))
    except (ParseError, UnicodeDecodeError, ValueError) as error:
        raise Unreadable(type(error).__name__) from error


def without_constants(written: str) -> str:
    """The tree's text with constants and parameters alike, lists of them as one, equal rows as one."""
    plain = _CONSTANT_LIST.sub(_ANY_CONSTANT_LIST, _CONSTANT.sub(_ANY_CONSTANT, written))
    return _SAME_ROWS.sub(r"\1", plain)
