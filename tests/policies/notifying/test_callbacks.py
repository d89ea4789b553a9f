"""What comes back from chats: signed, fresh, once, by somebody who is linked; anything else does nothing."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import string
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlencode
from uuid import uuid4

import pytest
from django.core.cache import cache
from django.test import Client
from django.utils import timezone
from django_scopes import scope

from accounts.models import User
from policies.approvals.models import ApprovalRequest, ApprovalState, ApprovalVote
from policies.notifying.actions import deliver, make_link_code, save_channel, take_due
from policies.notifying.models import ChannelKind, ChatIdentity, Notification, NotificationChannel
from tests.policies.approvals.conftest import Site, acme, globex
from tests.policies.notifying.conftest import SECURITY_TOKEN, SIGNING_SECRET, Office
from tests.policies.notifying.peers import Peer

__all__ = ["acme", "globex"]

SLACK_USER = "U2147483697"
TEAMS_USER = "29:aad-object-of-ada"


@pytest.fixture(autouse=True)
def _fresh_cache() -> None:
    cache.clear()


@pytest.fixture
def slack(acme: Site, peer: Peer, settings: Any) -> NotificationChannel:
    """Acme's channel in Slack."""
    settings.NARROWGATE = replace(settings.NARROWGATE, slack_api_url=f"{peer.url}/api/")
    return Office(tenant=acme.tenant, ada=acme.people["ada"], peer=peer).channel(ChannelKind.SLACK)


@pytest.fixture
def teams(acme: Site, peer: Peer) -> NotificationChannel:
    """Acme's channel in Teams."""
    return Office(tenant=acme.tenant, ada=acme.people["ada"], peer=peer).channel(ChannelKind.TEAMS)


def from_slack(
    channel: NotificationChannel, form: dict[str, str], *, secret: str = SIGNING_SECRET, age: int = 0, **headers: str
) -> Any:
    """As Slack would send it (docs.slack.dev, "Verifying requests from Slack")."""
    body = urlencode(form)
    timestamp = str(int(timezone.now().timestamp()) - age)
    signature = hmac.new(secret.encode(), f"v0:{timestamp}:{body}".encode(), hashlib.sha256).hexdigest()
    signed = {"X-Slack-Request-Timestamp": timestamp, "X-Slack-Signature": f"v0={signature}", **headers}
    return Client().post(
        f"/hooks/slack/{channel.pk}/", body, content_type="application/x-www-form-urlencoded", headers=signed
    )


def from_teams(channel: NotificationChannel, text: str, *, token: str = SECURITY_TOKEN, age: int = 0) -> Any:
    """As Teams would send it (learn.microsoft.com, "Create outgoing webhooks")."""
    at = (datetime.now(UTC) - timedelta(seconds=age)).isoformat()
    said = {
        "type": "message", "id": uuid4().hex, "timestamp": at, "text": f"<at>Narrowgate</at>&nbsp;{text}",
        "from": {"name": "Ada", "aadObjectId": TEAMS_USER},
    }  # fmt: skip
    body = json.dumps(said).encode()
    signature = base64.b64encode(hmac.new(base64.b64decode(token), body, hashlib.sha256).digest()).decode()
    return Client().post(
        f"/hooks/teams/{channel.pk}/", body, content_type="application/json",
        headers={"Authorization": f"HMAC {signature}"},
    )  # fmt: skip


def command(channel: NotificationChannel, text: str, **more: Any) -> str:
    """The slash command's answer."""
    answer = from_slack(channel, {"command": "/narrowgate", "text": text, "user_id": SLACK_USER}, **more)
    assert answer.status_code == 200
    return str(answer.json()["text"])


def pressed(request: ApprovalRequest, choice: str = "approve") -> dict[str, str]:
    """A button of the message."""
    return {
        "payload": json.dumps(
            {
                "type": "block_actions",
                "user": {"id": SLACK_USER},
                "trigger_id": "12466734323.1395872398",
                "message": {"text": "Approval needed"},
                "actions": [{"action_id": choice, "value": str(request.pk)}],
            }
        )
    }


def submitted(request: ApprovalRequest, choice: str = "approve", comment: str = "") -> dict[str, str]:
    """The dialog, sent."""
    view = {
        "callback_id": "vote",
        "private_metadata": json.dumps({"request": str(request.pk), "choice": choice}),
        "state": {"values": {"comment": {"comment": {"type": "plain_text_input", "value": comment or None}}}},
    }
    return {"payload": json.dumps({"type": "view_submission", "user": {"id": SLACK_USER}, "view": view})}


