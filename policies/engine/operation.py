"""What policy decides on: an operation, as a protocol's gate understands it, and the target that it is meant for.

An operation is a set of *accesses*: what is done (kind) to what (object, columns). `INSERT INTO a SELECT x FROM b` is
two of them, (insert, a) and (select, b). Everything must be allowed; one denied access denies the operation.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

#: The object of an access that touches none, such as `SELECT 1` or `BEGIN`.
NOTHING: Final = ""
#: The object of an access whose object can't be told. Only rules for every object allow it; every deny catches it.
UNRESOLVED: Final = "?"
#: Stands for all columns of an object.
ALL_COLUMNS: Final = "*"


class Kind(StrEnum):
    """What is done. The words that a rule's `operations` may use; HTTP methods are written `http:get`."""

    SELECT = "select"
    INSERT = "insert"
    UPDATE = "update"
    DELETE = "delete"
    MERGE = "merge"
    TRUNCATE = "truncate"
    DDL = "ddl"
    GRANT = "grant"
    COPY_IN = "copy_in"
    COPY_OUT = "copy_out"
    CALL = "call"
    DO = "do"
    EXPLAIN = "explain"
    SET = "set"
    SHOW = "show"
    TRANSACTION = "transaction"
    LOCK = "lock"
    LISTEN = "listen"
    MAINTENANCE = "maintenance"
    CURSOR = "cursor"
    PREPARED = "prepared"
    CANCEL = "cancel"
    HTTP_GET = "http:get"
    HTTP_HEAD = "http:head"
    HTTP_POST = "http:post"
    HTTP_PUT = "http:put"
    HTTP_PATCH = "http:patch"
    HTTP_DELETE = "http:delete"
    HTTP_OPTIONS = "http:options"
    SSH_EXEC = "ssh:exec"
    SSH_SHELL = "ssh:shell"
    SSH_FORWARD = "ssh:forward"
    SFTP_READ = "sftp:read"
    SFTP_WRITE = "sftp:write"
    SFTP_DELETE = "sftp:delete"
    SFTP_LIST = "sftp:list"
    MCP_TOOL = "mcp:tool"
    #: What could not be understood. No rule covers it unless it names it.
    UNKNOWN = "unknown"


def is_sql(kind: str) -> bool:
    """Whether the objects of accesses of this kind are `schema.name`."""
    return ":" not in kind


class Hazard(StrEnum):
    """What is dangerous about an operation, whatever it touches."""

    UPDATE_WITHOUT_WHERE = "update_without_where"
    DELETE_WITHOUT_WHERE = "delete_without_where"
    WHERE_ALWAYS_TRUE = "where_always_true"
    MULTI_STATEMENT = "multi_statement"
    SCHEMA_CHANGE = "schema_change"
    DROP = "drop"
    GRANT = "grant"
    ROLE_CHANGE = "role_change"
    COPY_PROGRAM = "copy_program"
    SERVER_FILE = "server_file"
    DBLINK = "dblink"
    LARGE_OBJECT = "large_object"
    SUPERUSER_FUNCTION = "superuser_function"
    EXTENSION = "extension"
    UNTRUSTED_LANGUAGE = "untrusted_language"
    DYNAMIC_SQL = "dynamic_sql"
    SYSTEM_SETTING = "system_setting"
    SEARCH_PATH = "search_path"
    CATALOG = "catalog"
    LOCK_TABLE = "lock_table"
    SLEEP = "sleep"
    UNPARSED = "unparsed"
    #: No operation has it: an allowing rule that names it alone covers what has no hazard at all.
    NONE = "none"


#: Kinds that may do anything: a rule that restricts touches them, whatever kinds it names.
OPAQUE_KINDS: Final = frozenset({Kind.UNKNOWN, Kind.DO})

#: Hazards that reach beyond the database's rows, or around the gate: an allowing rule must name them to cover them.
GRAVE_HAZARDS: Final = frozenset(
    {
        Hazard.COPY_PROGRAM, Hazard.SERVER_FILE, Hazard.DBLINK, Hazard.SUPERUSER_FUNCTION, Hazard.ROLE_CHANGE,
        Hazard.EXTENSION, Hazard.UNTRUSTED_LANGUAGE, Hazard.SYSTEM_SETTING, Hazard.LARGE_OBJECT,
    }
)  # fmt: skip


class Access(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One thing that is done to one object.

    `object`: for SQL `schema.name`, or `name` where the text names no schema; functions end in `()`. `columns` are
    those that the text may refer to, `*` for all, none where columns mean nothing.
    """

    kind: str
    object: str = NOTHING
    columns: tuple[str, ...] = ()


class Operation(msgspec.Struct, frozen=True, cache_hash=True, gc=False):
    """What the agent wants done. `template` (hex or empty) is the same for statements that differ in literals only.

    `hazards` are `Hazard`s. `verb` is for people: the kinds, in their order.
    """

    accesses: tuple[Access, ...]
    hazards: tuple[str, ...] = ()
    template: str = ""

    @property
    def verb(self) -> str:
        """Such as "insert, select"."""
        return ", ".join(dict.fromkeys(access.kind for access in self.accesses))


#: What can't be understood.
UNKNOWN_OPERATION: Final = Operation(
    accesses=(Access(Kind.UNKNOWN, UNRESOLVED, (ALL_COLUMNS,)),), hazards=(Hazard.UNPARSED,)
)


class Target(msgspec.Struct, frozen=True):
    """Where it is to be done, as rules see it."""

    name: str
    protocol: str = "postgres"
    environment: str = ""
    labels: dict[str, str] = {}
