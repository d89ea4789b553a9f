"""One's own page: who one is, ending sign-ins from elsewhere, and another authenticator in place of one that works."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.conf import settings
from django.core import mail
from django.test import Client
from django.utils import timezone
from django_scopes import scope, scopes_disabled

from accounts import actions, tasks
from accounts.federation.models import FederatedIdentity, IdentityProvider
from accounts.models import Membership, User
from accounts.scim.actions import change_members, provision, save_group
from accounts.scim.models import ScimGroup
from accounts.signin import sessions
from accounts.signin.account_views import MAX_LIVE
from accounts.signin.models import SignIn, SignInMethod, TotpDevice
from controlplane.authority import Role
from controlplane.ledger import actions as ledger
from controlplane.ledger.models import LedgerEntry, PlatformEntry
from tests.accounts.conftest import Site, make_site
from tests.accounts.federation.conftest import make_provider
from tests.accounts.signin.local import CODE, PASSWORD, code_for, is_signed_in, key_shown, password_of

PAGE = "/sign-in/mine/"
END = "/sign-in/mine/end/"
ENROL = "/sign-in/mine/authenticator/"
REPLACE = "/sign-in/mine/authenticator/replace/"
NEW = "/sign-in/mine/authenticator/new/"


class LedgerIsGone(Exception):
    """Nothing can be appended."""


@pytest.fixture
def no_ledger(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise LedgerIsGone

    monkeypatch.setattr(ledger, "_append", refuse)


@pytest.fixture
def clock() -> Iterator[Any]:
    """It stands still but when it is told to go on."""
    with time_machine.travel(timezone.now(), tick=False) as traveller:
        yield traveller


@pytest.fixture
def browser(owner: User, clock: Any) -> Client:
    """The owner's, signed in by password and code; `key_of` says with which key."""
    browser = Client()
    password_of(owner, browser)
    key = key_shown(browser, ENROL)
    assert browser.post(ENROL, {"code": code_for(key)}).status_code == 302
    browser.session_key_text = key  # type: ignore[attr-defined]
    clock.shift(60)  # each code is good once
    return browser


def key_of(browser: Client) -> str:
    return str(browser.session_key_text)  # type: ignore[attr-defined]


def by_provider(user: User, provider: IdentityProvider) -> Client:
    """Their browser, signed in through the provider."""
    browser = Client()
    browser.force_login(user)
    with scopes_disabled():
        this = SignIn.objects.filter(pk=browser.session[sessions.SESSION_KEY])
        this.update(provider=provider, tenant=provider.tenant_id, method=SignInMethod.OIDC)
    return browser


def roles_shown(browser: Client) -> set[tuple[str, str, str]]:
    return {(held.tenant, held.role, held.origin) for held in browser.get(PAGE).context["roles"]}


def told(site: Site, kind: str) -> int:
    with scope(tenant=site.tenant):
        return int(LedgerEntry.objects.filter(kind=kind).count())


# ---------------------------------------------------------------- who one is


def test_each_role_is_shown_with_where_it_came_from(acme: Site, globex: Site, owner: User) -> None:
    provider = make_provider(globex, name="Globex Login")
    identity = FederatedIdentity(tenant=globex.tenant, provider=provider, subject="s-1", user=owner)
    identity.groups = ["admins", "staff", "everybody"]
    with scope(tenant=globex.tenant):
        identity.save()
    given = Membership(tenant=globex.tenant, user=owner, role=Role.ADMIN, given_by=provider)
    actions.save_membership(given, acting_user=None)
    initech = make_site("initech")
    with scope(tenant=initech.tenant):
        member = provision(initech.tenant, user_name=owner.email)
        group = save_group(
            ScimGroup(tenant=initech.tenant, display_name="data-team", role=Role.AUDITOR), acting_user=None
        )
        change_members(group, "add", [member.pk])
    browser = Client()
    password_of(owner, browser)
    assert roles_shown(browser) == {
        ("Acme", "Owner", "given by hand"),
        ("Globex", "Administrator", "by Globex Login, for group admins"),
        ("Initech", "Auditor", "by the directory (SCIM), for group data-team"),
    }


