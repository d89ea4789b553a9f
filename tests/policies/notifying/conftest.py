"""A tenant with people, and peers to tell."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from django_scopes import scope

from accounts.actions import save_membership, save_user
from accounts.models import Membership, Tenant, User
from controlplane.authority import Role
from policies.notifying.actions import save_channel
from policies.notifying.models import ChannelKind, NotificationChannel
from tests.policies.notifying.peers import BOT_TOKEN, Peer, running_peer

SIGNING_SECRET = "8f742231b10e8888abcd99yyyzzz85a5"
SECURITY_TOKEN = "c2VjdXJpdHkgdG9rZW4gb2YgdGhlIGNoYW5uZWw="


@dataclass(frozen=True, slots=True)
class Office:
    """A tenant, its people, and how to add a channel that leads to the peer."""

    tenant: Tenant
    ada: User
    peer: Peer

    def channel(self, kind: ChannelKind, name: str = "", **values: Any) -> NotificationChannel:
        """A channel of this kind; `values` replace its fields, `secrets` adds to its secrets."""
        address = {ChannelKind.SLACK: "C024BE91L", ChannelKind.WEBHOOK: f"{self.peer.url}/hook"}.get(kind, "")
        secrets = {
            ChannelKind.SLACK: {"bot_token": BOT_TOKEN, "signing_secret": SIGNING_SECRET},
            ChannelKind.TEAMS: {"workflow_url": f"{self.peer.url}/flow?sig=hidden", "security_token": SECURITY_TOKEN},
        }.get(kind, {})
        fields = {"tenant": self.tenant, "kind": kind, "name": name or kind.value, "address": address, **values}
        secrets = {**secrets, **fields.pop("secrets", {})}
        channel = NotificationChannel(**fields)
        with scope(tenant=self.tenant.pk):
            save_channel(channel, acting_user=None, secrets=secrets)
        return channel


@pytest.fixture
def peer() -> Iterator[Peer]:
    """Whom we tell."""
    with running_peer() as peer:
        yield peer


@pytest.fixture
def office(db: None, peer: Peer, settings: Any) -> Office:
    """A tenant with an approver, ada."""
    settings.NARROWGATE = replace(settings.NARROWGATE, slack_api_url=f"{peer.url}/api/")
    tenant = Tenant.objects.create(slug="acme", name="Acme")
    return Office(tenant=tenant, ada=person(tenant, "ada", Role.APPROVER), peer=peer)


def person(tenant: Tenant, name: str, role: Role) -> User:
    """Somebody with this role."""
    user = save_user(User(email=f"{name}@{tenant.slug}.example"), acting_user=None)
    save_membership(Membership(tenant=tenant, user=user, role=role), acting_user=None)
    return user
