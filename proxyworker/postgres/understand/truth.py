"""Whether a WHERE restricts anything: what can be told of its truth from the text alone.

Columns are taken not to be NULL, so `id = id` is true. What hangs on data (`id >= 0`) or on what a function gives, and
two conditions that only together take in every value, can't be told.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Any, Final

from proxyworker.postgres.understand import functions
from proxyworker.postgres.understand.constants import ANY, NULL, PARAMETER, Constant, compared, constant_of
from proxyworker.postgres.understand.sameness import Keys, is_steady, opposites
from proxyworker.postgres.understand.tree import Node

_EQUAL: Final = frozenset({"=", "<=", ">="})
_UNEQUAL: Final = frozenset({"<>", "!=", "<", ">"})
#: Patterns that match every text, by operator: of LIKE, and of regular expressions.
_EVERY_TEXT: Final = re.compile(r"%+")
_EVERY_MATCH: Final = re.compile(r"\^?(?:\.\*)*\$?")
_PATTERNS: Final = {"~~": _EVERY_TEXT, "~~*": _EVERY_TEXT, "~": _EVERY_MATCH, "~*": _EVERY_MATCH}
#: The parts of a SELECT that may leave rows of its relation out.
_RESTRICTING: Final = frozenset(
    {"whereClause", "havingClause", "groupClause", "limitCount", "limitOffset", "larg", "valuesLists", "withClause"}
)
#: Parts of one AND or OR that are compared with each other; in a longer one nobody has made a mistake of that kind.
MAX_COMPARED: Final = 64
_NO_QUERY: Final = {"larg": None}


def restricts(where: Any) -> bool:
    """Whether a condition hangs on the row at all: `WHERE true` and `WHERE 1 = 1` don't."""
    waiting = [where]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting += part
        elif isinstance(part, dict):
            if not part.keys().isdisjoint(("ColumnRef", "CurrentOfExpr", "SubLink")):
                return True
            waiting += part.values()
    return False