def test_through_a_provider_one_sees_what_it_vouches_for(acme: Site, globex: Site, owner: User) -> None:
    provider = make_provider(globex, name="Globex Login")
    given = Membership(tenant=globex.tenant, user=owner, role=Role.VIEWER, given_by=provider)
    actions.save_membership(given, acting_user=None)
    local = Client()
    password_of(owner, local)
    browser = by_provider(owner, provider)
    assert roles_shown(browser) == {("Globex", "Viewer", "by Globex Login")}
    page = browser.get(PAGE)
    assert [row.pk for row in page.context["sign_ins"]] == [page.context["current"].pk]
    assert "OpenID Connect · Globex Login · this browser" in page.content.decode()
    assert ENROL not in page.content.decode()
    assert [browser.get(url).status_code for url in (ENROL, REPLACE, NEW)] == [403, 403, 403]
    browser.post(END, {"which": "all"})
    assert (is_signed_in(browser), is_signed_in(local)) == (False, True)


def test_everybody_who_is_signed_in_has_the_page_in_their_menu(acme: Site, outsider: User, operator: User) -> None:
    for user in (*acme.people.values(), outsider, operator):
        browser = Client()
        browser.force_login(user)
        assert f'href="{PAGE}"' in browser.get("/admin/").content.decode()
        page = browser.get(PAGE)
        assert page.headers["Cache-Control"].startswith("max-age=0, no-cache, no-store")
        assert user.email in page.content.decode()
        assert "break-glass · this browser" in page.content.decode()
    for url in (PAGE, ENROL, REPLACE, NEW):
        assert Client().get(url).headers["Location"].startswith("/admin/login/")


# ---------------------------------------------------------------- where one is signed in


def test_one_ends_one_of_ones_sign_ins_the_others_or_all(acme: Site, owner: User) -> None:
    here, there, elsewhere, stranger = Client(), Client(), Client(), Client()
    admin = actions.save_user(acme.people[Role.ADMIN], acting_user=None, password=PASSWORD)
    for user, browser in ((owner, here), (owner, there), (owner, elsewhere), (admin, stranger)):
        password_of(user, browser)
    page = there.get(PAGE)
    assert {row.user_id for row in page.context["sign_ins"]} == {owner.pk}
    assert page.content.decode().count("this browser") == 1
    one = str(page.context["current"].pk)
    assert f'value="{one}"' not in page.content.decode()  # this one ends with all, or by signing out
    assert f'value="{one}"' in here.get(PAGE).content.decode()

    stranger.post(END, {"sign_in": one})
    assert is_signed_in(there)
    assert here.post(END, {"sign_in": one}).headers["Location"] == PAGE
    assert [is_signed_in(browser) for browser in (here, there, elsewhere, stranger)] == [True, False, True, True]
    password_of(owner, there)
    here.post(END, {"which": "others"})
    assert [is_signed_in(browser) for browser in (here, there, elsewhere, stranger)] == [True, False, False, True]
    assert here.get(PAGE).context["others"] == 0
    assert len(here.get(PAGE).context["ended"]) == 3
    here.post(END, {"which": "all"})
    assert [is_signed_in(browser) for browser in (here, stranger)] == [False, True]
    ended = PlatformEntry.objects.filter(kind="sign_in.ended", actor=owner.email)
    assert ended.count() == 4


@pytest.mark.parametrize("sent", [{}, {"which": "none"}, {"sign_in": "1 OR 1=1"}])
def test_what_names_no_sign_in_ends_none(owner: User, sent: dict[str, str]) -> None:
    browser = Client()
    password_of(owner, browser)
    assert browser.post(END, sent).status_code == 400
    assert browser.get(END).status_code == 405
    assert is_signed_in(browser)


def test_more_sign_ins_than_the_page_shows_end_with_the_others(owner: User, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "BATCH", 20)
    browser = Client()
    password_of(owner, browser)
    until = timezone.now() + timedelta(hours=1)
    with scopes_disabled():
        SignIn.objects.bulk_create(
            SignIn(user=owner, method=SignInMethod.PASSWORD, expires_at=until) for _ in range(MAX_LIVE + 1)
        )
    page = browser.get(PAGE)
    assert (len(page.context["sign_ins"]), page.context["others"]) == (MAX_LIVE, MAX_LIVE + 1)
    browser.post(END, {"which": "others"})
    assert browser.get(PAGE).context["others"] == 0


