"""The platform's ledger: what operators do, and what happens to whoever belongs to no tenant."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from django.core import mail
from django.core.cache import cache
from django.db import connections, transaction
from django.test import Client
from django_scopes import scope, scopes_disabled

import manage
from accounts import actions, tasks
from accounts.models import Membership, Tenant, User
from accounts.signin import breakglass, sessions
from accounts.signin.models import SignIn
from controlplane.authority import Role
from controlplane.ledger.actions import append_entry, first_break
from controlplane.ledger.errors import LedgerIsReadOnly
from controlplane.ledger.models import LedgerEntry, PlatformEntry
from tests.accounts.conftest import Site, acme, operator, outsider  # noqa: F401  # fixtures

if TYPE_CHECKING:
    from pytest_django.fixtures import Settings

PASSWORD = "a-long-enough-phrase"


@pytest.fixture(autouse=True)
def _no_lockout() -> None:
    cache.clear()


@pytest.fixture
def root(operator: User) -> Client:  # noqa: F811
    client = Client(REMOTE_ADDR="192.0.2.7")
    client.force_login(operator)
    return client


def shell(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """Run manage.py, in the test's transaction."""
    monkeypatch.setattr(sys, "argv", ["manage.py", *arguments])
    monkeypatch.setattr(connections, "close_all", lambda: None)
    manage.main()


def told(kind: str) -> PlatformEntry:
    """The newest of that kind."""
    entry: PlatformEntry = PlatformEntry.objects.filter(kind=kind).order_by("-seq")[0]
    return entry


def said(kind: str) -> Any:
    """What the newest of that kind says of the state after it."""
    return told(kind).after


def test_an_operators_work_on_a_tenant_is_in_both_ledgers(root: Client, operator: User) -> None:  # noqa: F811
    form = {"slug": "initech", "name": "Initech", "is_active": "on"}
    assert root.post("/admin/accounts/tenant/add/", form).status_code == 302
    tenant = Tenant.objects.get()
    assert root.post(f"/admin/accounts/tenant/{tenant.pk}/change/", {"slug": "initech", "name": "I"}).status_code == 302
    for kind, before, after in (("tenant.created", None, True), ("tenant.changed", True, False)):
        entry = told(kind)
        assert (entry.actor, entry.subject, entry.channel) == (operator.email, "tenant:initech", "admin")
        assert entry.address == "192.0.2.7"
        assert [state and state["is_active"] for state in (entry.before, entry.after)] == [before, after]
        with scope(tenant=tenant):
            assert LedgerEntry.objects.get(kind=kind).after == entry.after


def test_the_first_owner_whom_an_operator_appoints_is_in_both_ledgers(operator: User, outsider: User) -> None:  # noqa: F811
    tenant = actions.save_tenant(Tenant(slug="initech", name="Initech"), acting_user=operator)
    owner = Membership(tenant=tenant, user=outsider, role=Role.OWNER)
    actions.appoint_owner(owner, acting_user=operator)
    assert told("membership.created").after == {"user": outsider.email, "role": "owner"}
    with scope(tenant=tenant):
        assert LedgerEntry.objects.get(kind="membership.created").actor == operator.email


def test_people_are_told_where_they_belong(acme: Site, operator: User, outsider: User) -> None:  # noqa: F811
    """Without a tenant, and operators: the platform's ledger. With one: the tenant's, and that alone."""
    assert told("user.created").subject in {f"user:{operator}", f"user:{outsider}"}
    seq = PlatformEntry.objects.count()
    member = acme.people[Role.VIEWER]
    member.name = "Vera"
    actions.save_user(member, acting_user=operator)
    assert PlatformEntry.objects.count() == seq
    member.is_superuser = True
    actions.save_user(member, acting_user=operator)
    member.is_superuser = False
    actions.save_user(member, acting_user=operator)
    changes = PlatformEntry.objects.filter(seq__gt=seq).order_by("seq").values_list("before", "after")
    assert [(before["is_superuser"], after["is_superuser"]) for before, after in changes] == [
        (False, True),
        (True, False),
    ]
    with scope(tenant=acme.tenant):
        assert LedgerEntry.objects.filter(kind="user.changed").count() == 3


