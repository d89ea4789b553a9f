"""The demo's target: a database `shop` with made-up rows, and the role that agents work as but can't sign in as.

The password is new at each start. It is set on the target, handed to the control plane in a file, and the file deleted:
after that the control plane alone holds it, sealed.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

from psycopg import sql

from controlplane.supervisor.demo_data import SCHEMA, Table, demo_tables

if TYPE_CHECKING:
    import psycopg

    from controlplane.supervisor.embedded import Postgres

DATABASE: Final = "shop"
ROLE: Final = "shop_app"


def prepare_target(server: Postgres) -> str:
    """Role, database and rows are there; returns the role's new password. The server must be up."""
    password = secrets.token_urlsafe(24)
    server.ensure_role(ROLE, password)
    server.ensure_database(DATABASE, owner=ROLE)
    with server.connect_as_superuser(DATABASE) as connection, connection.transaction():
        connection.execute(sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(ROLE)))
        if connection.execute("SELECT to_regclass('public.customers')").fetchone() == (None,):
            connection.execute(SCHEMA)
            for table in demo_tables():
                _load(connection, table)
    return password


def _load(connection: psycopg.Connection, table: Table) -> None:
    columns = sql.SQL(", ").join(map(sql.Identifier, table.columns))
    statement = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(table.name), columns)
    with connection.cursor().copy(statement) as copy:
        for row in table.rows:
            copy.write_row(row)
    connection.execute(sql.SQL("ANALYZE {}").format(sql.Identifier(table.name)))