def test_a_sign_in_that_cannot_be_told_as_ended_goes_on(owner: User, no_ledger: None) -> None:
    here, there = Client(), Client()
    for browser in (here, there):
        browser.force_login(owner)
    with pytest.raises(LedgerIsGone):
        here.post(END, {"which": "others"})
    assert is_signed_in(there)


def test_a_new_password_ends_the_other_sign_ins(owner: User) -> None:
    here, there = Client(), Client()
    for browser in (here, there):
        password_of(owner, browser)
    new = "another-long-phrase"
    sent = {"old_password": PASSWORD, "new_password1": new, "new_password2": new}
    assert here.post("/admin/password_change/", sent).status_code == 302
    assert (is_signed_in(here), is_signed_in(there)) == (True, False)


# ---------------------------------------------------------------- another authenticator


def test_a_code_of_the_old_app_and_one_of_the_new_replace_it(
    acme: Site, owner: User, browser: Client, clock: Any, monkeypatch: pytest.MonkeyPatch,
    django_capture_on_commit_callbacks: Any,
) -> None:  # fmt: skip
    sent: list[dict[str, Any]] = []
    monkeypatch.setattr(tasks.alert_authenticator_replaced, "apply_async", lambda **how: sent.append(how["kwargs"]))
    old = key_of(browser)
    assert browser.post(REPLACE, {"code": code_for(old)}).headers["Location"] == NEW
    page = browser.get(NEW)
    new = page.context["key_text"]
    assert page.headers["Cache-Control"].startswith("max-age=0, no-cache, no-store")
    assert page.context["qr_code"] in page.content.decode()
    clock.shift(60)

    meanwhile = Client()  # the old one is good until the new one is confirmed, and it alone
    password_of(owner, meanwhile)
    assert meanwhile.post(CODE, {"code": code_for(old)}).status_code == 302
    clock.shift(60)
    with django_capture_on_commit_callbacks(execute=True):
        assert browser.post(NEW, {"code": code_for(new)}).headers["Location"] == PAGE
    assert sent == [{"user_id": str(owner.pk), "address": "127.0.0.1"}]
    assert told(acme, "authenticator.replaced") == 1
    with scope(tenant=acme.tenant):
        entry = LedgerEntry.objects.get(kind="authenticator.replaced")
    assert (entry.actor, entry.after) == (owner.email, {"address": "127.0.0.1", "role": "owner"})

    clock.shift(60)
    again = Client()
    password_of(owner, again)
    assert again.post(CODE, {"code": code_for(old)}).status_code == 200
    clock.shift(60)
    assert again.post(CODE, {"code": code_for(new)}).status_code == 302
    assert browser.get(NEW).headers["Location"] == REPLACE  # what was begun is done


def test_a_new_key_is_shown_once_and_only_after_a_code_of_the_old_app(browser: Client, clock: Any) -> None:
    assert browser.get(NEW).headers["Location"] == REPLACE
    assert browser.post(NEW, {"code": "000000"}).headers["Location"] == REPLACE
    assert "key_text" not in browser.get(REPLACE).context
    assert browser.post(REPLACE, {"code": "000000"}).status_code == 200
    assert browser.get(NEW).headers["Location"] == REPLACE
    clock.shift(60)
    browser.post(REPLACE, {"code": code_for(key_of(browser))})
    first = key_shown(browser, NEW)
    refused = browser.post(NEW, {"code": "000000"})
    assert first not in refused.content.decode()
    assert "<svg" not in refused.content.decode()
    assert first.replace(" ", "") not in str(dict(browser.session))
    clock.shift(60)
    second = key_shown(browser, NEW)
    assert second != first
    assert browser.post(NEW, {"code": code_for(first)}).status_code == 200  # the last one counts
    clock.shift(60)
    assert browser.post(NEW, {"code": code_for(second)}).headers["Location"] == PAGE


