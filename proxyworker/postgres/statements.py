"""What the gate must know of a statement's text today: whether it only reads, and what it does to prepared names.

Both come from PostgreSQL's own grammar (pglast). What can't be parsed is a write that may do anything.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from pglast import ast, parse_sql
from pglast.enums import DiscardMode
from pglast.parser import ParseError, parse_sql_json

#: Texts whose classification is kept. With literals in the text every statement is new; the cache must stay small.
CLASSIFIED_TEXTS: Final = 4_096
#: A longer text is not parsed: it would cost more than waiting for the disk does. And 64 KB are enough for an
#: expression that nests 30,000 deep, with which pglast's tree overflows the C stack and takes the process with it.
MAX_CLASSIFIED_BYTES: Final = 16 * 1024

#: Functions of pg_catalog without effects. Unqualified names find pg_catalog first.
_PURE_FUNCTIONS: Final = frozenset(
    """
    abs array_agg avg ceil char_length coalesce count current_database current_schema date_part date_trunc extract
    floor generate_series json_agg jsonb_agg lag lead left length lower ltrim max min mod now octet_length
    pg_table_is_visible position rank replace right round row_number rtrim split_part string_agg strpos substr
    substring sum to_char trim trunc unnest upper version
    """.split()  # noqa: SIM905 - a list of words reads better
)
_STATEMENT: Final = re.compile(r'"([A-Za-z]+Stmt)":')
_FUNCTION: Final = re.compile(r'"funcname":\[((?:[^"\]]|"(?:[^"\\]|\\.)*")*)\]')
_NAME_PART: Final = re.compile(r'"sval":"((?:[^"\\]|\\.)*)"')
_HARMLESS_STATEMENTS: Final = frozenset({"SelectStmt", "VariableShowStmt"})

_NAMES_MAY_CHANGE: Final = re.compile(rb"\b(?:prepare|deallocate|discard)\b", re.IGNORECASE)


@lru_cache(maxsize=CLASSIFIED_TEXTS)
def is_read(text: bytes) -> bool:
    """Whether the text certainly has no effect of its own: SELECT and SHOW, with known functions, locking nothing.

    Views, operators and casts may still call functions that the text does not show, so this decides one thing only:
    whether the wait for the disk may overlap the target's work. The intent is in the journal before in either case.
    """
    if len(text) > MAX_CLASSIFIED_BYTES:
        return False
    try:
        tree = parse_sql_json(text.decode())
    except (ParseError, UnicodeDecodeError, ValueError):
        return False
    if '"intoClause":' in tree or '"lockingClause":' in tree:
        return False
    if not _HARMLESS_STATEMENTS.issuperset(_STATEMENT.findall(tree)):
        return False
    return all(_is_pure(match) for match in _FUNCTION.findall(tree))


def _is_pure(name_json: str) -> bool:
    parts = _NAME_PART.findall(name_json)
    if len(parts) == 2 and parts[0] == "pg_catalog":
        del parts[0]
    return len(parts) == 1 and parts[0] in _PURE_FUNCTIONS


@dataclass(frozen=True, slots=True)
class NameChange:
    """A statement in SQL that makes or drops a prepared statement. `name` None drops all; `text` None drops `name`."""

    name: bytes | None
    text: bytes | None


def name_changes(text: bytes) -> tuple[NameChange, ...]:
    """What the text does to the names of prepared statements, which SQL and the protocol share.

    A text that mentions it and can't be parsed drops all: better not to know a name's text than to know a wrong one.
    """
    if _NAMES_MAY_CHANGE.search(text) is None:
        return ()
    if len(text) > MAX_CLASSIFIED_BYTES:
        return (NameChange(None, None),)
    try:
        statements = parse_sql(text.decode())
    except (ParseError, UnicodeDecodeError, ValueError):
        return (NameChange(None, None),)
    changes: list[NameChange] = []
    for raw in statements:
        statement = raw.stmt
        if isinstance(statement, ast.PrepareStmt):
            changes.append(NameChange((statement.name or "").encode(), text))
        elif isinstance(statement, ast.DeallocateStmt):
            changes.append(NameChange(statement.name.encode() if statement.name else None, None))
        elif isinstance(statement, ast.DiscardStmt) and statement.target == DiscardMode.DISCARD_ALL:
            changes.append(NameChange(None, None))
    return tuple(changes)
