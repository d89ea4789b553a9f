"""The link, from a worker's side: signing on, sessions, records, pushes, and what cuts it off."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import msgspec
import pytest
from channels.db import database_sync_to_async
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.utils import timezone
from django_scopes import scope

from accounts.actions import (
    delete_membership,
    delete_trust,
    issue_agent_token,
    revoke_agent_token,
    save_agent,
    save_tenant,
    save_trust,
    save_user,
)
from accounts.models import OidcTrust
from controlplane.authority import Role
from policies.actions import publish_version
from policies.engine import Effect, SessionPolicy, Target
from policies.models import Policy
from proxyworker.contract import (
    LINK_VERSION,
    MAX_FRAME_BYTES,
    Ack,
    Authenticate,
    CloseSession,
    Heartbeat,
    PolicyChanged,
    RefusalCode,
    Refused,
    Revoke,
    SessionGrant,
    TlsMode,
    Welcome,
    encode,
)
from sessions.killing.actions import kill
from sessions.link import CLOSE_FAULT
from sessions.models import AgentSession, Operation
from sessions.pushing import CLOSE_REFUSED
from targets.actions import issue_join_token, save_target, save_worker
from targets.models import JoinToken, ProxyWorker
from tests.sessions.conftest import Site
from tests.sessions.linking import ANSWER_SECONDS, connected, question, signed_on
from tests.sessions.people import person
from tests.sessions.records import JournalScript, closed, intent, opened, outcome

pytestmark = pytest.mark.django_db(transaction=True)

T = TypeVar("T")


async def run(site: Site, function: Callable[[], T]) -> T:
    """Call it in the site's scope, where the database may be asked."""

    def scoped() -> T:
        with scope(tenant=site.tenant):
            return function()

    result: T = await database_sync_to_async(scoped)()
    return result


async def agent_token(site: Site) -> str:
    """A fresh token of the site's agent."""
    issued = await run(site, lambda: issue_agent_token(site.agent, acting_user=None)[1])
    return issued.text


async def join_token(site: Site, name: str = "new", **overrides: Any) -> str:
    """A join token for a worker of that name."""
    lifetime = overrides.pop("lifetime", timedelta(hours=1))
    token, text = await run(
        site, lambda: issue_join_token(tenant=site.tenant, worker_name=name, lifetime=lifetime, acting_user=None)
    )
    if overrides:
        await run(site, lambda: JoinToken.objects.filter(pk=token.pk).update(**overrides))
    return text


async def test_a_worker_enrols_by_its_token_and_comes_back_by_its_key(acme: Site) -> None:
    token, key = await join_token(acme), Ed25519PrivateKey.generate()
    async with connected() as worker:
        await worker.send(worker.enrolment(token, "new", key))
        welcome = await worker.receive(Welcome)
    assert (welcome.tenant_id, welcome.acknowledged) == (str(acme.tenant.pk), {})
    async with connected() as worker:
        await worker.send(Authenticate(LINK_VERSION, welcome.worker_id, worker.signature(key)))
        assert (await worker.receive(Welcome)).worker_id == welcome.worker_id


async def test_a_join_token_is_used_once(acme: Site) -> None:
    token = await join_token(acme)
    async with connected() as first, connected() as second:
        await first.send(first.enrolment(token, "new", Ed25519PrivateKey.generate()))
        await second.send(second.enrolment(token, "new", Ed25519PrivateKey.generate()))
        answers = [await first.receive(Welcome | Refused), await second.receive(Welcome | Refused)]  # type: ignore[arg-type]
    assert sorted(type(answer).__name__ for answer in answers) == ["Refused", "Welcome"]
    assert await run(acme, lambda: ProxyWorker.objects.filter(name="new").count()) == 1


@pytest.mark.parametrize("flaw", ["garbage", "expired", "revoked", "another name", "worse name"])
async def test_a_join_token_that_is_not_good_enrols_nobody(acme: Site, flaw: str) -> None:
    now = timezone.now()
    overrides: dict[str, Any] = {"expired": {"expires_at": now}, "revoked": {"revoked_at": now}}.get(flaw, {})
    token = "ngj_" + "0" * 80 if flaw == "garbage" else await join_token(acme, **overrides)
    name = {"another name": "other", "worse name": "New\n"}.get(flaw, "new")
    async with connected() as worker:
        await worker.send(worker.enrolment(token, name, Ed25519PrivateKey.generate()))
        refused = await worker.receive(Refused)
        assert (refused.request_id, refused.code) == (0, RefusalCode.BAD_JOIN_TOKEN)
        assert await worker.closed_with() == CLOSE_REFUSED