@pytest.mark.django_db
def test_an_operator_made_on_the_command_line_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DJANGO_SUPERUSER_PASSWORD", PASSWORD)
    shell(monkeypatch, "createsuperuser", "--no-input", "--email", "root@gate.example")
    entry = told("user.created")
    assert (entry.subject, entry.channel, said("user.created")["is_superuser"]) == (
        "user:root@gate.example",
        "cli",
        True,
    )
    assert PASSWORD not in str(entry.after)


def test_an_operators_break_glass_is_told_and_is_an_alert_to_the_operators(
    operator: User,  # noqa: F811
    django_capture_on_commit_callbacks: Any,
    monkeypatch: pytest.MonkeyPatch,
    settings: Settings,
) -> None:
    sent: list[dict[str, Any]] = []
    monkeypatch.setattr(tasks.alert_break_glass, "apply_async", lambda **how: sent.append(how["kwargs"]))
    actions.save_user(operator, acting_user=None, password=PASSWORD)
    other = actions.save_user(User(email="second@gate.example", is_superuser=True), acting_user=operator)
    form = {"username": operator.email, "password": PASSWORD}
    with django_capture_on_commit_callbacks(execute=True):
        assert Client(REMOTE_ADDR="192.0.2.7").post("/admin/login/", form).status_code == 302
    entry = told("break_glass.used")
    assert (entry.actor, entry.channel, entry.address) == (operator.email, "sign-in", "192.0.2.7")
    assert entry.after == {"method": "password", "address": "192.0.2.7", "is_operator": True}
    settings.NARROWGATE = replace(settings.NARROWGATE, smtp_url="smtp://127.0.0.1")
    assert [tasks.alert_break_glass(**alert) for alert in sent] == [2]
    assert {message.to[0] for message in mail.outbox} == {operator.email, other.email}


def test_an_operator_with_a_role_alerts_that_tenants_owners_too(
    acme: Site,  # noqa: F811
    operator: User,  # noqa: F811
    settings: Settings,
) -> None:
    role = Membership(tenant=acme.tenant, user=operator, role=Role.AUDITOR)
    actions.save_membership(role, acting_user=acme.people[Role.OWNER])
    settings.NARROWGATE = replace(settings.NARROWGATE, smtp_url="smtp://127.0.0.1")
    assert tasks.alert_break_glass(user_id=str(operator.pk), method="totp", address="") == 2
    assert {message.to[0] for message in mail.outbox} == {operator.email, acme.people[Role.OWNER].email}


