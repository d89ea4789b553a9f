"""Every statement of the grammar that is no query: its kind, what is dangerous about it, whether it has objects.

A test walks the grammar's statements and fails for one that is neither here nor a query.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from policies.engine import Hazard, Kind


class Objects(Enum):
    """Which objects a statement has."""

    #: None that policy knows.
    NONE = "none"
    #: Those that the text names; where it names none that policy knows, they can't be told.
    NAMED = "named"
    #: They can't be told from the text.
    UNRESOLVED = "unresolved"


@dataclass(frozen=True, slots=True)
class StatementKind:
    """What is known of all statements of a type."""

    kind: Kind
    hazards: tuple[Hazard, ...] = ()
    objects: Objects = Objects.NAMED


def _ddl(*hazards: Hazard, objects: Objects = Objects.NAMED) -> StatementKind:
    return StatementKind(Kind.DDL, (Hazard.SCHEMA_CHANGE, *hazards), objects)


def _grant(*hazards: Hazard, objects: Objects = Objects.UNRESOLVED) -> StatementKind:
    return StatementKind(Kind.GRANT, hazards, objects)


def _plain(kind: Kind) -> StatementKind:
    return StatementKind(kind, (), Objects.NONE)


_WIDE: Final = _ddl(objects=Objects.UNRESOLVED)
_REMOTE: Final = _ddl(Hazard.DBLINK)
_REMOTE_WIDE: Final = _ddl(Hazard.DBLINK, objects=Objects.UNRESOLVED)
_EXTENSION: Final = _ddl(Hazard.EXTENSION, objects=Objects.UNRESOLVED)
_ROLE: Final = _grant(Hazard.ROLE_CHANGE)
_DATABASE: Final = _ddl(Hazard.SYSTEM_SETTING, objects=Objects.UNRESOLVED)
_TABLESPACE: Final = _ddl(Hazard.SERVER_FILE, objects=Objects.UNRESOLVED)

STATEMENT_KINDS: Final[dict[str, StatementKind]] = {
    # Tables and what hangs on them
    "AlterObjectDependsStmt": _ddl(),
    "AlterObjectSchemaStmt": _ddl(),
    "AlterOwnerStmt": _ddl(Hazard.GRANT),
    "AlterPolicyStmt": _ddl(Hazard.GRANT),
    "AlterSeqStmt": _ddl(),
    "AlterStatsStmt": _WIDE,
    "AlterTableMoveAllStmt": _WIDE,
    "AlterTableStmt": _ddl(),
    "CommentStmt": _ddl(),
    "CreatePolicyStmt": _ddl(Hazard.GRANT),
    "CreateSeqStmt": _ddl(),
    "CreateStatsStmt": _ddl(),
    "CreateStmt": _ddl(),
    "CreateTableAsStmt": _ddl(),
    "CreateTrigStmt": _ddl(),
    "DropStmt": _ddl(Hazard.DROP),
    "IndexStmt": _ddl(),
    "RenameStmt": _ddl(),
    "RuleStmt": _ddl(),
    "SecLabelStmt": _ddl(Hazard.GRANT),
    "ViewStmt": _ddl(),
    # Schemas, types, operators, text search
    "AlterCollationStmt": _WIDE,
    "AlterDomainStmt": _WIDE,
    "AlterEnumStmt": _WIDE,
    "AlterOpFamilyStmt": _WIDE,
    "AlterOperatorStmt": _WIDE,
    "AlterTSConfigurationStmt": _WIDE,
    "AlterTSDictionaryStmt": _WIDE,
    "AlterTypeStmt": _WIDE,
    "CompositeTypeStmt": _ddl(),
    "CreateAmStmt": _ddl(Hazard.UNTRUSTED_LANGUAGE, objects=Objects.UNRESOLVED),
    "CreateCastStmt": _WIDE,
    "CreateConversionStmt": _WIDE,
    "CreateDomainStmt": _WIDE,
    "CreateEnumStmt": _WIDE,
    "CreateOpClassStmt": _WIDE,
    "CreateOpFamilyStmt": _WIDE,
    "CreateRangeStmt": _WIDE,
    "CreateSchemaStmt": _WIDE,
    "CreateTransformStmt": _WIDE,
    "DefineStmt": _WIDE,
    # Functions and languages
    "AlterEventTrigStmt": _WIDE,
    "AlterFunctionStmt": _ddl(),
    "CreateEventTrigStmt": _WIDE,
    "CreateFunctionStmt": _ddl(),
    "CreatePLangStmt": _ddl(Hazard.UNTRUSTED_LANGUAGE, objects=Objects.UNRESOLVED),
    # What reaches other servers, or the machine
    "AlterExtensionContentsStmt": _EXTENSION,
    "AlterExtensionStmt": _EXTENSION,
    "AlterFdwStmt": _REMOTE_WIDE,
    "AlterForeignServerStmt": _REMOTE_WIDE,
    "AlterPublicationStmt": _REMOTE,
    "AlterSubscriptionStmt": _REMOTE_WIDE,
    "AlterTableSpaceOptionsStmt": _TABLESPACE,
    "AlterUserMappingStmt": _REMOTE_WIDE,
    "CreateExtensionStmt": _EXTENSION,
    "CreateFdwStmt": _REMOTE_WIDE,
    "CreateForeignServerStmt": _REMOTE_WIDE,
    "CreateForeignTableStmt": _REMOTE,
    "CreatePublicationStmt": _REMOTE,
    "CreateSubscriptionStmt": _REMOTE_WIDE,
    "CreateTableSpaceStmt": _TABLESPACE,
    "CreateUserMappingStmt": _REMOTE_WIDE,
    "DropSubscriptionStmt": _ddl(Hazard.DROP, Hazard.DBLINK, objects=Objects.UNRESOLVED),
    "DropTableSpaceStmt": _ddl(Hazard.DROP, Hazard.SERVER_FILE, objects=Objects.UNRESOLVED),
    "DropUserMappingStmt": _ddl(Hazard.DROP, Hazard.DBLINK, objects=Objects.UNRESOLVED),
    "ImportForeignSchemaStmt": _REMOTE_WIDE,
    "LoadStmt": StatementKind(Kind.CALL, (Hazard.SUPERUSER_FUNCTION, Hazard.SERVER_FILE), Objects.UNRESOLVED),
    # Databases and the server
    "AlterDatabaseRefreshCollStmt": _DATABASE,
    "AlterDatabaseSetStmt": _DATABASE,
    "AlterDatabaseStmt": _DATABASE,
    "AlterSystemStmt": StatementKind(Kind.SET, (Hazard.SYSTEM_SETTING,), Objects.NONE),
    "CreatedbStmt": _DATABASE,
    "DropdbStmt": _ddl(Hazard.DROP, Hazard.SYSTEM_SETTING, objects=Objects.UNRESOLVED),
    # Privileges and roles
    "AlterDefaultPrivilegesStmt": _grant(Hazard.GRANT),
    "AlterRoleSetStmt": _ROLE,
    "AlterRoleStmt": _ROLE,
    "CreateRoleStmt": _ROLE,
    "DropOwnedStmt": _grant(Hazard.GRANT, Hazard.DROP),
    "DropRoleStmt": _grant(Hazard.ROLE_CHANGE, Hazard.DROP),
    "GrantRoleStmt": _grant(Hazard.GRANT, Hazard.ROLE_CHANGE),
    "GrantStmt": _grant(Hazard.GRANT, objects=Objects.NAMED),
    "ReassignOwnedStmt": _grant(Hazard.GRANT),
    # Data in bulk, code
    "CallStmt": StatementKind(Kind.CALL, (), Objects.NONE),
    "CopyStmt": StatementKind(Kind.COPY_OUT, (), Objects.NONE),
    "DoStmt": StatementKind(Kind.DO, (Hazard.DYNAMIC_SQL,), Objects.UNRESOLVED),
    "TruncateStmt": StatementKind(Kind.TRUNCATE),
    # Upkeep
    "CheckPointStmt": StatementKind(Kind.MAINTENANCE, (), Objects.UNRESOLVED),
    "ClusterStmt": StatementKind(Kind.MAINTENANCE),
    "RefreshMatViewStmt": StatementKind(Kind.MAINTENANCE),
    "ReindexStmt": StatementKind(Kind.MAINTENANCE),
    "VacuumStmt": StatementKind(Kind.MAINTENANCE),
    # The session
    "ClosePortalStmt": _plain(Kind.CURSOR),
    "ConstraintsSetStmt": _plain(Kind.TRANSACTION),
    "DeallocateStmt": _plain(Kind.PREPARED),
    "DeclareCursorStmt": _plain(Kind.CURSOR),
    "DiscardStmt": _plain(Kind.SET),
    "ExecuteStmt": _plain(Kind.PREPARED),
    "ExplainStmt": _plain(Kind.EXPLAIN),
    "FetchStmt": _plain(Kind.CURSOR),
    "ListenStmt": _plain(Kind.LISTEN),
    "LockStmt": StatementKind(Kind.LOCK, (Hazard.LOCK_TABLE,)),
    "NotifyStmt": _plain(Kind.LISTEN),
    "PrepareStmt": _plain(Kind.PREPARED),
    "TransactionStmt": _plain(Kind.TRANSACTION),
    "UnlistenStmt": _plain(Kind.LISTEN),
    "VariableSetStmt": _plain(Kind.SET),
    "VariableShowStmt": _plain(Kind.SHOW),
}

#: Types of the parser's tree that end in Stmt and never stand as a statement of their own.
NO_STATEMENTS: Final = frozenset({"PLAssignStmt", "RawStmt", "ReplicaIdentityStmt", "ReturnStmt", "SetOperationStmt"})
