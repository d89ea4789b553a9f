"""From an announcement to the peer: once for each event and channel, signed, tried again, and all of it on record."""

from __future__ import annotations

import base64
import hashlib
import hmac
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest
import zstandard
from django.core.exceptions import ValidationError
from django.db import DatabaseError, connection, transaction
from django.utils import timezone
from django_scopes import scope

from controlplane.authority import Role
from controlplane.ledger.models import LedgerEntry
from policies.notifying.actions import MAX_ATTEMPTS, RETRY_SECONDS, announce, deliver, save_channel, secret_of, take_due
from policies.notifying.models import (
    ChannelKind,
    DeliveryAttempt,
    Event,
    Notification,
    NotificationChannel,
    NotificationState,
)
from tests.policies.notifying.conftest import Office, person
from tests.policies.notifying.peers import BOT_TOKEN

SUBJECT = UUID("0b5c1a52-3d6b-4c38-9f0a-6f8f3a2f1b11")
STATEMENT = "DELETE FROM orders WHERE id = 7 -- <!channel> *bold*"


def tell(office: Office, key: str = "1:opened", **more: Any) -> int:
    """Announce an approval."""
    said: dict[str, Any] = {
        "event": Event.APPROVAL_OPENED,
        "title": "Approval needed: delete by reporter on shop",
        "url": "https://gate.example/approvals/1/",
        "facts": [("Agent", "reporter"), ("Hazards", "delete without where")],
        "text": STATEMENT,
        "subject_id": SUBJECT,
        "is_open": True,
        **more,
    }
    with scope(tenant=office.tenant.pk):
        return announce(tenant=office.tenant, key=key, **said)


def run(now: datetime | None = None) -> list[bool]:
    """Deliver what is due."""
    at = now or timezone.now()
    return [deliver(notification_id, attempt, now=at) for notification_id, attempt in take_due(now=at)]


def only(office: Office) -> Notification:
    """The one notification."""
    with scope(tenant=office.tenant.pk):
        return Notification.objects.get()


def attempts(office: Office) -> list[tuple[int, bool, int]]:
    """Number, success and status of each try."""
    with scope(tenant=office.tenant.pk):
        return list(DeliveryAttempt.objects.order_by("number").values_list("number", "succeeded", "status"))


def test_a_webhook_is_signed_as_the_standard_webhooks_specification_says(office: Office) -> None:
    channel = office.channel(ChannelKind.WEBHOOK)
    tell(office)
    assert run() == [True]
    [received] = office.peer.received
    key = base64.b64decode(secret_of(channel, "signing_secret").removeprefix("whsec_"))
    said = f"{received.headers['webhook-id']}.{received.headers['webhook-timestamp']}.".encode() + received.body
    expected = base64.b64encode(hmac.new(key, said, hashlib.sha256).digest()).decode()
    assert received.headers["webhook-signature"] == f"v1,{expected}"
    assert received.headers["webhook-id"] == str(only(office).pk)
    assert received.json["event"] == "approval.opened"
    assert received.json["request"] == str(SUBJECT)


def test_a_statement_stays_here_unless_the_channel_shows_it(office: Office) -> None:
    office.channel(ChannelKind.WEBHOOK, "silent")
    office.channel(ChannelKind.WEBHOOK, "open", shows_text=True)
    tell(office)
    run()
    assert sorted(received.json["text"] for received in office.peer.received) == ["", STATEMENT]


def test_the_same_event_is_told_once_on_each_channel(office: Office) -> None:
    office.channel(ChannelKind.WEBHOOK)
    tell(office)
    tell(office)
    assert run() == [True]
    assert run() == []
    tell(office, key="2:opened")
    assert run() == [True]
    assert len(office.peer.received) == 2


def test_a_channel_hears_only_the_events_that_it_asked_for(office: Office) -> None:
    office.channel(ChannelKind.WEBHOOK, events=[Event.BREAK_GLASS.value])
    assert tell(office) == 0
    assert tell(office, key="3:glass", event=Event.BREAK_GLASS) == 1


def test_what_fails_is_tried_again_later_each_time_and_then_given_up(office: Office) -> None:
    office.channel(ChannelKind.WEBHOOK)
    tell(office)
    now = timezone.now()
    for wait in (*RETRY_SECONDS, None):
        office.peer.answer(503, b"not now")
        assert run(now) == [False]
        assert run(now + timedelta(seconds=1)) == []
        now += timedelta(seconds=2 * (wait or 0))
    assert only(office).state == NotificationState.GIVEN_UP
    assert attempts(office) == [(number, False, 503) for number in range(1, MAX_ATTEMPTS + 1)]
    with scope(tenant=office.tenant.pk):
        assert DeliveryAttempt.objects.first().answer == "not now"  # type: ignore[union-attr]


