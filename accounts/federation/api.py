"""REST of identity providers for people: the tenant's owners write, its administrators read."""

from __future__ import annotations

from typing import Any, ClassVar, Final, cast

from django.db.models import QuerySet
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, serializers
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.federation import actions
from accounts.federation.checks import check_provider, pasted_there
from accounts.federation.models import IdentityProvider, RoleMapping
from accounts.models import User
from controlplane.api import EditableTenantViewSet, TenantModelSerializer
from controlplane.authority import Power


class RoleMappingSerializer(serializers.ModelSerializer[RoleMapping]):
    """Which group gives which role."""

    class Meta:
        model = RoleMapping
        fields: ClassVar[list[str]] = ["group", "role"]
        extra_kwargs: ClassVar[dict[str, Any]] = {"role": {"required": True}}
        validators: ClassVar[list[Any]] = []


class IdentityProviderSerializer(TenantModelSerializer):
    """A provider with all of its role mappings; sending `role_mappings` replaces them. The secret is never shown."""

    role_mappings = RoleMappingSerializer(many=True, required=False)
    client_secret = serializers.CharField(
        write_only=True, required=False, max_length=1000, help_text="Of the OIDC client. Left out, it stays as it is."
    )
    enter_at_provider = serializers.SerializerMethodField(help_text="What is entered on the provider's side.")

    class Meta(TenantModelSerializer.Meta):
        model = IdentityProvider
        fields: ClassVar[list[str]] = [
            "id", "tenant", "slug", "name", "kind", "preset", "is_active", "issuer", "metadata_url", "metadata",
            "client_id", "client_secret", "scopes", "email_claim", "groups_claim", "email_domains",
            "wants_signed_response", "allows_unasked", "role_mappings", "enter_at_provider", "created_at", "updated_at",
        ]  # fmt: skip

    def get_enter_at_provider(self, provider: IdentityProvider) -> dict[str, str]:
        """Its word for it → our value."""
        return pasted_there(provider)

    def create(self, validated_data: dict[str, Any]) -> IdentityProvider:
        """A new provider with its mappings."""
        return self._save(None, {"role_mappings": [], **validated_data})

    def update(self, instance: IdentityProvider, validated_data: dict[str, Any]) -> IdentityProvider:
        """The provider with these values, and these mappings when they are sent."""
        return self._save(instance, validated_data)

    def _save(self, provider: IdentityProvider | None, values: dict[str, Any]) -> IdentityProvider:
        mappings = values.pop("role_mappings", None)
        secret = values.pop("client_secret", None)
        row = IdentityProvider() if provider is None else provider
        for name, value in values.items():
            setattr(row, name, value)
        specs = None if mappings is None else [actions.MappingSpec(one["group"], one["role"]) for one in mappings]
        actions.save_provider(row, acting_user=cast("User", self._acting_user), secret=secret, mappings=specs)
        return IdentityProvider.objects.select_related("tenant").get(pk=row.pk)


class CheckFindingSerializer(serializers.Serializer[Any]):
    """One thing that the test looked at."""

    is_good = serializers.BooleanField()
    text = serializers.CharField()


class IdentityProviderViewSet(mixins.DestroyModelMixin, EditableTenantViewSet):
    """Providers that vouch for people."""

    model = IdentityProvider
    read_power = Power.MANAGE
    write_power = Power.OWN
    serializer_class = IdentityProviderSerializer
    http_method_names = [*EditableTenantViewSet.http_method_names, "delete"]
    filterset_fields: ClassVar[list[str]] = ["slug", "kind", "preset", "issuer", "is_active", "tenant__slug"]
    search_fields: ClassVar[list[str]] = ["slug", "name", "issuer"]
    ordering_fields: ClassVar[list[str]] = ["name", "slug", "created_at"]

    def get_queryset(self) -> QuerySet[IdentityProvider]:
        """With the mappings."""
        return super().get_queryset().prefetch_related("role_mappings")

    def perform_destroy(self, instance: IdentityProvider) -> None:
        """By the action."""
        actions.delete_provider(instance, acting_user=cast("User", self.acting_user))

    @extend_schema(request=None, responses=CheckFindingSerializer(many=True), filters=False)
    @action(detail=True, methods=["post"], url_path="test", pagination_class=None, filter_backends=[])
    def test(self, request: Request, **_: Any) -> Response:  # noqa: ARG002  # DRF's signature
        """Ask the provider, and say what is right with it and what is wrong."""
        findings = check_provider(self.get_object(), now=timezone.now())
        return Response(CheckFindingSerializer(findings, many=True).data)


ROUTES: Final = (("identity-providers", IdentityProviderViewSet),)
