"""What `make demo` prints once everything is up: things to try, to copy and paste."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING, Final

from controlplane.supervisor.embedded import postgres_tool
from controlplane.supervisor.layout import PROJECT
from controlplane.supervisor.seeding import ADMIN_EMAIL, AGENTS, PEOPLE

if TYPE_CHECKING:
    from controlplane.supervisor.seed import Demo

_TEXT: Final = """
Narrowgate is up. An agent's password is its token, good until {expires_at:%H:%M} UTC; no agent knows the database's.

  The record, in a browser
    {admin_url}
    {email}
    {password}
    (and with the same password, to see what other roles see: {people})

  An agent with psql
    PGPASSFILE={password_file} {psql} "{dsn}"

  The same from Python ({python} has psycopg)
    import pathlib, psycopg
    token = pathlib.Path("{token_file}").read_text()
    with psycopg.connect("{dsn}", password=token) as connection:
        print(connection.execute("SELECT name, city FROM customers LIMIT 3").fetchall())

  An agent that no rule lets through, to see a refusal
    PGPASSFILE={password_file} {psql} "{refused_dsn}"

  An agent whose changes wait for a yes: it holds, and you approve at {inbox_url}
    PGPASSFILE={password_file} {psql} "{held_dsn}" -c "UPDATE orders SET status = 'shipped' WHERE id = 1"

  The sessions, over REST ({api_url}docs/ describes all of it)
    curl -sS -H @{header_file} {api_url}sessions/

  Policies and all else from YAML, with the difference first
    set -a; . {environment_file}; set +a
    {python} {manage} apply -f {examples}/analyst.yaml --dry-run

For programs, all of this is in {demo_file}. Logs are in {log_folder}. Ctrl-C stops everything.
"""


def banner(demo: Demo) -> str:
    """The text, with this demo's addresses. It holds the administrator's password and no token."""
    layout = demo.layout
    return _TEXT.format(
        expires_at=demo.expires_at,
        admin_url=f"{layout.web_url}/admin/",
        api_url=f"{layout.web_url}/api/v1/",
        email=ADMIN_EMAIL,
        password=layout.secret("admin-password"),
        password_file=demo.password_file,
        token_file=demo.token_file,
        header_file=demo.header_file,
        # The wheel has a psql too, for machines without one.
        psql="psql" if shutil.which("psql") else postgres_tool("psql"),
        python=sys.executable,
        dsn=demo.dsn(AGENTS[0]),
        refused_dsn=demo.dsn(AGENTS[1]),
        held_dsn=demo.dsn(AGENTS[2]),
        people=", ".join(PEOPLE),
        environment_file=layout.environment_file,
        manage=PROJECT / "manage.py",
        examples=PROJECT / "docs" / "learn",
        inbox_url=f"{layout.web_url}/approvals/",
        demo_file=layout.demo_file,
        log_folder=layout.log_folder,
    )