def test_a_peer_that_says_when_is_not_asked_before(office: Office) -> None:
    office.channel(ChannelKind.WEBHOOK)
    tell(office)
    now = timezone.now()
    office.peer.answer(429, Retry_After="600")
    assert run(now) == [False]
    assert run(now + timedelta(seconds=590)) == []
    assert run(now + timedelta(seconds=601)) == [True]


@pytest.mark.parametrize("status", [400, 404, 410])
def test_what_no_second_try_mends_is_given_up_at_once(office: Office, status: int) -> None:
    office.channel(ChannelKind.WEBHOOK)
    tell(office)
    office.peer.answer(status)
    assert run() == [False]
    assert only(office).state == NotificationState.GIVEN_UP


def test_what_a_peer_packs_is_not_unpacked(office: Office) -> None:
    office.channel(ChannelKind.WEBHOOK)
    tell(office)
    office.peer.answer(200, zstandard.compress(b"unpacked " * 1_000), Content_Encoding="zstd")
    assert run() == [True]
    assert office.peer.received[0].headers["accept-encoding"] == "identity"
    with scope(tenant=office.tenant.pk):
        assert "unpacked unpacked" not in DeliveryAttempt.objects.get().answer


def test_a_redirect_is_not_followed(office: Office) -> None:
    office.channel(ChannelKind.WEBHOOK)
    tell(office)
    office.peer.answer(302, Location=f"{office.peer.url}/elsewhere")
    assert run() == [False]
    assert [received.path for received in office.peer.received] == ["/hook"]


def test_nobody_else_takes_what_somebody_is_sending_until_the_lease_is_over(office: Office) -> None:
    office.channel(ChannelKind.WEBHOOK)
    tell(office)
    now = timezone.now()
    [(taken, _)] = take_due(now=now)
    assert take_due(now=now) == []
    assert take_due(now=now + timedelta(seconds=61)) == [(taken, 2)]
    # The first comes late, out of a long queue: the second is under way already.
    assert not deliver(taken, 1, now=now)
    assert office.peer.received == []
    assert deliver(taken, 2, now=now)
    assert attempts(office) == [(2, True, 200)]


