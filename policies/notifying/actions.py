"""What changes channels and notifications, each atomic; channels with their ledger entries.

A notification is announced in the transaction of what it tells, so neither can be there without the other. Delivery is
by a lease: whoever takes a notification has `LEASE` to send it, and after that another may.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

import structlog
from django.core.exceptions import ValidationError
from django.core.validators import validate_email
from django.db import models, transaction
from django.utils import timezone
from django_scopes import scope

from accounts.jwks import is_fetchable
from accounts.models import Membership, Tenant, User
from controlplane.authority import Role
from controlplane.errors import Refusal
from controlplane.keyring import KeyringError, open_sealed, seal
from controlplane.ledger.actions import append_entry
from controlplane.ledger.recording import save_recorded
from controlplane.tenancy import every_tenant
from policies.notifying.errors import DeliveryFailed
from policies.notifying.models import (
    ChannelKind,
    ChatIdentity,
    ChatLinkCode,
    DeliveryAttempt,
    Event,
    Notification,
    NotificationChannel,
    NotificationState,
)
from policies.notifying.senders import Outgoing, send
from policies.notifying.signatures import WEBHOOK_KEY_PREFIX

log = structlog.get_logger(__name__)

#: The secrets of each kind, and whether it needs them.
SECRETS: Final[Mapping[str, Mapping[str, bool]]] = {
    ChannelKind.EMAIL: {},
    ChannelKind.SLACK: {"bot_token": True, "signing_secret": True},
    ChannelKind.TEAMS: {"workflow_url": True, "security_token": False},
    ChannelKind.WEBHOOK: {"signing_secret": False},
}
_FIELDS: Final = ("name", "kind", "events", "address", "shows_text", "is_active")
#: Longer than any sender takes: who dies while sending leaves the notification to others after this.
LEASE: Final = timedelta(seconds=60)
#: How long after a try that failed comes the next. An approval is worth little after a day.
RETRY_SECONDS: Final = (10, 30, 120, 600, 3_600, 4 * 3_600, 8 * 3_600)
MAX_ATTEMPTS: Final = len(RETRY_SECONDS) + 1
MAX_RETRY_AFTER_SECONDS: Final = 3_600.0
#: Taken up in one round of the task.
MAX_DUE: Final = 200
MAX_RECIPIENTS: Final = 50
LINK_CODE_LIFETIME: Final = timedelta(minutes=10)
KEPT: Final = timedelta(days=90)

#: Roles that may say yes: who is written to when a channel names nobody.
APPROVING_ROLES: Final = (Role.OWNER, Role.ADMIN, Role.APPROVER)


@transaction.atomic
def save_channel(
    channel: NotificationChannel, *, acting_user: User | None, secrets: Mapping[str, str] | None = None
) -> bool:
    """Create or change a channel; `secrets` replaces those that it names. False when nothing differed.

    A webhook without a signing secret gets one: `webhook_secret` reads it, once, for whoever set it up.
    Raises ValidationError, which names the field.
    """
    with scope(tenant=channel.tenant_id):
        kept = _secrets_of(channel) if channel.sealed_secrets else {}
        given = {name: text for name, text in (secrets or {}).items() if text}
        if channel.kind == ChannelKind.WEBHOOK and not kept and "signing_secret" not in given:
            given["signing_secret"] = new_webhook_secret()
        wanted = {**kept, **given}
        _check(channel, wanted)
        told: dict[str, Any] = {}
        if wanted != kept:
            channel.sealed_secrets = seal(json.dumps(wanted).encode(), context=channel.sealing_context)
            told["secrets_set"] = sorted(given)
        return save_recorded(
            channel, acting_user=acting_user, noun="notification_channel", fields=_FIELDS, also=told or None
        )


def new_webhook_secret() -> str:
    """As the Standard Webhooks specification has it."""
    return WEBHOOK_KEY_PREFIX + base64.b64encode(secrets.token_bytes(32)).decode()


def secret_of(channel: NotificationChannel, name: str) -> str:
    """A secret in the clear, "" when it isn't set. Raises `KeyringError`."""
    return _secrets_of(channel).get(name, "") if channel.sealed_secrets else ""