class Truth:
    """Of conditions in a statement that changes `relation`, a RangeVar.

    `hangs_on_constants`: with other constants in their places, something else might have been told. Raises
    `RecursionError` for what is nested too deep.
    """

    def __init__(self, relation: Node) -> None:
        self._schema = relation.get("schemaname", "")
        self._name = relation["relname"]
        self._keys = Keys(relation.get("alias", {}).get("aliasname", self._name))
        self.hangs_on_constants = False
        self._readers: dict[str, Callable[[Node], bool | None]] = {
            "BoolExpr": self._logic,
            "A_Expr": self._operation,
            "BooleanTest": self._truth_test,
            "NullTest": self._null_test,
            "CoalesceExpr": lambda node: self.of(node["args"][0]),
            "SubLink": self._sublink,
        }

    def of(self, node: Node) -> bool | None:
        """True, False, or None for what can't be told."""
        ((kind, inner),) = node.items()
        reader = self._readers.get(kind)
        if reader is not None:
            return reader(inner)
        value = self._constant(node)
        if value is None or value[0] not in ("bool", "any"):
            return None
        return value == ANY or bool(value[1])

    def _constant(self, node: Node) -> Constant | None:
        value = constant_of(node)
        if value is not None:
            self.hangs_on_constants = True
        return value

    # ------------------------------------------------------------ AND, OR, NOT, IS

    def _logic(self, node: Node) -> bool | None:
        parts = node["args"]
        found = [self.of(part) for part in parts]
        if node["boolop"] == "NOT_EXPR":
            return None if found[0] is None else not found[0]
        decisive = bool(node["boolop"] == "OR_EXPR")
        if decisive in found or self._are_opposites(parts):
            return decisive
        return None if None in found else not decisive

    def _are_opposites(self, nodes: list[Node]) -> bool:
        """Whether two of them are `x` and `NOT x`."""
        if len(nodes) > MAX_COMPARED or self._keys.is_exhausted:
            return False
        others = [other for node in nodes for other in opposites(node) if is_steady(other)]
        if not others:
            return False
        for exact in (False, True):
            keys = {self._keys.of(other, exact=exact) for other in others}
            if keys.isdisjoint(self._keys.of(node, exact=exact) for node in nodes):
                return False
            self.hangs_on_constants = True
        return True

    def _truth_test(self, node: Node) -> bool | None:
        found = self.of(node["arg"])
        word = node.get("booltesttype", "IS_TRUE")
        if found is None:
            return None
        if word.endswith("UNKNOWN"):
            return "NOT" in word
        return (found is word.endswith("TRUE")) is ("NOT" not in word)

    def _null_test(self, node: Node) -> bool | None:
        value = self._constant(node["arg"])
        if value in (None, PARAMETER):
            return None
        is_null = bool(node.get("nulltesttype", "IS_NULL") == "IS_NULL")
        return value == ANY or (value == NULL) is is_null

    # ------------------------------------------------------------ operators

    def _operation(self, node: Node) -> bool | None:
        names = [part["String"].get("sval", "") for part in node.get("name", ())]
        left, right = node.get("lexpr"), node.get("rexpr")
        if left is None or right is None or not names or names[:-1] not in ([], [functions.PG_CATALOG]):
            return None
        kind, word = node["kind"], names[-1]
        if kind in ("AEXPR_DISTINCT", "AEXPR_NOT_DISTINCT"):
            word = "=" if "NOT" in kind else "<>"
        elif kind in ("AEXPR_BETWEEN", "AEXPR_NOT_BETWEEN"):
            least, most = right["List"]["items"]
            inside = _all_of([self._compare(">=", left, least), self._compare("<=", left, most)])
            return inside if inside is None or "NOT" not in kind else not inside
        elif kind in ("AEXPR_IN", "AEXPR_OP_ANY", "AEXPR_OP_ALL"):
            items = right.get("List", {}).get("items") or right.get("A_ArrayExpr", {}).get("elements") or ()
            each = [self._compare(word, left, item) for item in items]
            return _any_of(each) if kind == "AEXPR_OP_ANY" or (kind, word) == ("AEXPR_IN", "=") else _all_of(each)
        elif kind not in ("AEXPR_OP", "AEXPR_LIKE", "AEXPR_ILIKE"):
            return None
        return self._compare(word, left, right)

    def _compare(self, word: str, left: Node, right: Node) -> bool | None:
        if word.removeprefix("!") in _PATTERNS:
            return self._matches(word, right)
        if word not in _EQUAL and word not in _UNEQUAL:
            return None
        if self._are_same(left, right):
            return word in _EQUAL
        one = constant_of(left)
        other = None if one is None else constant_of(right)
        if one is None or other is None:
            return None
        self.hangs_on_constants = True
        return True if ANY in (one, other) else compared(word, one, other)

    def _matches(self, word: str, pattern: Node) -> bool | None:
        """Whether a text is like a pattern: told of those alone that match every text."""
        value = self._constant(pattern)
        if value is None:
            return None
        plain = word.removeprefix("!")
        matches_all = value[0] == "str" and _PATTERNS[plain].fullmatch(value[1]) is not None
        return (plain == word) if matches_all else None

    def _are_same(self, left: Node, right: Node) -> bool:
        # Most comparisons are a column's with a constant.
        if left.keys() != right.keys() or self._keys.is_exhausted:
            return False
        key = self._keys.of
        if key(left, exact=False) != key(right, exact=False) or not is_steady(left):
            return False
        if key(left, exact=False) != key(left, exact=True):
            self.hangs_on_constants = True
        return key(left, exact=True) == key(right, exact=True)

    # ------------------------------------------------------------ queries within

    def _sublink(self, node: Node) -> bool | None:
        """Queries of nothing, and those of all rows that the statement is about."""
        query = node["subselect"].get("SelectStmt", _NO_QUERY)
        sources, targets = query.get("fromClause", []), query.get("targetList", [])
        is_own = len(sources) == 1 and self._is_own(sources[0])
        if not _RESTRICTING.isdisjoint(query) or not (is_own or not sources):
            return None
        kind = node.get("subLinkType", "EXISTS_SUBLINK")
        found: bool | None = True if kind == "EXISTS_SUBLINK" else None
        if len(targets) == 1:
            value = targets[0]["ResTarget"]["val"]
            if kind == "EXPR_SUBLINK" and not sources:
                found = self.of(value)
            elif kind == "ANY_SUBLINK" and "operName" not in node and is_own:
                asked = _last_name(node["testexpr"])
                found = True if asked and asked == _last_name(value) else None
        return found

    def _is_own(self, source: Node) -> bool:
        relation = source.get("RangeVar")
        if relation is None or relation["relname"] != self._name:
            return False
        schema = relation.get("schemaname", "")
        return schema == self._schema or not (schema and self._schema)


def _last_name(node: Node) -> str:
    fields = node.get("ColumnRef", {}).get("fields", ())
    return str(fields[-1].get("String", {}).get("sval", "")) if fields else ""


def _any_of(found: Iterable[bool | None]) -> bool | None:
    each = list(found)
    return True if True in each else None if None in each or not each else False


def _all_of(found: Iterable[bool | None]) -> bool | None:
    each = list(found)
    return False if False in each else None if None in each or not each else True
