"""The kind of documents that sets up where a tenant is told.

kind: NotificationChannel
tenant: acme
name: dba-slack
channel: slack
address: C024BE91L
secrets: {bot_token: {env: SLACK_BOT_TOKEN}, signing_secret: {file: slack-signing-secret}}
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from django.core.exceptions import ValidationError

from controlplane.apply.kinds import (
    HIDDEN,
    Applying,
    Change,
    DocumentError,
    Kind,
    SecretSource,
    TenantDocument,
    bring_about,
)
from policies.notifying import actions
from policies.notifying.models import ChannelKind, Event, NotificationChannel


class NotificationChannelFields(TenantDocument, frozen=True, kw_only=True):
    """A channel by tenant and name. `secrets` are by their names; those left out stay as they are."""

    name: str
    channel: ChannelKind
    address: str = ""
    events: list[Event] = []
    shows_text: bool = False
    is_active: bool = True
    secrets: dict[str, SecretSource] = {}


class NotificationChannelKind:
    """Channels."""

    name: Final = "NotificationChannel"
    rank: Final = 80
    document: Final = NotificationChannelFields

    def apply(self, wanted: NotificationChannelFields, *, applying: Applying) -> Change | None:
        """By name within the tenant."""
        channel = NotificationChannel.objects.filter(name=wanted.name).first()
        given = {
            name: applying.secret(source, field=f"secrets.{name}") for name, source in sorted(wanted.secrets.items())
        }
        changed = {
            name: text for name, text in given.items() if channel is None or actions.secret_of(channel, name) != text
        }
        saved: list[NotificationChannel] = [] if channel is None else [channel]

        def new() -> NotificationChannel:
            saved.append(NotificationChannel(tenant=applying.tenant))
            return saved[0]

        save = partial(actions.save_channel, acting_user=None, secrets=changed)
        values = {
            "name": wanted.name,
            "kind": wanted.channel.value,
            "address": wanted.address,
            "events": [event.value for event in wanted.events],
            "shows_text": wanted.shows_text,
            "is_active": wanted.is_active,
        }
        try:
            change = bring_about(channel, new, values=values, save=save)
            if change is None and changed:
                save(saved[0])
        except ValidationError as error:
            [(field, problems)] = list(error.message_dict.items())[:1]
            raise DocumentError(field, problems[0].rstrip("."), "See docs/notifications.md") from error
        if not changed:
            return change
        told: dict[str, tuple[Any, Any]] = {f"secrets.{name}": (None, HIDDEN) for name in changed}
        fields = {**change.fields, **told} if change else told
        return Change(verb="create" if channel is None else "change", name=wanted.name, fields=fields)


KINDS: Final[tuple[Kind, ...]] = (NotificationChannelKind(),)
