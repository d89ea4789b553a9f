"""Row-level security, asked by raw SQL under the application's role: no tenant's rows without that tenant's scope."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.db import DatabaseError, connection, connections, transaction
from django.test import Client
from django_scopes import scope

from accounts.api import AgentViewSet
from accounts.models import Agent, Membership, Tenant, User
from controlplane.authority import Role
from controlplane.tenancy import every_tenant

#: Tables that belong to no tenant. Whatever else is in the database must be isolated.
SHARED = {
    "accounts_tenant",
    "accounts_totpdevice",
    "accounts_user",
    "auth_group",
    "auth_group_permissions",
    "auth_permission",
    "django_admin_log",
    "django_content_type",
    "django_migrations",
    "django_session",
    "ledger_platformentry",
    "ledger_platformhead",
}
SHARED_PREFIXES = ("django_celery_beat_", "axes_", "otp_")


def rows(statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
    """What the statement gives, under the application's role and in the scope of the moment."""
    with connection.cursor() as cursor:
        cursor.execute(statement, parameters)
        return cursor.fetchall() if cursor.description else []


@pytest.fixture
def acme(db: None) -> Tenant:
    return tenant_with_agent("acme")


@pytest.fixture
def globex(db: None) -> Tenant:
    return tenant_with_agent("globex")


def tenant_with_agent(slug: str) -> Tenant:
    tenant = Tenant.objects.create(slug=slug, name=slug.title())
    with scope(tenant=tenant):
        Agent.objects.create(tenant=tenant, name=f"{slug}-reporter")
    return tenant


AGENTS = "SELECT name FROM accounts_agent ORDER BY name"


@pytest.mark.django_db
def test_every_table_is_isolated_or_known_to_be_shared() -> None:
    catalog = rows(
        """SELECT c.relname, c.relrowsecurity AND c.relforcerowsecurity,
             (SELECT string_agg(concat_ws(' ', p.polname, p.polcmd, p.polpermissive, p.polroles,
                                          pg_get_expr(p.polqual, c.oid), pg_get_expr(p.polwithcheck, c.oid)), ',')
              FROM pg_policy p WHERE p.polrelid = c.oid)
           FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p')"""
    )
    isolated = {name: policies for name, is_forced, policies in catalog if is_forced}
    exposed = {name for name, is_forced, _ in catalog if not is_forced}
    assert {name for name in exposed if not name.startswith(SHARED_PREFIXES)} <= SHARED
    assert not SHARED & set(isolated)
    assert len(set(isolated.values())) == 1, isolated
    (policy,) = set(isolated.values())
    assert policy.startswith("tenant_isolation * t {0} ((tenant_id = ANY")


@pytest.mark.django_db
def test_every_model_with_a_tenant_has_an_isolated_table() -> None:
    owned = {model._meta.db_table for model in apps.get_models() if any(f.name == "tenant" for f in model._meta.fields)}
    forced = {name for (name,) in rows("SELECT relname FROM pg_class WHERE relrowsecurity AND relforcerowsecurity")}
    assert len(owned) >= 18
    assert owned == forced


@pytest.mark.django_db
def test_no_foreign_rows_hang_on_a_shared_table() -> None:
    """A table without a tenant must not refer to one that has one: its rows would be that tenant's, and unprotected."""
    found = rows(
        """SELECT DISTINCT child.relname, parent.relname FROM pg_constraint k
             JOIN pg_class child ON child.oid = k.conrelid JOIN pg_class parent ON parent.oid = k.confrelid
           WHERE k.contype = 'f' AND parent.relrowsecurity AND NOT child.relrowsecurity"""
    )
    assert found == []


@pytest.mark.django_db
def test_the_application_connects_as_a_role_that_cant_go_round() -> None:
    attributes = rows("SELECT rolsuper, rolbypassrls, rolcreaterole FROM pg_roles WHERE rolname = current_user")
    assert attributes == [(False, False, False)]


def test_another_tenants_rows_are_invisible_and_unset_is_nobodys(acme: Tenant, globex: Tenant) -> None:
    assert rows(AGENTS) == []
    with scope(tenant=acme):
        assert rows(AGENTS) == [("acme-reporter",)]
    with scope(tenant=[acme.pk, str(globex.pk)]):
        assert rows(AGENTS) == [("acme-reporter",), ("globex-reporter",)]
    with scope(tenant=[]):
        assert rows(AGENTS) == []
    with scope(tenant=None):  # for django-scopes, that is no filter at all
        assert rows(AGENTS) == []
    with every_tenant():
        assert len(rows(AGENTS)) == 2
    assert rows(AGENTS) == []


