"""What gathers while a text is read: accesses with their columns, hazards, functions, prepared statements."""

from __future__ import annotations

import re
from typing import Final

from policies.engine import Access, Hazard, Kind
from policies.engine.operation import ALL_COLUMNS, NOTHING, UNRESOLVED
from proxyworker.postgres.understand import functions
from proxyworker.postgres.understand.catalog import function_name, is_of_catalog, quoted, relation_name

#: Accesses of one text. What touches more is understood by nobody, and is no small record.
MAX_ACCESSES: Final = 500
#: Columns named of one object; more are all of them.
MAX_COLUMNS: Final = 200

#: Hazards that don't hang on what constants a text has.
_SAME_FOR_ALL_CONSTANTS: Final = frozenset(
    {
        Hazard.UPDATE_WITHOUT_WHERE, Hazard.DELETE_WITHOUT_WHERE, Hazard.WHERE_ALWAYS_TRUE, Hazard.MULTI_STATEMENT,
        Hazard.CATALOG,
    }
)  # fmt: skip
_KINDS_WITH_TEMPLATE: Final = frozenset(
    {Kind.SELECT, Kind.INSERT, Kind.UPDATE, Kind.DELETE, Kind.MERGE, Kind.LOCK, Kind.EXPLAIN, Kind.CURSOR}
)
_SETTINGS_OF_ROLE: Final = frozenset({"role", "session_authorization"})
#: Settings by which the target may read a text otherwise than the gate does.
READING_SETTINGS: Final = frozenset({"client_encoding", "standard_conforming_strings"})
#: Settings that change how texts are read, what triggers run, what is loaded, or what may be touched.
_SYSTEM_SETTINGS: Final = frozenset(
    """
    allow_system_table_mods backslash_quote client_encoding dynamic_library_path ignore_system_indexes
    local_preload_libraries row_security session_preload_libraries session_replication_role
    standard_conforming_strings zero_damaged_pages
    """.split()  # noqa: SIM905 - a list of words reads better
)
#: Settings by which a text means something else, and of which the target doesn't tell by itself. Those that it reports,
#: such as the time zone, are bound by `held.SessionState`.
_SETTINGS_OF_VALUES: Final = frozenset(
    """
    array_nulls default_text_search_config gin_fuzzy_search_limit lc_monetary lc_numeric lc_time
    timezone_abbreviations transform_null_equals xmloption
    """.split()  # noqa: SIM905 - as above
)
#: Encodings in which no part of a longer character is an ASCII byte: in others a quote may hide in one. By the names
#: that PostgreSQL makes of them, lower case and without punctuation.
_SAFE_ENCODINGS: Final = re.compile(
    r"utf8|unicode|sqlascii|latin\d+|iso8859\d+|koi8r?u?|win(?:dows)?125\d|euc[a-z0-9]+"
)
#: The session's own schema, by its alias or by its name.
_TEMPORARY: Final = re.compile(r"pg_temp(_\d+)?")
_PUNCTUATION: Final = re.compile(r"[^a-z0-9]")
_ON: Final = frozenset({"on", "true", "yes", "1"})


def is_read_alike(name: str, value: str) -> bool:
    """Whether the target reads texts as the gate does, with this setting at this value."""
    value = value.lower()
    if name == "client_encoding":
        return _SAFE_ENCODINGS.fullmatch(_PUNCTUATION.sub("", value)) is not None
    return name != "standard_conforming_strings" or value in _ON


class TooMuch(Exception):
    """The text touches more than is kept."""


