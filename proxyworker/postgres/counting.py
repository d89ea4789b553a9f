"""The SELECT that counts the rows which an UPDATE or a DELETE would hit, made of its own tree."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from pglast import ast, parse_sql
from pglast.enums import CoercionForm, LimitOption, SetOperation
from pglast.error import Error as PglastError
from pglast.stream import RawStream

from proxyworker.postgres.understand.tree import Node, Unreadable, parse

_PLACE: Final = re.compile(rb',?"[a-z_]*(?:location|_start|_end)":-?\d+')
_COUNTED: Final = {"UpdateStmt": "fromClause", "DeleteStmt": "usingClause"}


class NotCountable(Exception):
    """The rows can't be counted. `problem` is for the approver."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


@dataclass(frozen=True, slots=True)
class Counted:
    """The SELECT, its relations as PostgreSQL's names in quotes, and the numbers of the parameters it names."""

    text: bytes
    relations: tuple[str, ...]
    parameters: frozenset[int]


def count_of(text: bytes) -> Counted:
    """The SELECT for a text of one statement that was understood. Raises `NotCountable`."""
    try:
        ((name, node),) = parse(text).statements()
    except (Unreadable, ValueError) as error:
        raise NotCountable("its rows can't be counted: it is no single statement") from error
    if name not in _COUNTED:
        raise NotCountable("only the rows of an UPDATE or a DELETE can be counted before it runs")
    joined = _COUNTED[name]
    if not _only_selects(node.get("withClause", {})):
        raise NotCountable("its rows can't be counted: its WITH changes rows itself")
    if "CurrentOfExpr" in node.get("whereClause", ()):
        raise NotCountable("its row can't be counted: it is a cursor's")
    counting = _build(text, joined)
    _check(counting, node, joined)
    found = _Found()
    found.walk(node, skip=("targetList", "returningClause"))
    return Counted(counting, tuple(found.relations), frozenset(found.parameters))


def _build(text: bytes, joined: str) -> bytes:
    try:
        statement: Any = parse_sql(text.decode())[0].stmt
        others = tuple(getattr(statement, joined) or ())
        star = ast.FuncCall(funcname=(ast.String(sval="count"),), agg_star=True)
        if others:
            # A row that joins with several others is hit once.
            called = statement.relation.alias.aliasname if statement.relation.alias else statement.relation.relname
            row = tuple(
                ast.ColumnRef(fields=(ast.String(sval=called), ast.String(sval=column)))
                for column in ("tableoid", "ctid")
            )
            of_row = ast.RowExpr(args=row, row_format=CoercionForm.COERCE_EXPLICIT_CALL)
            star = ast.FuncCall(funcname=(ast.String(sval="count"),), args=(of_row,), agg_distinct=True)
        select = ast.SelectStmt(
            targetList=(ast.ResTarget(val=star),),
            fromClause=(statement.relation, *others),
            whereClause=statement.whereClause,
            withClause=statement.withClause,
            limitOption=LimitOption.LIMIT_OPTION_DEFAULT,
            op=SetOperation.SETOP_NONE,
        )
        return str(RawStream()(select)).encode()
    except (PglastError, NotImplementedError, AttributeError, TypeError, ValueError, RecursionError) as error:
        raise NotCountable("its rows can't be counted: its condition can't be written as a SELECT") from error


def _check(counting: bytes, node: Node, joined: str) -> None:
    """What was written means the same: parsed again it has the same tables, the same condition, the same WITH."""
    try:
        ((name, select),) = parse(counting).statements()
    except (Unreadable, ValueError) as error:
        raise NotCountable("its rows can't be counted: its condition can't be written as a SELECT") from error
    expected = ({"RangeVar": node["relation"]}, *node.get(joined, ()))
    same = name == "SelectStmt" and all(
        _plain(select.get(part, fallback)) == _plain(wanted)
        for part, fallback, wanted in (
            ("fromClause", [], list(expected)),
            ("whereClause", {}, node.get("whereClause", {})),
            ("withClause", {}, node.get("withClause", {})),
        )
    )
    if not same:
        raise NotCountable("its rows can't be counted: its condition can't be written as a SELECT")


def _plain(tree: Any) -> bytes:
    return _PLACE.sub(b"", msgspec.json.encode(tree))


def _only_selects(clause: Node) -> bool:
    return all("SelectStmt" in table["CommonTableExpr"]["ctequery"] for table in clause.get("ctes", ()))


class _Found:
    """Relations and parameters in a tree."""

    def __init__(self) -> None:
        self.relations: dict[str, None] = {}
        self.parameters: set[int] = set()

    def walk(self, node: Node, *, skip: tuple[str, ...]) -> None:
        """Find them, but not in these fields of the node itself."""
        waiting: list[Any] = [value for key, value in node.items() if key not in skip]
        while waiting:
            part = waiting.pop()
            if isinstance(part, list):
                waiting += part
            elif isinstance(part, dict):
                if "relname" in part:
                    names = [part["schemaname"]] if "schemaname" in part else []
                    quoted = ['"' + name.replace('"', '""') + '"' for name in (*names, part["relname"])]
                    self.relations[".".join(quoted)] = None
                if "ParamRef" in part:
                    self.parameters.add(part["ParamRef"].get("number", 0))
                waiting += part.values()
