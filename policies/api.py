"""REST of policies and their versions."""

from __future__ import annotations

from typing import Any, ClassVar, Final, cast

from drf_spectacular.utils import extend_schema
from rest_framework import serializers, status
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.models import User
from controlplane.api import EditableTenantViewSet, ReadOnlyTenantViewSet, TenantModelSerializer
from controlplane.authority import Power
from policies import actions
from policies.engine import PolicyError
from policies.models import Policy, PolicyVersion


class PolicySerializer(TenantModelSerializer):
    """A policy; `rules` and `version` are what is published now."""

    version = serializers.IntegerField(source="current.number", read_only=True, allow_null=True, default=None)
    rules = serializers.SerializerMethodField()

    class Meta(TenantModelSerializer.Meta):
        model = Policy
        fields: ClassVar[list[str]] = [
            "id", "tenant", "name", "description", "is_active", "version", "rules", "created_at", "updated_at"
        ]  # fmt: skip

    def get_rules(self, policy: Policy) -> list[dict[str, Any]]:
        """Empty while nothing is published."""
        return [] if policy.current is None else list(policy.current.rules)

    def save_row(self, row: Policy, *, acting_user: Any) -> None:
        """By the action."""
        actions.save_policy(row, acting_user=acting_user)


class PublishRequest(serializers.Serializer[Any]):
    """The rules that shall apply from now on: a list, each with name, effect, agents, targets and reason."""

    rules = serializers.JSONField()
    message = serializers.CharField(max_length=500, default="", allow_blank=True)


class PolicyVersionSerializer(serializers.ModelSerializer[PolicyVersion]):
    """A published version."""

    tenant = serializers.SlugRelatedField[Any](slug_field="slug", read_only=True)
    policy_name = serializers.CharField(source="policy.name", read_only=True)
    author = serializers.SlugRelatedField[User](slug_field="email", read_only=True)

    class Meta:
        model = PolicyVersion
        fields: ClassVar[list[str]] = [
            "id", "tenant", "policy", "policy_name", "number", "rules", "author", "message", "created_at"
        ]  # fmt: skip
        read_only_fields = fields


class PolicyViewSet(EditableTenantViewSet):
    """Policies. They are deactivated, not deleted: decisions name them."""

    model = Policy
    related = ("tenant", "current")
    serializer_class = PolicySerializer
    filterset_fields: ClassVar[list[str]] = ["name", "is_active", "tenant__slug"]
    search_fields: ClassVar[list[str]] = ["name", "description"]
    ordering_fields: ClassVar[list[str]] = ["name", "created_at"]

    @extend_schema(request=PublishRequest, responses={201: PolicyVersionSerializer})
    @action(detail=True, methods=["post"], serializer_class=PublishRequest)
    def publish(self, request: Request, **_: Any) -> Response:
        """Publish these rules as the policy's next version."""
        policy = self.get_object()
        wanted = PublishRequest(data=request.data)
        wanted.is_valid(raise_exception=True)
        try:
            version = actions.publish_version(
                policy, **wanted.validated_data, acting_user=cast("User", self.acting_user)
            )
        except PolicyError as error:
            raise serializers.ValidationError({error.field: f"{error.problem}. {error.fix}"}) from error
        return Response(PolicyVersionSerializer(version).data, status=status.HTTP_201_CREATED)


class PolicyVersionViewSet(ReadOnlyTenantViewSet):
    """Every version that was ever published."""

    model = PolicyVersion
    read_power = Power.READ
    related = ("tenant", "policy", "author")
    serializer_class = PolicyVersionSerializer
    filterset_fields: ClassVar[list[str]] = ["policy", "policy__name", "number", "tenant__slug"]
    ordering_fields: ClassVar[list[str]] = ["number", "created_at"]


ROUTES: Final = (("policies", PolicyViewSet), ("policy-versions", PolicyVersionViewSet))