def test_a_lost_authenticator_and_an_ended_sign_in_of_an_operator_are_told(
    root: Client,
    operator: User,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    breakglass.new_key(operator)
    shell(monkeypatch, "reset_authenticator", operator.email)
    assert (told("authenticator.removed").subject, told("authenticator.removed").channel) == (
        f"user:{operator}",
        "cli",
    )
    assert root.get("/admin/").status_code == 200
    with scopes_disabled():
        assert sessions.end_sign_ins(SignIn.objects.filter(user=operator), acting_user=operator) == 1
    assert told("sign_in.ended").actor == operator.email
    assert root.get("/admin/").status_code == 302


def test_operators_alone_see_it(root: Client, acme: Site) -> None:  # noqa: F811
    entry = PlatformEntry.objects.order_by("seq")[0]
    page = f"/admin/ledger/platformentry/{entry.pk}/change/"
    listed = root.get("/admin/ledger/platformentry/").content.decode()
    assert "tenant:acme" in listed
    assert root.get(page).status_code == 200
    assert "/admin/ledger/platformentry/" in root.get("/admin/").content.decode()
    for person in acme.people.values():
        client = Client()
        client.force_login(person)
        assert client.get("/admin/ledger/platformentry/").status_code == 403
        assert client.get(page).status_code in {403, 404}
        assert "/admin/ledger/platformentry/" not in client.get("/admin/").content.decode()
    for verb in ("add/", f"{entry.pk}/delete/"):
        assert root.post(f"/admin/ledger/platformentry/{verb}", {"post": "yes"}).status_code in {403, 404}


@pytest.mark.django_db
def test_it_is_a_gapless_chain_that_nobody_changes() -> None:
    for number in range(3):
        with transaction.atomic():
            entry = append_entry(
                tenant=None, kind="x.y", acting_user=None, subject="x", before=None, after={"n": number}
            )
    assert entry.seq == 3
    assert first_break(None) is None
    with pytest.raises(LedgerIsReadOnly):
        entry.delete()
    with pytest.raises(LedgerIsReadOnly):
        PlatformEntry.objects.update(kind="z")
    PlatformEntry.objects.bulk_create([PlatformEntry(seq=5, at=entry.at, kind="x", actor="y", digest=b"")])
    assert first_break(None) == 4


def test_operators_read_it_over_rest_filtered_and_nobody_else_does(root: Client, acme: Site, operator: User) -> None:  # noqa: F811
    with transaction.atomic():
        for number in range(3):
            append_entry(
                tenant=None, kind="test.told", acting_user=operator, subject=f"x:{number}", before=None, after={}
            )
    listed = root.get("/api/v1/platform-entries/", {"kind": "test.told", "page_size": "2"}).json()
    assert listed["count"] == 3
    first = listed["results"][0]
    assert (first["subject"], first["actor"], len(first["digest"])) == ("x:2", str(operator), 64)
    one = PlatformEntry.objects.get(subject="x:2")
    assert root.get(f"/api/v1/platform-entries/{one.pk}/").json()["seq"] == one.seq
    assert root.post("/api/v1/platform-entries/", {}).status_code in {403, 405}
    owner = actions.save_user(User(email="somebody@acme.example"), acting_user=None)
    actions.save_membership(Membership(tenant=acme.tenant, user=owner, role=Role.OWNER), acting_user=None)
    client = Client()
    client.force_login(owner)
    assert client.get("/api/v1/platform-entries/").json()["count"] == 0
    assert client.get(f"/api/v1/platform-entries/{one.pk}/").status_code == 404
    token = actions.issue_api_token(owner, tenant=acme.tenant, acting_user=None)[1].text
    by_token = Client(headers={"Authorization": f"Bearer {token}"})
    assert by_token.get("/api/v1/platform-entries/").json()["count"] == 0


def test_a_token_of_an_operator_shows_nothing_of_it(acme: Site, operator: User) -> None:  # noqa: F811
    actions.save_membership(Membership(tenant=acme.tenant, user=operator, role=Role.OWNER), acting_user=None)
    token = actions.issue_api_token(operator, tenant=acme.tenant, acting_user=None)[1].text
    assert Client(headers={"Authorization": f"Bearer {token}"}).get("/api/v1/platform-entries/").json()["count"] == 0


@pytest.mark.parametrize("way", ["page", "command"])
def test_a_password_is_told_whichever_way_it_is_set(
    operator: User,  # noqa: F811
    root: Client,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
) -> None:
    actions.save_user(operator, acting_user=None, password=PASSWORD)
    other = f"{PASSWORD}, and more"
    if way == "page":
        sent = {"old_password": PASSWORD, "new_password1": other, "new_password2": other}
        root.force_login(operator)
        assert root.post("/admin/password_change/", sent).status_code == 302
    else:
        monkeypatch.setattr("getpass.getpass", lambda **_: other)
        shell(monkeypatch, "changepassword", operator.email)
    operator.refresh_from_db()
    assert operator.check_password(other)
    entry = told("user.password_changed")
    assert (entry.subject, entry.after) == (f"user:{operator}", {"password": True})
    assert (entry.actor, entry.channel) == ((str(operator), "admin") if way == "page" else ("system", "cli"))
    assert other not in str((entry.before, entry.after))


def test_a_password_that_cannot_be_told_is_not_set(operator: User, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    actions.save_user(operator, acting_user=None, password=PASSWORD)

    def refuse(*_: Any, **__: Any) -> None:
        raise LedgerIsReadOnly

    monkeypatch.setattr("controlplane.ledger.actions._append", refuse)
    operator.set_password("something else, and long")
    with pytest.raises(LedgerIsReadOnly):
        operator.save()
    assert User.objects.get(pk=operator.pk).check_password(PASSWORD)
