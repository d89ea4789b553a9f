"""What becomes of values that a text reads, beyond being shown as they are: gathered in one row, or copied elsewhere.

Asked only for statements under a limit of distinct values. What isn't known for certain is taken for the worst.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import Any, Final

from policies.engine.operation import ALL_COLUMNS
from proxyworker.postgres.understand.functions import PG_CATALOG
from proxyworker.postgres.understand.tree import Unreadable, parse

#: Functions that make one value of those of one row; what isn't here may gather those of many rows.
_OF_ONE_ROW: Final = frozenset(
    """
    abs age ascii bit_length btrim ceil ceiling char_length character_length chr clock_timestamp concat concat_ws
    current_setting date_part date_trunc decode encode extract floor format gen_random_uuid initcap left length lower
    lpad ltrim make_date md5 mod now octet_length overlay position power quote_ident quote_literal quote_nullable random
    regexp_replace repeat replace reverse right round row_to_json rpad rtrim sha224 sha256 sha384 sha512 sign split_part
    starts_with strpos substr substring textcat timezone to_char to_date to_hex to_json to_jsonb to_number to_timestamp
    translate trim trunc upper json_build_object jsonb_build_object json_build_array jsonb_build_array hashtext nullif
    """.split()  # noqa: SIM905 - a list of words reads better
)
#: Those that say something of many rows and show none of their values.
_COUNTING: Final = frozenset(
    """
    avg bool_and bool_or count cume_dist dense_rank every ntile percent_rank rank row_number stddev stddev_pop
    stddev_samp sum var_pop var_samp variance
    """.split()  # noqa: SIM905
)
#: Those that show the value of one other row.
_PICKING: Final = frozenset("any_value first_value lag last_value lead max min nth_value".split())  # noqa: SIM905
#: Without these an expression says nothing of any row.
_TELLING_NODES: Final = frozenset({"ColumnRef", "SubLink", "RangeVar", "ParamRef", "CurrentOfExpr", "over"})
_GATHERING_NODES: Final = frozenset({"JsonArrayAgg", "JsonObjectAgg", "JsonArrayQueryConstructor"})
#: Statements that keep what they read, wherever that is.
_KEEPING_NODES: Final = frozenset(
    {
        "CreateFunctionStmt", "CreateTableAsStmt", "DoStmt", "IntoClause", "MergeStmt", "RefreshMatViewStmt",
        "RuleStmt", "ViewStmt",
    }
)  # fmt: skip
#: A row that may show those of more gathers.
MAX_ROWS: Final = 1_000
#: Shapes of texts that are kept, and how long a text may be for that.
_KEPT: Final = 1_024
_MAX_KEPT_TEXT_BYTES: Final = 8 * 1024


@dataclass(frozen=True, slots=True)
class Gathering:
    """`rows`: how many rows of relations one row of the answer can show, at most; unless it `gathers`, from any number.

    `kept`: the columns whose values the text may keep elsewhere, `*` for any. `constant`: places in the answer of what
    refers to no column, if the text is a SELECT for which that is certain.
    """

    rows: int
    gathers: bool
    kept: frozenset[str]
    constant: frozenset[int] = frozenset()


#: Of what can't be read.
UNKNOWN: Final = Gathering(rows=1, gathers=True, kept=frozenset({ALL_COLUMNS}))

_known: dict[bytes, Gathering] = {}


def gathering_of(text: bytes) -> Gathering:
    """What a text does with what it reads. Never raises."""
    found = _known.get(text)
    if found is None:
        found = _read(text)
        if len(text) <= _MAX_KEPT_TEXT_BYTES:
            if len(_known) >= _KEPT:
                _known.clear()
            _known[text] = found
    return found


def _read(text: bytes) -> Gathering:
    try:
        reading = _Reading()
        statements = parse(text).statements()
        for name, node in statements:
            reading.walk({name: node})
    except (Unreadable, LookupError, TypeError, ValueError, AttributeError, RecursionError):
        return UNKNOWN
    rows = reading.rows
    gathers = reading.gathers or rows > MAX_ROWS
    constant = frozenset(_constant(*statements[0])) if len(statements) == 1 else frozenset[int]()
    return Gathering(min(rows, MAX_ROWS), gathers, frozenset(reading.kept), constant)


def _constant(name: str, node: Any) -> Iterator[int]:
    """Places of constants, of functions of constants, of `count(*)`; `*` moves the places of all others."""
    targets = [] if name != "SelectStmt" else node.get("targetList", [])
    keys = [{key for key, _ in _nodes(target)} for target in targets]
    if not any("A_Star" in found for found in keys):
        yield from (place for place, found in enumerate(keys) if found.isdisjoint(_TELLING_NODES))


class _Reading:
    def __init__(self) -> None:
        self.gathers = False
        self.kept: set[str] = set()
        self._mentions = 0
        self._picks = 0
        self._has_tables = False

    @property
    def rows(self) -> int:
        """Relations are mentioned once for each row; a table of WITH may hold some, and be mentioned several times.

        Mentions that multiply make the most of it in threes, 3 ** (m / 3); each pick doubles all.
        """
        mentions = max(1, self._mentions)
        if self._has_tables:
            mentions = max(mentions, ceil(1.4423 ** min(mentions, 30)))
        return int(mentions * 2 ** min(self._picks, 30))

    def walk(self, tree: Any) -> None:
        """Look at a tree and all that is in it."""
        for key, node in _nodes(tree):
            if key == "RangeVar" or (key == "relation" and isinstance(node, dict) and "relname" in node):
                self._mentions += 1
            elif key == "FuncCall":
                self._call(node)
            elif key == "SubLink" and node.get("subLinkType") == "ARRAY_SUBLINK":
                self.gathers = True
            elif key == "withClause":
                self._has_tables = True
                self.gathers = self.gathers or bool(node.get("recursive"))
            elif key in _GATHERING_NODES:
                self.gathers = True
            elif (
                key in _KEEPING_NODES
                or key == "intoClause"
                or (key == "CopyStmt" and (node.get("filename") or node.get("is_program")))
            ):
                self.kept.add(ALL_COLUMNS)
            elif key == "InsertStmt":
                self._insert(node)
            elif key == "UpdateStmt":
                self._assigned(node.get("targetList", ()))

    def _call(self, node: Any) -> None:
        *schema, name = (part["String"]["sval"] for part in node["funcname"])
        if schema not in ([], [PG_CATALOG]) or name not in _OF_ONE_ROW | _COUNTING | _PICKING:
            self.gathers = True
        elif name in _PICKING:
            self._picks += 1

    def _insert(self, node: Any) -> None:
        if any(key == "RangeVar" for key, _ in _nodes(node.get("selectStmt"))):
            self.kept.add(ALL_COLUMNS)
        self._assigned(node.get("onConflictClause", {}).get("targetList", ()))

    def _assigned(self, targets: Any) -> None:
        """What SET takes values from."""
        for key, node in _nodes(targets):
            if key == "ColumnRef":
                self.kept.add(_column_of(node))
            elif key == "RangeVar":
                self.kept.add(ALL_COLUMNS)


def _column_of(node: Any) -> str:
    last = node["fields"][-1]
    return str(last["String"]["sval"]) if "String" in last else ALL_COLUMNS


def _nodes(tree: Any) -> Iterator[tuple[str, Any]]:
    """All keys in a tree with what they hold."""
    waiting = [tree]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting += part
        elif isinstance(part, dict):
            yield from part.items()
            waiting += part.values()
