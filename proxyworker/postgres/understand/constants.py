"""What constants in a text are, as far as comparing them goes: (type, value) of "num", "str", "bool" and "null"."""

from __future__ import annotations

import re
from typing import Any, Final

from proxyworker.postgres.understand.tree import Node

Constant = tuple[str, Any]

#: A constant that the text doesn't tell, such as a parameter; and one of a tree that is read without its constants.
PARAMETER: Final[Constant] = ("parameter", None)
ANY: Final[Constant] = ("any", None)
NULL: Final[Constant] = ("null", None)

_NUMBERS: Final = frozenset({"int2", "int4", "int8", "numeric", "float4", "float8"})
_TEXTS: Final = frozenset({"text", "varchar", "bpchar"})
_TRUE: Final = frozenset({"t", "true", "y", "yes", "on", "1"})
_FALSE: Final = frozenset({"f", "false", "n", "no", "off", "0"})
_NUMBER: Final = re.compile(r"\s*[+-]?\d{1,15}(?:\.\d{0,9})?\s*", re.ASCII)
#: A larger one is no number that somebody compares with another.
_MAX_NUMBER: Final = 10**15


def is_constant(node: Any) -> bool:
    """Whether the node is a constant or a parameter."""
    return isinstance(node, dict) and ("A_Const" in node or "ParamRef" in node)


def constant_of(node: Node) -> Constant | None:
    """The value of an expression of constants; None for what is none. Raises `RecursionError`."""
    ((kind, inner),) = node.items()
    found: Constant | None = None
    if kind == "A_Const":
        found = _plain(inner)
    elif kind == "ParamRef":
        found = PARAMETER
    elif kind == "TypeCast":
        value = constant_of(inner["arg"])
        name = inner["typeName"].get("names", [{}])[-1].get("String", {}).get("sval", "")
        found = None if value is None else _cast(value, name)
    elif kind == "A_Expr" and inner["kind"] == "AEXPR_OP":
        operands = [constant_of(inner[side]) for side in ("lexpr", "rexpr") if side in inner]
        found = None if None in operands else _calculated(inner["name"][-1]["String"].get("sval", ""), operands)
    elif kind == "SubLink" and inner.get("subLinkType") == "EXPR_SUBLINK":
        query = inner["subselect"].get("SelectStmt", {})
        targets = query.get("targetList", ())
        if len(targets) == 1 and query.keys() <= {"targetList", "limitOption", "op"}:
            found = constant_of(targets[0]["ResTarget"]["val"])
    return found


def compared(word: str, one: Constant, other: Constant) -> bool | None:
    """What an operator says of two constants; None: it can't be told."""
    left, right = _alike(one, other), _alike(other, one)
    if left is None or right is None or left[0] != right[0] or left[0] not in ("num", "str", "bool"):
        return None
    a, b = left[1], right[1]
    return bool({"=": a == b, "<>": a != b, "!=": a != b, "<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b}[word])


def _plain(node: Node) -> Constant:
    if "boolval" in node:
        found: Constant = ("bool", node["boolval"].get("boolval", False))
    elif "ival" in node:
        found = ("num", node["ival"].get("ival", 0))
    elif "fval" in node:
        found = _number(node["fval"].get("fval", ""))
    elif "sval" in node:
        found = ("str", node["sval"].get("sval", ""))
    elif node.get("isnull"):
        found = NULL
    else:
        found = PARAMETER if "bsval" in node else ANY
    return found


def _number(text: str) -> Constant:
    return ("num", float(text)) if _NUMBER.fullmatch(text) else PARAMETER


def _cast(value: Constant, name: str) -> Constant:
    kind, inner = value
    found: Constant = PARAMETER
    if kind in ("null", "any"):
        found = value
    elif name == "bool":
        found = _truth(value)
    elif name in _NUMBERS:
        found = _number(inner) if kind == "str" else ("num", int(inner)) if kind == "bool" else value
    elif name in _TEXTS and kind == "str":
        found = value
    return found


def _truth(value: Constant) -> Constant:
    kind, inner = value
    word = inner.strip().lower() if kind == "str" else ""
    if kind == "num":
        return "bool", inner != 0
    if word in _TRUE or word in _FALSE:
        return "bool", word in _TRUE
    return value if kind == "bool" else PARAMETER


def _calculated(word: str, operands: list[Any]) -> Constant:
    numbers = [value for kind, value in operands if kind == "num"]
    if not numbers or len(numbers) < len(operands):
        return PARAMETER
    left, right = numbers if len(numbers) > 1 else (0, numbers[0])
    found = {"+": left + right, "-": left - right, "*": left * right}.get(word)
    return PARAMETER if found is None or abs(found) > _MAX_NUMBER else ("num", found)


def _alike(one: Constant, other: Constant) -> Constant | None:
    """A text beside a number or a truth value is read as one, as the target does."""
    if one[0] != "str" or other[0] not in ("num", "bool"):
        return one
    read = _number(one[1]) if other[0] == "num" else _truth(one)
    return None if read == PARAMETER else read
