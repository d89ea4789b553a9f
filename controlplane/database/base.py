"""PostgreSQL that follows the scope: row-level security shows a statement the tenants of `controlplane.tenancy` alone.

The settings `app.tenant` and `app.system`, which the policies read, are written before a statement whenever they may
differ from the scope. What was written is forgotten with each connection and each rollback, because PostgreSQL takes a
setting back with the transaction or savepoint in which it was made; so a pooled connection brings no tenant along. The
settings are the connection's, not the transaction's: statements outside of a transaction are held to them as well.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from django.db.backends.postgresql import base
from psycopg.pq import TransactionStatus

from controlplane.tenancy import Visibility, current_visibility

_TELL: Final = "SELECT set_config('app.tenant', %s, false), set_config('app.system', %s, false)"


class DatabaseWrapper(base.DatabaseWrapper):
    """One connection, and what PostgreSQL was told of the scope last; None: nothing that still holds for sure."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._told: Visibility | None = None
        self.execute_wrappers.append(self._execute_in_scope)

    def get_new_connection(self, conn_params: Any) -> Any:
        """A connection, perhaps of the pool, that may have served another scope."""
        self._told = None
        return super().get_new_connection(conn_params)

    def _execute_in_scope(
        self, execute: Callable[..., Any], sql: Any, params: Any, many: bool, context: dict[str, Any]
    ) -> Any:
        wanted = current_visibility()
        # A transaction that has failed takes nothing but its rollback; what follows that is told anew.
        has_failed = self.connection.info.transaction_status is TransactionStatus.INERROR
        if wanted != self._told and not has_failed:
            self._told = None
            with self.wrap_database_errors:
                self.connection.execute(_TELL, [wanted.tenants, "on" if wanted.is_system else ""])
            self._told = wanted
        return execute(sql, params, many, context)

    def _rollback(self) -> None:
        try:
            super()._rollback()  # type: ignore[misc]  # unknown to the stubs
        finally:
            self._told = None

    def _savepoint_rollback(self, sid: str) -> None:
        try:
            super()._savepoint_rollback(sid)  # type: ignore[misc]
        finally:
            self._told = None
