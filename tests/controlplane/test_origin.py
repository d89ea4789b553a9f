"""Where a change came from: the channel and the client's address, of which a client's own word is no evidence."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from asgiref.sync import sync_to_async
from channels.testing import WebsocketCommunicator
from django.core.cache import cache
from django.db import connections
from django.test import Client
from django.utils import timezone
from django_scopes import scope
from rest_framework.test import APIRequestFactory
from rest_framework.throttling import AnonRateThrottle

import manage
from accounts import actions
from accounts.oauth import limits
from accounts.signin.models import SignIn
from controlplane.asgi import application
from controlplane.authority import Role
from controlplane.ledger.actions import append_entry, digest_of, first_break
from controlplane.ledger.models import LedgerEntry
from controlplane.origin import (
    SYSTEM_ORIGIN,
    Channel,
    Origin,
    SocketOrigin,
    client_address,
    current_origin,
    originating,
)
from controlplane.tenancy import every_tenant
from tests.accounts.conftest import Site, acme  # noqa: F401  # a fixture
from tests.accounts.test_admin import agent_form
from tests.accounts.test_scim import Directory

if TYPE_CHECKING:
    from pathlib import Path

    from pytest_django.fixtures import Settings

PASSWORD = "a-long-enough-phrase"
#: What reached us: a proxy's address, or that of whoever reached us directly.
PEER = "198.51.100.7"
#: Who the client says it is, which is a lie, and what a proxy of ours added.
FORGED = "203.0.113.66"
SEEN = "192.0.2.10"


@pytest.fixture(autouse=True)
def _no_lockout() -> None:
    cache.clear()


@pytest.fixture
def one_proxy(settings: Settings) -> None:
    settings.NARROWGATE = replace(settings.NARROWGATE, trusted_proxies=1)


def browser(**headers: str) -> Client:
    return Client(REMOTE_ADDR=PEER, headers=headers)


def origin_of(site: Site, kind: str) -> tuple[str, str]:
    """Of the newest entry of that kind."""
    with scope(tenant=site.tenant):
        entry = LedgerEntry.objects.filter(kind=kind).order_by("-seq")[0]
    return entry.channel, entry.address


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "trusted_proxies", "address"),
    [
        (PEER, "", 0, PEER),
        (PEER, FORGED, 0, PEER),
        (PEER, SEEN, 1, SEEN),
        (PEER, f"{FORGED}, {SEEN}", 1, SEEN),
        (PEER, f"{FORGED},{FORGED} , {SEEN}", 1, SEEN),
        (PEER, f"{FORGED}, {SEEN}, 10.0.0.1", 2, SEEN),
        (PEER, SEEN, 2, SEEN),
        (PEER, "", 2, PEER),
        (PEER, ",, ,", 1, PEER),
        (PEER, f"{FORGED}, unknown", 1, PEER),
        (PEER, f"{FORGED}, {SEEN}:4711", 1, PEER),
        (PEER, f"{SEEN}\x00", 1, PEER),
        ("", SEEN, 1, SEEN),
        ("", "", 0, ""),
        ("/run/web.sock", "", 0, ""),
        ("::ffff:192.0.2.10", "", 0, SEEN),
        ("2001:DB8:0::1", "", 0, "2001:db8::1"),
        ("fe80::1%eth0", "", 0, "fe80::1"),
    ],
)
def test_an_address_is_what_a_trusted_proxy_saw(
    peer: str, forwarded_for: str, trusted_proxies: int, address: str
) -> None:
    assert client_address(peer, forwarded_for, trusted_proxies=trusted_proxies) == address


def test_what_nobody_said_anything_of_is_the_systems() -> None:
    assert current_origin() == SYSTEM_ORIGIN
    with originating(Origin(Channel.CLI)):
        assert current_origin() == Origin(Channel.CLI)
    assert current_origin() == SYSTEM_ORIGIN


def test_an_agent_made_over_rest_came_from_there(acme: Site) -> None:  # noqa: F811
    _, made = actions.issue_api_token(acme.people[Role.ADMIN], tenant=acme.tenant, acting_user=None)
    headers = {"Authorization": f"Bearer {made.text}", "X-Forwarded-For": FORGED}
    agent = {"tenant": "acme", "name": "writer"}
    assert browser(**headers).post("/api/v1/agents/", agent, content_type="application/json").status_code == 201
    assert origin_of(acme, "agent.created") == ("rest", PEER)
    told = browser(**headers).get("/api/v1/ledger-entries/", {"channel": "rest", "address": PEER}).json()["results"]
    assert [(entry["kind"], entry["channel"], entry["address"]) for entry in told] == [("agent.created", "rest", PEER)]


@pytest.mark.usefixtures("one_proxy")
def test_an_agent_made_in_the_admin_came_from_behind_the_proxy(acme: Site) -> None:  # noqa: F811
    client = browser(**{"X-Forwarded-For": f"{FORGED}, {SEEN}"})
    client.force_login(acme.people[Role.OWNER])
    form = agent_form(name="writer", tenant=str(acme.tenant.pk))
    assert client.post("/admin/accounts/agent/add/", form).status_code == 302
    assert origin_of(acme, "agent.created") == ("admin", SEEN)
    listed = client.get("/admin/ledger/ledgerentry/").content.decode()
    assert SEEN in listed
    assert FORGED not in listed
    with every_tenant():
        assert set(SignIn.objects.values_list("address", flat=True)) <= {SEEN, None}


@pytest.mark.usefixtures("one_proxy")
def test_a_person_of_the_directory_came_by_scim(acme: Site) -> None:  # noqa: F811
    directory = Directory(acme)
    with scope(tenant=acme.tenant):
        before = LedgerEntry.objects.count()
    directory.make_user("new@acme.example")
    with scope(tenant=acme.tenant):
        made = set(LedgerEntry.objects.filter(seq__gt=before).values_list("channel", "address"))
    assert made == {("scim", "127.0.0.1")}


def test_a_local_account_was_used_from_there(acme: Site) -> None:  # noqa: F811
    owner = actions.save_user(acme.people[Role.OWNER], acting_user=None, password=PASSWORD)
    form = {"username": owner.email, "password": PASSWORD}
    assert browser(**{"X-Forwarded-For": FORGED}).post("/admin/login/", form).status_code == 302
    assert origin_of(acme, "break_glass.used") == ("sign-in", PEER)


def test_what_is_applied_came_from_the_command_line(
    acme: Site,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    file = tmp_path / "agent.yaml"
    file.write_text("kind: Agent\ntenant: acme\nname: writer\n")
    monkeypatch.setattr(sys, "argv", ["manage.py", "apply", "-f", str(file)])
    monkeypatch.setattr(connections, "close_all", lambda: None)
    manage.main()
    assert origin_of(acme, "agent.created") == ("cli", "")
    assert current_origin() == SYSTEM_ORIGIN


async def test_a_link_comes_from_its_worker_also_in_its_threads(settings: Settings) -> None:
    settings.NARROWGATE = replace(settings.NARROWGATE, trusted_proxies=1)
    seen: list[Any] = []

    async def inner(scope: dict[str, Any], _receive: Any, _send: Any) -> None:
        seen.extend([await sync_to_async(current_origin, thread_sensitive=False)(), scope["client"]])

    headers = [(b"x-forwarded-for", FORGED.encode()), (b"x-forwarded-for", SEEN.encode())]
    link = {"type": "websocket", "path": "/link/v1/", "client": (PEER, 4711), "headers": headers}
    await SocketOrigin(inner)(link, None, None)
    page: dict[str, Any] = {"type": "websocket", "path": "/approvals/live/", "client": None, "headers": []}
    await SocketOrigin(inner)(page, None, None)
    assert seen == [Origin(Channel.LINK, SEEN), (SEEN, 4711), Origin(Channel.WEB, ""), ("", 0)]


async def test_the_links_of_web_say_where_they_come_from() -> None:
    assert isinstance(application.application_mapping["websocket"], SocketOrigin)
    socket = WebsocketCommunicator(application, "/link/v1/")
    assert (await socket.connect(timeout=30))[0]
    await socket.disconnect(timeout=30)


def test_a_forged_address_moves_no_lock_and_no_rate(acme: Site) -> None:  # noqa: F811
    """Whoever is locked out, or has asked too often, doesn't get on by another X-Forwarded-For."""
    owner = actions.save_user(acme.people[Role.OWNER], acting_user=None, password=PASSWORD)
    answers = []
    for number in range(6):
        form = {"username": owner.email, "password": "wrong"}
        answers.append(browser(**{"X-Forwarded-For": f"203.0.113.{number}"}).post("/admin/login/", form).status_code)
    assert answers[-1] == 429
    request = APIRequestFactory().get("/", REMOTE_ADDR=PEER, HTTP_X_FORWARDED_FOR=FORGED)
    assert AnonRateThrottle().get_ident(request) == PEER