async def test_a_signature_by_another_key_signs_nobody_on_and_keeps_the_join_token(acme: Site) -> None:
    token, key = await join_token(acme), Ed25519PrivateKey.generate()
    async with connected() as worker:
        forged = msgspec.structs.replace(
            worker.enrolment(token, "new", key), signature=worker.signature(Ed25519PrivateKey.generate())
        )
        await worker.send(forged)
        assert (await worker.receive(Refused)).code is RefusalCode.BAD_SIGNATURE
    async with connected() as worker:
        signature = worker.signature(key)
        await worker.send(Authenticate(LINK_VERSION, str(acme.worker.pk), signature))
        assert (await worker.receive(Refused)).code is RefusalCode.BAD_SIGNATURE
    async with connected() as worker:
        await worker.send(worker.enrolment(token, "new", key))
        await worker.receive(Welcome)


async def test_a_signature_over_an_earlier_challenge_is_worth_nothing(acme: Site) -> None:
    async with connected() as earlier, connected() as worker:
        await worker.send(Authenticate(LINK_VERSION, str(acme.worker.pk), earlier.signature(acme.key)))
        assert (await worker.receive(Refused)).code is RefusalCode.BAD_SIGNATURE


async def test_another_link_version_is_told_which_one_is_spoken(acme: Site) -> None:
    async with connected() as worker:
        await worker.send(Authenticate(LINK_VERSION + 1, str(acme.worker.pk), worker.signature(acme.key)))
        refused = await worker.receive(Refused)
    assert (refused.code, str(LINK_VERSION) in refused.reason) == (RefusalCode.VERSION, True)


async def test_a_deactivated_worker_is_refused_and_its_link_cut(acme: Site) -> None:
    def deactivate() -> None:
        acme.worker.is_active = False
        save_worker(acme.worker, acting_user=None)

    async with signed_on(acme) as worker:
        await run(acme, deactivate)
        assert (await worker.receive(Revoke)).session_ids == ()
        assert await worker.closed_with() == CLOSE_REFUSED
    async with connected() as worker:
        await worker.send(Authenticate(LINK_VERSION, str(acme.worker.pk), worker.signature(acme.key)))
        assert (await worker.receive(Refused)).code is RefusalCode.WORKER_DISABLED


@pytest.mark.parametrize(
    "frame", [b"\xc0", b"\xc1", b"\x80", encode(Heartbeat(1, 2)) + b"x", b"\x00" * (MAX_FRAME_BYTES + 1)]
)
async def test_bytes_that_are_no_frame_cut_the_link(acme: Site, frame: bytes) -> None:
    async with signed_on(acme) as worker:
        await worker.socket.send_to(bytes_data=frame)
        assert await worker.closed_with() == CLOSE_FAULT


async def test_a_text_frame_a_second_sign_on_and_an_early_question_cut_the_link(acme: Site) -> None:
    async with signed_on(acme) as worker:
        await worker.socket.send_to(text_data="hello")
        assert await worker.closed_with() == CLOSE_FAULT
    async with signed_on(acme) as worker:
        await worker.send(Authenticate(LINK_VERSION, str(acme.worker.pk), worker.signature(acme.key)))
        assert await worker.closed_with() == CLOSE_FAULT
    async with connected() as worker:
        await worker.send(question("x"))
        assert await worker.closed_with() == CLOSE_FAULT


async def test_a_session_from_question_to_record(acme: Site) -> None:
    async with signed_on(acme) as worker:
        await worker.send(question(await agent_token(acme), request_id=7))
        grant = await worker.receive(SessionGrant)
        journal = JournalScript()
        journal.write(opened(grant.session_id), intent(grant.session_id, 1), outcome(grant.session_id, 1))
        await worker.send(journal.whole())
        ack = await worker.receive(Ack)
        session = await run(acme, AgentSession.objects.get)
        assert (str(session.pk), session.state, session.operation_count) == (grant.session_id, "live", 1)
        journal.write(closed(grant.session_id, 1))
        await worker.send(journal.batch(4, 4))
        await worker.receive(Ack)
    assert (grant.request_id, grant.principal.name, grant.principal.groups) == (7, "reporter", ("analysts",))
    assert (grant.target.name, grant.target.host, grant.target.tls_mode) == ("shop", "db.internal", TlsMode.VERIFY_FULL)
    assert (grant.credential.username, grant.credential.secret.value) == ("gate", "acme-upstream-secret")
    assert (grant.policy.version, grant.tenant_id) == ("support@1", str(acme.tenant.pk))
    assert (ack.journal_id, ack.seq) == (journal.journal_id, 3)
    session = await run(acme, AgentSession.objects.get)
    assert (session.state, session.client_address, session.client_name) == ("closed", "10.1.2.3:50000", "psql")
    assert await run(acme, Operation.objects.count) == 1