def link(site: Site, channel: NotificationChannel, user: User | None = None) -> None:
    """Ada's account in the chat is hers."""
    external_id = SLACK_USER if channel.kind == ChannelKind.SLACK else TEAMS_USER
    with scope(tenant=site.tenant):
        ChatIdentity.objects.create(
            tenant=site.tenant, channel=channel, external_id=external_id, user=user or site.people["ada"]
        )


def state(site: Site, request: ApprovalRequest) -> str:
    """How it stands now."""
    with scope(tenant=site.tenant):
        return ApprovalRequest.objects.get(pk=request.pk).state


def test_a_person_links_their_account_by_a_code_once(acme: Site, slack: NotificationChannel) -> None:
    code = make_link_code(acme.people["ada"], tenant=acme.tenant, now=timezone.now())
    assert "linked to ada@acme.example" in command(slack, f"link {code}")
    assert "not good" in command(slack, f"link {code} ")
    assert acme.told("chat_identity.linked") == [{"channel": "slack", "external_id": SLACK_USER}]


def test_an_old_code_or_one_of_another_tenant_links_nobody(
    acme: Site, globex: Site, slack: NotificationChannel
) -> None:
    old = make_link_code(acme.people["ada"], tenant=acme.tenant, now=timezone.now() - timedelta(minutes=11))
    foreign = make_link_code(globex.people["ada"], tenant=globex.tenant, now=timezone.now())
    for code in (old, foreign, "", "0" * 12):
        assert "not good" in command(slack, f"link {code}x"[:-1])


def test_from_the_message_over_the_button_to_the_vote(acme: Site, slack: NotificationChannel, peer: Peer) -> None:
    link(acme, slack)
    request = acme.open()
    [(told, attempt)] = take_due(now=timezone.now())
    assert deliver(told, attempt, now=timezone.now())
    assert from_slack(slack, pressed(request)).status_code == 200
    opened = peer.received[-1]
    assert opened.path == "/api/views.open"
    assert json.loads(opened.json["view"]["private_metadata"]) == {"request": str(request.pk), "choice": "approve"}
    answer = from_slack(slack, submitted(request, comment="go on"))
    assert (answer.status_code, answer.content) == (200, b"")
    assert state(acme, request) == ApprovalState.GRANTED
    with scope(tenant=acme.tenant):
        vote = ApprovalVote.objects.get(request=request)
        assert (str(vote.user), vote.comment, vote.via) == ("ada@acme.example", "go on", "slack")
    for notification_id, number in take_due(now=timezone.now()):
        assert deliver(notification_id, number, now=timezone.now())
    assert peer.received[-1].path == "/api/chat.update"


def test_a_second_vote_is_refused_in_the_dialog(acme: Site, slack: NotificationChannel) -> None:
    link(acme, slack)
    request = acme.open()
    from_slack(slack, submitted(request, "reject", "no"))
    answer = from_slack(slack, submitted(request, "approve", "after all"))
    assert answer.json()["response_action"] == "errors"
    assert state(acme, request) == ApprovalState.REJECTED


def test_whoever_is_not_linked_decides_nothing(acme: Site, slack: NotificationChannel, peer: Peer) -> None:
    request = acme.open()
    assert from_slack(slack, pressed(request)).status_code == 200
    assert "I don't know who you are" in peer.received[-1].json["view"]["blocks"][0]["text"]["text"]
    assert "isn't linked" in str(from_slack(slack, submitted(request)).json())
    assert "I don't know who you are" in command(slack, f"approve {request.pk}")
    assert state(acme, request) == ApprovalState.PENDING


def test_whoever_has_left_is_linked_no_more(acme: Site, slack: NotificationChannel) -> None:
    link(acme, slack)
    request = acme.open()
    acme.remove("ada")
    assert "I don't know who you are" in command(slack, f"approve {request.pk}")
    assert state(acme, request) == ApprovalState.PENDING


def test_another_tenants_request_is_none(acme: Site, globex: Site, slack: NotificationChannel) -> None:
    link(acme, slack)
    request = globex.open()
    assert "there is no such request" in command(slack, f"approve {request.pk}")
    assert "no request's number" in command(slack, "approve 17")
    assert state(globex, request) == ApprovalState.PENDING


@pytest.mark.parametrize(
    "wrong", [{"secret": "another"}, {"age": 301}, {"age": -301}, {"X-Slack-Signature": "v0=é"},
              {"X-Slack-Request-Timestamp": "9" * 5_000}, {"X-Slack-Request-Timestamp": "now"}]
)  # fmt: skip
def test_what_slack_did_not_sign_just_now_does_nothing(
    acme: Site, slack: NotificationChannel, wrong: dict[str, Any]
) -> None:
    link(acme, slack)
    request = acme.open()
    assert from_slack(slack, submitted(request), **wrong).status_code == 401
    assert state(acme, request) == ApprovalState.PENDING