def test_what_breaks_while_it_is_sent_is_a_failed_try_and_not_made_for_ever(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    office.channel(ChannelKind.WEBHOOK)
    tell(office)
    monkeypatch.setattr("policies.notifying.signatures.hmac", None)
    assert run() == [False]
    assert attempts(office) == [(1, False, 0)]


def test_an_announcement_that_is_rolled_back_was_never_made(office: Office) -> None:
    office.channel(ChannelKind.WEBHOOK)
    with pytest.raises(RuntimeError), transaction.atomic():
        tell(office)
        raise RuntimeError
    assert run() == []


def test_slack_gets_buttons_and_later_the_same_message_without_them(office: Office) -> None:
    office.channel(ChannelKind.SLACK, shows_text=True)
    tell(office)
    assert run() == [True]
    tell(office, key="1:granted", event=Event.APPROVAL_DECIDED, title="Granted", is_open=False)
    assert run() == [True]
    posted, changed = office.peer.received
    assert posted.path == "/api/chat.postMessage"
    assert posted.headers["authorization"] == f"Bearer {BOT_TOKEN}"
    buttons = next(block for block in posted.json["blocks"] if block["type"] == "actions")["elements"]
    assert [(one["action_id"], one.get("value")) for one in buttons] == [
        ("approve", str(SUBJECT)), ("reject", str(SUBJECT)), ("open", None)
    ]  # fmt: skip
    [quoted] = [block for block in posted.json["blocks"] if block["type"] == "rich_text"]
    assert quoted["elements"][0]["elements"] == [{"type": "text", "text": STATEMENT}]
    assert changed.path == "/api/chat.update"
    assert changed.json["ts"] == "1700000000.000001"
    assert "approve" not in changed.body.decode().replace("approvals", "")


def test_slack_says_when_it_may_be_asked_again(office: Office) -> None:
    office.channel(ChannelKind.SLACK)
    tell(office)
    now = timezone.now()
    office.peer.answer(429, b'{"ok": false, "error": "ratelimited"}', Retry_After="300")
    assert run(now) == [False]
    assert run(now + timedelta(seconds=290)) == []
    assert run(now + timedelta(seconds=301)) == [True]


def test_slack_that_knows_no_such_channel_is_not_asked_again(office: Office) -> None:
    office.channel(ChannelKind.SLACK)
    tell(office)
    office.peer.answer(200, b'{"ok": false, "error": "channel_not_found"}')
    assert run() == [False]
    assert only(office).state == NotificationState.GIVEN_UP


def test_teams_gets_a_card_that_leads_here(office: Office) -> None:
    office.channel(ChannelKind.TEAMS, shows_text=True)
    tell(office)
    office.peer.answer(202)
    assert run() == [True]
    [received] = office.peer.received
    card = received.json["attachments"][0]["content"]
    assert (card["type"], card["actions"][0]["url"]) == ("AdaptiveCard", "https://gate.example/approvals/1/")
    assert f"approve {SUBJECT}" in card["body"][-1]["text"]
    assert r"\*bold\*" in card["body"][2]["text"]


def test_e_mail_leads_those_who_may_approve_to_signing_in(office: Office, mailoutbox: list[Any]) -> None:
    person(office.tenant, "vera", Role.VIEWER)
    office.channel(ChannelKind.EMAIL)
    tell(office)
    assert run() == [True]
    [mail] = mailoutbox
    assert mail.bcc == ["ada@acme.example"]
    assert mail.subject == "Narrowgate: Approval needed: delete by reporter on shop"
    assert "https://gate.example/approvals/1/" in mail.body
    assert STATEMENT not in mail.body


def test_the_secrets_of_a_channel_are_shown_nowhere(office: Office) -> None:
    channel = office.channel(ChannelKind.TEAMS)
    tell(office)
    office.peer.answer(500)
    run()
    with scope(tenant=office.tenant.pk), connection.cursor() as cursor:
        cursor.execute("SELECT row_to_json(c)::text FROM policies_notificationchannel c")
        told = cursor.fetchone()[0]
        told += str([entry.after for entry in LedgerEntry.objects.all()])
        told += str([(attempt.answer, attempt.status) for attempt in DeliveryAttempt.objects.all()])
    assert "sig=hidden" not in told
    assert secret_of(channel, "workflow_url").endswith("sig=hidden")


def test_no_try_is_changed_or_deleted_in_the_database_either(office: Office) -> None:
    office.channel(ChannelKind.WEBHOOK)
    tell(office)
    run()
    for statement in ("UPDATE policies_deliveryattempt SET succeeded = false", "DELETE FROM policies_deliveryattempt"):
        with (
            scope(tenant=office.tenant.pk),
            pytest.raises(DatabaseError),
            transaction.atomic(),
            connection.cursor() as cursor,
        ):
            cursor.execute(statement)


@pytest.mark.parametrize(
    ("kind", "values", "field"),
    [
        (ChannelKind.EMAIL, {"address": "ada@acme.example, nobody"}, "address"),
        (ChannelKind.SLACK, {"address": "#general"}, "address"),
        (ChannelKind.SLACK, {"secrets": {"bot_token": ""}}, None),
        (ChannelKind.WEBHOOK, {"address": "ftp://peer"}, "address"),
        (ChannelKind.WEBHOOK, {"secrets": {"signing_secret": "whsec_!"}}, "signing_secret"),
        (ChannelKind.WEBHOOK, {"secrets": {"bot_token": "x"}}, "bot_token"),
        (ChannelKind.TEAMS, {"address": "https://flow"}, "address"),
        (ChannelKind.TEAMS, {"secrets": {"workflow_url": "flow"}}, "workflow_url"),
        (ChannelKind.EMAIL, {"name": "No Name"}, "name"),
    ],
)
def test_a_channel_that_cannot_work_is_refused_by_the_field(
    office: Office, kind: ChannelKind, values: dict[str, Any], field: str | None
) -> None:
    if field is None:  # an empty secret is as one that isn't given
        field = "bot_token"
        with scope(tenant=office.tenant.pk), pytest.raises(ValidationError) as refused:
            channel = NotificationChannel(tenant=office.tenant, kind=kind, name="x", address="C1")
            save_channel(channel, acting_user=None, secrets={"signing_secret": "s"})
    else:
        with pytest.raises(ValidationError) as refused:
            office.channel(kind, **values)
    assert list(refused.value.message_dict) == [field]


def test_another_tenants_channels_hear_nothing(office: Office) -> None:
    from accounts.models import Tenant

    other = Office(tenant=Tenant.objects.create(slug="other", name="Other"), ada=office.ada, peer=office.peer)
    other.channel(ChannelKind.WEBHOOK)
    assert tell(office, subject_id=uuid4()) == 0
