"""REST of approval flows, requests and grants. Voting takes the power to approve, and a flow that asks the person."""

from __future__ import annotations

from typing import Any, ClassVar, Final, cast

from django.db.models import QuerySet
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import serializers, status
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.models import User
from controlplane.api import EditableTenantViewSet, ReadOnlyTenantViewSet, TenantModelSerializer
from controlplane.authority import Power
from policies.approvals import actions
from policies.approvals.access import url_of, view_for
from policies.approvals.models import ApprovalFlow, ApprovalGrant, ApprovalRequest, ApprovalVote
from policies.approvals.terms import GrantScope

VIA: Final = "REST"


@extend_schema_field(OpenApiTypes.STR)
class HexField(serializers.Field[Any, Any, str, Any]):
    """Bytes in hex."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(read_only=True, **kwargs)

    def to_representation(self, value: Any) -> str:
        """In hex."""
        return bytes(value).hex()


class ApprovalFlowSerializer(TenantModelSerializer):
    """Who has to say yes. `terms` are as in docs/approvals.md: stages with approvers and a quorum, and so on."""

    class Meta(TenantModelSerializer.Meta):
        model = ApprovalFlow
        fields: ClassVar[list[str]] = [
            "id", "tenant", "name", "description", "terms", "is_active", "created_at", "updated_at"
        ]  # fmt: skip

    def save_row(self, row: ApprovalFlow, *, acting_user: Any) -> None:
        """By the action."""
        actions.save_flow(row, acting_user=acting_user)


class ApprovalVoteSerializer(serializers.ModelSerializer[ApprovalVote]):
    """What a person said. `scope`, `uses` and `window_seconds` are what an approval grants."""

    user = serializers.SlugRelatedField[User](slug_field="email", read_only=True)

    class Meta:
        model = ApprovalVote
        fields: ClassVar[list[str]] = [
            "user", "verdict", "stage", "comment", "via", "scope", "uses", "window_seconds", "created_at"
        ]  # fmt: skip
        read_only_fields = fields


class ApprovalRequestSerializer(serializers.ModelSerializer[ApprovalRequest]):
    """An operation that needs a yes, with all that its approvers see. `accesses`: kind, object and columns of each."""

    tenant = serializers.SlugRelatedField[Any](slug_field="slug", read_only=True)
    agent = serializers.SlugRelatedField[Any](slug_field="name", read_only=True)
    target = serializers.SlugRelatedField[Any](slug_field="name", read_only=True)
    accesses = serializers.ListField(read_only=True)
    hazards = serializers.ListField(child=serializers.CharField(), read_only=True)
    operation_sha256 = HexField()
    binding = HexField()
    votes = ApprovalVoteSerializer(many=True, read_only=True)
    url = serializers.SerializerMethodField()

    class Meta:
        model = ApprovalRequest
        fields: ClassVar[list[str]] = [
            "id", "tenant", "url", "state", "mode", "agent", "target", "principal", "session_id", "op", "kind", "verb",
            "text", "text_bytes", "parameters", "accesses", "hazards", "rule", "rule_reason", "flow", "terms", "stage",
            "policy_version", "operation_sha256", "binding", "created_at", "expires_at", "escalated_at", "decided_at",
            "decision_reason", "is_break_glass", "used_at", "preview_asked_at", "preview_is_exact", "preview_at",
            "preview_was_exact", "preview_rows", "preview_plan", "preview_problem", "votes",
        ]  # fmt: skip
        read_only_fields = fields

    def get_url(self, request: ApprovalRequest) -> str:
        """The page on which a person decides."""
        return url_of(request.pk)


class ApprovalRequestDetailSerializer(ApprovalRequestSerializer):
    """With what the caller may do: an objection is empty when they may."""

    objection = serializers.SerializerMethodField()
    break_glass_objection = serializers.SerializerMethodField()

    class Meta(ApprovalRequestSerializer.Meta):
        fields: ClassVar[list[str]] = [*ApprovalRequestSerializer.Meta.fields, "objection", "break_glass_objection"]
        read_only_fields = fields

    def get_objection(self, request: ApprovalRequest) -> str:
        """Why the caller may not vote."""
        return view_for(request, self.context["request"].user).objection

    def get_break_glass_objection(self, request: ApprovalRequest) -> str:
        """Why the caller may not let it pass alone."""
        return view_for(request, self.context["request"].user).glass_objection


class ApproveRequest(serializers.Serializer[Any]):
    """A yes. It covers this operation; or `uses` of its template; or all that asks the same for `window_seconds`."""

    comment = serializers.CharField(max_length=500, default="", allow_blank=True)
    scope = serializers.ChoiceField(choices=[scope.value for scope in GrantScope], default=GrantScope.ONCE.value)
    uses = serializers.IntegerField(min_value=1, max_value=1_000, default=1)
    window_seconds = serializers.IntegerField(min_value=0, max_value=24 * 3600, default=0)


class RejectRequest(serializers.Serializer[Any]):
    """A no; the agent is told the comment."""

    comment = serializers.CharField(max_length=500, default="", allow_blank=True)


class BreakGlassRequest(serializers.Serializer[Any]):
    """Why this can't wait. It is kept, and people are alerted."""

    reason = serializers.CharField(max_length=500)


