"""REST of accounts: tenants (read), agents, their tokens, OIDC trusts, and the caller's own API tokens."""

from __future__ import annotations

from typing import Any, ClassVar, Final, cast

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, serializers
from rest_framework.decorators import action
from rest_framework.exceptions import PermissionDenied
from rest_framework.request import Request
from rest_framework.response import Response

from accounts import actions, trusting
from accounts.access import colleagues
from accounts.federation import api as federation
from accounts.models import (
    DEFAULT_ALGORITHMS,
    Agent,
    AgentToken,
    ApiToken,
    OidcTrust,
    SigningAlgorithm,
    Tenant,
    TrustRule,
    User,
)
from accounts.oauth import api as oauth
from accounts.token_api import NewTokenMixin, TokenSerializer, label_field, lifetime_field, lifetime_of, shown_once
from accounts.trials import MAX_TRIED_CHARACTERS, claims_to_try
from controlplane.api import (
    EditableTenantViewSet,
    ReadOnlyTenantViewSet,
    TenantModelSerializer,
    TenantSlugField,
    TenantViewSet,
)
from controlplane.authority import Power

#: Trusts that one dry run looks at.
MAX_TRIED_TRUSTS: Final = 100


class TenantSerializer(serializers.ModelSerializer[Tenant]):
    """A tenant."""

    class Meta:
        model = Tenant
        fields: ClassVar[list[str]] = ["id", "slug", "name", "is_active", "requires_review", "created_at"]
        read_only_fields = fields


class TenantsViewSet(ReadOnlyTenantViewSet):
    """The tenants in which the caller has a role; all of them for an operator."""

    model = Tenant
    read_power = Power.READ
    tenant_id_path = "pk"
    related = ()
    serializer_class = TenantSerializer
    filterset_fields: ClassVar[list[str]] = ["slug", "is_active"]
    search_fields: ClassVar[list[str]] = ["slug", "name"]
    ordering_fields: ClassVar[list[str]] = ["slug", "created_at"]

    def get_queryset(self) -> QuerySet[Tenant]:
        """An operator's are all."""
        is_operator = not getattr(self, "swagger_fake_view", False) and self.authority.is_operator
        return Tenant.objects.all() if is_operator else super().get_queryset()


class ColleagueField(serializers.SlugRelatedField[User]):
    """A person by e-mail address, of those in the caller's tenants."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(slug_field="email", **kwargs)

    def get_queryset(self) -> QuerySet[User]:
        """Whoever has a role in a tenant in scope."""
        return colleagues()


class AgentSerializer(TenantModelSerializer):
    """An agent. `sponsor` is the e-mail address of a person of the tenant."""

    sponsor = ColleagueField(required=False, allow_null=True)

    class Meta(TenantModelSerializer.Meta):
        model = Agent
        fields: ClassVar[list[str]] = [
            "id", "tenant", "name", "description", "sponsor", "groups", "is_active", "created_at", "updated_at"
        ]  # fmt: skip

    def save_row(self, row: Agent, *, acting_user: Any) -> None:
        """By the action."""
        actions.save_agent(row, acting_user=acting_user)


class AgentTokenRequest(serializers.Serializer[Any]):
    """What a new token should be."""

    lifetime_seconds = lifetime_field(actions.DEFAULT_AGENT_TOKEN_LIFETIME)
    label = label_field()  # type: ignore[assignment]


class AgentTokenSerializer(TokenSerializer[AgentToken]):
    """An agent's token, without the token itself."""

    agent_name = serializers.CharField(source="agent.name", read_only=True)
    issued_by = serializers.SlugRelatedField[User](slug_field="email", read_only=True)

    class Meta:
        model = AgentToken
        fields: ClassVar[list[str]] = [*TokenSerializer.OF_EACH, "agent", "agent_name", "issued_by"]
        read_only_fields = fields


class IssuedAgentTokenSerializer(NewTokenMixin, AgentTokenSerializer):
    """A token that was just issued, with the token itself."""

    class Meta(AgentTokenSerializer.Meta):
        fields: ClassVar[list[str]] = [*AgentTokenSerializer.Meta.fields, "token"]
        read_only_fields = fields


class AgentViewSet(EditableTenantViewSet):
    """Agents. They are deactivated, not deleted: the record names them."""

    model = Agent
    related = ("tenant", "sponsor")
    serializer_class = AgentSerializer
    filterset_fields: ClassVar[list[str]] = ["name", "is_active", "tenant__slug"]
    search_fields: ClassVar[list[str]] = ["name", "description"]
    ordering_fields: ClassVar[list[str]] = ["name", "created_at"]

    @extend_schema(request=AgentTokenRequest, responses={201: IssuedAgentTokenSerializer})
    @action(detail=True, methods=["post"], url_path="tokens", serializer_class=AgentTokenRequest)
    def issue_token(self, request: Request, **_: Any) -> Response:
        """Issue a token for this agent. The answer shows it, once."""
        agent = self.get_object()
        wanted = AgentTokenRequest(data=request.data)
        wanted.is_valid(raise_exception=True)
        token, made = actions.issue_agent_token(
            agent,
            acting_user=cast("User", self.acting_user),
            lifetime=lifetime_of(wanted.validated_data),
            label=wanted.validated_data["label"],
        )
        return shown_once(AgentTokenSerializer(token).data, token=made.text)


class AgentTokenViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, TenantViewSet):
    """The tokens that agents were issued."""

    model = AgentToken
    related = ("tenant", "agent", "issued_by")
    serializer_class = AgentTokenSerializer
    filterset_fields: ClassVar[dict[str, list[str]]] = {
        "agent": ["exact"],
        "agent__name": ["exact"],
        "expires_at": ["gte", "lte"],
        "revoked_at": ["isnull"],
        "tenant__slug": ["exact"],
    }
    ordering_fields: ClassVar[list[str]] = ["created_at", "expires_at", "last_used_at"]

    @extend_schema(request=None, responses=AgentTokenSerializer)
    @action(detail=True, methods=["post"])
    def revoke(self, request: Request, **_: Any) -> Response:  # noqa: ARG002  # DRF's signature
        """End this token now."""
        token = actions.revoke_agent_token(self.get_object(), acting_user=cast("User", self.acting_user))
        return Response(AgentTokenSerializer(token).data)


class TrustRuleSerializer(serializers.ModelSerializer[TrustRule]):
    """Which claims stand for which agent, by the agent's name. Conditions: `claim = text` or `claim ~ pattern`."""

    agent = serializers.CharField(source="agent.name")

    class Meta:
        model = TrustRule
        fields: ClassVar[list[str]] = ["conditions", "agent"]


class OidcTrustSerializer(TenantModelSerializer):
    """A trust with all of its rules; sending `rules` replaces them."""

    rules = TrustRuleSerializer(many=True, required=False)
    algorithms = serializers.MultipleChoiceField(choices=SigningAlgorithm.choices, required=False)

    class Meta(TenantModelSerializer.Meta):
        model = OidcTrust
        fields: ClassVar[list[str]] = [
            "id", "tenant", "name", "kind", "issuer", "audience", "jwks_url", "metadata_url", "metadata", "algorithms",
            "clock_skew_seconds", "person_claim", "groups_claim", "label_claims", "is_active", "rules", "created_at",
            "updated_at",
        ]  # fmt: skip

    def validate_algorithms(self, value: set[str]) -> list[str]:
        """In a stable order."""
        return sorted(value)

    def create(self, validated_data: dict[str, Any]) -> OidcTrust:
        """A new trust with its rules."""
        rules = validated_data.pop("rules", [])
        return self._save(OidcTrust(**{"algorithms": [*DEFAULT_ALGORITHMS], **validated_data}), rules)

    def update(self, instance: OidcTrust, validated_data: dict[str, Any]) -> OidcTrust:
        """The trust with these values, and these rules when they are sent."""
        rules = validated_data.pop("rules", None)
        for name, value in validated_data.items():
            setattr(instance, name, value)
        return self._save(instance, rules)

    def _save(self, trust: OidcTrust, rules: list[dict[str, Any]] | None) -> OidcTrust:
        specs = None if rules is None else [_rule_spec(trust, rule) for rule in rules]
        actions.save_trust(trust, acting_user=cast("User", self._acting_user), rules=specs)
        return OidcTrust.objects.select_related("tenant").get(pk=trust.pk)


class TrialRequest(serializers.Serializer[Any]):
    """Claims to try: a JWT, whose signature is not looked at, or claims as JSON in a text."""

    token_or_claims = serializers.CharField(max_length=MAX_TRIED_CHARACTERS)


class RuleVerdictSerializer(serializers.Serializer[Any]):
    """What a rule says: `failed` is empty when it matches."""

    conditions = serializers.ListField(child=serializers.CharField())
    agent = serializers.CharField()
    failed = serializers.ListField(child=serializers.CharField())


class TrustVerdictSerializer(serializers.Serializer[Any]):
    """What a trust makes of the claims. `agent` is null when they stand for none; `problems` says why."""

    trust = serializers.CharField()
    agent = serializers.CharField(allow_null=True)
    problems = serializers.ListField(child=serializers.CharField())
    rules = RuleVerdictSerializer(many=True)


