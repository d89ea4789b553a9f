"""The admin of accounts: every page in every role, forms that go through the actions, tokens shown once."""

from __future__ import annotations

import re
from typing import Any
from uuid import uuid4

import pytest
from django.contrib import admin
from django.test import Client, RequestFactory
from django.utils import timezone
from django_scopes import scope, scopes_disabled

from accounts import actions
from accounts.identify import identify_agent
from accounts.models import Agent, AgentToken, ApiToken, Membership, OidcTrust, Tenant, TrustRule, User
from controlplane.authority import Role
from controlplane.ledger.models import LedgerEntry
from tests.accounts.conftest import Site, make_trust
from tests.accounts.provider import Provider

PAGES = ["agent", "agenttoken", "oidctrust", "tenant", "user", "membership", "apitoken"]
MANAGERS = {Role.OWNER, Role.ADMIN}


def signed_in(user: User) -> Client:
    client = Client()
    client.force_login(user)
    return client


def url(model: str, *rest: object, app: str = "accounts") -> str:
    return "/".join(["/admin", app, model, *(str(part) for part in rest), ""])


@pytest.fixture
def rows(acme: Site, provider: Provider) -> dict[str, Any]:
    """One of acme's rows for each page."""
    token, _ = actions.issue_agent_token(acme.agent, acting_user=None)
    owner = acme.people[Role.OWNER]
    api_token, _ = actions.issue_api_token(owner, tenant=acme.tenant, acting_user=None)
    with scope(tenant=acme.tenant):
        membership = owner.memberships.get()
    return {
        "agent": acme.agent,
        "agenttoken": token,
        "oidctrust": make_trust(acme, provider),
        "tenant": acme.tenant,
        "user": owner,
        "membership": membership,
        "apitoken": api_token,
    }


@pytest.mark.parametrize("page", PAGES)
def test_every_page_opens_for_its_owner(acme: Site, rows: dict[str, Any], page: str) -> None:
    client = signed_in(acme.people[Role.OWNER])
    assert client.get(url(page)).status_code == 200
    assert client.get(url(page), {"q": "x"}).status_code == 200
    assert client.get(url(page, rows[page].pk, "change")).status_code == 200


@pytest.mark.parametrize("page", PAGES)
def test_an_operator_manages_tenants_and_people_and_sees_into_no_tenant(
    rows: dict[str, Any], operator: User, page: str
) -> None:
    client = signed_in(operator)
    listed, one = client.get(url(page)), client.get(url(page, rows[page].pk, "change"))
    if page in {"tenant", "user"}:
        assert (listed.status_code, one.status_code) == (200, 200)
    else:
        assert (listed.status_code, one.status_code) == ((200 if page == "membership" else 403), 404)
        assert "acme" not in listed.content.decode().replace("/accounts/", "")


def test_an_operator_appoints_the_first_owner_of_a_tenant_and_nobody_else(operator: User, acme: Site) -> None:
    client = signed_in(operator)
    initech = actions.save_tenant(Tenant(slug="initech", name="Initech"), acting_user=None)
    boss, friend = (
        actions.save_user(User(email=f"{name}@initech.example"), acting_user=None) for name in ("boss", "friend")
    )
    for tenant, user, role, status in (
        (initech, boss, "admin", 200),
        (acme.tenant, friend, "owner", 200),
        (initech, boss, "owner", 302),
        (initech, friend, "owner", 200),
    ):
        form = {"tenant": str(tenant.pk), "user": str(user.pk), "role": role}
        assert client.post(url("membership", "add"), form).status_code == status
    with scope(tenant=[initech.pk, acme.tenant.pk]):
        appointed = Membership.objects.filter(user__in=[boss, friend])
        assert [(row.tenant, row.user, row.role) for row in appointed] == [(initech, boss, Role.OWNER)]
        entry = LedgerEntry.objects.get(tenant=initech, kind="membership.created")
    assert entry.actor == operator.email


@pytest.mark.parametrize("page", PAGES)
def test_a_neighbours_row_isnt_there(globex: Site, acme: Site, rows: dict[str, Any], page: str) -> None:
    client = signed_in(globex.people[Role.OWNER])
    listed = client.get(url(page)).content.decode()
    assert "acme" not in listed.replace("/accounts/", "")
    assert str(acme.tenant.pk) not in listed
    for missing in (rows[page].pk, uuid4()):
        assert client.get(url(page, missing, "change")).status_code == 404


