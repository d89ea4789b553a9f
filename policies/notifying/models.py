"""Channels, what was announced on them, each try to deliver it, and who is who in a chat."""

from __future__ import annotations

from typing import Any, Final, NoReturn

from django.conf import settings
from django.contrib.postgres.fields import ArrayField
from django.core.validators import RegexValidator
from django.db import models
from django.db.models import Q

from accounts.tenancy import TenantOwned
from policies.notifying.errors import AppendOnlyRow

MAX_CHANNEL_NAME: Final = 63
#: What a peer answered is kept for people who look for the fault; more than this tells them nothing.
MAX_ANSWER_CHARACTERS: Final = 500

channel_name_validator = RegexValidator(
    r"^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\Z", "Use 1 to 63 small letters, digits and hyphens."
)


class ChannelKind(models.TextChoices):
    """Where a channel leads."""

    EMAIL = "email", "E-mail"
    SLACK = "slack", "Slack"
    TEAMS = "teams", "Microsoft Teams"
    WEBHOOK = "webhook", "Webhook"


class Event(models.TextChoices):
    """What is announced. The values stand in webhooks: they stay."""

    APPROVAL_OPENED = "approval.opened", "an approval is asked for"
    APPROVAL_ESCALATED = "approval.escalated", "an approval is escalated"
    APPROVAL_DECIDED = "approval.decided", "an approval is decided, expired or withdrawn"
    BREAK_GLASS = "approval.break_glass", "somebody broke the glass"
    POLICY_PROPOSED = "policy.proposed", "a policy's draft waits for a review"
    POLICY_DECIDED = "policy.decided", "such a draft is approved, sent back, published or discarded"
    KILLED = "kill_switch.used", "the kill switch was used"


class NotificationChannel(TenantOwned):
    """Where a tenant wants to be told. `sealed_secrets` is bound to the row and never shown.

    `address` is what is no secret: recipients of e-mail (empty: whoever may approve), a Slack channel's id, a
    webhook's URL. A Teams workflow's URL is a secret.
    """

    name = models.CharField(max_length=MAX_CHANNEL_NAME, validators=[channel_name_validator])
    kind = models.CharField(max_length=8, choices=ChannelKind.choices)
    events = ArrayField(
        models.CharField(max_length=32, choices=Event.choices), blank=True, default=list, help_text="Empty: all."
    )
    address = models.CharField(
        max_length=500,
        blank=True,
        help_text="E-mail: addresses, separated by commas; empty: all who may approve. Slack: the channel's id. "
        "Webhook: the URL. Teams: leave it empty.",
    )
    shows_text = models.BooleanField(
        "show the statement", default=False, help_text="Off: its text stays here, and the message links to it."
    )
    sealed_secrets = models.TextField(editable=False, blank=True)
    is_active = models.BooleanField("active", default=True)

    class Meta:
        ordering = ("name",)
        constraints = (models.UniqueConstraint(fields=("tenant", "name"), name="channel_name_unique_in_tenant"),)

    def __str__(self) -> str:
        return self.name

    @property
    def sealing_context(self) -> str:
        """What the secrets are bound to."""
        return f"policies.notification_channel:{self.pk}"


class NotificationState(models.TextChoices):
    """How far a notification is."""

    WAITING = "waiting", "waiting"
    SENT = "sent", "sent"
    GIVEN_UP = "given_up", "given up"


class Notification(TenantOwned):
    """One event for one channel. `key` is of the event: the same is announced once, however often it is asked for.

    `peer_id` is the message's name at the peer, where it has one, so that a later event changes it.
    """

    channel = models.ForeignKey(NotificationChannel, on_delete=models.PROTECT, related_name="notifications")
    event = models.CharField(max_length=32, choices=Event.choices)
    key = models.CharField(max_length=200)
    subject_id = models.UUIDField(null=True)
    payload = models.JSONField()
    recipients = models.JSONField(default=list, help_text="Who can decide, for a channel that names nobody.")
    state = models.CharField(max_length=8, choices=NotificationState.choices, default=NotificationState.WAITING)
    attempts = models.PositiveSmallIntegerField(default=0)
    due_at = models.DateTimeField(null=True)
    peer_id = models.CharField(max_length=200, blank=True)

    class Meta:
        ordering = ("-created_at",)
        constraints = (models.UniqueConstraint(fields=("channel", "key"), name="notification_once_on_channel"),)
        indexes = (
            models.Index(fields=("due_at",), name="notification_due", condition=Q(state=NotificationState.WAITING)),
            models.Index(fields=("tenant", "-created_at"), name="notification_recent"),
        )

    def __str__(self) -> str:
        return f"{self.event} on {self.channel}"


class DeliveryAttempt(TenantOwned):
    """One try, as it went. Append-only. `status` is HTTP's, 0 where there was no answer or it isn't HTTP."""

    notification = models.ForeignKey(Notification, on_delete=models.PROTECT, related_name="delivery_attempts")
    number = models.PositiveSmallIntegerField()
    succeeded = models.BooleanField()
    status = models.PositiveSmallIntegerField(default=0)
    answer = models.CharField(max_length=MAX_ANSWER_CHARACTERS, blank=True)
    duration_ms = models.PositiveIntegerField()

    class Meta:
        ordering = ("notification", "number")
        constraints = (models.UniqueConstraint(fields=("notification", "number"), name="delivery_attempt_once"),)

    def __str__(self) -> str:
        return f"{self.notification} #{self.number}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Insert. Raises `AppendOnlyRow` for a row that exists."""
        if not self._state.adding:
            raise AppendOnlyRow("delivery attempt")
        super().save(*args, **kwargs)

    def delete(self, *_: Any, **__: Any) -> NoReturn:
        """Raises `AppendOnlyRow`."""
        raise AppendOnlyRow("delivery attempt")


class ChatIdentity(TenantOwned):
    """A person's account in a chat, linked by themselves: an e-mail address in a chat proves nothing."""

    channel = models.ForeignKey(NotificationChannel, on_delete=models.CASCADE, related_name="identities")
    external_id = models.CharField(max_length=200)
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")

    class Meta:
        verbose_name_plural = "chat identities"
        ordering = ("channel", "user")
        constraints = (models.UniqueConstraint(fields=("channel", "external_id"), name="chat_identity_unique"),)

    def __str__(self) -> str:
        return f"{self.user} on {self.channel}"


class ChatLinkCode(TenantOwned):
    """A short-lived code that a signed-in person says in the chat to link their account. Only its digest is kept."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE, related_name="+")
    digest = models.CharField(max_length=64, unique=True)
    expires_at = models.DateTimeField(db_index=True)

    def __str__(self) -> str:
        return f"a code of {self.user}"