@pytest.mark.usefixtures("one_proxy")
def test_behind_a_proxy_a_lock_holds_for_the_one_who_guessed(acme: Site) -> None:  # noqa: F811
    owner = actions.save_user(acme.people[Role.OWNER], acting_user=None, password=PASSWORD)
    for _ in range(6):
        form = {"username": owner.email, "password": "wrong"}
        browser(**{"X-Forwarded-For": f"{FORGED}, {SEEN}"}).post("/admin/login/", form)
    right = {"username": owner.email, "password": PASSWORD}
    assert browser(**{"X-Forwarded-For": SEEN}).post("/admin/login/", right).status_code == 429
    assert browser(**{"X-Forwarded-For": "192.0.2.11"}).post("/admin/login/", right).status_code == 302


@pytest.mark.usefixtures("one_proxy")
def test_the_token_endpoint_counts_by_the_clients_address(monkeypatch: pytest.MonkeyPatch, db: None) -> None:
    monkeypatch.setattr(limits, "REQUESTS_PER_MINUTE", 1)

    def ask(forwarded_for: str) -> int:
        return browser(**{"X-Forwarded-For": forwarded_for}).post("/oauth/token", {"grant_type": "x"}).status_code

    assert [ask(SEEN), ask(f"{FORGED}, {SEEN}"), ask("192.0.2.11")] == [400, 429, 400]


def test_an_entry_from_before_origins_keeps_its_digest(acme: Site, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """Entries of early versions have no channel; their digests are of the first form, and the chain holds over both."""
    entry = LedgerEntry(tenant_id=acme.tenant.pk, seq=1, at=timezone.now(), kind="x.y", actor="system", subject="x")
    first = digest_of(entry, previous=bytes(32))
    entry.address = SEEN
    assert digest_of(entry, previous=bytes(32)) == first
    entry.channel = "rest"
    second = digest_of(entry, previous=bytes(32))
    entry.address = PEER
    assert len({first, second, digest_of(entry, previous=bytes(32))}) == 3
    monkeypatch.setattr("controlplane.ledger.actions.current_origin", lambda: _NoOrigin)
    append_entry(tenant=acme.tenant, kind="x.y", acting_user=None, subject="x", before=None, after=None)
    monkeypatch.undo()
    append_entry(tenant=acme.tenant, kind="x.y", acting_user=None, subject="x", before=None, after=None)
    assert first_break(acme.tenant.pk) is None


class _NoOrigin:
    class channel:  # noqa: N801
        value = ""

    address = ""
    machine = ""
