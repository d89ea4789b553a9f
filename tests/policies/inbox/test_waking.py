"""Open pages hear that they should look again: those of the tenant, by a ticket of ours, and no word of what it is."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from channels.routing import URLRouter
from channels.testing import WebsocketCommunicator

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
            assert (await one.connect())[0]
        await sync_to_async(site.open)()
        assert await mine.receive_from(timeout=10) == "look again"
        assert await theirs.receive_nothing()
        await mine.disconnect()
        await theirs.disconnect()

    async_to_sync(run)(acme, globex)


@pytest.mark.parametrize("ticket", ["", "garbage", "a:b:c"])
def test_without_a_ticket_of_ours_nobody_listens(ticket: str) -> None:
    async def run() -> None:
        assert await page(ticket).connect() == (False, 4401)

    async_to_sync(run)()


def test_an_old_ticket_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    tenant_id = uuid4()
    ticket = make_ticket([tenant_id])
    assert read_ticket(ticket) == [tenant_id]
    monkeypatch.setattr("policies.inbox.waking.TICKET_SECONDS", -1)
    assert TICKET_SECONDS > 0
    assert read_ticket(ticket) == []