def test_a_callback_that_is_replayed_does_nothing(acme: Site, slack: NotificationChannel) -> None:
    link(acme, slack)
    body = urlencode({"command": "/narrowgate", "text": "help", "user_id": SLACK_USER})
    timestamp = str(int(timezone.now().timestamp()))
    signature = hmac.new(SIGNING_SECRET.encode(), f"v0:{timestamp}:{body}".encode(), hashlib.sha256).hexdigest()
    statuses = [
        Client()
        .post(
            f"/hooks/slack/{slack.pk}/",
            body,
            content_type="application/x-www-form-urlencoded",
            headers={"X-Slack-Request-Timestamp": timestamp, "X-Slack-Signature": f"v0={signature}"},
        )
        .status_code
        for _ in range(2)
    ]
    assert statuses == [200, 401]


def test_a_replay_is_one_however_its_signature_is_written(acme: Site, teams: NotificationChannel) -> None:
    body = json.dumps({"text": "help", "from": {"aadObjectId": "a"}, "timestamp": timezone.now().isoformat()})
    told = hmac.new(base64.b64decode(SECURITY_TOKEN), body.encode(), hashlib.sha256).digest()
    signature = base64.b64encode(told).decode()
    # The last character before the padding has two bits that mean nothing.
    written = (f"{signature[:-2]}{one}=" for one in string.ascii_letters + string.digits + "+/")
    same = next(one for one in written if one != signature and base64.b64decode(one) == told)
    statuses = [
        Client()
        .post(
            f"/hooks/teams/{teams.pk}/",
            body,
            content_type="application/json",
            headers={"Authorization": f"HMAC {written}"},
        )
        .status_code
        for written in (signature, f" {signature}", same, signature)
    ]
    assert statuses == [200, 401, 401, 401]


def test_a_channel_that_is_off_or_of_another_kind_or_none_takes_nothing(
    acme: Site, slack: NotificationChannel, teams: NotificationChannel
) -> None:
    assert from_slack(teams, {"command": "/narrowgate", "text": "help"}).status_code == 401
    slack.is_active = False
    with scope(tenant=acme.tenant):
        save_channel(slack, acting_user=None)
    assert from_slack(slack, {"command": "/narrowgate", "text": "help"}).status_code == 401
    slack.pk = uuid4()
    assert from_slack(slack, {"command": "/narrowgate", "text": "help"}).status_code == 401


@pytest.mark.parametrize("payload", ["[]", "{", '{"user": 1}', '{"type": "view_submission", "user": {"id": "U"}}'])
def test_signed_nonsense_is_answered_as_such(acme: Site, slack: NotificationChannel, payload: str) -> None:
    assert acme.tenant.pk == slack.tenant_id
    assert from_slack(slack, {"payload": payload}).status_code == 400


def test_in_teams_a_vote_is_said(acme: Site, teams: NotificationChannel) -> None:
    code = make_link_code(acme.people["ada"], tenant=acme.tenant, now=timezone.now())
    assert "linked" in from_teams(teams, f"link {code}").json()["text"]
    request = acme.open()
    said = from_teams(teams, f"reject {request.pk} not on a Friday").json()
    assert said["type"] == "message"
    assert "rejection" in said["text"]
    assert state(acme, request) == ApprovalState.REJECTED
    with scope(tenant=acme.tenant):
        assert ApprovalVote.objects.get(request=request).comment == "not on a Friday"


@pytest.mark.parametrize("wrong", [{"token": "AAAA"}, {"age": 301}, {"age": -301}])
def test_what_teams_did_not_sign_just_now_does_nothing(
    acme: Site, teams: NotificationChannel, wrong: dict[str, Any]
) -> None:
    link(acme, teams)
    request = acme.open()
    assert from_teams(teams, f"approve {request.pk}", **wrong).status_code == 401
    assert state(acme, request) == ApprovalState.PENDING


def test_a_request_that_opens_is_announced_in_its_transaction(acme: Site, slack: NotificationChannel) -> None:
    request = acme.open("DELETE FROM orders WHERE owner = 'secret@example.com'")
    with scope(tenant=acme.tenant):
        [told] = Notification.objects.filter(channel=slack)
    assert (told.event, told.subject_id, told.payload["is_open"]) == ("approval.opened", request.pk, True)
    assert told.recipients == ["ada@acme.example"]
    assert ["Agent", "reporter"] in told.payload["facts"]
    assert "secret@example.com" not in json.dumps(told.payload)
