"""REST of what agents prove themselves by at the token endpoint, and of tenants' service tokens."""

from __future__ import annotations

from typing import Any, ClassVar, Final, cast

from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import mixins, serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.models import Agent, ServicePurpose, ServiceToken, User
from accounts.oauth import actions
from accounts.oauth.models import OAuthClient
from accounts.token_api import (
    ONCE,
    NewTokenMixin,
    TokenSerializer,
    label_field,
    lifetime_field,
    lifetime_of,
    shown_once,
)
from controlplane.api import TenantSlugField, TenantViewSet
from controlplane.authority import Power


@extend_schema_field(OpenApiTypes.UUID)
class AgentField(serializers.PrimaryKeyRelatedField[Agent]):
    """An agent of the caller's tenants."""

    def get_queryset(self) -> Any:
        """Those in scope in whose tenant the view may write."""
        view = cast("TenantViewSet", self.context["view"])
        agents = Agent.objects.select_related("tenant")
        if view.write_power is None:
            return agents.none()
        return agents.filter(tenant__in=view.authority.tenant_ids(view.write_power))


class ClientRequest(serializers.Serializer[Any]):
    """What a new client should be: with public keys it signs assertions, without it has a secret."""

    agent = AgentField()
    label = label_field()  # type: ignore[assignment]
    public_keys = serializers.ListField(child=serializers.DictField(), required=False, max_length=10)


class ClientSerializer(serializers.ModelSerializer[OAuthClient]):
    """A client, without its secret."""

    tenant = TenantSlugField(read_only=True)
    agent_name = serializers.CharField(source="agent.name", read_only=True)

    class Meta:
        model = OAuthClient
        fields: ClassVar[list[str]] = [
            "id", "tenant", "agent", "agent_name", "client_id", "label", "authentication", "public_keys", "is_active",
            "created_at", "last_used_at",
        ]  # fmt: skip
        read_only_fields = fields


class NewClientSerializer(ClientSerializer):
    """A client that was just made, with its secret if it has one."""

    client_secret = serializers.CharField(read_only=True, allow_null=True, help_text=ONCE)

    class Meta(ClientSerializer.Meta):
        fields: ClassVar[list[str]] = [*ClientSerializer.Meta.fields, "client_secret"]
        read_only_fields = fields


class OAuthClientViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, TenantViewSet):
    """Credentials with which agents get tokens."""

    model = OAuthClient
    related = ("tenant", "agent")
    serializer_class = ClientSerializer
    filterset_fields: ClassVar[list[str]] = ["agent", "is_active", "tenant__slug"]
    ordering_fields: ClassVar[list[str]] = ["created_at", "last_used_at"]

    @extend_schema(request=ClientRequest, responses={201: NewClientSerializer})
    def create(self, request: Request, **_: Any) -> Response:
        """Make a client. The answer shows its secret, once."""
        wanted = ClientRequest(data=request.data, context=self.get_serializer_context())
        wanted.is_valid(raise_exception=True)
        client, made = actions.make_client(
            wanted.validated_data["agent"],
            acting_user=cast("User", self.acting_user),
            label=wanted.validated_data["label"],
            public_keys=wanted.validated_data.get("public_keys"),
        )
        return shown_once(ClientSerializer(client).data, client_secret=made.text if made else None)

    @extend_schema(request=None, responses=ClientSerializer)
    @action(detail=True, methods=["post"])
    def deactivate(self, request: Request, **_: Any) -> Response:  # noqa: ARG002  # DRF's signature
        """End this client, and what it got, now."""
        client: OAuthClient = self.get_object()
        client.is_active = False
        return Response(ClientSerializer(actions.save_client(client, acting_user=cast("User", self.acting_user))).data)


class ServiceTokenRequest(serializers.Serializer[Any]):
    """What a new service token should be."""

    tenant = TenantSlugField()
    purpose = serializers.ChoiceField(choices=ServicePurpose.choices)
    lifetime_seconds = lifetime_field(actions.DEFAULT_SERVICE_TOKEN_LIFETIME)
    label = label_field()  # type: ignore[assignment]


class ServiceTokenSerializer(TokenSerializer[ServiceToken]):
    """A service token, without the token itself."""

    class Meta:
        model = ServiceToken
        fields: ClassVar[list[str]] = [*TokenSerializer.OF_EACH, "purpose"]
        read_only_fields = fields


class NewServiceTokenSerializer(NewTokenMixin, ServiceTokenSerializer):
    """A token that was just made, with the token itself."""

    class Meta(ServiceTokenSerializer.Meta):
        fields: ClassVar[list[str]] = [*ServiceTokenSerializer.Meta.fields, "token"]
        read_only_fields = fields


class ServiceTokenViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, TenantViewSet):
    """A tenant's tokens for machines that serve it. Its owners make them."""

    model = ServiceToken
    read_power = Power.MANAGE
    write_power = Power.OWN
    serializer_class = ServiceTokenSerializer
    filterset_fields: ClassVar[list[str]] = ["purpose", "tenant__slug"]
    ordering_fields: ClassVar[list[str]] = ["created_at", "expires_at"]

    @extend_schema(request=ServiceTokenRequest, responses={201: NewServiceTokenSerializer})
    def create(self, request: Request, **_: Any) -> Response:
        """Make a token. The answer shows it, once."""
        wanted = ServiceTokenRequest(data=request.data, context=self.get_serializer_context())
        wanted.is_valid(raise_exception=True)
        token, made = actions.issue_service_token(
            wanted.validated_data.get("tenant") or cast("TenantSlugField", wanted.fields["tenant"]).only(),
            purpose=ServicePurpose(wanted.validated_data["purpose"]),
            acting_user=cast("User", self.acting_user),
            lifetime=lifetime_of(wanted.validated_data),
            label=wanted.validated_data["label"],
        )
        return shown_once(ServiceTokenSerializer(token).data, token=made.text)

    @extend_schema(request=None, responses=ServiceTokenSerializer)
    @action(detail=True, methods=["post"])
    def revoke(self, request: Request, **_: Any) -> Response:  # noqa: ARG002  # DRF's signature
        """End this token now."""
        token = actions.revoke_service_token(self.get_object(), acting_user=cast("User", self.acting_user))
        return Response(ServiceTokenSerializer(token).data)


ROUTES: Final = (("oauth-clients", OAuthClientViewSet), ("service-tokens", ServiceTokenViewSet))