@pytest.mark.parametrize("page", PAGES)
def test_whoever_has_no_role_sees_no_page(outsider: User, rows: dict[str, Any], page: str) -> None:
    client = signed_in(outsider)
    assert client.get(url(page)).status_code == 403
    assert client.get("/admin/").status_code == 200


def test_nobody_who_isnt_signed_in_sees_anything(rows: dict[str, Any]) -> None:
    for page in PAGES:
        assert Client().get(url(page)).headers["Location"].startswith("/admin/login/")


@pytest.mark.parametrize("role", list(Role))
def test_only_managers_change_an_agent(acme: Site, role: Role) -> None:
    client = signed_in(acme.people[role])
    form = client.get(url("agent", acme.agent.pk, "change"))
    assert form.status_code == 200
    assert ('name="_save"' in form.content.decode()) is (role in MANAGERS)
    posted = client.post(url("agent", acme.agent.pk, "change"), agent_form(description="changed"))
    assert posted.status_code == (302 if role in MANAGERS else 403)
    with scope(tenant=acme.tenant):
        acme.agent.refresh_from_db()
    assert (acme.agent.description == "changed") is (role in MANAGERS)
    assert client.get(url("agent", "add")).status_code == (200 if role in MANAGERS else 403)
    issue = client.get(url("agent", acme.agent.pk, "issue-token"))
    assert issue.status_code == (200 if role in MANAGERS else 403)


def agent_form(**fields: str) -> dict[str, str]:
    return {
        "name": "reporter",
        "is_active": "on",
        "groups": "analysts",
        "tokens-TOTAL_FORMS": "0",
        "tokens-INITIAL_FORMS": "0",
        **fields,
    }


def test_a_change_in_the_form_is_in_the_ledger_under_its_author(acme: Site) -> None:
    client = signed_in(acme.people[Role.ADMIN])
    client.post(url("agent", acme.agent.pk, "change"), agent_form(description="changed"))
    with scope(tenant=acme.tenant):
        entry = LedgerEntry.objects.filter(kind="agent.changed").get()
    assert entry.actor == "admin@acme.example"
    assert (entry.before["description"], entry.after["description"]) == ("", "changed")


def test_a_new_agent_is_made_in_ones_only_tenant(acme: Site, globex: Site) -> None:
    client = signed_in(acme.people[Role.ADMIN])
    page = client.get(url("agent", "add")).content.decode()
    assert f'<option value="{acme.tenant.pk}" selected>' in page
    assert str(globex.tenant.pk) not in page
    made = client.post(url("agent", "add"), agent_form(name="writer", tenant=str(acme.tenant.pk)))
    assert made.status_code == 302
    smuggled = client.post(url("agent", "add"), agent_form(name="spy", tenant=str(globex.tenant.pk)))
    assert smuggled.status_code == 200
    with scopes_disabled():
        assert Agent.objects.get(name="writer").tenant == acme.tenant
        assert not Agent.objects.filter(name="spy").exists()


def test_a_form_error_stands_at_its_field(acme: Site) -> None:
    client = signed_in(acme.people[Role.ADMIN])
    answer = client.post(url("agent", acme.agent.pk, "change"), agent_form(name="Not A Name"))
    assert answer.status_code == 200
    assert "Use 1 to 100 small letters" in answer.content.decode()


def test_what_only_the_action_refuses_is_shown_and_nothing_is_kept(acme: Site, globex: Site) -> None:
    client = signed_in(acme.people[Role.ADMIN])
    stranger = globex.people[Role.OWNER]
    answer = client.post(url("agent", acme.agent.pk, "change"), agent_form(sponsor=str(stranger.pk)))
    assert answer.status_code == 200
    assert "Choose an active person with a role in this tenant" in answer.content.decode()
    with scope(tenant=acme.tenant):
        assert Agent.objects.get(pk=acme.agent.pk).sponsor is None


def test_a_sponsor_is_looked_up_among_ones_colleagues(acme: Site, globex: Site) -> None:
    client = signed_in(acme.people[Role.ADMIN])
    query = {"app_label": "accounts", "model_name": "agent", "field_name": "sponsor", "term": "owner"}
    found = client.get("/admin/autocomplete/", query).json()["results"]
    assert [row["text"] for row in found] == ["owner@acme.example"]


