"""SELECT, INSERT, UPDATE, DELETE, MERGE, and the expressions in them.

As PostgreSQL's own privileges have it, whatever reads columns is a select of them: a WHERE, a SET expression, a
RETURNING, the conflict of an INSERT.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from policies.engine import Hazard, Kind
from proxyworker.postgres.understand.accesses import Accesses
from proxyworker.postgres.understand.catalog import relation_name
from proxyworker.postgres.understand.functions import FIELDS
from proxyworker.postgres.understand.scope import STAR, Columns, Scope
from proxyworker.postgres.understand.tree import Node
from proxyworker.postgres.understand.truth import Truth, restricts

_NOTHING_HIDDEN: Final[frozenset[str]] = frozenset()


class Queries:
    """Reads queries into `accesses`. Raises `TooMuch`, and `RecursionError` for what is nested too deep."""

    def __init__(self, accesses: Accesses) -> None:
        self._accesses = accesses
        self._readers: dict[str, Callable[[Node, Scope | None, frozenset[str]], None]] = {
            "SelectStmt": self._select,
            "InsertStmt": self._insert,
            "UpdateStmt": self._update,
            "DeleteStmt": self._delete,
            "MergeStmt": self._merge,
        }

    def is_query(self, kind: str) -> bool:
        """Whether a statement of this type is read here."""
        return kind in self._readers

    def read(
        self, kind: str, node: Node, parent: Scope | None = None, hidden: frozenset[str] = _NOTHING_HIDDEN
    ) -> None:
        """Read a query. `parent`: the level around it; `hidden`: what WITH has named."""
        self._readers[kind](node, parent, hidden)

    # ------------------------------------------------------------ the statements

    def _select(self, node: Node, parent: Scope | None, hidden: frozenset[str]) -> None:
        # Arms of UNION and the like, without recursion: there may be very many of them.
        arms = [(node, hidden)]
        while arms:
            arm, outer = arms.pop()
            inner = self._with(arm, parent, outer)
            if "larg" in arm:
                # What stands behind the arms refers to their output alone.
                self._expressions(_of(arm, "sortClause", "limitOffset", "limitCount"), Scope(parent, inner))
                self._locking(arm, Scope(parent, inner))
                arms += [(arm["rarg"], inner), (arm["larg"], inner)]
            else:
                self._simple_select(arm, parent, inner)

    def _simple_select(self, node: Node, parent: Scope | None, hidden: frozenset[str]) -> None:
        scope = Scope(parent, hidden)
        quals = self._from(node.get("fromClause", ()), scope)
        named = {
            item["ResTarget"]["name"] for item in node.get("targetList", ()) if "name" in item.get("ResTarget", ())
        }
        order = [item for item in node.get("sortClause", ()) if _sorts_by(item) not in named]
        parts = _of(
            node, "targetList", "whereClause", "groupClause", "havingClause", "windowClause", "valuesLists",
            "distinctClause", "limitOffset", "limitCount",
        )  # fmt: skip
        self._expressions([*parts, *quals, order], scope)
        into = node.get("intoClause")
        if into is not None:
            self._accesses.has_effect = True
            is_temporary = into["rel"].get("relpersistence") == "t"
            self._accesses.relation(Kind.DDL, *_name(into["rel"]), is_temporary=is_temporary)
            self._accesses.hazard(Hazard.SCHEMA_CHANGE)
        self._locking(node, scope)

    def _locking(self, node: Node, scope: Scope) -> None:
        if "lockingClause" in node:
            self._accesses.has_effect = True
            names = scope.object_names()
            for name in names:
                self._accesses.add(Kind.LOCK, name)
            if not names:
                self._accesses.add(Kind.LOCK)

    def _insert(self, node: Node, parent: Scope | None, hidden: frozenset[str]) -> None:
        self._accesses.has_effect = True
        inner = self._with(node, parent, hidden)
        schema, name = _name(node["relation"])
        self._note_columns(self._accesses.relation(Kind.INSERT, schema, name), node.get("cols"))
        source = node.get("selectStmt", {}).get("SelectStmt")
        if source is not None:
            self._select(source, parent, inner)
        scope = self._target_scope(node["relation"], parent, inner)
        scope.name("excluded", ())
        self._expressions(_of(node, "cols"), scope)  # `a[f()]`: a subscript is an expression
        conflict = node.get("onConflictClause")
        if conflict is not None:
            self._expressions(_of(conflict.get("infer", {}), "indexElems", "whereClause"), scope)
            for element in conflict.get("infer", {}).get("indexElems", ()):
                if "name" in element["IndexElem"]:
                    scope.refer([element["IndexElem"]["name"]])
            if conflict.get("action") == "ONCONFLICT_UPDATE":
                self._note_targets(Kind.UPDATE, schema, name, conflict.get("targetList", ()))
                self._expressions(_of(conflict, "targetList", "whereClause"), scope)
        self._returning(node, scope)
        self._note_reads(schema, name, scope)

    def _update(self, node: Node, parent: Scope | None, hidden: frozenset[str]) -> None:
        self._accesses.has_effect = True
        inner = self._with(node, parent, hidden)
        schema, name = _name(node["relation"])
        self._note_targets(Kind.UPDATE, schema, name, node.get("targetList", ()))
        scope = self._target_scope(node["relation"], parent, inner)
        quals = self._from(node.get("fromClause", ()), scope)
        self._expressions([*_of(node, "targetList", "whereClause"), *quals], scope)
        self._restriction(node["relation"], [node.get("whereClause")], Hazard.UPDATE_WITHOUT_WHERE)
        self._returning(node, scope)
        self._note_reads(schema, name, scope)

    def _delete(self, node: Node, parent: Scope | None, hidden: frozenset[str]) -> None:
        self._accesses.has_effect = True
        inner = self._with(node, parent, hidden)
        schema, name = _name(node["relation"])
        self._accesses.relation(Kind.DELETE, schema, name)
        scope = self._target_scope(node["relation"], parent, inner)
        quals = self._from(node.get("usingClause", ()), scope)
        self._expressions([*_of(node, "whereClause"), *quals], scope)
        self._restriction(node["relation"], [node.get("whereClause")], Hazard.DELETE_WITHOUT_WHERE)
        self._returning(node, scope)
        self._note_reads(schema, name, scope)

    def _merge(self, node: Node, parent: Scope | None, hidden: frozenset[str]) -> None:
        self._accesses.has_effect = True
        inner = self._with(node, parent, hidden)
        schema, name = _name(node["relation"])
        self._accesses.relation(Kind.MERGE, schema, name)
        scope = self._target_scope(node["relation"], parent, inner)
        quals = self._from([node["sourceRelation"]], scope)
        join = node["joinCondition"]
        self._expressions([join, *quals], scope)
        for item in node.get("mergeWhenClauses", ()):
            when = item["MergeWhenClause"]
            match when.get("commandType"):
                case "CMD_INSERT":
                    columns = self._accesses.relation(Kind.INSERT, schema, name)
                    self._note_columns(columns, when.get("targetList"))
                case "CMD_UPDATE":
                    self._note_targets(Kind.UPDATE, schema, name, when.get("targetList", ()))
                    self._restriction(node["relation"], [join, when.get("condition")], Hazard.UPDATE_WITHOUT_WHERE)
                case "CMD_DELETE":
                    self._accesses.relation(Kind.DELETE, schema, name)
                    self._restriction(node["relation"], [join, when.get("condition")], Hazard.DELETE_WITHOUT_WHERE)
            self._expressions(_of(when, "condition", "targetList", "values"), scope)
        self._returning(node, scope)
        self._note_reads(schema, name, scope)

    # ------------------------------------------------------------ their parts

    def _with(self, node: Node, parent: Scope | None, hidden: frozenset[str]) -> frozenset[str]:
        """Read the WITH queries. Returns what is hidden behind them."""
        clause = node.get("withClause")
        if clause is None:
            return hidden
        tables = [item["CommonTableExpr"] for item in clause.get("ctes", ())]
        names = [table["ctename"] for table in tables]
        for index, table in enumerate(tables):
            # Without RECURSIVE a query sees only those before it, so its own name in it is a real relation.
            seen = hidden.union(names if clause.get("recursive") else names[:index])
            for kind, query in table["ctequery"].items():
                self.read(kind, query, parent, seen)
        return hidden.union(names)

    def _from(self, items: Iterable[Node], scope: Scope) -> list[Any]:
        """Note the relations. Returns the expressions among them, to be read when all names are known."""
        expressions: list[Any] = []
        for item in items:
            ((kind, node),) = item.items()
            match kind:
                case "RangeVar":
                    self._relation(node, scope)
                case "JoinExpr":
                    expressions += self._join(node, scope)
                case "RangeTableSample":
                    expressions += self._from([node["relation"]], scope)
                    expressions += _of(node, "args", "repeatable")
                    self._function(node.get("method", ()), {})
                case "RangeFunction":
                    scope.value(_alias_of_function(node), _columns_of_function(node))
                    expressions.append(item)
                case _:  # a subquery: its columns are counted within it
                    if "alias" in node:
                        scope.name(node["alias"]["aliasname"], ())
                    expressions.append(item if kind != "RangeSubselect" else node["subquery"])
        return expressions

    def _join(self, node: Node, scope: Scope) -> list[Any]:
        start = len(scope)
        expressions = self._from([node["larg"], node["rarg"]], scope)
        joined = scope.sources_from(start)
        if node.get("isNatural"):
            for columns in joined:
                columns[STAR] = None
        for column in node.get("usingClause", ()):
            for columns in joined:
                columns[column["String"]["sval"]] = None
        expressions += _of(node, "quals")
        for alias in ("alias", "join_using_alias"):
            if alias in node:
                scope.name(node[alias]["aliasname"], joined)
                _note_renamed(node[alias], joined)
        return expressions

    def _relation(self, node: Node, scope: Scope) -> None:
        schema, name = _name(node)
        alias = node.get("alias", {})
        called = alias.get("aliasname", name)
        if not schema and name in scope.hidden:
            scope.name(called, ())
            return
        columns = self._accesses.relation(Kind.SELECT, schema, name)
        scope.add(relation_name(schema, name), called, columns)
        _note_renamed(alias, [columns])

    def _target_scope(self, node: Node, parent: Scope | None, hidden: frozenset[str]) -> Scope:
        """The level of a statement that changes this relation. What WITH has named hides no target."""
        schema, name = _name(node)
        scope = Scope(parent, hidden)
        scope.add(relation_name(schema, name), node.get("alias", {}).get("aliasname", name), {})
        return scope

    def _restriction(self, relation: Node, conditions: Sequence[Node | None], without: Hazard) -> None:
        """Whether all of the relation's rows are changed: no condition stands there, or all hold for every row."""
        truth = Truth(relation)
        written = [condition for condition in conditions if condition is not None]
        hold = [truth.of(condition) is True for condition in written]
        if truth.hangs_on_constants:
            self._accesses.hang_on_constants()
        if all(hold) and written:
            self._accesses.hazard(Hazard.WHERE_ALWAYS_TRUE)
        if all(is_true or not restricts(condition) for is_true, condition in zip(hold, written, strict=True)):
            self._accesses.hazard(without)

    def _note_reads(self, schema: str, name: str, scope: Scope) -> None:
        """Whatever the statement has read of its own target is a select of it."""
        columns = scope.sources_from(0)[0]
        if columns:
            self._accesses.relation(Kind.SELECT, schema, name).update(columns)

    def _note_targets(self, kind: Kind, schema: str, name: str, targets: Sequence[Node]) -> None:
        columns = self._accesses.relation(kind, schema, name)
        for target in targets:
            columns[target["ResTarget"].get("name", STAR)] = None

    @staticmethod
    def _note_columns(columns: Columns, targets: Sequence[Node] | None) -> None:
        for name in [STAR] if targets is None else [target["ResTarget"].get("name", STAR) for target in targets]:
            columns[name] = None

    def _returning(self, node: Node, scope: Scope) -> None:
        clause = node.get("returningClause")
        if clause is not None:
            own = scope.sources_from(0)[:1]
            scope.name("old", own)
            scope.name("new", own)
            for option in clause.get("options", ()):
                scope.name(option["ReturningOption"].get("value", ""), own)
            self._expressions(_of(clause, "exprs"), scope)

    # ------------------------------------------------------------ expressions

    def expressions(self, parts: Iterable[Any]) -> None:
        """Read expressions that stand in no query."""
        self._expressions(parts, Scope(None, _NOTHING_HIDDEN))

    def _expressions(self, parts: Iterable[Any], scope: Scope) -> None:
        waiting: list[Any] = list(parts)
        while waiting:
            part = waiting.pop()
            if isinstance(part, list):
                waiting += part
            elif isinstance(part, dict):
                for key, value in part.items():
                    if key in self._readers:
                        self._readers[key](value, scope, scope.hidden)
                    elif self._note(key, value, scope) and isinstance(value, dict | list):
                        waiting.append(value)

    def _note(self, key: str, value: Any, scope: Scope) -> bool:
        """Note what a node is. Returns whether there may be more in it."""
        match key:
            case "ColumnRef":
                self._column(
                    [STAR if "A_Star" in field else field["String"]["sval"] for field in value["fields"]], scope
                )
                return False
            case "A_Indirection":
                for field in value.get("indirection", ()):
                    if "String" in field:
                        self._field(field["String"]["sval"])
            case "FuncCall":
                self._function(value["funcname"], value)
            case "A_Expr":
                self._operator(value.get("name", ()))
            case "SubLink":
                self._operator(value.get("operName", ()))
            case "SortBy":
                self._operator(value.get("useOp", ()))
            case "RangeVar":
                self._relation(value, scope)
                return False
            case "A_Const" | "ParamRef" | "typeName":
                return False
        return True

    def _column(self, fields: Sequence[str], scope: Scope) -> None:
        scope.refer(fields)
        if len(fields) > 1 and scope.is_value(fields[-2], fields[-1]):
            self._field(fields[-1])

    def _field(self, name: str) -> None:
        """`value.name` is a field of the value, or else the function of that name ("Functions on Composite Types")."""
        if name not in FIELDS:
            self._accesses.call("", name)

    def _operator(self, parts: Sequence[Node]) -> None:
        names = _strings(parts)
        if len(names) > 1:
            self._accesses.operator(names[-2], names[-1])

    def _function(self, parts: Sequence[Node], node: Node) -> None:
        *schemas, name = _strings(parts)
        self._accesses.call(".".join(schemas), name, setting=_setting(node))


