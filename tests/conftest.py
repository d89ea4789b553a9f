"""Fixtures for all tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.db import connections
from django.db.backends.base.operations import BaseDatabaseOperations

from controlplane.database.base import DatabaseWrapper
from controlplane.database.roles import owning


@pytest.fixture(scope="session")
def django_db_modify_db_settings(django_db_modify_db_settings: None) -> Iterator[None]:
    """See `made_by_owner`."""
    with made_by_owner():
        yield


@contextmanager
def made_by_owner() -> Iterator[None]:
    """Let the tests' database be made, flushed and dropped by its owner: the role of the tests may do none of it.

    A test that commits is followed by a flush, which is a TRUNCATE of all tables, append-only ones included.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(DatabaseWrapper, "_nodb_cursor", _owners_cursor(DatabaseWrapper._nodb_cursor))
        patch.setattr(BaseDatabaseOperations, "execute_sql_flush", _flush_as_owner)
        yield


def _owners_cursor(nodb_cursor: Any) -> Any:
    @contextmanager
    def as_owner(connection: DatabaseWrapper) -> Iterator[Any]:
        with owning(connection.alias) as owner, nodb_cursor(owner) as cursor:
            yield cursor

    return as_owner


def _flush_as_owner(operations: BaseDatabaseOperations, sql_list: list[str]) -> None:
    with owning(operations.connection.alias) as owner, owner.cursor() as cursor:
        cursor.execute("SELECT tgrelid::regclass::text FROM pg_trigger WHERE tgname = 'refuse_truncate'")
        guarded = [table for (table,) in cursor.fetchall()]
        disable, enable = (
            [f"ALTER TABLE {table} {verb} TRIGGER refuse_truncate" for table in guarded]
            for verb in ("DISABLE", "ENABLE")
        )
        cursor.execute(";".join(["BEGIN", *disable, *sql_list, *enable, "COMMIT"]))
    assert connections[operations.connection.alias] is operations.connection
