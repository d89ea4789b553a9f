"""The demo's target, beside the gate: to prepare it, and to see what reached it."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.demo import Demo


def as_superuser(demo: Demo) -> psycopg.Connection:
    """An autocommit connection to the shop."""
    told = demo.told["target"]
    return psycopg.connect(
        host="localhost",
        port=told["port"],
        user="postgres",
        password=Path(told["superuser_password_file"]).read_text(),
        dbname=told["database"],
        autocommit=True,
        sslmode="verify-full",
        sslrootcert=told["ca_file"],
        connect_timeout=10,
    )


@contextmanager
def statements_logged(demo: Demo) -> Iterator[None]:
    """Meanwhile the target's log has every statement. Not for longer: some set a password."""
    with as_superuser(demo) as target:
        target.execute("ALTER SYSTEM SET log_statement = 'all'")
        target.execute("SELECT pg_reload_conf()")
    try:
        yield
    finally:
        with as_superuser(demo) as target:
            target.execute("ALTER SYSTEM RESET log_statement")
            target.execute("SELECT pg_reload_conf()")


def waits_for(demo: Demo, statement: str) -> str:
    """What the backend that runs the statement waits for (pg_stat_activity); empty while none runs it, or waits."""
    with as_superuser(demo) as target:
        found = target.execute(
            "SELECT wait_event FROM pg_stat_activity WHERE query = %s AND state = 'active'", (statement,)
        ).fetchone()
    return (found[0] or "") if found else ""
