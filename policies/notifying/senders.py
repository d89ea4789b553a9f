"""Sends one message by one channel. Each sender returns what the peer called it, or raises `DeliveryFailed`."""

from __future__ import annotations

import json
import smtplib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import httpx
from django.conf import settings
from django.core.mail import EmailMessage
from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError, SlackClientError

from policies.notifying import messages, signatures
from policies.notifying.errors import DeliveryFailed
from policies.notifying.models import MAX_ANSWER_CHARACTERS, ChannelKind

#: A peer that takes longer is tried again later; a worker of the queue waits meanwhile.
SEND_SECONDS: Final = 10
#: What a peer may answer; only its beginning is looked at.
MAX_ANSWER_BYTES: Final = 64 * 1024
#: Slack's errors that no second try mends (docs.slack.dev, chat.postMessage).
_SLACK_FINAL: Final = frozenset(
    {
        "channel_not_found", "not_in_channel", "is_archived", "invalid_auth", "account_inactive", "token_revoked",
        "token_expired", "missing_scope", "no_permission", "invalid_blocks", "msg_too_long",
    }
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A notification with what its sender needs. `changes`: the peer's name of the message that this one replaces."""

    id: str
    address: str
    recipients: tuple[str, ...]
    payload: Mapping[str, Any]
    secrets: Mapping[str, str]
    changes: str = ""
    now: float = 0.0

    def __repr__(self) -> str:
        return f"Outgoing({self.id})"


@dataclass(frozen=True, slots=True)
class Sent:
    """It arrived. `peer_id` is what a later message may change; `status` is HTTP's."""

    peer_id: str = ""
    status: int = 0
    answer: str = ""


def send(kind: str, outgoing: Outgoing) -> Sent:
    """Send by a channel of this kind. Raises `DeliveryFailed`."""
    return _SENDERS[ChannelKind(kind)](outgoing)


def slack_client(bot_token: str, *, seconds: int = SEND_SECONDS) -> WebClient:
    """Slack's Web API as this bot. Its own retries are off: ours are on record."""
    return WebClient(token=bot_token, base_url=settings.NARROWGATE.slack_api_url, timeout=seconds, retry_handlers=[])


def _mail(outgoing: Outgoing) -> Sent:
    if not settings.NARROWGATE.smtp_url and not settings.EMAIL_BACKEND.endswith("locmem.EmailBackend"):
        raise DeliveryFailed("no mail server is set up (NARROWGATE_SMTP_URL)", is_final=True)
    if not outgoing.recipients:
        raise DeliveryFailed("there is nobody to write to", is_final=True)
    subject, text = messages.mail(outgoing.payload)
    # One message for all, and the same id at every try: whoever has it already need not see it twice.
    headers = {"Message-ID": f"<{outgoing.id}@narrowgate>", "Auto-Submitted": "auto-generated"}
    message = EmailMessage(subject, text, bcc=list(outgoing.recipients), headers=headers)
    try:
        message.send()
    except smtplib.SMTPRecipientsRefused as error:
        raise DeliveryFailed("the mail server refused every recipient", is_final=True) from error
    except (smtplib.SMTPException, OSError) as error:
        raise DeliveryFailed(type(error).__name__) from error
    return Sent(answer=f"{len(outgoing.recipients)} recipients")


def _slack(outgoing: Outgoing) -> Sent:
    client = slack_client(outgoing.secrets["bot_token"])
    content = messages.slack_message(outgoing.payload)
    try:
        if outgoing.changes:
            answer = client.chat_update(channel=outgoing.address, ts=outgoing.changes, **content)
        else:
            answer = client.chat_postMessage(channel=outgoing.address, unfurl_links=False, **content)
    except SlackApiError as error:
        problem = str(error.response.get("error", "unknown"))
        after = error.response.headers.get("Retry-After", "0") if error.response.status_code == 429 else "0"
        raise DeliveryFailed(
            problem,
            status=error.response.status_code,
            is_final=problem in _SLACK_FINAL,
            retry_after_seconds=float(after) if after.isdigit() else 0.0,
        ) from None  # the error shows the request, and with it the token
    except (SlackClientError, OSError) as error:
        raise DeliveryFailed(type(error).__name__) from None
    return Sent(peer_id=str(answer.get("ts", "")), status=answer.status_code)


def _teams(outgoing: Outgoing) -> Sent:
    body = json.dumps(messages.teams_message(outgoing.payload)).encode()
    return _post(outgoing.secrets["workflow_url"], body, {})


def _webhook(outgoing: Outgoing) -> Sent:
    body = json.dumps(outgoing.payload, separators=(",", ":"), sort_keys=True).encode()
    headers = signatures.webhook_headers(
        body, delivery_id=outgoing.id, now=outgoing.now, secret=outgoing.secrets["signing_secret"]
    )
    return _post(outgoing.address, body, headers)


def _post(url: str, body: bytes, headers: Mapping[str, str]) -> Sent:
    sent_headers = {
        "content-type": "application/json", "user-agent": "Narrowgate", "accept-encoding": "identity", **headers
    }  # fmt: skip
    try:
        with (
            httpx.Client(timeout=SEND_SECONDS, follow_redirects=False, trust_env=False) as client,
            client.stream("POST", url, content=body, headers=sent_headers) as response,
        ):
            answer = _beginning(response)
            status = response.status_code
            retry_after = response.headers.get("retry-after", "")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise DeliveryFailed(type(error).__name__) from None  # its text may hold the URL, which may be a secret
    if 200 <= status < 300:
        return Sent(status=status, answer=answer)
    raise DeliveryFailed(
        answer or f"status {status}",
        status=status,
        is_final=status in {400, 401, 403, 404, 405, 410, 413},
        retry_after_seconds=float(retry_after) if retry_after.isdigit() else 0.0,
    )


def _beginning(response: httpx.Response) -> str:
    read = b""
    for chunk in response.iter_raw():  # whatever is packed stays so: a little may unpack to gigabytes
        read += chunk
        if len(read) > MAX_ANSWER_BYTES:
            break
    text = read[: 4 * MAX_ANSWER_CHARACTERS].decode("utf-8", "replace")
    return "".join(character if character.isprintable() else " " for character in text)[:MAX_ANSWER_CHARACTERS]


_SENDERS: Final[Mapping[ChannelKind, Callable[[Outgoing], Sent]]] = {
    ChannelKind.EMAIL: _mail,
    ChannelKind.SLACK: _slack,
    ChannelKind.TEAMS: _teams,
    ChannelKind.WEBHOOK: _webhook,
}