class PreviewRequest(serializers.Serializer[Any]):
    """Count what the operation would touch, or have it estimated."""

    exact = serializers.BooleanField(default=True)


class ApprovalFlowViewSet(EditableTenantViewSet):
    """Approval flows. They are deactivated, not deleted: rules and requests name them."""

    model = ApprovalFlow
    serializer_class = ApprovalFlowSerializer
    filterset_fields: ClassVar[list[str]] = ["name", "is_active", "tenant__slug"]
    search_fields: ClassVar[list[str]] = ["name", "description"]
    ordering_fields: ClassVar[list[str]] = ["name", "created_at"]


class ApprovalRequestViewSet(ReadOnlyTenantViewSet):
    """Requests for approval. `?is_break_glass=true` lists what somebody let pass alone."""

    model = ApprovalRequest
    related = ("tenant", "agent", "target")
    serializer_class = ApprovalRequestSerializer
    filterset_fields: ClassVar[dict[str, list[str]]] = {
        "state": ["exact", "in"],
        "mode": ["exact"],
        "flow": ["exact"],
        "is_break_glass": ["exact"],
        "session_id": ["exact"],
        "op": ["exact"],
        "agent__name": ["exact"],
        "target__name": ["exact"],
        "created_at": ["gte", "lte"],
        "tenant__slug": ["exact"],
    }
    search_fields: ClassVar[list[str]] = ["text", "agent__name", "target__name"]
    ordering_fields: ClassVar[list[str]] = ["created_at", "expires_at", "decided_at"]

    def get_queryset(self) -> QuerySet[ApprovalRequest]:
        """With their votes."""
        requests: QuerySet[ApprovalRequest] = super().get_queryset()
        return requests.prefetch_related("votes__user")

    def get_serializer_class(self) -> type[serializers.BaseSerializer[Any]]:
        """One alone says what the caller may do."""
        return ApprovalRequestDetailSerializer if self.action == "retrieve" else super().get_serializer_class()

    @extend_schema(request=ApproveRequest, responses={200: ApprovalRequestDetailSerializer})
    @action(detail=True, methods=["post"], write_power=Power.APPROVE)
    def approve(self, request: Request, **_: Any) -> Response:
        """Say yes."""
        row, said = self.get_object(), _validated(ApproveRequest, request)
        wanted = actions.Wanted(GrantScope(said["scope"]), uses=said["uses"], window_seconds=said["window_seconds"])
        actions.approve(row, acting_user=self._user, comment=said["comment"], wanted=wanted, via=VIA)
        return self._as_it_is_now(row)

    @extend_schema(request=RejectRequest, responses={200: ApprovalRequestDetailSerializer})
    @action(detail=True, methods=["post"], write_power=Power.APPROVE)
    def reject(self, request: Request, **_: Any) -> Response:
        """Say no, which ends it."""
        row, said = self.get_object(), _validated(RejectRequest, request)
        actions.reject(row, acting_user=self._user, comment=said["comment"], via=VIA)
        return self._as_it_is_now(row)

    @extend_schema(request=BreakGlassRequest, responses={200: ApprovalRequestDetailSerializer})
    @action(detail=True, methods=["post"], write_power=Power.APPROVE, url_path="break-glass")
    def break_glass(self, request: Request, **_: Any) -> Response:
        """Let it pass alone, where its flow permits that."""
        row, said = self.get_object(), _validated(BreakGlassRequest, request)
        actions.break_glass(row, acting_user=self._user, reason=said["reason"], via=VIA)
        return self._as_it_is_now(row)

    @extend_schema(request=PreviewRequest, responses={202: ApprovalRequestDetailSerializer})
    @action(detail=True, methods=["post"], write_power=Power.APPROVE)
    def preview(self, request: Request, **_: Any) -> Response:
        """Have the worker find out what the operation would touch; `preview_at` says when it has."""
        row, said = self.get_object(), _validated(PreviewRequest, request)
        actions.ask_preview(row, exact=said["exact"], acting_user=self._user)
        return self._as_it_is_now(row, status.HTTP_202_ACCEPTED)

    @property
    def _user(self) -> User:
        return cast("User", self.acting_user)

    def _as_it_is_now(self, row: ApprovalRequest, code: int = status.HTTP_200_OK) -> Response:
        fresh = self.get_queryset().get(pk=row.pk)
        return Response(ApprovalRequestDetailSerializer(fresh, context=self.get_serializer_context()).data, status=code)


