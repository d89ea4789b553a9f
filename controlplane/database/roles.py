"""Two roles of PostgreSQL: the owner of the tables, as whom `manage.py migrate` works, and the application's, which has
rights by grant and owns nothing. So nothing that runs in web or Celery can switch off a trigger or a policy.

The grants follow from the catalog, table by table, after each migration; `missing_grants` is what a check of it finds.

RoleError
    OwnerMissing    DATABASE_OWNER_URL is not set where it has to be
    OwnerPresent    it is set where it must not be
    NotTheOwner     objects belong to the application's role
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from django.conf import settings
from django.db import connections
from psycopg import sql

from controlplane.database.base import DatabaseWrapper
from controlplane.env import Mode

_READ: Final = frozenset({"SELECT"})
_APPEND: Final = _READ | {"INSERT"}
_CHANGE: Final = _APPEND | {"UPDATE", "DELETE"}
#: Whoever could write here would decide what `migrate` does next.
_READ_ONLY: Final = frozenset({"django_migrations"})

#: Tables of the schema; whether `narrowgate_make_append_only` was called on them; the role's own rights.
_TABLES: Final = """
SELECT c.relname,
       EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND t.tgname = 'refuse_change'),
       ARRAY(SELECT a.privilege_type FROM aclexplode(c.relacl) a WHERE a.grantee = %(role)s::regrole)
FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')
ORDER BY c.relname
"""
_OWNED: Final = """
SELECT c.oid::regclass::text FROM pg_class c
    WHERE c.relowner = %(role)s::regrole AND c.relkind IN ('r', 'p', 'v', 'm', 'S')
UNION ALL SELECT p.oid::regprocedure::text FROM pg_proc p WHERE p.proowner = %(role)s::regrole
UNION ALL SELECT n.nspname FROM pg_namespace n WHERE n.nspowner = %(role)s::regrole
UNION ALL SELECT d.datname FROM pg_database d
    WHERE d.datdba = %(role)s::regrole AND d.datname = current_database()
"""


class RoleError(Exception):
    """Base: says what is wrong with the roles, and the fix."""


class OwnerMissing(RoleError):
    """Nobody said as whom to migrate."""

    def __init__(self) -> None:
        super().__init__("DATABASE_OWNER_URL is not set: migrating takes the role that owns the tables")


class OwnerPresent(RoleError):
    """A program that serves was given the owner's role."""

    def __init__(self) -> None:
        super().__init__(
            "DATABASE_OWNER_URL is set: only `manage.py migrate` may know of the role that owns the tables"
        )


class NotTheOwner(RoleError):
    """The application's role owns `objects`."""

    def __init__(self, role: str, owner: str, objects: list[str]) -> None:
        fix = f"as a superuser, in this database: REASSIGN OWNED BY {role} TO {owner}"
        super().__init__(f"{role} owns {', '.join(objects[:3])}{' …' if len(objects) > 3 else ''}; {fix}")


@dataclass(frozen=True, slots=True)
class Grant:
    """What the application's role should have on a table, and has."""

    table: str
    wanted: frozenset[str]
    held: frozenset[str]


def refuse_owner() -> None:
    """For programs that serve: raises `OwnerPresent` when the owner's role is within their reach."""
    if settings.NARROWGATE.database_owner_url and settings.NARROWGATE.mode is not Mode.TEST:
        raise OwnerPresent


@contextmanager
def owning(alias: str) -> Iterator[DatabaseWrapper]:
    """Within it, `connections[alias]` is the owner's. Raises `OwnerMissing` in production.

    A demo or a test with a server of its own making may have one role for both; then nothing changes here.
    """
    application = connections[alias]
    if settings.OWNER_DATABASE is None:
        if settings.NARROWGATE.mode is Mode.PRODUCTION:
            raise OwnerMissing
        yield application  # type: ignore[misc]  # every alias has our engine
        return
    owner = DatabaseWrapper(
        {**application.settings_dict, **settings.OWNER_DATABASE, "NAME": application.settings_dict["NAME"]}, alias
    )
    if not application.in_atomic_block:
        application.close()  # what it has prepared speaks of the tables as they were
    connections[alias] = owner
    try:
        yield owner
    finally:
        connections[alias] = application
        owner.close()


def role_of(connection: Any) -> str:
    """As whom the connection works."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT current_user")
        return str(cursor.fetchone()[0])


def owned_objects(connection: Any, *, role: str) -> list[str]:
    """What the role owns in this database, and the database itself."""
    with connection.cursor() as cursor:
        cursor.execute(_OWNED, {"role": _quoted(role)})
        return [name for (name,) in cursor.fetchall()]


def grants(connection: Any, *, role: str) -> list[Grant]:
    """What the role should have on each table, and what it has."""
    with connection.cursor() as cursor:
        cursor.execute(_TABLES, {"role": _quoted(role)})
        return [
            Grant(table=name, wanted=_wanted(name, is_append_only=is_append_only), held=frozenset(held))
            for name, is_append_only, held in cursor.fetchall()
        ]


def settle_grants(connection: Any, *, role: str) -> None:
    """As the owner: give the role what it should have, and take whatever else was granted on tables and database."""
    application = sql.Identifier(role)
    statements = [
        sql.SQL("REVOKE CREATE ON SCHEMA public FROM PUBLIC, {}").format(application),
        sql.SQL("GRANT USAGE ON SCHEMA public TO {}").format(application),
        sql.SQL("REVOKE TEMPORARY ON DATABASE {} FROM PUBLIC, {}").format(
            sql.Identifier(connection.settings_dict["NAME"]), application
        ),
        sql.SQL("GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO {}").format(application),
    ]
    for grant in grants(connection, role=role):
        table = sql.Identifier("public", grant.table)
        if grant.held - grant.wanted:
            statements.append(sql.SQL("REVOKE ALL ON {} FROM {}").format(table, application))
        if grant.held != grant.wanted:
            rights = sql.SQL(", ").join(map(sql.SQL, sorted(grant.wanted)))
            statements.append(sql.SQL("GRANT {} ON {} TO {}").format(rights, table, application))
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def _wanted(table: str, *, is_append_only: bool) -> frozenset[str]:
    if table in _READ_ONLY:
        return _READ
    return _APPEND if is_append_only else _CHANGE


def _quoted(role: str) -> str:
    """As regrole takes a name."""
    return '"' + role.replace('"', '""') + '"'
