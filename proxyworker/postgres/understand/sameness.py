"""Whether two expressions of a statement say the same, or the opposite."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

from proxyworker.postgres.understand import functions
from proxyworker.postgres.understand.constants import is_constant
from proxyworker.postgres.understand.tree import Node

#: Parts of one statement's conditions, some 20 ms: a text is read on the event loop, in which nothing else moves.
MAX_PARTS: Final = 10_000
_PLACES: Final = re.compile(r"[a-z_]*location|[a-z_]*list_(?:start|end)")
#: What gives the same for the same, each time it stands in a statement.
_STEADY: Final = frozenset(
    """
    A_ArrayExpr A_Const A_Expr BoolExpr BooleanTest CaseExpr CaseWhen CoalesceExpr CollateClause ColumnRef FuncCall List
    MinMaxExpr NullTest ParamRef RowExpr SQLValueFunction String TypeCast
    """.split()  # noqa: SIM905 - a list of words reads better
)
_NEGATED: Final = {
    one: other
    for pair in ("= <>", "!= =", "< >=", "> <=", "~~ !~~", "~~* !~~*", "~ !~", "~* !~*", "BETWEEN NOT_BETWEEN")
    for one, other in (pair.split(), reversed(pair.split()))
} | {"=": "<>"}
_NEGATED_KINDS: Final = {
    "AEXPR_DISTINCT": "AEXPR_NOT_DISTINCT", "AEXPR_NOT_DISTINCT": "AEXPR_DISTINCT",
    "AEXPR_BETWEEN": "AEXPR_NOT_BETWEEN", "AEXPR_NOT_BETWEEN": "AEXPR_BETWEEN",
}  # fmt: skip


class Keys:
    """Numbers by which expressions are compared. A column is the same with and without the relation's name, `called`.

    Each part is looked at twice at most; whoever asks stops when it `is_exhausted`. Raises `RecursionError` for what is
    nested too deep.
    """

    def __init__(self, called: str) -> None:
        self._called = called
        #: With the part itself, so that no other takes its identity.
        self._known: dict[tuple[int, bool], tuple[Any, int]] = {}

    @property
    def is_exhausted(self) -> bool:
        """Whether as much was looked at as may be."""
        return len(self._known) > MAX_PARTS

    def of(self, part: Any, *, exact: bool) -> int:
        """The same for expressions that say the same; unless `exact`, for those too that differ in constants."""
        if isinstance(part, list):
            keys = [self.of(item, exact=exact) for item in part]
            return hash((0, *keys[:1])) if not exact and all(map(is_constant, part)) else hash((0, *keys))
        if not isinstance(part, dict):
            return hash(repr(part))
        known = self._known.get((id(part), exact))
        if known is None:
            known = self._known[id(part), exact] = (part, self._of_node(part, exact=exact))
        return known[1]

    def _of_node(self, part: Node, *, exact: bool) -> int:
        if not exact and is_constant(part):
            return 1
        if "ColumnRef" in part:
            names = [field.get("String", {}).get("sval", "*") for field in part["ColumnRef"]["fields"]]
            is_own = len(names) > 1 and names[-2] == self._called
            return hash((2, *(names[-1:] if is_own else names)))
        inner = ((name, self.of(value, exact=exact)) for name, value in part.items() if not _PLACES.fullmatch(name))
        return hash((3, *inner))


def is_steady(node: Any) -> bool:
    """Whether it gives the same each time, whatever that is."""
    waiting = [node]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting += part
        elif isinstance(part, dict):
            for name, value in part.items():
                if (name[:1].isupper() and name not in _STEADY) or (name == "FuncCall" and not _is_pure(value)):
                    return False
                if isinstance(value, dict | list) and name != "typeName":
                    waiting.append(value)
    return True


def opposites(node: Node) -> Iterator[Node]:
    """Expressions that are true where this one is false, and written otherwise."""
    ((kind, inner),) = node.items()
    if kind == "BoolExpr" and inner["boolop"] == "NOT_EXPR":
        yield inner["args"][0]
    elif kind == "NullTest":
        word = "IS_NOT_NULL" if inner.get("nulltesttype", "IS_NULL") == "IS_NULL" else "IS_NULL"
        yield {kind: {**inner, "nulltesttype": word}}
    elif kind == "A_Expr" and inner["kind"].startswith("AEXPR_OP_"):
        return  # its opposite is about all in place of one
    elif kind == "A_Expr" and len(inner.get("name", ())) == 1:
        word = inner["name"][0]["String"].get("sval", "")
        negated_kind = _NEGATED_KINDS.get(inner["kind"])
        negated = _negated_word(word) if negated_kind is None or "BETWEEN" in negated_kind else word
        if negated is not None:
            name = [{"String": {"sval": negated}}]
            yield {kind: {**inner, "kind": negated_kind or inner["kind"], "name": name}}


def _negated_word(word: str) -> str | None:
    return {"BETWEEN": "NOT BETWEEN", "NOT BETWEEN": "BETWEEN"}.get(word) or _NEGATED.get(word)


def _is_pure(call: Node) -> bool:
    *schemas, name = (part["String"].get("sval", "") for part in call["funcname"])
    return functions.is_pure(".".join(schemas), name)
