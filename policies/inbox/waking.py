"""Says "look again" to open inboxes. A word says nothing of what has changed: pages fetch that, as who is signed in.

A page brings a ticket: signed by us, for some tenants, for as long as somebody may look at a page.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final
from urllib.parse import parse_qs
from uuid import UUID

import structlog
from asgiref.sync import async_to_sync
from channels.generic.websocket import AsyncWebsocketConsumer
from channels.layers import get_channel_layer
from django.core import signing
from django.db import transaction
from django.db.models.signals import post_save
from django.dispatch import receiver
from redis.exceptions import RedisError

from policies.approvals.models import ApprovalRequest, ApprovalVote

log = structlog.get_logger(__name__)

#: A page that is open for longer still looks by itself, more slowly.
TICKET_SECONDS: Final = 12 * 3600
MAX_TENANTS: Final = 100
_SALT: Final = "policies.inbox"
CLOSE_NO_TICKET: Final = 4401


def make_ticket(tenant_ids: Iterable[UUID]) -> str:
    """For somebody who may read these tenants' requests."""
    return signing.dumps([str(tenant_id) for tenant_id in tenant_ids][:MAX_TENANTS], salt=_SALT, compress=True)


def read_ticket(ticket: str) -> list[UUID]:
    """The tenants; none for a ticket that is not ours, or too old."""
    try:
        named = signing.loads(ticket, salt=_SALT, max_age=TICKET_SECONDS)
    except signing.BadSignature:
        return []
    return [UUID(tenant_id) for tenant_id in named]


class InboxConsumer(AsyncWebsocketConsumer):  # type: ignore[misc]
    """An open page. It says nothing that is listened to."""

    async def connect(self) -> None:
        """Listen for the ticket's tenants."""
        query = parse_qs(self.scope.get("query_string", b"").decode("ascii", "replace"))
        self._groups = [_group(tenant_id) for tenant_id in read_ticket(query.get("ticket", [""])[0])]
        if not self._groups:
            await self.close(CLOSE_NO_TICKET)
            return
        for group in self._groups:
            await self.channel_layer.group_add(group, self.channel_name)
        await self.accept()

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        """A page has nothing to say."""
        del text_data, bytes_data
        await self.close(CLOSE_NO_TICKET)

    async def disconnect(self, code: int) -> None:
        """The page is gone."""
        del code
        for group in getattr(self, "_groups", ()):
            await self.channel_layer.group_discard(group, self.channel_name)

    async def look_again(self, message: dict[str, Any]) -> None:
        """From the channel layer."""
        del message
        await self.send(text_data="look again")


@receiver(post_save, sender=ApprovalRequest)
@receiver(post_save, sender=ApprovalVote)
def _saved(instance: ApprovalRequest | ApprovalVote, **_: Any) -> None:
    tenant_id = instance.tenant_id
    transaction.on_commit(lambda: _wake(tenant_id), robust=True)


def _wake(tenant_id: UUID) -> None:
    try:
        async_to_sync(get_channel_layer().group_send)(_group(tenant_id), {"type": "look.again"})
    except (RedisError, OSError) as error:  # pages look by themselves too
        log.warning("inbox_not_woken", error=type(error).__name__)


def _group(tenant_id: UUID) -> str:
    return f"approvals.{tenant_id.hex}"