async def test_a_worker_that_comes_back_hears_what_is_held(acme: Site) -> None:
    session = await run(acme, acme.session)
    journal = JournalScript()
    journal.write(*(intent(str(session.pk), op) for op in range(1, 9)))
    async with signed_on(acme) as worker:
        for first in (1, 3, 5):  # not waited for: they are appended in this order all the same
            await worker.send(journal.batch(first, first + 1))
        assert [(await worker.receive(Ack)).seq for _ in range(3)] == [2, 4, 6]
    async with connected() as worker:
        welcome = await worker.authenticate(acme)
        assert welcome.acknowledged == {journal.journal_id: 6}
        await worker.send(journal.batch(5, 8))
        assert (await worker.receive(Ack)).seq == 8


@pytest.mark.parametrize("what", ["the worker", "the tenant"])
async def test_a_worker_that_is_withdrawn_says_how_its_sessions_ended_and_gets_no_new_ones(
    acme: Site, what: str
) -> None:
    def deactivate() -> None:
        if what == "the worker":
            acme.worker.is_active = False
            save_worker(acme.worker, acting_user=None)
        else:
            acme.tenant.is_active = False
            save_tenant(acme.tenant, acting_user=None)

    async with signed_on(acme) as worker:
        token = await agent_token(acme)
        await worker.send(question(token))
        grant = await worker.receive(SessionGrant)
        await run(acme, deactivate)
        assert (await worker.receive(Revoke)).session_ids == ()
        await worker.send(question(token))
        assert (await worker.receive(Refused)).code is RefusalCode.WORKER_DISABLED
        journal = JournalScript()
        ended = msgspec.structs.replace(closed(grant.session_id, 0), at=timezone.now().timestamp())
        journal.write(opened(grant.session_id), ended)
        await worker.send(journal.whole())
        await worker.receive(Ack)
        assert await worker.closed_with() == CLOSE_REFUSED
    session = await run(acme, AgentSession.objects.get)
    assert (session.state, session.withdrawn_at is not None) == ("closed", True)
    assert session.seconds_to_end is not None