def test_a_token_is_shown_once_and_works(acme: Site) -> None:
    client = signed_in(acme.people[Role.ADMIN])
    page = client.post(url("agent", acme.agent.pk, "issue-token"), {"lifetime_seconds": "900", "label": "ci"})
    found = re.search(r"nga_[0-9a-f]{16}_[0-9a-f]{64}", page.content.decode())
    assert found is not None
    assert "no-store" in page.headers["Cache-Control"]
    assert identify_agent(found[0], now=timezone.now()).agent == acme.agent
    secret = found[0].rpartition("_")[2]
    with scope(tenant=acme.tenant):
        token = AgentToken.objects.get()
    for shown in (url("agent", acme.agent.pk, "change"), url("agenttoken"), url("agenttoken", token.pk, "change")):
        body = client.get(shown).content.decode()
        assert token.token_id in body
        assert secret not in body
        assert token.digest not in body


def test_opening_the_page_of_a_button_does_nothing(acme: Site, rows: dict[str, Any]) -> None:
    client = signed_in(acme.people[Role.OWNER])
    client.get(url("agent", acme.agent.pk, "issue-token"))
    client.get(url("agenttoken", rows["agenttoken"].pk, "revoke"))
    with scope(tenant=acme.tenant):
        assert AgentToken.objects.get().revoked_at is None


@pytest.mark.parametrize("role", list(Role))
def test_only_managers_revoke_an_agents_token(acme: Site, rows: dict[str, Any], role: Role) -> None:
    answer = signed_in(acme.people[role]).post(url("agenttoken", rows["agenttoken"].pk, "revoke"))
    assert answer.status_code == (302 if role in MANAGERS else 403)
    with scope(tenant=acme.tenant):
        assert (AgentToken.objects.get().revoked_at is not None) is (role in MANAGERS)


def test_a_neighbour_neither_issues_nor_revokes(acme: Site, globex: Site, rows: dict[str, Any], operator: User) -> None:
    client = signed_in(globex.people[Role.OWNER])
    assert client.post(url("agent", acme.agent.pk, "issue-token"), {"lifetime_seconds": "900"}).status_code == 404
    for page in ("agenttoken", "apitoken"):
        assert client.post(url(page, rows[page].pk, "revoke")).status_code == 404
        assert signed_in(operator).post(url(page, rows[page].pk, "revoke")).status_code in {403, 404}
    with scopes_disabled():
        assert not AgentToken.objects.exclude(revoked_at=None).exists()
        assert AgentToken.objects.count() == 1
        assert not ApiToken.objects.exclude(revoked_at=None).exists()


def test_everybody_makes_a_rest_token_for_themselves(acme: Site) -> None:
    client = signed_in(acme.people[Role.VIEWER])
    body = {"tenant": str(acme.tenant.pk), "lifetime_seconds": "86400", "label": ""}
    page = client.post(url("apitoken", "make-token"), body)
    found = re.search(r"ngp_[0-9a-f]{16}_[0-9a-f]{64}", page.content.decode())
    assert found is not None
    assert Client().get("/api/v1/agents/", headers={"Authorization": f"Bearer {found[0]}"}).status_code == 200
    with scope(tenant=acme.tenant):
        token = ApiToken.objects.get()
    assert client.post(url("apitoken", token.pk, "revoke")).status_code == 302
    assert signed_in(acme.people[Role.AUDITOR]).get(url("apitoken", token.pk, "change")).status_code == 404


# ---------------------------------------------------------------- trusts


def trust_form(site: Site, *rules: tuple[str, str], **fields: Any) -> dict[str, Any]:
    form = {
        "tenant": str(site.tenant.pk),
        "name": "corp",
        "is_active": "on",
        "kind": "jwt",
        "issuer": "https://idp.example",
        "audience": "gate",
        "algorithms": ["RS256"],
        "clock_skew_seconds": "30",
        "rules-TOTAL_FORMS": str(len(rules)),
        "rules-INITIAL_FORMS": "0",
        **fields,
    }
    for index, (value, agent) in enumerate(rules):
        form |= {f"rules-{index}-conditions": f"sub = {value}", f"rules-{index}-agent": agent}
    return form