def test_the_scope_holds_in_a_join_a_subquery_and_a_count(acme: Tenant, globex: Tenant) -> None:
    with scope(tenant=acme):
        joined = "accounts_tenant t LEFT JOIN accounts_agent a ON a.tenant_id = t.id"
        assert rows(f"SELECT a.name FROM {joined} WHERE t.slug = 'globex'") == [(None,)]
        assert rows("SELECT count(*), (SELECT max(name) FROM accounts_agent) FROM accounts_agent") == [
            (1, "acme-reporter")
        ]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE accounts_agent SET description = 'mine' WHERE tenant_id = %s",
        "DELETE FROM accounts_agent WHERE tenant_id = %s",
    ],
)
def test_another_tenants_rows_are_neither_changed_nor_deleted(acme: Tenant, globex: Tenant, statement: str) -> None:
    with scope(tenant=acme), connection.cursor() as cursor:
        cursor.execute(statement, [globex.pk])
        assert cursor.rowcount == 0
    with scope(tenant=globex):
        assert rows("SELECT name, description FROM accounts_agent") == [("globex-reporter", "")]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE accounts_agent SET tenant_id = %s",
        "INSERT INTO ledger_ledgerhead (tenant_id, seq, digest) VALUES (%s, 1, '')",
    ],
)
def test_no_row_is_written_into_another_tenant(acme: Tenant, globex: Tenant, statement: str) -> None:
    with scope(tenant=acme), pytest.raises(DatabaseError, match="row-level security"), transaction.atomic():
        rows(statement, globex.pk)
    with scope(tenant=globex):
        assert rows(AGENTS) == [("globex-reporter",)]


def test_a_rollback_takes_no_scope_back_with_it(acme: Tenant, globex: Tenant) -> None:
    """PostgreSQL undoes a setting with the savepoint in which it was made; what was told before must not come back."""
    with scope(tenant=acme):
        assert rows(AGENTS) == [("acme-reporter",)]
        with pytest.raises(ZeroDivisionError), transaction.atomic(), scope(tenant=globex):
            assert rows(AGENTS) == [("globex-reporter",)]
            raise ZeroDivisionError
        assert rows(AGENTS) == [("acme-reporter",)]
    with pytest.raises(DatabaseError), transaction.atomic(), scope(tenant=globex):
        rows("SELECT 1 / 0")
    assert rows(AGENTS) == []
    with scope(tenant=globex):
        assert rows(AGENTS) == [("globex-reporter",)]


@pytest.mark.django_db(transaction=True)
def test_statements_outside_of_a_transaction_and_new_connections_follow_the_scope_too() -> None:
    acme, globex = tenant_with_agent("acme"), tenant_with_agent("globex")
    with scope(tenant=acme):
        assert rows(AGENTS) == [("acme-reporter",)]
    assert rows(AGENTS) == []
    with scope(tenant=globex):
        assert rows(AGENTS) == [("globex-reporter",)]
        connections["default"].close()
        assert rows(AGENTS) == [("globex-reporter",)]
    with scope(tenant=acme), transaction.atomic():
        assert rows(AGENTS) == [("acme-reporter",)]
        transaction.set_rollback(True)
    with scope(tenant=globex):
        assert rows(AGENTS) == [("globex-reporter",)]


def test_a_view_that_forgets_the_tenant_shows_a_signed_in_person_their_own_rows(
    acme: Tenant, globex: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(AgentViewSet, "get_queryset", lambda _: Agent._base_manager.order_by("name"))
    ada = User.objects.create_user("ada@acme.example")
    with scope(tenant=acme):
        Membership.objects.create(tenant=acme, user=ada, role=Role.OWNER)
    client = Client()
    client.force_login(ada)
    names = [agent["name"] for agent in client.get("/api/v1/agents/").json()["results"]]
    assert names == ["acme-reporter"]


def test_no_manager_goes_round_the_scope() -> None:
    """ruff bans `scopes_disabled`; these methods of a manager are the other ways, and would reach the ORM only."""
    sources = [
        path
        for app in ("accounts", "controlplane", "policies", "sessions", "targets")
        for path in Path(app).rglob("*.py")
        if path != Path("accounts/tenancy.py")
    ]
    assert len(sources) > 100
    calls = re.compile(r"\.(with_scope|with_scopes_disabled|disable_scopes)\(")
    assert [str(path) for path in sources if calls.search(path.read_text())] == []


def test_a_scope_that_names_no_id_is_refused(acme: Tenant) -> None:
    with scope(tenant="acme' OR true"), pytest.raises(ValueError, match="badly formed"):
        rows(AGENTS)