# ---------------------------------------------------------------- announcing


def announce(
    *,
    tenant: Tenant,
    event: Event,
    key: str,
    title: str,
    url: str,
    facts: Sequence[tuple[str, str]],
    text: str = "",
    subject_id: UUID | None = None,
    is_open: bool = False,
    recipients: Sequence[str] = (),
) -> int:
    """Tell every active channel of the tenant that wants this event, once for each `key`. Returns to how many.

    Call it in the transaction of what happened; it is sent when that is kept. `subject_id` is what the event is about:
    a message about the same subject is changed where the channel can. `text` is the statement; `recipients` are the
    addresses of those who can decide, written to by channels that name nobody (empty: all whose role may approve).
    """
    payload = {
        "event": event.value,
        "tenant": tenant.slug,
        "title": title,
        "url": url,
        "facts": [list(fact) for fact in facts],
        "request": str(subject_id or ""),
        "is_open": is_open,
    }
    with transaction.atomic(), scope(tenant=tenant.pk):
        channels = NotificationChannel.objects.filter(is_active=True)
        made = [
            Notification(
                tenant=tenant,
                channel=channel,
                event=event,
                key=key,
                subject_id=subject_id,
                due_at=timezone.now(),
                payload={**payload, "text": text if channel.shows_text else ""},
                recipients=list(recipients[:MAX_RECIPIENTS]),
            )
            for channel in channels.filter(models.Q(events=[]) | models.Q(events__contains=[event.value]))
        ]
        Notification.objects.bulk_create(made, ignore_conflicts=True)
        if made:
            from policies.notifying.tasks import deliver_due

            # Whoever decides must get through while the broker is down: the schedule takes up what is due.
            transaction.on_commit(lambda: deliver_due.apply_async(retry=False), robust=True)
    return len(made)


# ---------------------------------------------------------------- delivering


def take_due(*, now: datetime) -> list[tuple[UUID, int]]:
    """The notifications that are to be sent now, each with the number of the try that is leased to the caller."""
    with every_tenant(), transaction.atomic():
        due = Notification.objects.select_for_update(skip_locked=True, of=("self",)).filter(
            state=NotificationState.WAITING, due_at__lte=now
        )
        taken = {pk: attempts + 1 for pk, attempts in due.order_by("due_at").values_list("pk", "attempts")[:MAX_DUE]}
        Notification.objects.filter(pk__in=taken).update(due_at=now + LEASE, attempts=models.F("attempts") + 1)
    return list(taken.items())


def deliver(notification_id: UUID, attempt: int, *, now: datetime) -> bool:
    """Make the try that was taken, and keep how it went. True when it arrived.

    A task that comes so late that the next try was taken does nothing. Whatever goes wrong is a failed try: one that
    left no trace would be made again for ever.
    """
    with every_tenant():
        notification = Notification.objects.select_related("channel", "tenant").get(pk=notification_id)
    with scope(tenant=notification.tenant_id):
        if notification.state != NotificationState.WAITING or notification.attempts != attempt:
            return notification.state == NotificationState.SENT
        started = time.monotonic()
        try:
            outgoing = _outgoing(notification, now=now)
            sent = send(notification.channel.kind, outgoing)
        except KeyringError:
            log.exception("channel_not_opened", channel=notification.channel.name)
            problem = DeliveryFailed("the channel's secrets can't be opened", is_final=True)
            _keep_failure(notification, problem, took=time.monotonic() - started, now=now)
            return False
        except DeliveryFailed as error:
            _keep_failure(notification, error, took=time.monotonic() - started, now=now)
            return False
        except Exception as error:
            log.exception("notification_broken", channel=notification.channel.name)
            _keep_failure(notification, DeliveryFailed(type(error).__name__), took=time.monotonic() - started, now=now)
            return False
        with transaction.atomic():
            _keep_attempt(notification, succeeded=True, status=sent.status, answer=sent.answer, started=started)
            notification.state = NotificationState.SENT
            notification.due_at = None
            notification.peer_id = sent.peer_id or outgoing.changes
            notification.save(update_fields=("state", "due_at", "peer_id", "updated_at"))
        return True


