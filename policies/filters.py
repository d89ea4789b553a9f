"""Whether a rule's `filter` is a predicate: one expression over the columns of one row, by PostgreSQL's own grammar.

It will stand in a query of the gate's making, so nothing may reach beyond it: no second statement, no query of its own,
no function but a few that can do nothing, no setting that the agent could change, no comment that hides what follows.
Whether the columns exist only the target knows.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import msgspec
from pglast.parser import ParseError, parse_sql_json, scan

from policies.engine import Policy
from policies.engine.check import Finding

_BEFORE: Final = "SELECT WHERE "
_FIX: Final = "Write one condition over the columns of a row, such as \"region = 'eu' AND NOT is_secret\""
#: Functions without effects that give the same for the same row. A test holds them against what the gate calls pure.
FUNCTIONS: Final = frozenset(
    """
    abs age array_length btrim cardinality ceil char_length date_part date_trunc extract floor jsonb_array_length
    jsonb_exists jsonb_extract_path_text left length like_escape lower ltrim md5 mod position replace right round rtrim
    similar_to_escape split_part starts_with strpos substr substring timezone trunc upper
    """.split()  # noqa: SIM905 - a list of words reads better
)
_TYPES: Final = frozenset(
    """
    bool bpchar char date float4 float8 inet int2 int4 int8 interval json jsonb numeric text time timestamp timestamptz
    timetz uuid varchar
    """.split()  # noqa: SIM905 - a list of words reads better
)
#: Nodes of the grammar that may stand in it; `_CALLED` says what some of the others are.
_ALLOWED: Final = frozenset(
    """
    A_ArrayExpr A_Const A_Expr BoolExpr BooleanTest CaseExpr CaseWhen CoalesceExpr CollateClause ColumnRef FuncCall
    Integer List MinMaxExpr NullTest RowExpr String TypeCast
    """.split()  # noqa: SIM905 - a list of words reads better
)
_CALLED: Final = {
    "SubLink": "a query of its own",
    "ParamRef": "a parameter, which nobody gives",
    "SQLValueFunction": "a value of the session or the clock",
    "A_Indirection": "a field or an element",
    "A_Star": "*, which is no column",
    "SetToDefault": "DEFAULT",
    "CurrentOfExpr": "a cursor",
    "GroupingFunc": "GROUPING, which needs groups",
}
#: Of a function call; what it has beside these makes it an aggregate, or a window's.
_PLAIN_CALL: Final = frozenset({"funcname", "args", "funcformat", "location"})
#: Operators that give true or false; of others, such as ~ and @>, it can't be told.
_NO_TRUTH: Final = frozenset({"+", "-", "*", "/", "%", "^", "||", "->", "->>", "#>", "#>>", "&", "|", "#", "<<", ">>"})
_NO_CONDITION: Final = frozenset({"A_ArrayExpr", "RowExpr", "List"})


class _Wrong(Exception):
    """`at`: the byte that is wrong, `character` the character, of the text with `_BEFORE`; None: it isn't told so."""

    def __init__(self, problem: str, at: int | None = None, *, character: int | None = None) -> None:
        super().__init__(problem)
        self.problem = problem
        self.at = at
        self.character = character


def findings_of_filters(policy: Policy) -> Iterator[Finding]:
    """Filters that are no predicate. Pure."""
    for index, rule in enumerate(policy.rules):
        if rule.filter:
            problem = why_no_predicate(rule.filter)
            if problem:
                yield Finding(f"rules[{index}].filter", problem, _FIX)


def why_no_predicate(text: str) -> str:
    """What is wrong with a filter, with the place; empty when nothing is."""
    try:
        _check(text)
    except _Wrong as wrong:
        character = wrong.character
        if wrong.at is not None:
            character = len((_BEFORE + text).encode()[: wrong.at].decode(errors="replace"))
        return wrong.problem + ("" if character is None else f", at character {max(1, character - len(_BEFORE) + 1)}")
    except RecursionError:
        return "is nested too deeply"
    return ""


def _check(text: str) -> None:
    where = _condition(text)
    # Between parentheses it has to mean the same: nothing in it may end them, or hide the last one.
    if _without_places(where) != _without_places(_condition(f"({text})")):
        raise _Wrong("is not one whole expression")
    if not _visit(where):
        raise _Wrong("names no column, so it is the same for every row")
    _refuse_no_condition(where)


