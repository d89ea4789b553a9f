"""From an order to the worker's record of the end, over the real consumer."""

from __future__ import annotations

import msgspec
import pytest
from channels.db import database_sync_to_async
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.utils import timezone
from django_scopes import scope

from proxyworker.contract import Ack, RefusalCode, Refused, Revoke, SessionGrant
from sessions import actions, pushing
from sessions.killing.actions import kill, lift
from sessions.killing.models import KillOrder, with_progress
from sessions.models import AgentSession
from targets.models import ProxyWorker
from tests.sessions.conftest import AT, Site
from tests.sessions.linking import ANSWER_SECONDS, ScriptedWorker, question, signed_on
from tests.sessions.records import JournalScript, closed, opened
from tests.sessions.test_link import agent_token, run

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def no_poll(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a link does within the test, it does because it was woken."""
    monkeypatch.setattr(pushing, "POLL_SECONDS", 10 * ANSWER_SECONDS)


async def ordered(site: Site, subject: object, reason: str = "it runs wild") -> KillOrder:
    """An order about it."""
    return await run(site, lambda: kill(subject, reason=reason, acting_user=None))  # type: ignore[arg-type]


async def told(order: KillOrder) -> KillOrder:
    """The order as it stands now."""

    def find() -> KillOrder:
        with scope(tenant=order.tenant_id):
            return with_progress(KillOrder.objects.all()).get(pk=order.pk)

    found: KillOrder = await database_sync_to_async(find)()
    return found


async def dies(worker: ScriptedWorker, *session_ids: str) -> None:
    """The worker's journal says that these sessions have ended just now."""
    journal = JournalScript()
    for session_id in session_ids:
        ended = msgspec.structs.replace(closed(session_id, 0), at=timezone.now().timestamp())
        journal.write(opened(session_id), ended)
    await worker.send(journal.whole())
    await worker.receive(Ack)


async def second_worker(site: Site) -> Site:
    """The same tenant, seen from another worker."""
    key = Ed25519PrivateKey.generate()
    fields = {"name": "edge-2", "public_key": key.public_key().public_bytes_raw(), "enrolled_at": AT}
    worker = await run(site, lambda: ProxyWorker.objects.create(tenant=site.tenant, **fields))
    return Site(tenant=site.tenant, agent=site.agent, target=site.target, worker=worker, key=key)


@pytest.mark.usefixtures("no_poll")
@pytest.mark.parametrize("scope_name", ["session", "agent", "target", "tenant"])
async def test_an_order_is_told_at_once_and_dead_when_the_record_says_so(acme: Site, scope_name: str) -> None:
    async with signed_on(acme) as worker:
        token = await agent_token(acme)
        await worker.send(question(token))
        grant = await worker.receive(SessionGrant)
        session = await run(acme, AgentSession.objects.get)
        subject = {"session": session, "agent": acme.agent, "target": acme.target, "tenant": acme.tenant}[scope_name]
        order = await ordered(acme, subject)
        revoke = await worker.receive(Revoke)
        assert (revoke.session_ids, revoke.reason) == ((grant.session_id,), "it runs wild")
        assert ((await told(order)).state, (await told(order)).alive) == ("waiting", 1)
        await dies(worker, grant.session_id)
        await worker.send(question(token, request_id=2))
        answer = await worker.receive(SessionGrant | Refused)  # type: ignore[arg-type]
    after = await told(order)
    assert after.state == "dead"
    assert after.seconds_to_dead is not None
    assert 0 <= after.seconds_to_dead < ANSWER_SECONDS
    if scope_name == "session":
        assert isinstance(answer, SessionGrant)
    else:
        assert isinstance(answer, Refused)
        assert answer.code is RefusalCode.DENIED


@pytest.mark.usefixtures("no_poll")
async def test_of_a_tenant_every_workers_sessions_end_and_the_silent_one_is_waited_for(acme: Site) -> None:
    other = await second_worker(acme)
    silent = await run(acme, other.session)
    async with signed_on(acme) as worker:
        await worker.send(question(await agent_token(acme)))
        grant = await worker.receive(SessionGrant)
        order = await ordered(acme, acme.tenant)
        assert (await worker.receive(Revoke)).session_ids == (grant.session_id,)
        await dies(worker, grant.session_id)
    waiting = await told(order)
    assert (waiting.state.label, waiting.alive, waiting.seconds_to_dead) == ("waiting for a silent worker", 1, None)
    async with signed_on(other) as worker:  # it is back
        assert (await worker.receive(Revoke)).session_ids == (str(silent.pk),)
        await dies(worker, str(silent.pk))
    assert ((await told(order)).state, (await told(order)).alive) == ("dead", 0)


async def test_when_the_wake_up_is_lost_the_poll_finds_the_order(acme: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actions, "_send_wake_ups", lambda _: None)
    monkeypatch.setattr(pushing, "POLL_SECONDS", 0.2)
    async with signed_on(acme) as worker:
        await worker.send(question(await agent_token(acme)))
        grant = await worker.receive(SessionGrant)
        await ordered(acme, acme.agent)
        assert (await worker.receive(Revoke)).session_ids == (grant.session_id,)


async def test_after_it_is_lifted_the_agent_has_a_session_again(acme: Site) -> None:
    order = await ordered(acme, acme.agent)
    await run(acme, lambda: lift(order, reason="it is mended", acting_user=None))
    async with signed_on(acme) as worker:
        await worker.send(question(await agent_token(acme)))
        await worker.receive(SessionGrant)