def forget_old(*, now: datetime) -> int:
    """Delete link codes that nobody used, and nothing else: what was delivered is on record."""
    with every_tenant():
        return int(ChatLinkCode.objects.filter(expires_at__lt=now).delete()[0])


def _outgoing(notification: Notification, *, now: datetime) -> Outgoing:
    channel = notification.channel
    if not channel.is_active:
        raise DeliveryFailed("the channel was switched off", is_final=True)
    changes = ""
    if channel.kind == ChannelKind.SLACK and notification.subject_id is not None:
        earlier = Notification.objects.filter(channel=channel, subject_id=notification.subject_id)
        said = earlier.exclude(pk=notification.pk).exclude(peer_id="").order_by("-created_at").first()
        changes = said.peer_id if said is not None else ""
    return Outgoing(
        id=str(notification.pk),
        address=channel.address,
        recipients=_recipients(notification) if channel.kind == ChannelKind.EMAIL else (),
        payload=notification.payload,
        secrets=_secrets_of(channel) if channel.sealed_secrets else {},
        changes=changes,
        now=now.timestamp(),
    )


def _recipients(notification: Notification) -> tuple[str, ...]:
    channel = notification.channel
    if notification.recipients and not channel.address:
        return tuple(notification.recipients)
    if channel.address:
        return tuple(_addresses(channel.address))
    approving = Membership.objects.filter(tenant=channel.tenant, role__in=APPROVING_ROLES, user__is_active=True)
    return tuple(approving.order_by("user__email").values_list("user__email", flat=True)[:MAX_RECIPIENTS])


def _keep_failure(notification: Notification, error: DeliveryFailed, *, took: float, now: datetime) -> None:
    is_last = error.is_final or notification.attempts >= MAX_ATTEMPTS
    with transaction.atomic():
        _keep_attempt(
            notification,
            succeeded=False,
            status=error.status,
            answer=error.answer,
            started=time.monotonic() - took,
        )
        if is_last:
            notification.state = NotificationState.GIVEN_UP
            notification.due_at = None
        else:
            wait = RETRY_SECONDS[notification.attempts - 1] * random.uniform(0.8, 1.2)  # noqa: S311 - jitter
            wait = max(wait, min(error.retry_after_seconds, MAX_RETRY_AFTER_SECONDS))
            notification.due_at = now + timedelta(seconds=wait)
        notification.save(update_fields=("state", "due_at", "updated_at"))
    log.warning(
        "notification_failed",
        channel=notification.channel.name,
        event_kind=notification.event,
        attempt=notification.attempts,
        given_up=is_last,
        answer=error.answer,
    )


def _keep_attempt(
    notification: Notification, *, succeeded: bool, status: int, answer: str, started: float
) -> DeliveryAttempt:
    return DeliveryAttempt.objects.create(
        tenant_id=notification.tenant_id,
        notification=notification,
        number=notification.attempts,
        succeeded=succeeded,
        status=status,
        answer=answer[:500],
        duration_ms=int((time.monotonic() - started) * 1000),
    )


# ---------------------------------------------------------------- people in chats


def make_link_code(user: User, *, tenant: Tenant, now: datetime) -> str:
    """A code that links the person's chat account; it is good once, for ten minutes."""
    code = secrets.token_hex(6)
    expires_at = now + LINK_CODE_LIFETIME
    with transaction.atomic(), scope(tenant=tenant.pk):
        ChatLinkCode.objects.create(tenant=tenant, user=user, digest=_code_digest(code), expires_at=expires_at)
        append_entry(
            tenant=tenant,
            kind="chat_identity.code_made",
            acting_user=user,
            subject=f"user:{user}",
            before=None,
            after={"expires_at": expires_at},
        )
    return code


