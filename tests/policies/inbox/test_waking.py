"""Open pages hear that they should look again: those of the tenant, by a ticket of ours, and no word of what it is."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from channels.routing import URLRouter
from channels.testing import WebsocketCommunicator
from django.utils import timezone
from django_scopes import scope

from policies.approvals.actions import ask_preview
from policies.approvals.asking import keep_preview
from policies.inbox.waking import TICKET_SECONDS, make_ticket, read_ticket
from policies.routing import websocket_urlpatterns
from tests.policies.approvals.conftest import Site, make_site

pytestmark = pytest.mark.django_db(transaction=True)


def page(ticket: str) -> Any:
    """A page that is open with this ticket."""
    path = f"approvals/live/?{urlencode({'ticket': ticket})}"
    return WebsocketCommunicator(URLRouter(websocket_urlpatterns), path)


def test_an_open_page_hears_of_its_tenants_requests_and_of_no_others() -> None:
    acme, globex = make_site("acme"), make_site("globex")

    async def run(site: Site, other: Site) -> None:
        mine, theirs = page(make_ticket([site.tenant.pk])), page(make_ticket([other.tenant.pk]))
        for one in (mine, theirs):
            assert (await one.connect(timeout=30))[0]
        await sync_to_async(site.open)()
        assert await mine.receive_from(timeout=30) == "look again"
        assert await theirs.receive_nothing()
        await mine.disconnect(timeout=30)
        await theirs.disconnect(timeout=30)

    async_to_sync(run)(acme, globex)


def test_an_open_page_hears_of_a_preview_that_is_asked_for_and_of_its_answer() -> None:
    acme = make_site("acme")
    request = acme.open()

    def answer() -> None:
        with scope(tenant=acme.tenant):
            keep_preview(
                request.pk,
                worker_id=acme.worker.pk,
                is_exact=True,
                rows=3,
                plan="",
                problem="",
                now=timezone.now(),
            )

    async def run() -> None:
        mine = page(make_ticket([acme.tenant.pk]))
        assert (await mine.connect(timeout=30))[0]
        for act in (lambda: ask_preview(request, exact=True, acting_user=acme.people["ada"]), answer):
            await sync_to_async(act)()
            assert await mine.receive_from(timeout=30) == "look again"
        await mine.disconnect(timeout=30)

    async_to_sync(run)()
    assert acme.again(request).preview_rows == 3


@pytest.mark.parametrize("ticket", ["", "garbage", "a:b:c"])
def test_without_a_ticket_of_ours_nobody_listens(ticket: str) -> None:
    async def run() -> None:
        assert await page(ticket).connect(timeout=30) == (False, 4401)

    async_to_sync(run)()


def test_an_old_ticket_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    tenant_id = uuid4()
    ticket = make_ticket([tenant_id])
    assert read_ticket(ticket) == [tenant_id]
    monkeypatch.setattr("policies.inbox.waking.TICKET_SECONDS", -1)
    assert TICKET_SECONDS > 0
    assert read_ticket(ticket) == []