def test_wrong_codes_slow_both_steps_down(browser: Client, clock: Any) -> None:
    assert browser.post(REPLACE, {"code": "000000"}).status_code == 200
    assert browser.post(REPLACE, {"code": code_for(key_of(browser))}).status_code == 200  # right, but too soon
    clock.shift(60)
    assert browser.post(REPLACE, {"code": code_for(key_of(browser))}).status_code == 302
    new = key_shown(browser, NEW)
    assert browser.post(NEW, {"code": "000000"}).status_code == 200
    assert browser.post(NEW, {"code": code_for(new)}).status_code == 200  # right, but too soon
    clock.shift(60)
    assert browser.post(NEW, {"code": code_for(new)}).status_code == 302


def test_a_code_of_the_old_app_is_good_for_a_while_and_for_one_replacement(
    owner: User, browser: Client, clock: Any
) -> None:
    old = key_of(browser)
    other = Client()
    password_of(owner, other)
    other.post(CODE, {"code": code_for(old)})
    clock.shift(60)
    other.post(REPLACE, {"code": code_for(old)})
    late = key_shown(other, NEW)
    clock.shift(60)
    browser.post(REPLACE, {"code": code_for(old)})
    assert browser.post(NEW, {"code": code_for(key_shown(browser, NEW))}).status_code == 302
    clock.shift(60)
    assert other.post(NEW, {"code": code_for(late)}).status_code == 200  # its code was of the key before
    clock.shift(360)
    assert other.get(NEW).headers["Location"] == REPLACE


def test_a_replacement_that_cannot_be_told_is_none(owner: User, browser: Client, no_ledger: None) -> None:
    before = TotpDevice.objects.get(user=owner).sealed_secret
    browser.post(REPLACE, {"code": code_for(key_of(browser))})
    new = key_shown(browser, NEW)
    with pytest.raises(LedgerIsGone):
        browser.post(NEW, {"code": code_for(new)})
    assert TotpDevice.objects.get(user=owner).sealed_secret == before


def test_whoever_has_no_authenticator_sets_one_up_and_whoever_has_one_replaces_it(owner: User, clock: Any) -> None:
    browser = Client()
    password_of(owner, browser)
    assert ENROL in browser.get(PAGE).content.decode()
    assert browser.get(REPLACE).headers["Location"] == ENROL
    browser.post(ENROL, {"code": code_for(key_shown(browser, ENROL))})
    assert REPLACE in browser.get(PAGE).content.decode()
    assert browser.get(ENROL).headers["Location"] == PAGE


def test_one_taken_away_meanwhile_is_not_replaced(owner: User, browser: Client) -> None:
    browser.post(REPLACE, {"code": code_for(key_of(browser))})
    new = key_shown(browser, NEW)
    TotpDevice.objects.filter(user=owner).delete()
    assert browser.post(NEW, {"code": code_for(new)}).status_code == 200
    assert not TotpDevice.objects.filter(user=owner).exists()


def test_owners_are_written_to_of_a_replacement(acme: Site, globex: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    alert = {"user_id": str(acme.people[Role.AUDITOR].pk), "address": "192.0.2.1"}
    assert tasks.alert_authenticator_replaced(**alert) == 0  # e-mail isn't set up
    monkeypatch.setattr(settings, "NARROWGATE", replace(settings.NARROWGATE, smtp_url="smtp://127.0.0.1"))
    assert tasks.alert_authenticator_replaced(**alert) == 1
    assert [message.to for message in mail.outbox] == [[acme.people[Role.OWNER].email]]
    assert "192.0.2.1" in mail.outbox[0].body


def test_an_operators_replacement_is_in_the_platforms_ledger(operator: User, clock: Any) -> None:
    actions.save_user(operator, acting_user=None, password=PASSWORD)
    browser = Client()
    password_of(operator, browser)
    key = key_shown(browser, ENROL)
    browser.post(ENROL, {"code": code_for(key)})
    clock.shift(60)
    browser.post(REPLACE, {"code": code_for(key)})
    browser.post(NEW, {"code": code_for(key_shown(browser, NEW))})
    entry = PlatformEntry.objects.get(kind="authenticator.replaced")
    assert (entry.actor, entry.after) == (operator.email, {"address": "127.0.0.1", "is_operator": True})