def _condition(text: str) -> Any:
    try:
        for token in scan(_BEFORE + text):
            if token.name in ("SQL_COMMENT", "C_COMMENT"):
                raise _Wrong("has a comment", character=token.start)
        statements = msgspec.json.decode(parse_sql_json(_BEFORE + text))["stmts"]
    except ParseError as error:
        said, place = (*error.args, 0)[:2]
        raise _Wrong(f"is no SQL: {said}", character=place if isinstance(place, int) and place else None) from error
    except (ValueError, UnicodeError) as error:
        raise _Wrong("is no SQL that can be read") from error
    if len(statements) != 1:
        raise _Wrong("is more than one statement")
    query = statements[0]["stmt"].get("SelectStmt", {})
    if "whereClause" not in query or query.keys() - {"whereClause", "limitOption", "op"} or query["op"] != "SETOP_NONE":
        raise _Wrong("goes on behind the condition")
    return query["whereClause"]


def _visit(where: Any) -> bool:
    """Whether it names a column. Raises `_Wrong` for what may not stand in it."""
    has_column = False
    waiting: list[tuple[Any, int | None]] = [(where, None)]
    while waiting:
        part, at = waiting.pop()
        if isinstance(part, list):
            waiting += ((item, at) for item in part)
        elif isinstance(part, dict):
            for name, inner in part.items():
                place = inner.get("location", at) if isinstance(inner, dict) else at
                if name[:1].isupper():
                    _refuse_node(name, inner, place)
                has_column = has_column or name == "ColumnRef"
                if isinstance(inner, dict | list) and name not in ("typeName", "fields"):
                    waiting.append((inner, place))
    return has_column


def _refuse_node(name: str, node: Any, at: int | None) -> None:
    if name not in _ALLOWED:
        raise _Wrong(f"has {_CALLED.get(name, f'what no condition on a row needs ({name})')}", at)
    match name:
        case "ColumnRef":
            names = [field.get("String", {}).get("sval", "*") for field in node["fields"]]
            if len(names) > 1 or "A_Star" in node["fields"][0]:
                raise _Wrong(f"names {'.'.join(names)[:80]!r} where a column alone has to stand", at)
        case "FuncCall":
            *schemas, function = _names(node["funcname"])
            if function not in FUNCTIONS or schemas not in ([], ["pg_catalog"]):
                raise _Wrong(f"calls {'.'.join([*schemas, function])[:80]}()", at)
            if node.keys() - _PLAIN_CALL:
                raise _Wrong(f"calls {function}() with more than plain arguments", at)
        case "A_Expr":
            *schemas, operator = _names(node.get("name", ())) or ["="]
            if schemas not in ([], ["pg_catalog"]):
                raise _Wrong(f"uses the operator {'.'.join([*schemas, operator])[:80]}", at)
        case "TypeCast":
            *schemas, kind = _names(node["typeName"].get("names", ())) or [""]
            if kind not in _TYPES or schemas not in ([], ["pg_catalog"]):
                raise _Wrong(f"casts to {'.'.join([*schemas, kind])[:80]}", at)


def _refuse_no_condition(node: Any) -> None:
    """Raises `_Wrong` for what certainly gives neither true nor false."""
    ((name, inner),) = node.items()
    is_number = name == "A_Const" and "boolval" not in inner and not inner.get("isnull")
    is_sum = name == "A_Expr" and inner["kind"] == "AEXPR_OP" and _names(inner["name"])[-1] in _NO_TRUTH
    if is_number or is_sum or name in _NO_CONDITION:
        raise _Wrong("is neither true nor false", inner.get("location"))
    if name == "BoolExpr":
        for argument in inner["args"]:
            _refuse_no_condition(argument)


def _names(parts: Any) -> list[str]:
    return [part["String"].get("sval", "") for part in parts if "String" in part]


_PLACE: Final = re.compile(r"[a-z_]*location|[a-z_]*list_(?:start|end)")


def _without_places(part: Any) -> Any:
    if isinstance(part, list):
        return [_without_places(item) for item in part]
    if isinstance(part, dict):
        return {name: _without_places(inner) for name, inner in part.items() if not _PLACE.fullmatch(name)}
    return part