class Accesses:
    """Of one text. Each access once, in the order of the text; columns and hazards likewise."""

    def __init__(self) -> None:
        self._columns: dict[tuple[str, str], dict[str, None]] = {}
        self._hazards: dict[str, None] = {}
        self.executes: dict[bytes, None] = {}
        self.has_effect = False
        self.is_pure = True
        self.moves_names = False
        self.moves_values = False
        self.moves_back = False
        self._hangs_on_constants = False

    def add(self, kind: Kind, name: str = NOTHING) -> dict[str, None]:
        """This is done to that. Returns its columns, to be added to. Raises `TooMuch`."""
        columns = self._columns.setdefault((kind, name), {})
        if len(self._columns) > MAX_ACCESSES:
            raise TooMuch
        return columns

    def relation(self, kind: Kind, schema: str, name: str, *, is_temporary: bool = False) -> dict[str, None]:
        """This is done to a relation. Returns its columns, to be added to. Raises `TooMuch`."""
        if is_of_catalog(schema, name):
            self.hazard(Hazard.CATALOG)
        if kind == Kind.DDL and (is_temporary or _TEMPORARY.fullmatch(schema)):
            self.moves_names = True  # it hides what has its name
        return self.add(kind, relation_name(schema, name))

    def hazard(self, *hazards: Hazard) -> None:
        """This is dangerous about it."""
        self._hazards.update(dict.fromkeys(hazards))

    def hang_on_constants(self) -> None:
        """With other constants in the text, other hazards might have been found."""
        self._hangs_on_constants = True

    def forget(self, *hazards: Hazard) -> None:
        """It isn't, after all."""
        for hazard in hazards:
            self._hazards.pop(hazard, None)

    def call(self, schema: str, name: str, *, setting: tuple[str, str] | None = None) -> None:
        """A function is called. `setting`: name and value that `set_config` is certain to set. Raises `TooMuch`."""
        if functions.is_pure(schema, name):
            return
        self.has_effect = True
        self.is_pure = False
        if functions.is_harmless(schema, name):
            return
        if name == "set_config" and setting is not None:
            self.add(Kind.SET)
            self.set(*setting)
            return
        found = functions.hazards_of(name)
        self.hazard(*found)
        # What the database's own functions do to the session can't be told.
        self.moves_names = self.moves_names or name == "set_config" or not name.startswith(("pg_", "lo_"))
        self.add(Kind.CALL, function_name(schema, name))
        if Hazard.DYNAMIC_SQL in found:
            self.add(Kind.SELECT, UNRESOLVED)[ALL_COLUMNS] = None  # whatever the query reads that it is given as text

    def operator(self, schema: str, name: str) -> None:
        """An operator is used that stands in a schema; it calls a function that nobody sees. Raises `TooMuch`."""
        if schema != functions.PG_CATALOG:
            self.has_effect = True
            self.is_pure = False
            self.add(Kind.CALL, f"{quoted(schema)}.{quoted(name)}()")

    def set(self, name: str, value: str = "") -> None:
        """A setting is changed; `value` empty: to what can't be told."""
        if name == "search_path":
            self.moves_names = True
            self.hazard(Hazard.SEARCH_PATH)
        elif name in _SETTINGS_OF_ROLE:
            self.moves_names = True
            self.hazard(Hazard.ROLE_CHANGE)
        elif name in _SYSTEM_SETTINGS and not (name in READING_SETTINGS and is_read_alike(name, value)):
            self.moves_names = True
            self.hazard(Hazard.SYSTEM_SETTING)
        elif "." in name or name in _SETTINGS_OF_VALUES:
            self.moves_values = True

    def reset(self, name: str) -> None:
        """A setting is what the session began with again; `name` empty: all are."""
        counts = _SETTINGS_OF_ROLE | _SYSTEM_SETTINGS | _SETTINGS_OF_VALUES
        if not name or "." in name or name == "search_path" or name in counts:
            self.moves_back = True

    @property
    def hazards(self) -> tuple[str, ...]:
        """All, in the order they were found."""
        return tuple(self._hazards)

    @property
    def has_template(self) -> bool:
        """Whether texts that differ in constants only do the same kind of thing: no function, no setting, no DDL."""
        return (
            all(kind in _KINDS_WITH_TEMPLATE for kind, _ in self._columns)
            and _SAME_FOR_ALL_CONSTANTS.issuperset(self._hazards)
            and not self.executes
            and not self._hangs_on_constants
        )

    def take_as_explained(self) -> None:
        """All this is not done, only planned. Functions stay: the planner runs those that call themselves immutable."""
        columns, self._columns = self._columns, {}
        for (kind, name), named in columns.items():
            self.add(Kind.CALL if kind == Kind.CALL else Kind.EXPLAIN, name).update(named)
        self.forget(Hazard.UPDATE_WITHOUT_WHERE, Hazard.DELETE_WITHOUT_WHERE, Hazard.WHERE_ALWAYS_TRUE)

    def take(self, other: Accesses) -> None:
        """All that gathered there is here too."""
        for (kind, name), named in other._columns.items():
            self.add(Kind(kind), name).update(named)
        self._hazards.update(other._hazards)
        self.executes.update(other.executes)
        self._hangs_on_constants = self._hangs_on_constants or other._hangs_on_constants
        self.is_pure = self.is_pure and other.is_pure
        self.has_effect = self.has_effect or other.has_effect
        self.moves_names = self.moves_names or other.moves_names
        self.moves_values = self.moves_values or other.moves_values
        self.moves_back = self.moves_back or other.moves_back

    def finish(self) -> tuple[Access, ...]:
        """The accesses."""
        return tuple(
            Access(
                kind,
                name,
                (ALL_COLUMNS,) if ALL_COLUMNS in columns or len(columns) > MAX_COLUMNS else tuple(columns),
            )
            for (kind, name), columns in self._columns.items()
        )


__all__ = ["ALL_COLUMNS", "NOTHING", "UNRESOLVED", "Accesses", "TooMuch"]
