"""REST of simulations and suggestions: begin one, then ask until it is done."""

from __future__ import annotations

from typing import Any, ClassVar, Final, cast

from drf_spectacular.utils import extend_schema
from rest_framework import mixins, serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.models import Agent, User
from controlplane.api import TenantViewSet
from controlplane.authority import Power
from policies.documents import PolicyDocument, write_document
from policies.engine import PolicyError
from policies.models import Policy, PolicyDraft
from policies.simulation import actions
from policies.simulation.models import Simulation, Suggestion


class Period(serializers.Serializer[Any]):
    """Which operations: from `since` on, before `until`."""

    since = serializers.DateTimeField()
    until = serializers.DateTimeField()

    def writable(self, rows: Any) -> Any:
        """Of these, the ones of tenants in which the caller may begin a run."""
        view = self.context.get("view")
        if view is None or not hasattr(view, "authority"):  # drf-spectacular asks without a caller
            return rows.none()
        return rows.filter(tenant_id__in=view.authority.tenant_ids(Power.MANAGE))


class SimulationRequest(Period):
    """A draft; or a policy, and what it shall say instead."""

    draft = serializers.PrimaryKeyRelatedField[PolicyDraft](queryset=PolicyDraft._base_manager.none(), required=False)
    policy = serializers.PrimaryKeyRelatedField[Policy](queryset=Policy._base_manager.none(), required=False)
    scope = serializers.DictField(required=False, default=dict)
    rules = serializers.ListField(child=serializers.DictField(), required=False)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        cast("Any", self.fields["draft"]).queryset = self.writable(PolicyDraft._default_manager)
        cast("Any", self.fields["policy"]).queryset = self.writable(Policy._default_manager)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """One of the two."""
        if "draft" in attrs:
            draft: PolicyDraft = attrs["draft"]
            return {**attrs, "policy": draft.policy, "scope": draft.scope, "rules": draft.rules}
        if "policy" not in attrs or "rules" not in attrs:
            raise serializers.ValidationError({"draft": "Send a draft, or a policy and rules."})
        return attrs


class SuggestionRequest(Period):
    """Of which agent; `by_column`: name columns too."""

    agent = serializers.PrimaryKeyRelatedField[Agent](queryset=Agent._base_manager.none())
    by_column = serializers.BooleanField(default=False)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        cast("Any", self.fields["agent"]).queryset = self.writable(Agent._default_manager)


class RunSerializer(serializers.ModelSerializer[Any]):
    """Base of both."""

    tenant = serializers.SlugRelatedField[Any](slug_field="slug", read_only=True)
    requested_by = serializers.SlugRelatedField[User](slug_field="email", read_only=True)


RUN_FIELDS: Final = (
    "id", "tenant", "state", "percent", "problem", "since", "until", "requested_by", "created_at", "finished_at"
)  # fmt: skip


class SimulationSerializer(RunSerializer):
    """`result`: `counts` of what would be newly denied, allowed and held, and `groups` of them with examples."""

    policy_name = serializers.CharField(source="policy.name", read_only=True)
    result = serializers.DictField(read_only=True)

    class Meta:
        model = Simulation
        fields: ClassVar[list[str]] = [*RUN_FIELDS, "policy", "policy_name", "draft", "result"]
        read_only_fields = fields


class SuggestionSerializer(RunSerializer):
    """`yaml` and `rules`: what would have allowed the `observed` operations."""

    agent_name = serializers.CharField(source="agent.name", read_only=True)
    rules = serializers.ListField(child=serializers.DictField(), read_only=True)
    yaml = serializers.SerializerMethodField()

    class Meta:
        model = Suggestion
        fields: ClassVar[list[str]] = [
            *RUN_FIELDS, "agent", "agent_name", "by_column", "observed", "left_out", "rules", "yaml"
        ]  # fmt: skip
        read_only_fields = fields

    def get_yaml(self, suggestion: Suggestion) -> str:
        """As people write it."""
        return write_document(PolicyDocument(rules=suggestion.rules))


class SimulationViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, TenantViewSet):
    """What a policy would change, told by what agents did."""

    model = Simulation
    read_power = Power.AUDIT
    related = ("tenant", "policy", "requested_by")
    serializer_class = SimulationSerializer
    filterset_fields: ClassVar[list[str]] = ["policy", "policy__name", "draft", "state", "tenant__slug"]
    ordering_fields: ClassVar[list[str]] = ["created_at"]

    @extend_schema(request=SimulationRequest, responses={201: SimulationSerializer})
    def create(self, request: Request, **_: Any) -> Response:
        """Begin one; it runs in the background."""
        wanted = SimulationRequest(data=request.data, context=self.get_serializer_context())
        wanted.is_valid(raise_exception=True)
        try:
            simulation = actions.start_simulation(
                wanted.validated_data.pop("policy"), **wanted.validated_data, acting_user=cast("User", self.acting_user)
            )
        except PolicyError as error:
            raise serializers.ValidationError({error.field: f"{error.problem}. {error.fix}"}) from error
        return Response(self.get_serializer(simulation).data, status=status.HTTP_201_CREATED)


class SuggestionViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, TenantViewSet):
    """The smallest policies that would have allowed what agents did."""

    model = Suggestion
    read_power = Power.AUDIT
    related = ("tenant", "agent", "requested_by")
    serializer_class = SuggestionSerializer
    filterset_fields: ClassVar[list[str]] = ["agent", "agent__name", "state", "tenant__slug"]
    ordering_fields: ClassVar[list[str]] = ["created_at"]

    @extend_schema(request=SuggestionRequest, responses={201: SuggestionSerializer})
    def create(self, request: Request, **_: Any) -> Response:
        """Begin one; it runs in the background."""
        wanted = SuggestionRequest(data=request.data, context=self.get_serializer_context())
        wanted.is_valid(raise_exception=True)
        suggestion = actions.start_suggestion(
            wanted.validated_data.pop("agent"), **wanted.validated_data, acting_user=cast("User", self.acting_user)
        )
        return Response(self.get_serializer(suggestion).data, status=status.HTTP_201_CREATED)


ROUTES: Final = (("policy-simulations", SimulationViewSet), ("policy-suggestions", SuggestionViewSet))