class OidcTrustViewSet(mixins.DestroyModelMixin, EditableTenantViewSet):
    """Providers whose JWTs stand for agents."""

    model = OidcTrust
    serializer_class = OidcTrustSerializer
    http_method_names = [*EditableTenantViewSet.http_method_names, "delete"]
    filterset_fields: ClassVar[list[str]] = ["name", "issuer", "audience", "is_active", "tenant__slug"]
    search_fields: ClassVar[list[str]] = ["name", "issuer", "audience"]
    ordering_fields: ClassVar[list[str]] = ["name", "created_at"]

    def get_queryset(self) -> QuerySet[OidcTrust]:
        """With the rules."""
        return super().get_queryset().prefetch_related("rules__agent")

    @extend_schema(request=TrialRequest, responses=TrustVerdictSerializer(many=True), filters=False)
    @action(detail=False, methods=["post"], url_path="dry-run", pagination_class=None)
    def dry_run(self, request: Request, **_: Any) -> Response:
        """Say which agent these claims would stand for, by each trust, and why not. Nobody is let in."""
        wanted = TrialRequest(data=request.data)
        wanted.is_valid(raise_exception=True)
        trusts = self.get_queryset().filter(tenant__in=self.authority.tenant_ids(Power.MANAGE))
        verdicts = trusting.explain(claims_to_try(wanted.validated_data["token_or_claims"]), trusts[:MAX_TRIED_TRUSTS])
        return Response(TrustVerdictSerializer(verdicts, many=True).data, headers={"Cache-Control": "no-store"})

    def perform_destroy(self, instance: OidcTrust) -> None:
        """By the action."""
        actions.delete_trust(instance, acting_user=cast("User", self.acting_user))


class ApiTokenRequest(serializers.Serializer[Any]):
    """What a new token of the caller should be."""

    tenant = TenantSlugField()
    lifetime_seconds = lifetime_field(actions.DEFAULT_API_TOKEN_LIFETIME)
    label = label_field()  # type: ignore[assignment]


class ApiTokenSerializer(TokenSerializer[ApiToken]):
    """A person's token, without the token itself."""

    user = serializers.SlugRelatedField[User](slug_field="email", read_only=True)

    class Meta:
        model = ApiToken
        fields: ClassVar[list[str]] = [*TokenSerializer.OF_EACH, "user"]
        read_only_fields = fields


class IssuedApiTokenSerializer(NewTokenMixin, ApiTokenSerializer):
    """A token that was just issued, with the token itself."""

    class Meta(ApiTokenSerializer.Meta):
        fields: ClassVar[list[str]] = [*ApiTokenSerializer.Meta.fields, "token"]
        read_only_fields = fields


class ApiTokenViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, TenantViewSet):
    """The caller's own tokens for REST, whatever their role."""

    model = ApiToken
    write_power = Power.READ
    related = ("tenant", "user")
    serializer_class = ApiTokenSerializer
    ordering_fields: ClassVar[list[str]] = ["created_at", "expires_at"]

    def get_queryset(self) -> QuerySet[ApiToken]:
        """One's own."""
        tokens: QuerySet[ApiToken] = super().get_queryset()
        return tokens if getattr(self, "swagger_fake_view", False) else tokens.filter(user=self.request.user.pk)

    @extend_schema(request=ApiTokenRequest, responses={201: IssuedApiTokenSerializer})
    def create(self, request: Request, **_: Any) -> Response:
        """Issue a token for oneself, signed in: a stolen token can't prolong itself. The answer shows it, once."""
        if isinstance(request.auth, ApiToken):
            raise PermissionDenied("A token makes no token. Sign in to the admin and make it there.")
        wanted = ApiTokenRequest(data=request.data, context=self.get_serializer_context())
        wanted.is_valid(raise_exception=True)
        user = cast("User", self.acting_user)
        token, made = actions.issue_api_token(
            user,
            tenant=wanted.validated_data.get("tenant") or cast("TenantSlugField", wanted.fields["tenant"]).only(),
            acting_user=user,
            lifetime=lifetime_of(wanted.validated_data),
            label=wanted.validated_data["label"],
        )
        return shown_once(ApiTokenSerializer(token).data, token=made.text)

    @extend_schema(request=None, responses=ApiTokenSerializer)
    @action(detail=True, methods=["post"])
    def revoke(self, request: Request, **_: Any) -> Response:  # noqa: ARG002  # DRF's signature
        """End this token now."""
        token = actions.revoke_api_token(self.get_object(), acting_user=cast("User", self.acting_user))
        return Response(ApiTokenSerializer(token).data)


def _rule_spec(trust: OidcTrust, rule: dict[str, Any]) -> actions.RuleSpec:
    name = rule["agent"]["name"]
    agent = Agent.objects.filter(tenant_id=trust.tenant_id, name=name).first()
    if agent is None:
        raise serializers.ValidationError({"rules": f"There is no agent {name} in this tenant."})
    return actions.RuleSpec(conditions=tuple(rule["conditions"]), agent_id=agent.pk)


ROUTES: Final = (
    ("tenants", TenantsViewSet),
    ("agents", AgentViewSet),
    ("agent-tokens", AgentTokenViewSet),
    ("oidc-trusts", OidcTrustViewSet),
    ("api-tokens", ApiTokenViewSet),
    *federation.ROUTES,
    *oauth.ROUTES,
)
