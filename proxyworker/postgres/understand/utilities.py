"""Every statement that is no query, read by the table in `kinds`; the few with more to them by a function each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from policies.engine import Hazard, Kind
from proxyworker.postgres.understand.accesses import ALL_COLUMNS, NOTHING, UNRESOLVED, Accesses
from proxyworker.postgres.understand.catalog import function_name
from proxyworker.postgres.understand.kinds import STATEMENT_KINDS, Objects, StatementKind
from proxyworker.postgres.understand.queries import Queries
from proxyworker.postgres.understand.tree import Node

#: Objects that are relations; those of the second set are named behind the relation that they hang on.
_RELATIONS: Final = frozenset(
    f"OBJECT_{name}" for name in ("TABLE", "VIEW", "MATVIEW", "INDEX", "SEQUENCE", "FOREIGN_TABLE")
)
_PARTS_OF_RELATIONS: Final = frozenset(
    f"OBJECT_{name}" for name in ("COLUMN", "TRIGGER", "RULE", "POLICY", "TABCONSTRAINT")
)
_HAZARDS_OF_OBJECTS: Final = {
    "OBJECT_EXTENSION": Hazard.EXTENSION,
    "OBJECT_FDW": Hazard.DBLINK,
    "OBJECT_FOREIGN_SERVER": Hazard.DBLINK,
    "OBJECT_SUBSCRIPTION": Hazard.DBLINK,
    "OBJECT_ROLE": Hazard.ROLE_CHANGE,
    "OBJECT_DATABASE": Hazard.SYSTEM_SETTING,
    "OBJECT_TABLESPACE": Hazard.SERVER_FILE,
    "OBJECT_LARGEOBJECT": Hazard.LARGE_OBJECT,
    "OBJECT_LANGUAGE": Hazard.UNTRUSTED_LANGUAGE,
    "OBJECT_POLICY": Hazard.GRANT,
}
#: With CASCADE they reach what hangs on the objects that the text names.
_CASCADING: Final = frozenset({Kind.DDL, Kind.TRUNCATE})
_TRUSTED_LANGUAGES: Final = frozenset({"sql", "plpgsql", "pltcl", "plperl", "plv8"})
_OFF: Final = frozenset({"false", "off", "0"})
_HAZARDS_OF_COMMANDS: Final = {
    "AT_DropColumn": Hazard.DROP,
    "AT_DropConstraint": Hazard.DROP,
    "AT_DetachPartition": Hazard.DROP,
    "AT_ChangeOwner": Hazard.GRANT,
    "AT_EnableRowSecurity": Hazard.GRANT,
    "AT_DisableRowSecurity": Hazard.GRANT,
    "AT_ForceRowSecurity": Hazard.GRANT,
    "AT_NoForceRowSecurity": Hazard.GRANT,
    "AT_GenericOptions": Hazard.DBLINK,
}


class Utilities:
    """Reads statements into `accesses`. Raises `TooMuch`."""

    def __init__(self, accesses: Accesses, queries: Queries) -> None:
        self._accesses = accesses
        self._queries = queries
        self._readers: dict[str, Callable[[Node], None]] = {
            "AlterSystemStmt": lambda _: None,
            "CallStmt": self._call,
            "CopyStmt": self._copy,
            "DoStmt": self._do,
            "DiscardStmt": lambda _: self._accesses.reset(""),
            "ExplainStmt": self._explain,
            "PrepareStmt": lambda _: None,  # it executes nothing; what executes it has its facts
            "TransactionStmt": lambda _: self._accesses.reset(""),  # a ROLLBACK, or the end of SET LOCAL
            "VariableSetStmt": self._set,
        }

    def read(self, name: str, node: Node) -> None:
        """Read a statement of this type. Raises `KeyError` for a type that the table lacks."""
        found = STATEMENT_KINDS[name]
        accesses = self._accesses
        accesses.hazard(*found.hazards)
        if name != "VariableShowStmt":
            accesses.has_effect = True
        if found.objects is Objects.NONE and name not in ("CopyStmt", "CallStmt"):
            multi = name == "VariableSetStmt" and node.get("kind") == "VAR_SET_MULTI"
            accesses.add(Kind.TRANSACTION if multi else found.kind)
        reader = self._readers.get(name)
        if reader is not None:
            reader(node)
        else:
            self._read_by_table(name, node, found)

    # ------------------------------------------------------------ by the table

    def _read_by_table(self, name: str, node: Node, found: StatementKind) -> None:
        is_named = self._names_objects(node, found.kind)
        is_named = self._walk(name, node, found.kind) or is_named
        if found.objects is Objects.UNRESOLVED or (found.objects is Objects.NAMED and not is_named):
            self._accesses.add(found.kind, UNRESOLVED)
        if name == "CreateFunctionStmt":
            self._language(node.get("options", ()))

    def _names_objects(self, node: Node, kind: Kind) -> bool:
        """Note what stands in `object`, `objects` or `func`, by the type that stands beside it."""
        types = [node.get(field) for field in ("removeType", "objtype", "objectType", "renameType")]
        type_name = next((name for name in types if name), "OBJECT_FUNCTION" if "func" in node else "")
        if type_name in _HAZARDS_OF_OBJECTS:
            self._accesses.hazard(_HAZARDS_OF_OBJECTS[type_name])
        if "funcname" in node:
            self._accesses.add(kind, function_name(*_parts(node["funcname"])))
            return True
        items = node.get("objects", ()) or [node[field] for field in ("object", "func") if field in node]
        is_named = False
        for item in items:
            named = item.get("ObjectWithArgs", item)
            if "objname" in named and type_name not in ("OBJECT_OPERATOR",):
                self._accesses.add(kind, function_name(*_parts(named["objname"])))
            elif "RangeVar" in item:
                continue  # the walk finds it
            elif "List" in item and type_name in _RELATIONS:
                self._accesses.relation(kind, *_parts(item["List"]["items"]))
            elif "List" in item and type_name in _PARTS_OF_RELATIONS and len(item["List"]["items"]) > 1:
                self._accesses.relation(kind, *_parts(item["List"]["items"][:-1]))
            else:
                self._accesses.add(kind, UNRESOLVED)
            is_named = True
        return is_named

    def _walk(self, name: str, node: Node, kind: Kind) -> bool:
        """Note relations, queries, functions and settings, wherever they stand. Returns if there was a relation."""
        is_named = False
        waiting: list[Any] = [node]
        while waiting:
            part = waiting.pop()
            if isinstance(part, list):
                waiting += reversed(part)
            elif isinstance(part, dict) and "relname" in part:
                is_named = True
                self._accesses.relation(
                    kind, part.get("schemaname", ""), part["relname"], is_temporary=part.get("relpersistence") == "t"
                )
            elif isinstance(part, dict):
                if part.get("behavior") == "DROP_CASCADE" and kind in _CASCADING:
                    self._accesses.add(kind, UNRESOLVED)
                waiting += [value for key, value in reversed(part.items()) if key == name or not self._note(key, value)]
        if name == "ExecuteStmt":
            self._execute(node)
        return is_named

    def _note(self, key: str, value: Any) -> bool:
        """Note what has a meaning of its own. Returns whether it was read to its end."""
        if self._queries.is_query(key):
            self._queries.read(key, value)
        elif key == "ExecuteStmt":
            self._execute(value)
        elif key in STATEMENT_KINDS:
            self.read(key, value)
        elif key in ("FuncCall", "A_Expr", "SubLink"):
            self._queries.expressions([{key: value}])
        else:
            if key == "subtype" and value in _HAZARDS_OF_COMMANDS:
                self._accesses.hazard(_HAZARDS_OF_COMMANDS[value])
            return False
        return True

    def _execute(self, node: Node) -> None:
        self._accesses.executes[node.get("name", "").encode()] = None
        self._queries.expressions([node.get("params", [])])

    def _language(self, options: Any) -> None:
        names = [
            option["DefElem"].get("arg", {}).get("String", {}).get("sval", "")
            for option in options
            if option.get("DefElem", {}).get("defname") == "language"
        ]
        if any(name.lower() not in _TRUSTED_LANGUAGES for name in names):
            self._accesses.hazard(Hazard.UNTRUSTED_LANGUAGE)

    # ------------------------------------------------------------ by a function of their own

    def _call(self, node: Node) -> None:
        call = node["funccall"]
        self._accesses.is_pure = False
        self._accesses.moves_names = True
        self._accesses.add(Kind.CALL, function_name(*_parts(call["funcname"])))
        self._queries.expressions([call.get("args", [])])

    def _copy(self, node: Node) -> None:
        accesses = self._accesses
        kind, privilege = (Kind.COPY_IN, Kind.INSERT) if node.get("is_from") else (Kind.COPY_OUT, Kind.SELECT)
        if node.get("is_program"):
            accesses.hazard(Hazard.COPY_PROGRAM)
        elif "filename" in node:
            accesses.hazard(Hazard.SERVER_FILE)
        if "relation" in node:
            columns = [item["String"]["sval"] for item in node.get("attlist", ())] or [ALL_COLUMNS]
            relation = node["relation"]
            for one in (kind, privilege):  # as PostgreSQL's own privileges have it
                named = accesses.relation(one, relation.get("schemaname", ""), relation["relname"])
                named.update(dict.fromkeys(columns))
        else:
            accesses.add(kind, NOTHING)
            for name, query in node["query"].items():
                self._queries.read(name, query)
        self._queries.expressions([node.get("whereClause", [])])

    def _do(self, node: Node) -> None:
        self._accesses.is_pure = False
        self._accesses.moves_names = True
        self._accesses.add(Kind.DO, UNRESOLVED)
        self._language(node.get("args", ()))

    def _explain(self, node: Node) -> None:
        options = [option["DefElem"] for option in node.get("options", ())]
        is_executed = any(option["defname"].lower() == "analyze" and not _is_off(option) for option in options)
        inner = Accesses() if not is_executed else self._accesses
        Explained(inner).read(node["query"])
        if not is_executed:
            inner.take_as_explained()
            self._accesses.take(inner)

    def _set(self, node: Node) -> None:
        name = node.get("name", "").lower()
        if node.get("kind") != "VAR_SET_VALUE":
            if node.get("kind") != "VAR_SET_MULTI":  # of the transaction
                self._accesses.reset(name)
            return
        values = [item.get("A_Const", {}) for item in node.get("args", ())]
        value = values[0].get("sval", {}).get("sval", "") if len(values) == 1 else ""
        self._accesses.set(name, value)


class Explained:
    """Reads the statement behind EXPLAIN: a query, or one of the few others that have a plan."""

    def __init__(self, accesses: Accesses) -> None:
        self._queries = Queries(accesses)
        self._utilities = Utilities(accesses, self._queries)

    def read(self, node: Node) -> None:
        """Read it."""
        for name, statement in node.items():
            if self._queries.is_query(name):
                self._queries.read(name, statement)
            else:
                self._utilities.read(name, statement)


def _is_off(option: Node) -> bool:
    """Whether an option such as ANALYZE is given as off: by a word, or by 0."""
    argument = option.get("arg")
    if argument is None:
        return False
    return argument.get("String", {}).get("sval", "").lower() in _OFF or argument == {"Integer": {}}


def _parts(names: Any) -> tuple[str, str]:
    """Schema and name of a list of names."""
    texts = [item["String"].get("sval", "") for item in names]
    return (texts[-2] if len(texts) > 1 else ""), texts[-1]
