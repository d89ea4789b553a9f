"""Who gets a session, who doesn't, and what they are told."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone
from django_scopes import scope

from accounts.actions import issue_agent_token, revoke_agent_token
from accounts.models import Agent, AgentToken
from proxyworker.contract import MAX_CREDENTIAL_BYTES, RefusalCode, Refused, SessionGrant, encode
from sessions import opening
from sessions.models import AgentSession, SessionRefusal
from sessions.opening import LIMITS, open_session
from targets.models import Credential, Target
from tests.sessions.conftest import Site
from tests.sessions.linking import question


def issue(site: Site, agent: Agent | None = None, **options: Any) -> str:
    """A token of the site's agent, or of another one."""
    with scope(tenant=site.tenant):
        return issue_agent_token(agent or site.agent, acting_user=None, **options)[1].text


def ask(site: Site, credential: str, **options: Any) -> SessionGrant | Refused:
    """Ask as the site's worker."""
    return open_session(site.linked, question(credential, **options), now=timezone.now())


def refused(site: Site, credential: str, **options: Any) -> Refused:
    """Ask, and be refused."""
    answer = ask(site, credential, **options)
    assert isinstance(answer, Refused)
    return answer


def test_a_grant_ends_with_the_token_or_with_the_longest_session(acme: Site) -> None:
    short, long = issue(acme, lifetime=timedelta(minutes=5)), issue(acme, lifetime=timedelta(hours=24))
    now = timezone.now()
    grants = [ask(acme, token) for token in (short, long)]
    lasting = [grant.expires_at - now.timestamp() for grant in grants if isinstance(grant, SessionGrant)]
    assert [round(seconds, -2) for seconds in lasting] == [300, LIMITS.max_session_seconds]


def test_a_grant_is_a_row_that_says_who_and_by_which_rule(acme: Site) -> None:
    grant = ask(acme, issue(acme))
    assert isinstance(grant, SessionGrant)
    with scope(tenant=acme.tenant):
        session = AgentSession.objects.get(pk=grant.session_id)
        token = AgentToken.objects.get()
    assert (session.state, session.agent_id, session.rule) == ("granted", acme.agent.pk, "support/read")
    assert session.principal == {
        "name": "reporter",
        "groups": ["analysts"],
        "authenticated_by": "issued_token",
        "on_behalf_of": "",
        "actors": [],
        "labels": {},
        "sponsor": "",
        "issued_by": [],
        "behind": {},
    }
    assert session.credential_id == f"token:{token.token_id}"


@pytest.mark.parametrize(
    "flaw", ["garbage", "too long", "another tenant's", "revoked", "of an inactive agent", "empty"]
)
def test_a_bad_credential_is_refused_in_one_way_whatever_is_wrong(acme: Site, globex: Site, flaw: str) -> None:
    credential = issue(acme)
    if flaw == "another tenant's":
        credential = issue(globex)
    elif flaw == "revoked":
        with scope(tenant=acme.tenant):
            revoke_agent_token(AgentToken.objects.get(), acting_user=None)
    elif flaw == "of an inactive agent":
        with scope(tenant=acme.tenant):
            Agent.objects.update(is_active=False)
    else:
        credential = {"garbage": "nga_x", "too long": "é" * MAX_CREDENTIAL_BYTES, "empty": ""}[flaw]
    answer, plain = refused(acme, credential), refused(acme, "nothing")
    assert (answer.code, answer.reason, answer.help) == (RefusalCode.BAD_CREDENTIAL, plain.reason, plain.help)


def test_an_expired_token_is_told_apart_and_how_to_go_on(acme: Site) -> None:
    credential = issue(acme)
    with scope(tenant=acme.tenant):
        AgentToken.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    answer = refused(acme, credential)
    assert answer.code is RefusalCode.EXPIRED_CREDENTIAL
    assert "new token" in answer.help


def test_whom_no_rule_lets_through_hears_the_same_whether_the_target_exists(acme: Site) -> None:
    with scope(tenant=acme.tenant):
        other = Agent.objects.create(tenant=acme.tenant, name="intern")
    credential = issue(acme, other)
    exists, does_not = refused(acme, credential, target="shop"), refused(acme, credential, target="nope")
    assert exists.code is does_not.code is RefusalCode.DENIED
    assert exists.reason.replace("shop", "nope") == does_not.reason
    assert exists.help.replace("shop", "nope") == does_not.help


def test_a_denying_rule_gives_its_reason_without_a_look_at_the_targets(acme: Site) -> None:
    answer = refused(acme, issue(acme), target="payroll")
    assert (answer.code, answer.reason) == (RefusalCode.DENIED, "payroll is for people")


