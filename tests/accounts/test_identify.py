"""Issued tokens: good while neither expired nor revoked, for an active agent of an active tenant, in its tenant."""

from __future__ import annotations

from datetime import timedelta

import pytest
import time_machine
from django.core.exceptions import ValidationError
from django.db import connection
from django_scopes import scope, scopes_disabled

from accounts import actions
from accounts.errors import BadCredential, ExpiredCredential
from accounts.identify import identify_agent
from accounts.models import AgentToken
from accounts.tokens import make_token
from controlplane.errors import Refusal
from tests.accounts.conftest import NOW, Site

HOUR = timedelta(hours=1)


@pytest.fixture(autouse=True)
def _at_noon() -> object:
    with time_machine.travel(NOW, tick=False) as clock:
        yield clock


def issue(site: Site, lifetime: timedelta = HOUR) -> tuple[AgentToken, str]:
    token, made = actions.issue_agent_token(site.agent, acting_user=None, lifetime=lifetime, label="test")
    return token, made.text


def test_an_issued_token_stands_for_its_agent_until_it_expires(acme: Site) -> None:
    token, text = issue(acme)
    identified = identify_agent(text, now=NOW)
    assert identified.agent == acme.agent
    assert identified.tenant == acme.tenant
    assert identified.authenticated_by == "issued_token"
    assert identified.credential_id == f"token:{token.token_id}"
    assert identified.expires_at == NOW + HOUR
    with pytest.raises(ExpiredCredential) as caught:
        identify_agent(text, now=NOW + HOUR)
    assert caught.value.expired_at == NOW + HOUR


def test_the_right_tenant_may_be_asked_for_and_another_refuses(acme: Site, globex: Site) -> None:
    _, text = issue(acme)
    assert identify_agent(text, now=NOW, tenant_id=acme.tenant.pk).agent == acme.agent
    with pytest.raises(BadCredential):
        identify_agent(text, now=NOW, tenant_id=globex.tenant.pk)


def test_a_revoked_token_is_refused(acme: Site) -> None:
    token, text = issue(acme)
    actions.revoke_agent_token(token, acting_user=None)
    with pytest.raises(BadCredential):
        identify_agent(text, now=NOW)


def test_a_token_of_an_inactive_agent_is_refused(acme: Site) -> None:
    _, text = issue(acme)
    acme.agent.is_active = False
    actions.save_agent(acme.agent, acting_user=None)
    with pytest.raises(BadCredential):
        identify_agent(text, now=NOW)


def test_a_token_of_an_inactive_tenant_is_refused(acme: Site) -> None:
    _, text = issue(acme)
    acme.tenant.is_active = False
    actions.save_tenant(acme.tenant, acting_user=None)
    with pytest.raises(BadCredential):
        identify_agent(text, now=NOW)


def test_a_guessed_secret_under_a_known_id_is_refused(acme: Site) -> None:
    _, text = issue(acme)
    forged = text.rpartition("_")[0] + "_" + make_token("nga").text.rpartition("_")[2]
    with pytest.raises(BadCredential):
        identify_agent(forged, now=NOW)


@pytest.mark.parametrize(
    "credential", ["", "hunter2", "nga_", "ngp_" + "0" * 16 + "_" + "0" * 64, "a.b", "\x00", "é" * 99]
)
def test_anything_else_is_refused_in_words_that_leak_nothing(acme: Site, credential: str) -> None:
    with pytest.raises(BadCredential) as caught:
        identify_agent(credential, now=NOW)
    assert "Get a new token" in str(caught.value)
    assert not credential or credential not in str(caught.value)


def test_neither_token_nor_ledger_row_holds_the_token(acme: Site) -> None:
    _, text = issue(acme)
    secret = text.rpartition("_")[2]
    with scope(tenant=acme.tenant), connection.cursor() as cursor:
        cursor.execute("SELECT string_agg(t::text, '') FROM accounts_agenttoken t")
        (tokens,) = cursor.fetchone()
        cursor.execute("SELECT string_agg(t::text, '') FROM ledger_ledgerentry t")
        (entries,) = cursor.fetchone()
    assert text.split("_")[1] in tokens
    assert secret not in tokens + entries


def test_use_is_noted_to_the_minute(acme: Site) -> None:
    token, text = issue(acme)
    identify_agent(text, now=NOW)
    identify_agent(text, now=NOW + timedelta(seconds=59))
    with scope(tenant=acme.tenant):
        token.refresh_from_db()
        assert token.last_used_at == NOW
        identify_agent(text, now=NOW + timedelta(seconds=60))
        token.refresh_from_db()
        assert token.last_used_at == NOW + timedelta(seconds=60)


@pytest.mark.parametrize("lifetime", [timedelta(0), timedelta(seconds=59), timedelta(hours=24, seconds=1)])
def test_a_lifetime_out_of_bounds_is_refused(acme: Site, lifetime: timedelta) -> None:
    with pytest.raises(ValidationError, match="60 to 86400"):
        issue(acme, lifetime)


def test_an_inactive_agent_is_issued_nothing(acme: Site) -> None:
    acme.agent.is_active = False
    with pytest.raises(Refusal, match="not active"):
        issue(acme)


def test_revoking_twice_is_told_once(acme: Site) -> None:
    from controlplane.ledger.models import LedgerEntry

    token, _ = issue(acme)
    actions.revoke_agent_token(token, acting_user=None)
    actions.revoke_agent_token(token, acting_user=None)
    with scope(tenant=acme.tenant):
        kinds = LedgerEntry.objects.filter(kind__startswith="agent_token.").values_list("kind", flat=True)
        assert sorted(kinds) == ["agent_token.issued", "agent_token.revoked"]


def test_tokens_that_ended_long_ago_are_forgotten(acme: Site) -> None:
    ended, _ = issue(acme)
    kept, _ = issue(acme, timedelta(hours=24))
    assert actions.forget_old_tokens(now=NOW + timedelta(days=30, hours=2)) == 1
    with scopes_disabled():
        assert not AgentToken.objects.filter(pk=ended.pk).exists()
        assert AgentToken.objects.filter(pk=kept.pk).exists()