async def test_a_withdrawn_worker_that_never_says_how_its_sessions_ended_is_cut_off(
    acme: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    def deactivate() -> None:
        acme.worker.is_active = False
        save_worker(acme.worker, acting_user=None)

    monkeypatch.setattr("sessions.pushing.DISMISSED_SECONDS", 0.1)
    async with signed_on(acme) as worker:
        await worker.send(question(await agent_token(acme)))
        await worker.receive(SessionGrant)
        await run(acme, deactivate)
        assert (await worker.receive(Revoke)).session_ids == ()
        assert await worker.closed_with() == CLOSE_REFUSED
    assert (await run(acme, AgentSession.objects.get)).seconds_to_end is None


async def test_records_of_another_tenants_session_cut_the_link(acme: Site, globex: Site) -> None:
    foreign = await run(globex, globex.session)
    journal = JournalScript()
    journal.write(intent(str(foreign.pk), 1))
    async with signed_on(acme) as worker:
        await worker.send(journal.whole())
        assert await worker.closed_with() == CLOSE_FAULT
    assert await run(globex, Operation.objects.count) == 0


async def withdraw(site: Site, what: str, session: AgentSession) -> None:
    """Take away what a session lives on."""

    def act() -> None:
        if what == "the session":
            kill(session, acting_user=None, reason="an administrator ended it")
        elif what == "the agent":
            site.agent.is_active = False
            save_agent(site.agent, acting_user=None)
        elif what == "the target":
            site.target.is_active = False
            save_target(site.target, acting_user=None)
        elif what == "the token":
            revoke_agent_token(site.agent.tokens.get(), acting_user=None)

    await run(site, act)


@pytest.mark.parametrize("what", ["the session", "the agent", "the target", "the token"])
async def test_what_is_withdrawn_ends_its_session_and_no_other(acme: Site, what: str) -> None:
    async with signed_on(acme) as worker:
        await worker.send(question(await agent_token(acme)))
        grant = await worker.receive(SessionGrant)
        session = await run(acme, AgentSession.objects.get)
        if what in {"the session", "the token"}:
            await run(acme, acme.session)
        await withdraw(acme, what, session)
        assert (await worker.receive(Revoke)).session_ids == (grant.session_id,)


async def test_a_session_that_was_ended_while_the_link_was_down_is_revoked_when_it_is_back(acme: Site) -> None:
    session = await run(acme, acme.session)
    await withdraw(acme, "the session", session)
    async with signed_on(acme) as worker:
        revoke = await worker.receive(Revoke)
    assert (revoke.session_ids, revoke.reason) == ((str(session.pk),), "an administrator ended it")


async def test_a_published_policy_reaches_running_sessions(acme: Site) -> None:
    async with signed_on(acme) as worker:
        first = await worker.receive(PolicyChanged)
        await worker.send(question(await agent_token(acme)))
        grant = await worker.receive(SessionGrant)
        assert first.policy == grant.policy

        def publish() -> None:
            policy = Policy.objects.get()
            rules = [{"name": "closed", "effect": "deny", "agents": ["*"], "targets": ["*"]}]
            publish_version(policy, rules=rules, message="closed for today", acting_user=None)

        await run(acme, publish)
        second = await worker.receive(PolicyChanged)
    assert second.policy.version != first.policy.version
    assert (
        SessionPolicy(second.policy, principal=grant.principal, target=Target(name="shop")).admits(now=0.0).effect
        is Effect.DENY
    )


async def test_close_session_closes_the_row_of_this_worker_only(acme: Site, globex: Site) -> None:
    own, foreign = await run(acme, acme.session), await run(globex, globex.session)
    async with signed_on(acme) as worker:
        await worker.send(CloseSession(session_id=str(foreign.pk), reason="mischief"))
        await worker.send(CloseSession(session_id=str(own.pk), reason="the target is down"))
        await worker.send(question("x"))
        await worker.receive(Refused)  # answered after what was sent before
    assert (await run(acme, AgentSession.objects.get)).close_reason == "the target is down"
    assert (await run(globex, AgentSession.objects.get)).state == "granted"


async def test_a_heartbeat_shows_on_the_worker(acme: Site) -> None:
    async with signed_on(acme) as worker:
        await worker.send(Heartbeat(sessions=3, journal_bytes=4096))
        await worker.send(question("x"))
        await worker.receive(Refused)
    row = await run(acme, lambda: ProxyWorker.objects.get(pk=acme.worker.pk))
    assert (row.reported_sessions, row.reported_journal_bytes, row.last_seen_at is not None) == (3, 4096, True)


async def take_away(site: Site, what: str, session: AgentSession) -> None:
    """What a session lives on, by the action that people have for it."""
    sponsor = await run(site, lambda: person(site.tenant, Role.OWNER))

    def prepare() -> OidcTrust:
        site.agent.sponsor = sponsor
        save_agent(site.agent, acting_user=None)
        trust = OidcTrust(
            tenant=site.tenant, name="idp", issuer="https://idp.example", audience="a", algorithms=["RS256"]
        )
        save_trust(trust, acting_user=None)
        if what.endswith("provider"):
            AgentSession.objects.filter(pk=session.pk).update(credential_id=f"trust:{trust.pk}")
        if what == "the person":
            principal = {**session.principal, "on_behalf_of": sponsor.email.upper()}
            AgentSession.objects.filter(pk=session.pk).update(principal=principal)
            site.agent.sponsor = None
            save_agent(site.agent, acting_user=None)
        return trust

    def act(trust: OidcTrust) -> None:
        match what:
            case "the sponsor" | "the person":
                sponsor.is_active = False
                save_user(sponsor, acting_user=None)
            case "the sponsor's role":
                delete_membership(sponsor.memberships.get(), acting_user=None)
            case "the provider":
                trust.is_active = False
                save_trust(trust, acting_user=None)
            case "all of the provider":
                delete_trust(trust, acting_user=None)

    trust = await run(site, prepare)
    await run(site, lambda: act(trust))
    await withdraw(site, what, session)


@pytest.mark.parametrize(
    "what",
    [
        "the session", "the agent", "the target", "the token",
        "the sponsor", "the sponsor's role", "the person", "the provider", "all of the provider",
    ],
)  # fmt: skip
async def test_from_a_right_that_is_withdrawn_to_the_record_of_the_end_is_measured(acme: Site, what: str) -> None:
    async with signed_on(acme) as worker:
        await worker.send(question(await agent_token(acme)))
        grant = await worker.receive(SessionGrant)
        session = await run(acme, AgentSession.objects.get)
        assert session.seconds_to_end is None
        await take_away(acme, what, session)
        assert (await worker.receive(Revoke)).session_ids == (grant.session_id,)
        journal = JournalScript()
        ended = msgspec.structs.replace(closed(grant.session_id, 0), at=timezone.now().timestamp())
        journal.write(opened(grant.session_id), ended)
        await worker.send(journal.whole())
        await worker.receive(Ack)
    session = await run(acme, AgentSession.objects.get)
    assert (session.state, session.end_requested_at is None) == ("closed", what != "the session")
    assert session.seconds_to_end is not None
    assert 0 <= session.seconds_to_end < ANSWER_SECONDS
