"""Local accounts and sessions: the second factor, the lockout, the alert, and ending sessions from elsewhere."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import time_machine
from django.conf import settings
from django.core import mail
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone
from django_scopes import scope, scopes_disabled

from accounts import actions, tasks
from accounts.models import User
from accounts.signin import breakglass, sessions
from accounts.signin.models import SignIn, TotpDevice
from controlplane.authority import Role
from controlplane.ledger.models import LedgerEntry
from tests.accounts.conftest import Site
from tests.accounts.signin.local import CODE, LOGIN, PASSWORD, code_for, is_signed_in, key_shown, password_of


def test_in_production_a_password_alone_lets_nobody_in(owner: User, strict: None) -> None:
    browser = Client()
    assert password_of(owner, browser).headers["Location"] == CODE
    assert not is_signed_in(browser)
    assert browser.post(CODE, {"code": "000000"}).status_code == 200
    assert not is_signed_in(browser)


def test_the_first_right_code_sets_the_app_up_and_lets_in(owner: User, strict: None) -> None:
    browser = Client()
    password_of(owner, browser, next="/admin/accounts/agent/")
    key = key_shown(browser)
    assert browser.post(CODE, {"code": code_for(key)}).headers["Location"] == "/admin/accounts/agent/"
    assert is_signed_in(browser)
    device = TotpDevice.objects.get(user=owner)
    assert device.confirmed
    assert device.sealed_secret.startswith("ng1.")

    again = Client()
    password_of(owner, again)
    assert "key_text" not in again.get(CODE).context  # the key was shown once, to whoever had the password first
    with time_machine.travel(timezone.now() + timedelta(seconds=90), tick=False):
        assert again.post(CODE, {"code": code_for(key)}).status_code == 302
    assert is_signed_in(again)


def test_a_key_is_shown_once_as_text_and_as_a_picture_of_it(owner: User, strict: None) -> None:
    browser = Client()
    password_of(owner, browser)
    first = browser.get(CODE)
    assert first.headers["Cache-Control"].startswith("max-age=0, no-cache, no-store")
    shown = first.context
    assert shown["qr_code"] in first.content.decode()
    assert shown["qr_code"] == breakglass.qr_code(shown["otpauth_url"])
    secret = shown["key_text"].replace(" ", "")
    assert f"secret={secret}&" in shown["otpauth_url"]
    refused = browser.post(CODE, {"code": "000000"}).content.decode()
    assert "<svg" not in refused
    assert shown["key_text"] not in refused
    with time_machine.travel(timezone.now() + timedelta(seconds=60), tick=False):
        second = key_shown(browser)
        assert second != shown["key_text"]
        assert browser.post(CODE, {"code": code_for(shown["key_text"])}).status_code == 200
    with time_machine.travel(timezone.now() + timedelta(seconds=120), tick=False):
        assert browser.post(CODE, {"code": code_for(second)}).status_code == 302


def test_a_new_authenticator_is_in_the_ledger_and_stays(acme: Site, owner: User, strict: None) -> None:
    browser = Client()
    password_of(owner, browser)
    browser.post(CODE, {"code": code_for(key_shown(browser))})
    with scope(tenant=acme.tenant):
        assert LedgerEntry.objects.get(kind="authenticator.added").actor == owner.email
    with pytest.raises(PermissionError):
        breakglass.new_key(owner)
    assert browser.get("/sign-in/mine/authenticator/").headers["Location"] == "/sign-in/mine/"


def test_a_code_is_good_once_and_wrong_ones_slow_down(owner: User, strict: None) -> None:
    with time_machine.travel(timezone.now(), tick=False) as clock:
        browser = Client()
        password_of(owner, browser)
        key = key_shown(browser)
        code = code_for(key)
        assert browser.post(CODE, {"code": code}).status_code == 302

        second = Client()
        password_of(owner, second)
        assert second.post(CODE, {"code": code}).status_code == 200  # used before
        clock.shift(31)
        assert second.post(CODE, {"code": "000000"}).status_code == 200
        assert second.post(CODE, {"code": code_for(key)}).status_code == 200  # right, but too soon after a wrong one
        clock.shift(31)
        assert second.post(CODE, {"code": code_for(key)}).status_code == 302


def test_the_second_step_wants_the_first_and_soon(owner: User, strict: None) -> None:
    browser = Client()
    assert browser.get(CODE).headers["Location"] == LOGIN
    password_of(owner, browser)
    with time_machine.travel(timezone.now() + timedelta(minutes=6), tick=False):
        assert browser.get(CODE).headers["Location"] == LOGIN


def test_outside_of_production_a_code_is_asked_for_once_it_is_set_up(owner: User) -> None:
    browser = Client()
    assert password_of(owner, browser).headers["Location"] == "/admin/"
    key = key_shown(browser, "/sign-in/mine/authenticator/")
    assert browser.post("/sign-in/mine/authenticator/", {"code": code_for(key)}).status_code == 302
    assert password_of(owner, Client()).headers["Location"] == CODE


def test_each_use_is_in_the_ledger_and_an_alert(
    acme: Site, owner: User, django_capture_on_commit_callbacks: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent: list[dict[str, Any]] = []
    monkeypatch.setattr(tasks.alert_break_glass, "apply_async", lambda **how: sent.append(how))
    with django_capture_on_commit_callbacks(execute=True):
        password_of(owner, Client())
    assert [how["kwargs"]["user_id"] for how in sent] == [str(owner.pk)]
    with scope(tenant=acme.tenant):
        entry = LedgerEntry.objects.get(kind="break_glass.used")
    assert (entry.actor, entry.after["method"]) == (owner.email, "password")


def test_the_alert_writes_to_the_owners_of_the_persons_tenants(
    acme: Site, globex: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    auditor = acme.people[Role.AUDITOR]
    alert = {"user_id": str(auditor.pk), "method": "totp", "address": "192.0.2.1"}
    assert tasks.alert_break_glass(**alert) == 0  # e-mail isn't set up
    monkeypatch.setattr(settings, "NARROWGATE", replace(settings.NARROWGATE, smtp_url="smtp://127.0.0.1"))
    assert tasks.alert_break_glass(**alert) == 1
    assert [message.to for message in mail.outbox] == [[acme.people[Role.OWNER].email]]
    assert "192.0.2.1" in mail.outbox[0].body


def test_wrong_passwords_lock_one_address_out_of_one_account(acme: Site, owner: User) -> None:
    admin = actions.save_user(acme.people[Role.ADMIN], acting_user=None, password=PASSWORD)
    answers = [password_of(owner, Client(), password="wrong").status_code for _ in range(6)]
    assert answers[0] == 200
    assert answers[-1] == 429
    assert password_of(owner, Client()).status_code == 429
    assert password_of(admin, Client()).status_code == 302
    elsewhere = Client(REMOTE_ADDR="192.0.2.9")
    assert password_of(owner, elsewhere).status_code == 302


def test_sessions_end_by_themselves(owner: User) -> None:
    idle, used = Client(), Client()
    start = timezone.now()
    with time_machine.travel(start, tick=False) as clock:
        password_of(owner, idle)
        password_of(owner, used)
        for _ in range(8):
            clock.shift(timedelta(minutes=59))
            is_in = is_signed_in(used)
        assert is_in
        assert not is_signed_in(idle)
        clock.shift(timedelta(minutes=59))
        assert not is_signed_in(used)


def test_a_session_is_bound_to_its_browser(owner: User) -> None:
    browser = Client(headers={"User-Agent": "one"})
    password_of(owner, browser)
    thief = Client(headers={"User-Agent": "another"})
    thief.cookies[settings.SESSION_COOKIE_NAME] = browser.cookies[settings.SESSION_COOKIE_NAME].value
    assert not is_signed_in(thief)


def test_signing_out_ends_the_sign_in(owner: User) -> None:
    browser = Client()
    password_of(owner, browser)
    assert browser.get("/admin/logout/").status_code == 405
    assert b"signed out" in browser.post("/admin/logout/").content
    with scopes_disabled():
        assert SignIn.objects.get().ended_at is not None
    assert not is_signed_in(browser)


def test_old_sign_ins_are_forgotten(owner: User) -> None:
    password_of(owner, Client())
    assert tasks.forget_old_sign_ins() == 0
    assert sessions.forget_old(now=timezone.now() + timedelta(days=31)) == 1


def test_a_lost_authenticator_is_taken_away_by_command(acme: Site, owner: User, strict: None) -> None:
    browser = Client()
    password_of(owner, browser)
    browser.post(CODE, {"code": code_for(key_shown(browser))})
    call_command("reset_authenticator", owner.email)
    again = Client()
    password_of(owner, again)
    assert key_shown(again)
    with scope(tenant=acme.tenant):
        assert LedgerEntry.objects.filter(kind="authenticator.removed").count() == 1
    with pytest.raises(CommandError, match="no authenticator"):
        call_command("reset_authenticator", "nobody@acme.example")
