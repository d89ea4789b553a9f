"""The application's role owns nothing and has what it needs by grant: nothing it says in SQL takes the record back."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import psycopg
import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError, connection, transaction
from django_scopes import scope

from accounts.models import Tenant
from controlplane.database.roles import Grant, OwnerPresent, grants, owned_objects, owning, refuse_owner, role_of
from controlplane.env import Mode
from controlplane.ledger.actions import append_entry
from controlplane.supervisor.embedded import Postgres, free_port, running

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_django.fixtures import Settings

APPEND_ONLY = {"ledger_ledgerentry", "ledger_platformentry", "policies_policyversion", "agent_sessions_journalbatch"}

#: What somebody who can run SQL under the application's role would try, with a table in braces.
ON_A_TABLE = (
    "UPDATE {} SET id = id",
    "DELETE FROM {}",
    "TRUNCATE {}",
    "TRUNCATE {} CASCADE",
    "MERGE INTO {} t USING (SELECT 1) s ON true WHEN MATCHED THEN DELETE",
    "INSERT INTO {} (id) SELECT id FROM {} ON CONFLICT (id) DO UPDATE SET id = excluded.id",
    "SELECT * FROM {} FOR UPDATE",
    "ALTER TABLE {} DISABLE TRIGGER ALL",
    "ALTER TABLE {} DISABLE TRIGGER refuse_change",
    "ALTER TABLE {} DISABLE ROW LEVEL SECURITY",
    "ALTER TABLE {} NO FORCE ROW LEVEL SECURITY",
    "ALTER TABLE {} ADD COLUMN more text",
    "DROP POLICY tenant_isolation ON {}",
    "CREATE POLICY open ON {} USING (true)",
    "DROP TRIGGER refuse_change ON {}",
    "CREATE TRIGGER late BEFORE INSERT ON {} FOR EACH ROW EXECUTE FUNCTION narrowgate_refuse_change()",
    "CREATE RULE nothing AS ON INSERT TO {} DO INSTEAD NOTHING",
    "DROP TABLE {} CASCADE",
    "LOCK TABLE {} IN ACCESS EXCLUSIVE MODE",
)
ELSEWHERE = (
    "SET ROLE narrowgate_owner",
    "SET SESSION AUTHORIZATION narrowgate_owner",
    "SET session_replication_role = replica",
    "SET row_security = off; SELECT * FROM ledger_ledgerentry",
    "CREATE TABLE mine (id int)",
    "CREATE TEMP TABLE ledger_ledgerentry (id int)",
    "CREATE SCHEMA mine",
    "CREATE FUNCTION mine() RETURNS int LANGUAGE sql AS 'SELECT 1'",
    "CREATE OR REPLACE FUNCTION narrowgate_refuse_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END'",
    "CREATE OR REPLACE FUNCTION narrowgate_is_system() RETURNS boolean LANGUAGE sql AS 'SELECT true'",
    "DROP FUNCTION narrowgate_refuse_change() CASCADE",
    "DELETE FROM django_migrations",
    "SELECT narrowgate_expose('ledger_ledgerentry')",
    "SELECT setval('ledger_ledgerentry_id_seq', 1)",
    "REASSIGN OWNED BY narrowgate_owner TO narrowgate",
    "GRANT narrowgate_owner TO narrowgate",
    "ALTER ROLE narrowgate SUPERUSER",
    "ALTER ROLE narrowgate BYPASSRLS",
    "CREATE ROLE mine",
    "DO $$ BEGIN EXECUTE 'ALTER TABLE ledger_ledgerentry DISABLE TRIGGER ALL'; END $$",
)


def rows(statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters or None)
        return cursor.fetchall() if cursor.description else []


@pytest.fixture
def acme(db: None) -> Tenant:
    """A tenant whose ledger has an entry."""
    tenant = Tenant.objects.create(slug="acme", name="Acme")
    with transaction.atomic():
        append_entry(tenant=tenant, kind="x.y", acting_user=None, subject="x", before=None, after={"name": "x"})
    return tenant


@pytest.mark.parametrize(
    ("table", "statement"),
    [
        (table, statement)
        for table in sorted(APPEND_ONLY)
        for statement in ON_A_TABLE
        if table != "ledger_platformentry" or "tenant_isolation" not in statement  # it has no tenants
    ],
)
def test_the_record_is_out_of_the_applications_reach(acme: Tenant, table: str, statement: str) -> None:
    refusals = "permission denied|must be owner|rejected by"
    with scope(tenant=acme), pytest.raises(DatabaseError, match=refusals), transaction.atomic():
        rows("SET CONSTRAINTS ALL IMMEDIATE")
        rows(statement.replace("{}", table))


@pytest.mark.parametrize("statement", ELSEWHERE)
def test_the_application_makes_itself_no_more_than_it_is(acme: Tenant, statement: str) -> None:
    refusals = "permission denied|must be owner|must have|must be|query would be affected by row-level security"
    with scope(tenant=acme), pytest.raises(DatabaseError, match=refusals), transaction.atomic():
        rows(statement)


@pytest.mark.django_db
def test_the_application_owns_nothing_and_no_table_lacks_its_grants() -> None:
    application = role_of(connection)
    with owning("default") as owner:
        assert role_of(owner) != application
    assert owned_objects(connection, role=application) == []
    found = grants(connection, role=application)
    assert [grant for grant in found if grant.wanted != grant.held] == []
    by_table = {grant.table: grant.held for grant in found}
    assert {table for table, held in by_table.items() if held == {"SELECT", "INSERT"}} >= APPEND_ONLY
    assert rows("SELECT seqrelid::regclass FROM pg_sequence WHERE NOT has_sequence_privilege(seqrelid, 'USAGE')") == []
    assert rows("SELECT seqrelid::regclass FROM pg_sequence WHERE has_sequence_privilege(seqrelid, 'UPDATE')") == []
    assert by_table["django_migrations"] == {"SELECT"}
    assert by_table["accounts_agent"] == {"SELECT", "INSERT", "UPDATE", "DELETE"}


@pytest.mark.django_db
def test_the_catalog_shows_no_right_but_the_applications() -> None:
    """Neither PUBLIC nor any other role has rights on a table, and the application is a member of no role."""
    application = role_of(connection)
    others = rows(
        """SELECT c.relname, a.grantee::regrole::text FROM pg_class c, aclexplode(c.relacl) a
           WHERE c.relnamespace = 'public'::regnamespace AND a.grantee NOT IN (c.relowner, %s::regrole)""",
        application,
    )
    assert others == []
    assert rows("SELECT 1 FROM pg_auth_members WHERE member = current_user::regrole") == []
    attributes = "rolsuper, rolbypassrls, rolcreaterole, rolcreatedb, rolreplication"
    assert rows(f"SELECT {attributes} FROM pg_roles WHERE rolname = current_user") == [(False,) * 5]
    assert rows("SELECT prosecdef FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND prosecdef") == []


@pytest.mark.django_db(transaction=True)
def test_a_new_table_has_its_grants_after_migrate_and_shows_without_them() -> None:
    application = role_of(connection)
    try:
        with owning("default") as owner, owner.cursor() as cursor:
            cursor.execute("CREATE TABLE late (id int)")
            cursor.execute("GRANT TRUNCATE ON accounts_agent TO narrowgate")
        found = {grant.table: grant for grant in grants(connection, role=application)}
        assert found["late"] == Grant("late", frozenset({"SELECT", "INSERT", "UPDATE", "DELETE"}), frozenset())
        assert "TRUNCATE" in found["accounts_agent"].held - found["accounts_agent"].wanted
        call_command("migrate", verbosity=0)
        assert [grant for grant in grants(connection, role=application) if grant.wanted != grant.held] == []
        assert rows("INSERT INTO late VALUES (1) RETURNING id") == [(1,)]
    finally:
        with owning("default") as owner, owner.cursor() as cursor:
            cursor.execute("DROP TABLE late")


@pytest.mark.django_db
def test_production_migrates_as_nobody_but_the_owner(settings: Settings) -> None:
    settings.OWNER_DATABASE = None
    settings.NARROWGATE = replace(settings.NARROWGATE, mode=Mode.PRODUCTION)
    with pytest.raises(CommandError, match="DATABASE_OWNER_URL is not set"):
        call_command("migrate", verbosity=0)


@pytest.mark.parametrize("mode", [Mode.PRODUCTION, Mode.DEMO])
def test_no_program_that_serves_may_know_of_the_owner(settings: Settings, mode: Mode) -> None:
    settings.NARROWGATE = replace(settings.NARROWGATE, mode=mode)
    with pytest.raises(OwnerPresent):
        refuse_owner()
    settings.NARROWGATE = replace(settings.NARROWGATE, database_owner_url="")
    refuse_owner()


@pytest.mark.parametrize(
    "program",
    [
        ("-m", "daphne", "-p", "0", "controlplane.asgi:application"),
        ("-m", "celery", "--app=controlplane.celery:app", "worker", "--pool=solo"),
        ("-m", "celery", "--app=controlplane.celery:app", "beat", "--pidfile="),
    ],
    ids=["web", "celery", "beat"],
)
@pytest.mark.slow
@pytest.mark.django_db
def test_the_programs_that_serve_end_when_they_are_told_of_the_owner(program: tuple[str, ...]) -> None:
    path = connection.settings_dict["NAME"]
    urls = {
        name: urlsplit(os.environ[name])._replace(path=path).geturl() for name in ("DATABASE_URL", "DATABASE_OWNER_URL")
    }
    environment = os.environ | {"NARROWGATE_MODE": "demo"} | urls
    done = subprocess.run(
        [sys.executable, *program], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode != 0
    assert "only `manage.py migrate` may know" in done.stderr


@pytest.mark.slow
def test_a_database_of_an_earlier_version_is_handed_over_with_its_rows(tmp_path: Path) -> None:
    """One role owned everything. It still works so, is refused once there are two, and is handed over."""
    server = Postgres(name="old", folder=tmp_path / "old", port=free_port(), durable=False)
    with running(server, log_file=tmp_path / "log"):
        for role in ("gate", "gate_owner"):
            server.ensure_role(role, role)
        server.ensure_database("gate", owner="gate")
        url, owner_url = (f"postgres://{role}:{role}@127.0.0.1:{server.port}/gate" for role in ("gate", "gate_owner"))
        assert "gate owns the tables that it works on" in _migrate(url).stderr
        with psycopg.connect(url, autocommit=True) as application:
            application.execute("INSERT INTO auth_group (name) VALUES ('kept')")
            refused = _migrate(url, DATABASE_OWNER_URL=owner_url)
            assert refused.returncode == 1
            assert "REASSIGN OWNED BY gate TO gate_owner" in refused.stderr
            for _ in range(2):  # each start of the demo does it
                server.hand_over("gate", owner="gate_owner", previous="gate")
            assert _migrate(url, DATABASE_OWNER_URL=owner_url).returncode == 0
            assert application.execute("UPDATE auth_group SET name = 'changed' RETURNING name").fetchall() == [
                ("changed",)
            ]
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                application.execute("ALTER TABLE ledger_ledgerentry DISABLE TRIGGER ALL")


def _migrate(url: str, **given: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "DATABASE_OWNER_URL"}
    return subprocess.run(
        [sys.executable, "manage.py", "migrate", "--verbosity=0"],
        env=environment | {"DATABASE_URL": url, **given},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
