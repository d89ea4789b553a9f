"""Which relations the names in a query may refer to, level by level ("Table Expressions", "WITH Queries").

Conservative where the text alone doesn't tell: a column without a qualifier counts for every relation that it could be
of, in its own query and in those around it; a qualifier that is not found counts for all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from policies.engine.operation import ALL_COLUMNS
from proxyworker.postgres.understand.catalog import quoted
from proxyworker.postgres.understand.functions import ROW_FUNCTIONS

#: A field of a column reference that is `*`.
STAR: Final = ALL_COLUMNS
#: The columns that are referred to, of one relation.
Columns = dict[str, None]

#: Columns that every table has and that show nothing of a row ("System Columns"); whoever may read it may see them.
_SYSTEM_COLUMNS: Final = frozenset({"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"})


class Scope:
    """One level of a query. `hidden`: what WITH has named; such a name is no relation.

    `sources` are its relations, in their order, `names` what they and other things are called here.
    """

    def __init__(self, parent: Scope | None, hidden: frozenset[str]) -> None:
        self.parent = parent
        self.hidden = hidden
        self.sources: list[tuple[str, Columns]] = []
        self.names: dict[str, list[Columns]] = {}
        self.values: dict[str, frozenset[str]] = {}

    def add(self, object_name: str, alias: str, columns: Columns) -> None:
        """A relation stands here; `alias` is what it is called."""
        self.sources.append((object_name, columns))
        self.name(alias, [columns])

    def name(self, alias: str, sources: Sequence[Columns]) -> None:
        """What this is called; a subquery's name leads to none, for its columns are counted within it."""
        self.names.setdefault(alias, []).extend(sources)

    def value(self, alias: str, columns: Iterable[str]) -> None:
        """What stands here is the value of a function, which may be no row; `columns`: those it certainly has."""
        self.name(alias, ())
        self.values[alias] = frozenset(columns)

    def is_value(self, qualifier: str, column: str) -> bool:
        """Whether `qualifier.column` may be no column, but a function that is called with the value."""
        for level in self._levels():
            if qualifier in level.values:
                return column not in level.values[qualifier]
            if qualifier in level.names:
                return False
        return False

    def sources_from(self, start: int) -> list[Columns]:
        """The relations that were added since there were `start`."""
        return [columns for _, columns in self.sources[start:]]

    def object_names(self) -> list[str]:
        """What stands here, as policy names it."""
        return [name for name, _ in self.sources]

    def __len__(self) -> int:
        """How many relations stand here."""
        return len(self.sources)

    def refer(self, fields: Sequence[str]) -> None:
        """A column reference: qualifiers, then a column or `*`."""
        *qualifier, column = fields
        if not qualifier:
            self._refer_bare(column)
            return
        for columns in self._qualified(qualifier):
            # `t.to_jsonb` calls the function with the whole row, where the table has no such column.
            _count(columns, STAR if column in ROW_FUNCTIONS else column)

    def _refer_bare(self, column: str) -> None:
        if column == STAR:
            for columns in self.sources_from(0):
                _count(columns, STAR)
            return
        for level in self._levels():
            for columns in level.sources_from(0):
                _count(columns, column)
            for columns in level.names.get(column, ()):
                _count(columns, STAR)  # the whole row, by the relation's name

    def _qualified(self, qualifier: Sequence[str]) -> list[Columns]:
        if len(qualifier) == 1:
            for level in self._levels():
                if qualifier[0] in level.names:
                    return level.names[qualifier[0]]
        else:
            # schema.table.column, or database.schema.table.column where it is the database one is in
            name = f"{quoted(qualifier[-2])}.{quoted(qualifier[-1])}"
            found = [columns for level in self._levels() for named, columns in level.sources if named == name]
            if found:
                return found
        return [columns for level in self._levels() for columns in level.sources_from(0)]

    def _levels(self) -> Iterator[Scope]:
        level: Scope | None = self
        while level is not None:
            yield level
            level = level.parent


def _count(columns: Columns, column: str) -> None:
    if column not in _SYSTEM_COLUMNS:
        columns[column] = None