def test_a_trust_is_made_with_its_rules_in_one_form(acme: Site) -> None:
    client = signed_in(acme.people[Role.ADMIN])
    agent = str(acme.agent.pk)
    answer = client.post(url("oidctrust", "add"), trust_form(acme, ("a", agent), ("b", agent)))
    assert answer.status_code == 302, answer.content
    with scope(tenant=acme.tenant):
        trust = OidcTrust.objects.get()
        rules = list(TrustRule.objects.order_by("conditions"))
        assert [rule.conditions for rule in rules] == [["sub = a"], ["sub = b"]]
        entry = LedgerEntry.objects.get(kind="oidc_trust.created")
    assert entry.after["rules"] == ["sub = a → reporter", "sub = b → reporter"]
    changed = trust_form(acme, ("a", agent), ("b", agent), **{"rules-INITIAL_FORMS": "2", "rules-0-DELETE": "on"})
    changed |= {f"rules-{index}-id": str(rule.pk) for index, rule in enumerate(rules)}
    assert client.post(url("oidctrust", trust.pk, "change"), changed).status_code == 302
    with scope(tenant=acme.tenant):
        assert [rule.conditions for rule in TrustRule.objects.all()] == [["sub = b"]]
    gone = client.post(url("oidctrust", trust.pk, "delete"), {"post": "yes"})
    assert gone.status_code == 302
    with scope(tenant=acme.tenant):
        assert not OidcTrust.objects.exists()
        assert LedgerEntry.objects.filter(kind="oidc_trust.deleted").exists()


def test_a_weak_trust_is_refused_in_the_form(acme: Site) -> None:
    client = signed_in(acme.people[Role.ADMIN])
    answer = client.post(url("oidctrust", "add"), trust_form(acme, issuer="http://idp.example"))
    assert answer.status_code == 200
    assert "Use an https URL" in answer.content.decode()
    with scope(tenant=acme.tenant):
        assert not OidcTrust.objects.exists()


def test_a_rule_cant_name_a_neighbours_agent(acme: Site, globex: Site) -> None:
    client = signed_in(acme.people[Role.ADMIN])
    answer = client.post(url("oidctrust", "add"), trust_form(acme, ("a", str(globex.agent.pk))))
    assert answer.status_code == 200
    with scope(tenant=acme.tenant):
        assert not OidcTrust.objects.exists()


# ---------------------------------------------------------------- people


def test_only_an_operator_makes_people_and_sets_passwords(acme: Site, operator: User) -> None:
    form = {
        "email": "New@acme.example",
        "name": "New",
        "is_active": "on",
        "new_password": "a-long-enough-phrase",
        "memberships-TOTAL_FORMS": "0",
        "memberships-INITIAL_FORMS": "0",
    }
    assert signed_in(acme.people[Role.OWNER]).post(url("user", "add"), form).status_code == 403
    assert signed_in(operator).post(url("user", "add"), form).status_code == 302
    made = User.objects.get(email="new@acme.example")
    assert made.check_password("a-long-enough-phrase")
    weak = {**form, "email": "other@acme.example", "new_password": "short"}
    refused = signed_in(operator).post(url("user", "add"), weak)
    assert refused.status_code == 200
    assert "too short" in refused.content.decode()
    assert not User.objects.filter(email="other@acme.example").exists()
    kept = {**form, "new_password": ""}
    assert signed_in(operator).post(url("user", made.pk, "change"), kept).status_code == 302
    made.refresh_from_db()
    assert made.check_password("a-long-enough-phrase")


def test_no_owner_makes_themselves_an_operator(acme: Site) -> None:
    owner = acme.people[Role.OWNER]
    form = {"email": owner.email, "is_active": "on", "is_superuser": "on", "new_password": ""}
    assert signed_in(owner).post(url("user", owner.pk, "change"), form).status_code == 403
    owner.refresh_from_db()
    assert not owner.is_superuser


@pytest.mark.parametrize("role", list(Role))
def test_only_owners_give_roles(acme: Site, role: Role) -> None:
    client = signed_in(acme.people[role])
    with scope(tenant=acme.tenant):
        viewer = Membership.objects.get(user=acme.people[Role.VIEWER])
    client.post(url("membership", viewer.pk, "change"), {"role": "owner"})
    with scope(tenant=acme.tenant):
        viewer.refresh_from_db()
    assert (viewer.role == Role.OWNER) is (role is Role.OWNER)