class ApprovalGrantSerializer(serializers.ModelSerializer[ApprovalGrant]):
    """What a yes covers still. `uses_left` null: as many as there are until `expires_at`."""

    tenant = serializers.SlugRelatedField[Any](slug_field="slug", read_only=True)
    agent = serializers.SlugRelatedField[Any](slug_field="name", read_only=True)
    target = serializers.SlugRelatedField[Any](slug_field="name", read_only=True)

    class Meta:
        model = ApprovalGrant
        fields: ClassVar[list[str]] = [
            "id", "tenant", "request", "scope", "agent", "target", "flow", "policy_version", "uses", "uses_left",
            "created_at", "expires_at", "ended_at", "end_reason",
        ]  # fmt: skip
        read_only_fields = fields


class RevokeRequest(serializers.Serializer[Any]):
    """Why."""

    reason = serializers.CharField(max_length=200, default="revoked")


class ApprovalGrantViewSet(ReadOnlyTenantViewSet):
    """What approvals cover beyond the operation that was asked about."""

    model = ApprovalGrant
    related = ("tenant", "agent", "target")
    serializer_class = ApprovalGrantSerializer
    filterset_fields: ClassVar[dict[str, list[str]]] = {
        "scope": ["exact"],
        "agent__name": ["exact"],
        "target__name": ["exact"],
        "request": ["exact"],
        "ended_at": ["isnull"],
        "expires_at": ["gte", "lte"],
        "tenant__slug": ["exact"],
    }
    ordering_fields: ClassVar[list[str]] = ["created_at", "expires_at"]

    @extend_schema(request=RevokeRequest, responses={200: ApprovalGrantSerializer})
    @action(detail=True, methods=["post"], write_power=Power.APPROVE)
    def revoke(self, request: Request, **_: Any) -> Response:
        """Let it cover nothing more."""
        row, said = self.get_object(), _validated(RevokeRequest, request)
        given = actions.revoke_grant(row, acting_user=cast("User", self.acting_user), reason=said["reason"])
        return Response(ApprovalGrantSerializer(given).data)


def _validated(form: type[serializers.Serializer[Any]], request: Request) -> dict[str, Any]:
    asked = form(data=request.data)
    asked.is_valid(raise_exception=True)
    return cast("dict[str, Any]", asked.validated_data)


ROUTES: Final = (
    ("approval-flows", ApprovalFlowViewSet),
    ("approval-requests", ApprovalRequestViewSet),
    ("approval-grants", ApprovalGrantViewSet),
)