def _of(node: Node, *names: str) -> list[Any]:
    return [node[name] for name in names if name in node]


def _name(node: Node) -> tuple[str, str]:
    """Schema, empty where the text names none, and name of a RangeVar."""
    return node.get("schemaname", ""), node["relname"]


def _strings(parts: Sequence[Node]) -> list[str]:
    return [part["String"].get("sval", "") for part in parts if "String" in part]


def _note_renamed(alias: Node, sources: Sequence[Columns]) -> None:
    """Columns that are given other names can't be told by them: `customers AS c(x, y)`."""
    if "colnames" in alias:
        for columns in sources:
            columns[STAR] = None


def _alias_of_function(node: Node) -> str:
    """What a function in FROM is called: by its alias, or by its own name."""
    if "alias" in node:
        return str(node["alias"]["aliasname"])
    for function in node.get("functions", ()):
        for part in function["List"]["items"]:
            if "FuncCall" in part:
                return _strings(part["FuncCall"]["funcname"])[-1]
    return ""


def _columns_of_function(node: Node) -> set[str]:
    """The columns that the text gives it; a function of one value has a column of its own name."""
    named = {name["String"]["sval"] for name in node.get("alias", {}).get("colnames", ())}
    defined = {item["ColumnDef"]["colname"] for item in node.get("coldeflist", ())}
    return named | defined | {_alias_of_function(node)}


def _sorts_by(item: Node) -> str | None:
    """The bare name that is sorted by. It is the output column of that name, if there is one ("ORDER BY Clause")."""
    fields = item["SortBy"]["node"].get("ColumnRef", {}).get("fields", ())
    return fields[0]["String"]["sval"] if len(fields) == 1 and "String" in fields[0] else None


def _setting(node: Node) -> tuple[str, str] | None:
    """Name and value of a `set_config` whose arguments are texts."""
    values = [argument.get("A_Const", {}).get("sval") for argument in node.get("args", ())[:2]]
    if len(values) < 2 or None in values:
        return None
    return values[0].get("sval", "").lower(), values[1].get("sval", "")