def test_an_owner_renames_the_tenant_but_neither_its_slug_nor_its_activity(acme: Site) -> None:
    form = {"name": "Acme Inc.", "slug": "other", "is_active": ""}
    assert signed_in(acme.people[Role.OWNER]).post(url("tenant", acme.tenant.pk, "change"), form).status_code == 302
    acme.tenant.refresh_from_db()
    assert (acme.tenant.name, acme.tenant.slug, acme.tenant.is_active) == ("Acme Inc.", "acme", True)
    assert signed_in(acme.people[Role.OWNER]).get(url("tenant", "add")).status_code == 403


def test_an_operator_makes_and_closes_a_tenant_and_its_people_see_it_no_more(acme: Site, operator: User) -> None:
    client = signed_in(operator)
    made = client.post(url("tenant", "add"), {"slug": "initech", "name": "Initech", "is_active": "on"})
    assert made.status_code == 302
    assert Tenant.objects.filter(slug="initech").exists()
    client.post(url("tenant", acme.tenant.pk, "change"), {"slug": "acme", "name": "Acme"})
    assert signed_in(acme.people[Role.OWNER]).get(url("agent")).status_code == 403


# ---------------------------------------------------------------- the ledger and the whole


@pytest.mark.parametrize("role", list(Role))
def test_the_ledger_is_read_by_those_who_may_audit_and_changed_by_nobody(
    acme: Site, operator: User, role: Role
) -> None:
    with scope(tenant=acme.tenant):
        entry = LedgerEntry.objects.first()
    assert entry is not None
    client = signed_in(acme.people[role])
    may = role is not Role.VIEWER
    assert client.get(url("ledgerentry", app="ledger")).status_code == (200 if may else 403)
    page = url("ledgerentry", entry.pk, "change", app="ledger")
    assert client.get(page).status_code == (200 if may else 403)
    for whoever in (client, signed_in(operator)):
        assert whoever.post(page, {"kind": "x"}).status_code in {302, 403}
        assert whoever.post(url("ledgerentry", entry.pk, "delete", app="ledger"), {"post": "yes"}).status_code in {
            302,
            403,
        }
        assert whoever.get(url("ledgerentry", "add", app="ledger")).status_code == 403
    with scope(tenant=acme.tenant):
        assert LedgerEntry.objects.get(pk=entry.pk).kind == entry.kind


def test_the_sidebar_shows_what_ones_role_may_open(acme: Site, outsider: User) -> None:
    owner = signed_in(acme.people[Role.OWNER]).get("/admin/").content.decode()
    viewer = signed_in(acme.people[Role.VIEWER]).get("/admin/").content.decode()
    assert "/admin/ledger/ledgerentry/" in owner
    assert "/admin/accounts/agent/" in viewer
    assert "/admin/ledger/ledgerentry/" not in viewer
    assert "/admin/accounts/agent/" not in signed_in(outsider).get("/admin/").content.decode()


def test_no_page_offers_to_delete_rows_in_bulk(acme: Site) -> None:
    assert "delete_selected" not in signed_in(acme.people[Role.OWNER]).get(url("agent")).content.decode()


def test_every_page_of_ours_is_for_everybody_by_role_and_other_pages_are_gone(operator: User) -> None:
    from controlplane.admin import TenantModelAdmin

    strangers = [
        model.__name__ for model, page in admin.site._registry.items() if not isinstance(page, TenantModelAdmin)
    ]
    assert strangers == []


def test_nobody_finds_out_a_hash_by_filtering(acme: Site) -> None:
    client = signed_in(acme.people[Role.ADMIN])
    assert client.get(url("user"), {"email__startswith": "o"}).status_code == 200
    for lookup in ("password__startswith", "password__regex", "password"):
        assert client.get(url("user"), {lookup: "s"}).status_code == 400


def test_no_page_filters_by_a_field_that_holds_a_secret(acme: Site) -> None:
    request = RequestFactory().get("/")
    request.user = acme.people[Role.OWNER]
    hidden = [
        (page, field.name)
        for model, page in admin.site._registry.items()
        for field in model._meta.concrete_fields
        if re.search("password|sealed|digest|verifier", field.name)
    ]
    assert ("agenttoken", "digest") in {(page.opts.model_name, name) for page, name in hidden}
    for page, name in hidden:
        assert not page.lookup_allowed(f"{name}__startswith", "x", request), (page, name)
