"""The kill switch, said in a chat."""

from __future__ import annotations

import pytest
from django.utils import timezone
from django_scopes import scope

from accounts.actions import save_membership, save_user
from accounts.models import Membership, User
from controlplane.authority import Role
from policies.notifying.actions import save_channel
from policies.notifying.commands import run_command, speaker_of
from policies.notifying.models import ChatIdentity, Event, Notification, NotificationChannel
from sessions.killing.models import KillOrder
from sessions.models import AgentSession
from tests.sessions.conftest import Site

pytestmark = pytest.mark.django_db


def say(site: Site, text: str, *, role: Role = Role.ADMIN) -> str:
    """Somebody in that role says it in acme's chat; the answer."""
    user = save_user(User(email=f"{role}@acme.example"), acting_user=None)
    save_membership(Membership(tenant=site.tenant, user=user, role=role), acting_user=None)
    channel = NotificationChannel(tenant=site.tenant, name="chat", kind="webhook", address="https://chat.example/")
    with scope(tenant=site.tenant):
        save_channel(channel, acting_user=None)
        ChatIdentity.objects.create(tenant=site.tenant, channel=channel, external_id="U1", user=user)
        return run_command(speaker_of(channel, "U1"), text, now=timezone.now())


@pytest.mark.parametrize("named", ["agent reporter", "target shop", "tenant acme", "session {}"])
def test_what_is_named_is_stopped_with_its_reason(acme: Site, named: str) -> None:
    session = acme.session()
    answer = say(acme, f"kill {named.format(session.pk)} it deletes orders")
    assert answer.startswith("Stopped: ")
    assert "1 running sessions" in answer
    with scope(tenant=acme.tenant):
        order = KillOrder.objects.get()
        assert (order.reason, str(order.ordered_by)) == ("it deletes orders", "admin@acme.example")
        assert AgentSession.objects.get(pk=session.pk).end_requested_at is not None
        assert Notification.objects.get().event == Event.KILLED


@pytest.mark.parametrize("text", ["kill", "kill agent", "kill agent nobody", "kill tenant", "kill tenant globex",
                                  "kill session 17", "kill everything now"])  # fmt: skip
def test_what_names_nothing_stops_nothing(acme: Site, globex: Site, text: str) -> None:
    assert say(acme, text).startswith("Not done: ")
    for site in (acme, globex):
        with scope(tenant=site.tenant):
            assert not KillOrder.objects.exists()


@pytest.mark.parametrize("role", [Role.APPROVER, Role.AUDITOR, Role.VIEWER])
def test_it_takes_the_power_to_manage(acme: Site, role: Role) -> None:
    assert "your role doesn't permit that" in say(acme, "kill tenant acme now", role=role)
    with scope(tenant=acme.tenant):
        assert not KillOrder.objects.exists()