@pytest.mark.parametrize("flaw", ["missing", "inactive", "another protocol", "another tenant's", "no name at all"])
def test_a_target_that_is_not_there_is_refused_in_one_way(acme: Site, globex: Site, flaw: str) -> None:
    name, protocol = "gone", "postgres"
    if flaw in {"inactive", "another protocol"}:
        name, protocol = "shop", "ssh" if flaw == "another protocol" else "postgres"
        with scope(tenant=acme.tenant):
            Target.objects.update(is_active=flaw != "inactive")
    elif flaw == "another tenant's":
        with scope(tenant=globex.tenant):
            Target.objects.update(name="gone")
    elif flaw == "no name at all":
        name = "Gone\x00; DROP"
    answer = refused(acme, issue(acme), target=name, protocol=protocol)
    assert answer.code is RefusalCode.NO_SUCH_TARGET
    assert answer.reason.startswith("there is no target")
    assert answer.reason.isprintable()


def test_a_token_that_is_narrowed_opens_its_targets_alone(acme: Site) -> None:
    credential = issue(acme)
    with scope(tenant=acme.tenant):
        AgentToken.objects.update(targets=["shop"])
    assert isinstance(ask(acme, credential), SessionGrant)
    answer = refused(acme, credential, target="gone")
    assert (answer.code, answer.reason) == (RefusalCode.DENIED, "the token is good for shop only")


def test_who_is_behind_an_agent_has_to_be_allowed_too(acme: Site) -> None:
    credential = issue(acme)
    with scope(tenant=acme.tenant):
        AgentToken.objects.update(carried={"on_behalf_of": "ada@acme.example", "actors": ["intern"]})
    answer = refused(acme, credential)
    assert (answer.code, "intern" in answer.reason) == (RefusalCode.DENIED, True)
    with scope(tenant=acme.tenant):
        AgentToken.objects.update(carried={"on_behalf_of": "ada@acme.example", "actors": ["actor:chat"]})
    grant = ask(acme, credential)
    assert isinstance(grant, SessionGrant)
    assert (grant.principal.on_behalf_of, grant.principal.actors) == ("ada@acme.example", ("actor:chat",))


def test_a_target_without_a_credential_is_unavailable(acme: Site) -> None:
    with scope(tenant=acme.tenant):
        Credential.objects.get().delete()
    answer = refused(acme, issue(acme))
    assert (answer.code, "no credential" in answer.reason) == (RefusalCode.UNAVAILABLE, True)


def test_a_credential_that_the_keyring_does_not_open_is_unavailable_and_says_no_more(acme: Site) -> None:
    with scope(tenant=acme.tenant):
        Credential.objects.update(sealed_secret="ng1.lost.AAAA.BBBB")
    answer = refused(acme, issue(acme))
    assert answer.code is RefusalCode.UNAVAILABLE
    assert "lost" not in f"{answer.reason}{answer.help}"
    with scope(tenant=acme.tenant):
        assert not AgentSession.objects.exists()


def test_refused_attempts_are_counted_not_piled_up(acme: Site) -> None:
    credential = issue(acme)
    for _ in range(3):
        refused(acme, credential, target="payroll")
    refused(acme, "nothing")
    with scope(tenant=acme.tenant):
        rows = list(SessionRefusal.objects.order_by("code").values_list("code", "agent", "target_name", "count"))
        assert SessionRefusal.objects.values_list("client_host", flat=True).distinct().get() == "10.1.2.3"
    assert rows == [("bad_credential", None, "shop", 1), ("denied", acme.agent.pk, "payroll", 3)]


def test_refused_attempts_past_the_bound_are_counted_together(acme: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "MAX_REFUSALS_PER_HOUR", 2)
    for name in ("one", "two", "three", "four"):
        refused(acme, "nothing", target=name)
    with scope(tenant=acme.tenant):
        assert dict(SessionRefusal.objects.values_list("target_name", "count")) == {"one": 1, "two": 1, "": 2}


def test_neither_the_token_nor_the_upstream_secret_is_kept_or_logged(
    acme: Site, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    credential = issue(acme)
    grant = ask(acme, credential)
    refused(acme, credential, target="payroll")
    refused(acme, "nga_0123456789abcdef_not-a-good-one")
    assert isinstance(grant, SessionGrant)
    output = capfd.readouterr()
    with scope(tenant=acme.tenant):
        rows = [str(row) for model in (AgentSession, SessionRefusal, Credential) for row in model.objects.values()]
    seen = "\n".join([output.out, output.err, caplog.text, repr(grant), repr(question(credential)), *rows])
    for secret in (credential, credential.rsplit("_", 1)[1], "acme-upstream-secret", "not-a-good-one"):
        assert secret not in seen
    assert b"acme-upstream-secret" in encode(grant)
