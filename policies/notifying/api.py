"""REST of channels, of what was announced on them, and of one's own code to link a chat account."""

from __future__ import annotations

from typing import Any, ClassVar, Final, cast

from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, serializers, status
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.models import User
from controlplane.api import (
    EditableTenantViewSet,
    ReadOnlyTenantViewSet,
    TenantModelSerializer,
    TenantSlugField,
    TenantViewSet,
)
from controlplane.authority import Power
from policies.notifying import actions
from policies.notifying.models import ChatIdentity, DeliveryAttempt, Event, Notification, NotificationChannel

MAX_SECRET_CHARACTERS: Final = 2_000


class ChannelSecrets(serializers.Serializer[Any]):
    """Of its kind's secrets, those to set. They are never shown."""

    bot_token = serializers.CharField(required=False, max_length=MAX_SECRET_CHARACTERS)
    signing_secret = serializers.CharField(required=False, max_length=MAX_SECRET_CHARACTERS)
    workflow_url = serializers.CharField(required=False, max_length=MAX_SECRET_CHARACTERS)
    security_token = serializers.CharField(required=False, max_length=MAX_SECRET_CHARACTERS)


class NotificationChannelSerializer(TenantModelSerializer):
    """A channel; `secrets` sets those that are sent."""

    secrets = ChannelSecrets(write_only=True, required=False)
    events = serializers.ListField(child=serializers.ChoiceField(choices=Event.choices), required=False, max_length=20)

    class Meta(TenantModelSerializer.Meta):
        model = NotificationChannel
        fields: ClassVar[list[str]] = [
            "id", "tenant", "name", "kind", "events", "address", "shows_text", "secrets", "is_active", "created_at",
            "updated_at",
        ]  # fmt: skip

    def create(self, validated_data: dict[str, Any]) -> Any:
        """A new channel with its secrets."""
        self._secrets = validated_data.pop("secrets", {})
        return super().create(validated_data)

    def update(self, instance: Any, validated_data: dict[str, Any]) -> Any:
        """The channel with these values, and these secrets."""
        self._secrets = validated_data.pop("secrets", {})
        return super().update(instance, validated_data)

    def save_row(self, row: NotificationChannel, *, acting_user: Any) -> None:
        """By the action."""
        actions.save_channel(row, acting_user=acting_user, secrets=self._secrets)


class WebhookSecretSerializer(serializers.Serializer[Any]):
    """What verifies a webhook's signature."""

    signing_secret = serializers.CharField(read_only=True, help_text="Shown in this answer and never again.")


class DeliveryAttemptSerializer(serializers.ModelSerializer[DeliveryAttempt]):
    """One try."""

    class Meta:
        model = DeliveryAttempt
        fields: ClassVar[list[str]] = ["number", "succeeded", "status", "answer", "duration_ms", "created_at"]


class NotificationSerializer(serializers.ModelSerializer[Notification]):
    """What was announced on a channel, with each try to deliver it."""

    tenant = TenantSlugField(read_only=True)
    channel_name = serializers.CharField(source="channel.name", read_only=True)
    delivery_attempts = DeliveryAttemptSerializer(many=True, read_only=True)

    class Meta:
        model = Notification
        fields: ClassVar[list[str]] = [
            "id", "tenant", "channel", "channel_name", "event", "subject_id", "state", "attempts", "due_at",
            "delivery_attempts", "created_at",
        ]  # fmt: skip
        read_only_fields = fields


class ChatIdentitySerializer(serializers.ModelSerializer[ChatIdentity]):
    """A linked chat account."""

    tenant = TenantSlugField(read_only=True)
    channel_name = serializers.CharField(source="channel.name", read_only=True)
    user = serializers.SlugRelatedField[User](slug_field="email", read_only=True)

    class Meta:
        model = ChatIdentity
        fields: ClassVar[list[str]] = ["id", "tenant", "channel", "channel_name", "external_id", "user", "created_at"]
        read_only_fields = fields


class LinkCodeRequest(serializers.Serializer[Any]):
    """In which tenant's chats the code is good; left out, it is one's only one."""

    tenant = TenantSlugField()


