"""Signed callbacks of chats: Slack's interactions and slash command, Teams' outgoing webhook.

What isn't signed by the channel's secret, is too old, or was seen before is answered 401 and nothing is done. Whether a
channel exists is not told. Where seen signatures are kept (the cache) can't be reached, nothing is done either.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any, Final
from urllib.parse import parse_qs
from uuid import UUID

import structlog
from django.core.cache import cache
from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_POST
from django_scopes import scope
from redis.exceptions import RedisError
from slack_sdk.errors import SlackClientError

from controlplane.errors import Refusal
from controlplane.keyring import KeyringError
from controlplane.tenancy import every_tenant
from policies.notifying import messages, signatures
from policies.notifying.actions import secret_of
from policies.notifying.commands import NOT_LINKED, Speaker, run_command, speaker_of, vote_by_chat
from policies.notifying.errors import BadCallback
from policies.notifying.models import ChannelKind, NotificationChannel
from policies.notifying.senders import slack_client

log = structlog.get_logger(__name__)

MAX_BODY_BYTES: Final = 256 * 1024
#: Slack shows an error to the person after three seconds.
SLACK_ANSWER_SECONDS: Final = 2
#: A signature is remembered for longer than it is accepted.
SEEN_SECONDS: Final = 2 * signatures.MAX_AGE_SECONDS
#: Without a lazy star: a text of nothing but beginnings would take the square of its length.
_MENTION: Final = re.compile(r"<at>[^<]*</at>")


def _callback(kind: ChannelKind) -> Callable[[Callable[..., HttpResponse]], Callable[..., HttpResponse]]:
    """A view that is called with a channel of that kind, in its scope, and with the body; refuses what isn't signed."""

    def decorate(view: Callable[..., HttpResponse]) -> Callable[..., HttpResponse]:
        @csrf_exempt
        @require_POST
        def guarded(request: HttpRequest, channel_id: UUID) -> HttpResponse:
            try:
                if int(request.headers.get("content-length") or 0) > MAX_BODY_BYTES:
                    return HttpResponse(status=413)
                body = request.body
                with every_tenant():
                    channels = NotificationChannel.objects.filter(is_active=True, tenant__is_active=True, kind=kind)
                    channel = channels.select_related("tenant").filter(pk=channel_id).first()
                if channel is None:
                    raise BadCallback("no such channel")
                with scope(tenant=channel.tenant_id):
                    return view(request, channel, body, timezone.now())
            except BadCallback as error:
                log.warning("callback_refused", channel=str(channel_id), problem=str(error))
                return HttpResponse(status=401)
            except (
                RequestDataTooBig,
                ValueError,
                LookupError,
                TypeError,
                AttributeError,
            ):  # signed, but not of the form
                return HttpResponse(status=400)
            except (RedisError, KeyringError) as error:
                log.warning("callback_not_checked", channel=str(channel_id), error=type(error).__name__)
                return HttpResponse(status=503)

        return guarded

    return decorate


@_callback(ChannelKind.SLACK)
def slack(request: HttpRequest, channel: NotificationChannel, body: bytes, now: datetime) -> HttpResponse:
    """A button, a dialog that was sent, or the slash command."""
    signature = request.headers.get("x-slack-signature", "")
    signatures.check_slack(
        body,
        signature=signature,
        timestamp=request.headers.get("x-slack-request-timestamp", ""),
        signing_secret=secret_of(channel, "signing_secret"),
        now=now.timestamp(),
    )
    _refuse_replay(channel, signature)
    form = {name: values[0] for name, values in parse_qs(body.decode()).items()}
    if "command" in form:
        speaker = speaker_of(channel, form.get("user_id", ""))
        answer = run_command(speaker, form.get("text", ""), now=now)
        return JsonResponse({"response_type": "ephemeral", "text": answer})
    payload = json.loads(form.get("payload", "{}"))
    speaker = speaker_of(channel, str(payload["user"]["id"]) if "user" in payload else "")
    if payload.get("type") == "block_actions":
        return _slack_button(channel, speaker, payload)
    if payload.get("type") == "view_submission":
        return _slack_vote(speaker, payload["view"])
    return HttpResponse(status=200)


@_callback(ChannelKind.TEAMS)
def teams(request: HttpRequest, channel: NotificationChannel, body: bytes, now: datetime) -> HttpResponse:
    """Somebody spoke to the outgoing webhook; the answer goes into the conversation."""
    token = secret_of(channel, "security_token")
    if not token:
        raise BadCallback("this channel takes no callbacks")
    authorization = request.headers.get("authorization", "")
    signature = signatures.check_teams(body, authorization=authorization, security_token=token)
    activity = json.loads(body)
    signatures.check_age(str(activity.get("timestamp", "")), now=now.timestamp())
    _refuse_replay(channel, signature)
    speaker = speaker_of(channel, str(activity.get("from", {}).get("aadObjectId", "")))
    said = _MENTION.sub("", str(activity.get("text", ""))).replace("&nbsp;", " ")
    return JsonResponse({"type": "message", "text": run_command(speaker, said, now=now)})


def _slack_button(channel: NotificationChannel, speaker: Speaker, payload: dict[str, Any]) -> HttpResponse:
    action = payload["actions"][0]
    choice = str(action["action_id"])
    if choice not in (messages.APPROVE, messages.REJECT):
        return HttpResponse(status=200)  # the link was opened
    if speaker.user is None:
        view = messages.slack_notice_view(NOT_LINKED)
    else:
        request_id = str(action["value"])
        title = str(payload.get("message", {}).get("text", ""))
        metadata = json.dumps({"request": request_id, "choice": choice})
        view = messages.slack_vote_view(choice, request_id, title, metadata)
    try:
        client = slack_client(secret_of(channel, "bot_token"), seconds=SLACK_ANSWER_SECONDS)
        client.views_open(trigger_id=str(payload["trigger_id"]), view=view)
    except (SlackClientError, OSError) as error:
        log.warning("slack_dialog_failed", channel=channel.name, error=type(error).__name__)
    return HttpResponse(status=200)


def _slack_vote(speaker: Speaker, view: dict[str, Any]) -> HttpResponse:
    if view.get("callback_id") != "vote":
        return HttpResponse(status=200)
    wanted = json.loads(view["private_metadata"])
    comment = str(view["state"]["values"]["comment"]["comment"].get("value") or "")
    try:
        if speaker.user is None:
            raise Refusal(problem="this account isn't linked any more", fix="Link it again.")
        vote_by_chat(
            speaker,
            speaker.user,
            request_id=str(wanted["request"]),
            approves=wanted["choice"] == messages.APPROVE,
            comment=comment,
        )
    except Refusal as refusal:
        problem = f"{refusal.problem}. {refusal.fix}"
        return JsonResponse({"response_action": "errors", "errors": {"comment": problem}})
    return HttpResponse(status=200)


def _refuse_replay(channel: NotificationChannel, signature: str) -> None:
    """Raises `BadCallback` for a signature that was seen, `RedisError` when that can't be told."""
    seen = hashlib.sha256(signature.encode()).hexdigest()
    if not cache.add(f"callback:{channel.pk}:{seen}", True, timeout=SEEN_SECONDS):
        raise BadCallback("seen before")
