"""Several links of one worker, one for each of its processes."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from channels.db import database_sync_to_async
from django.utils import timezone

from controlplane.authority import Role
from policies.approvals.models import ApprovalRequest, Mode
from proxyworker.contract import (
    LINK_VERSION,
    Ack,
    Authenticate,
    Heartbeat,
    RefusalCode,
    Refused,
    Revoke,
    SessionGrant,
)
from sessions.approving import News, news_of
from sessions.killing.actions import kill
from sessions.link import CLOSE_FAULT
from sessions.models import AgentSession
from sessions.pushing import CLOSE_REFUSED, CLOSE_REPLACED
from targets.actions import save_worker
from targets.models import ProxyWorker
from targets.processes.access import linked_processes
from targets.processes.models import WorkerProcess
from tests.sessions.conftest import Site
from tests.sessions.linking import ScriptedWorker, connected, question, signed_on
from tests.sessions.people import an_approval, person, signed_in
from tests.sessions.records import JournalScript, closed, opened
from tests.sessions.test_link import agent_token, run

pytestmark = pytest.mark.django_db(transaction=True)


async def linked(site: Site) -> list[int]:
    """The numbers of the processes that have a link now."""
    now = timezone.now()
    return await run(site, lambda: [process.number for process in linked_processes(now=now)])


async def granted(worker: ScriptedWorker, token: str) -> str:
    """The id of a session that the process was granted."""
    await worker.send(question(token))
    return (await worker.receive(SessionGrant)).session_id


async def has_answered(worker: ScriptedWorker) -> None:
    """What was sent before has been acted on."""
    await worker.send(question("nobody's"))
    assert (await worker.receive(Refused)).code is RefusalCode.BAD_CREDENTIAL


async def test_each_process_has_its_own_link_and_ends_its_own_sessions(acme: Site) -> None:
    token = await agent_token(acme)
    async with signed_on(acme, process=0, processes=2) as zero, signed_on(acme, process=1, processes=2) as one:
        assert await linked(acme) == [0, 1]
        of_zero, of_one = await granted(zero, token), await granted(one, token)
        processes = await run(acme, lambda: {str(row.pk): row.process for row in AgentSession.objects.all()})
        assert processes == {of_zero: 0, of_one: 1}
        session = await run(acme, lambda: AgentSession.objects.get(pk=of_one))
        await run(acme, lambda: kill(session, acting_user=None, reason="it runs wild"))
        assert (await one.receive(Revoke)).session_ids == (of_one,)
        await has_answered(zero)  # and heard of nothing before
        await run(acme, lambda: kill(acme.agent, acting_user=None, reason="all of it"))
        assert (await zero.receive(Revoke)).session_ids == (of_zero,)
    assert await linked(acme) == []


async def test_a_newer_link_of_a_process_takes_the_place_of_the_older_one_and_of_no_other(acme: Site) -> None:
    async with (
        signed_on(acme, process=0, processes=2) as sibling,
        signed_on(acme, process=1, processes=2) as stale,
        signed_on(acme, process=1, processes=2) as fresh,
    ):
        assert await stale.closed_with() == CLOSE_REPLACED
        await has_answered(sibling)
        await has_answered(fresh)
        assert await linked(acme) == [0, 1]


async def test_a_withdrawn_worker_has_every_process_of_it_end_its_sessions(acme: Site) -> None:
    def deactivate() -> None:
        acme.worker.is_active = False
        save_worker(acme.worker, acting_user=None)

    token = await agent_token(acme)
    async with signed_on(acme, process=0, processes=2) as zero, signed_on(acme, process=1, processes=2) as one:
        session_id = await granted(one, token)
        await run(acme, deactivate)
        assert (await zero.receive(Revoke)).session_ids == ()
        assert await zero.closed_with() == CLOSE_REFUSED, "it had no session to tell of"
        assert (await one.receive(Revoke)).session_ids == ()
        journal = JournalScript()
        journal.write(opened(session_id), closed(session_id, 0))
        await one.send(journal.whole())
        await one.receive(Ack)
        assert await one.closed_with() == CLOSE_REFUSED


async def test_the_worker_reports_what_all_of_its_processes_do(acme: Site) -> None:
    async with signed_on(acme, process=0, processes=2) as zero, signed_on(acme, process=1, processes=2) as one:
        for worker, sessions, journal_bytes in ((zero, 3, 4096), (one, 4, 1024)):
            await worker.send(Heartbeat(sessions=sessions, journal_bytes=journal_bytes))
            await has_answered(worker)
        row = await run(acme, lambda: ProxyWorker.objects.get(pk=acme.worker.pk))
        assert (row.reported_sessions, row.reported_journal_bytes) == (7, 5120)


@pytest.mark.parametrize("mode", [Mode.HOLD, Mode.DEFER])
async def test_what_waits_is_asked_about_in_the_process_that_has_the_session(acme: Site, mode: Mode) -> None:
    def news(process: int) -> News:
        held = {request_id} if process else set()  # a link knows what its own process holds
        return news_of(replace(acme.linked, process=process), held, now=timezone.now())

    def wait() -> UUID:
        session = acme.session()
        AgentSession.objects.filter(pk=session.pk).update(process=1)
        _, request = an_approval(acme, session)
        ApprovalRequest.objects.filter(pk=request.pk).update(mode=mode, preview_asked_at=timezone.now())
        return request.pk

    request_id = await run(acme, wait)
    assert (await run(acme, lambda: news(0))).previews == {}
    assert [asked for asked, _ in (await run(acme, lambda: news(1))).previews] == [request_id]


async def test_the_admin_and_rest_tell_of_each_process(acme: Site) -> None:
    def shown() -> tuple[str, Any]:
        client = signed_in(person(acme.tenant, Role.ADMIN))
        page = client.get(f"/admin/targets/proxyworker/{acme.worker.pk}/change/").content.decode()
        return page, client.get(f"/api/v1/workers/{acme.worker.pk}/").json()["processes"]

    async with signed_on(acme, process=0, processes=2) as zero:
        async with signed_on(acme, process=1, processes=2):
            pass
        await zero.send(Heartbeat(sessions=3, journal_bytes=4096))
        await has_answered(zero)
        page, processes = await database_sync_to_async(shown)()
    assert "process 0: connected, 3 sessions, 4 KiB not shipped" in page
    assert "process 1: no link, 0 sessions, 0 KiB not shipped" in page
    told = [(row["number"], row["has_link"], row["reported_sessions"]) for row in processes]
    assert told == [(0, True, 3), (1, False, 0)]


async def test_a_worker_that_says_nothing_of_processes_is_the_only_one(acme: Site) -> None:
    async with signed_on(acme, process=2, processes=3) as former, signed_on(acme):
        assert await former.closed_with() == CLOSE_REPLACED, "there is no process 2 any more"
        assert await linked(acme) == [0]
    assert await run(acme, WorkerProcess.objects.count) == 1


async def test_a_process_ships_the_journal_of_one_that_there_is_no_more(acme: Site) -> None:
    token = await agent_token(acme)
    async with signed_on(acme, process=1, processes=2) as one:
        session_id = await granted(one, token)
    async with signed_on(acme) as zero:
        journal = JournalScript()
        journal.write(opened(session_id), closed(session_id, 0))
        await zero.send(journal.whole())
        assert (await zero.receive(Ack)).seq == 2
    assert (await run(acme, AgentSession.objects.get)).state == "closed"


@pytest.mark.parametrize(("process", "processes"), [(1, 1), (2, 2), (-1, 2), (0, 0), (0, 65)])
async def test_a_process_that_can_not_be_is_cut_off(acme: Site, process: int, processes: int) -> None:
    async with connected() as worker:
        await worker.send(Authenticate(LINK_VERSION, str(acme.worker.pk), bytes(64), process, processes))
        assert await worker.closed_with() == CLOSE_FAULT


@pytest.mark.parametrize("signed", [b"", struct.pack(">HH", 0, 2), struct.pack(">HH", 1, 3)])
async def test_the_numbers_are_part_of_what_is_signed(acme: Site, signed: bytes) -> None:
    async with connected() as worker:
        signature = worker.signature(acme.key, signed)
        await worker.send(Authenticate(LINK_VERSION, str(acme.worker.pk), signature, process=1, processes=2))
        assert (await worker.receive(Refused)).code is RefusalCode.BAD_SIGNATURE