class LinkCodeSerializer(serializers.Serializer[Any]):
    """A code to say in the chat."""

    code = serializers.CharField(read_only=True, help_text="Say `link` and this in the chat. Good once.")
    expires_in = serializers.IntegerField(read_only=True, help_text="Seconds.")


class NotificationChannelViewSet(EditableTenantViewSet):
    """Channels. They are deactivated, not deleted: what was delivered by them is on record."""

    model = NotificationChannel
    read_power = Power.MANAGE
    serializer_class = NotificationChannelSerializer
    filterset_fields: ClassVar[list[str]] = ["name", "kind", "is_active", "tenant__slug"]
    search_fields: ClassVar[list[str]] = ["name", "address"]
    ordering_fields: ClassVar[list[str]] = ["name", "created_at"]

    @extend_schema(request=None, responses={201: WebhookSecretSerializer})
    @action(detail=True, methods=["post"], url_path="new-secret", serializer_class=serializers.Serializer)
    def new_secret(self, request: Request, **_: Any) -> Response:  # noqa: ARG002  # DRF's signature
        """Give a webhook a new signing secret, and show it."""
        channel = self.get_object()
        secret = actions.new_webhook_secret()
        actions.save_channel(channel, acting_user=cast("User", self.acting_user), secrets={"signing_secret": secret})
        headers = {"Cache-Control": "no-store"}
        return Response({"signing_secret": secret}, status=status.HTTP_201_CREATED, headers=headers)


class NotificationViewSet(ReadOnlyTenantViewSet):
    """The delivery log."""

    model = Notification
    related = ("tenant", "channel")
    serializer_class = NotificationSerializer
    filterset_fields: ClassVar[list[str]] = ["channel", "event", "state", "subject_id", "tenant__slug"]
    ordering_fields: ClassVar[list[str]] = ["created_at"]

    def get_queryset(self) -> Any:
        """With their tries."""
        return super().get_queryset().prefetch_related("delivery_attempts")


class ChatIdentityViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, mixins.DestroyModelMixin, TenantViewSet):
    """Linked chat accounts: one's own are linked by a code, and all may be unlinked by who manages the tenant."""

    model = ChatIdentity
    read_power = Power.READ
    write_power = Power.READ
    related = ("tenant", "channel", "user")
    serializer_class = ChatIdentitySerializer
    filterset_fields: ClassVar[list[str]] = ["channel", "tenant__slug"]

    def get_queryset(self) -> Any:
        """One's own; all, in tenants that one manages."""
        rows = super().get_queryset()
        if getattr(self, "swagger_fake_view", False):
            return rows
        managed = self.authority.tenant_ids(Power.MANAGE)
        return rows.filter(tenant__in=managed) | rows.filter(user=self.acting_user)

    def perform_destroy(self, instance: ChatIdentity) -> None:
        """Unlink it."""
        actions.unlink_chat_account(instance, acting_user=cast("User", self.acting_user))

    @extend_schema(request=LinkCodeRequest, responses={201: LinkCodeSerializer})
    @action(detail=False, methods=["post"], serializer_class=LinkCodeRequest)
    def code(self, request: Request) -> Response:
        """A code that links one's own chat account when it is said in the chat."""
        wanted = LinkCodeRequest(data=request.data, context=self.get_serializer_context())
        wanted.is_valid(raise_exception=True)
        tenant = wanted.validated_data.get("tenant") or cast("TenantSlugField", wanted.fields["tenant"]).only()
        code = actions.make_link_code(cast("User", self.acting_user), tenant=tenant, now=timezone.now())
        body = {"code": code, "expires_in": int(actions.LINK_CODE_LIFETIME.total_seconds())}
        return Response(body, status=status.HTTP_201_CREATED, headers={"Cache-Control": "no-store"})


ROUTES: Final[tuple[tuple[str, type[TenantViewSet]], ...]] = (
    ("notification-channels", NotificationChannelViewSet),
    ("notifications", NotificationViewSet),
    ("chat-identities", ChatIdentityViewSet),
)