@transaction.atomic
def link_chat_account(channel: NotificationChannel, *, external_id: str, code: str, now: datetime) -> User:
    """Use the code up. Raises `Refusal` for one that isn't good."""
    found = ChatLinkCode.objects.select_for_update().filter(digest=_code_digest(code), expires_at__gt=now).first()
    if found is None or found.tenant_id != channel.tenant_id:
        raise Refusal(problem="that code is not good, or not any more", fix="Get a new one on Narrowgate's page.")
    ChatIdentity.objects.update_or_create(
        channel=channel, external_id=external_id, defaults={"user": found.user, "tenant": channel.tenant}
    )
    found.delete()
    append_entry(
        tenant=channel.tenant,
        kind="chat_identity.linked",
        acting_user=found.user,
        subject=f"user:{found.user}",
        before=None,
        after={"channel": channel.name, "external_id": external_id},
    )
    return found.user


@transaction.atomic
def unlink_chat_account(identity: ChatIdentity, *, acting_user: User | None) -> None:
    """What is said by that account in the chat counts as nobody's from now on."""
    with scope(tenant=identity.tenant_id):
        append_entry(
            tenant=identity.tenant,
            kind="chat_identity.unlinked",
            acting_user=acting_user,
            subject=f"user:{identity.user}",
            before={"channel": identity.channel.name, "external_id": identity.external_id},
            after=None,
        )
        identity.delete()


def who_is(channel: NotificationChannel, external_id: str) -> User | None:
    """The person behind a chat account, while they belong to the tenant."""
    identity = ChatIdentity.objects.filter(channel=channel, external_id=external_id).select_related("user").first()
    if identity is None or not identity.user.is_active:
        return None
    is_member = Membership.objects.filter(user=identity.user, tenant=channel.tenant).exists()
    return identity.user if is_member else None


def _code_digest(code: str) -> str:
    return hashlib.sha256(code.strip().lower().encode()).hexdigest()


# ---------------------------------------------------------------- checks


def _secrets_of(channel: NotificationChannel) -> dict[str, str]:
    opened: dict[str, str] = json.loads(open_sealed(channel.sealed_secrets, context=channel.sealing_context))
    return opened


def _check(channel: NotificationChannel, wanted: Mapping[str, str]) -> None:
    known = SECRETS.get(channel.kind, {})
    for name in wanted:
        if name not in known:
            raise ValidationError({name: f"A channel of kind {channel.kind} has no {name.replace('_', ' ')}."})
    for name, is_needed in known.items():
        if is_needed and not wanted.get(name):
            raise ValidationError({name: "It is needed."})
    if channel.kind == ChannelKind.EMAIL:
        _check_addresses(_addresses(channel.address))
    elif channel.kind == ChannelKind.SLACK and not (channel.address.isalnum() and channel.address.isascii()):
        raise ValidationError({"address": "Give the Slack channel's id, such as C024BE91L; the bot must be in it."})
    elif channel.kind == ChannelKind.WEBHOOK and not is_fetchable(channel.address):
        raise ValidationError({"address": "Give an https URL."})
    elif channel.kind == ChannelKind.TEAMS:
        if channel.address:
            raise ValidationError({"address": "Leave it empty: the workflow's URL is a secret."})
        if not is_fetchable(wanted["workflow_url"]):
            raise ValidationError({"workflow_url": "Give the workflow's https URL."})
        _check_base64("security_token", wanted.get("security_token", ""))
    if channel.kind == ChannelKind.WEBHOOK:
        _check_base64("signing_secret", wanted["signing_secret"].removeprefix(WEBHOOK_KEY_PREFIX))


def _check_base64(field: str, text: str) -> None:
    try:
        base64.b64decode(text, validate=True)
    except ValueError:
        raise ValidationError({field: "It is base64; paste it whole."}) from None


def _addresses(text: str) -> list[str]:
    return [address.strip() for address in text.split(",") if address.strip()]


def _check_addresses(addresses: Iterable[str]) -> None:
    for address in addresses:
        try:
            validate_email(address)
        except ValidationError:
            raise ValidationError({"address": f"{address[:60]!r} is no e-mail address."}) from None
