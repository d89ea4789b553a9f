"""REST of the kill switch: POST stops at once, `lift` lets go on."""

from __future__ import annotations

from typing import Any, ClassVar, Final, cast

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, serializers, status
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.models import Tenant, User
from controlplane.api import TenantSlugField, TenantViewSet
from controlplane.authority import Power
from sessions.killing import actions
from sessions.killing.access import find_subject, killed_sessions
from sessions.killing.models import MAX_REASON_CHARACTERS, KilledSession, KillOrder, KillScope, KillState, with_progress

#: As many of an order's sessions as one answer tells of, the living and the slowest first.
MAX_SESSIONS_TOLD: Final = 500


class KillRequest(serializers.Serializer[Any]):
    """What to stop. `subject` is the name of an agent or a target, or a session's id; of a tenant it is left out."""

    tenant = TenantSlugField()
    scope = serializers.ChoiceField(choices=KillScope.choices)
    subject = serializers.CharField(max_length=100, default="", allow_blank=True)
    reason = serializers.CharField(max_length=MAX_REASON_CHARACTERS, help_text="The agents are told.")


class LiftRequest(serializers.Serializer[Any]):
    """Why it may go on."""

    reason = serializers.CharField(max_length=MAX_REASON_CHARACTERS)


class KillOrderSerializer(serializers.ModelSerializer[KillOrder]):
    """An order. `seconds_to_dead` is null until the last session's end is on record; `alive` are those that are not."""

    tenant = serializers.SlugRelatedField[Any](slug_field="slug", read_only=True)
    subject = serializers.CharField(source="subject_name", read_only=True)
    ordered_by = serializers.StringRelatedField[Any](read_only=True)
    lifted_by = serializers.StringRelatedField[Any](read_only=True)
    state = serializers.ChoiceField(choices=KillState.choices, read_only=True)
    alive = serializers.IntegerField(read_only=True)
    seconds_to_dead = serializers.FloatField(read_only=True, allow_null=True)
    is_in_force = serializers.BooleanField(read_only=True)

    class Meta:
        model = KillOrder
        fields: ClassVar[list[str]] = [
            "id", "tenant", "scope", "subject", "reason", "ordered_at", "ordered_by", "session_count", "state", "alive",
            "seconds_to_dead", "is_in_force", "lifted_at", "lifted_by", "lift_reason",
        ]  # fmt: skip
        read_only_fields = fields


class KilledSessionSerializer(serializers.ModelSerializer[KilledSession]):
    """A session that ran when the order was given, and how long it took to end. `seconds_to_dead` null: not yet."""

    agent = serializers.CharField(source="session.agent.name", read_only=True)
    target = serializers.CharField(source="session.target.name", read_only=True)
    worker = serializers.CharField(source="session.worker.name", read_only=True)
    worker_last_seen_at = serializers.DateTimeField(source="session.worker.last_seen_at", read_only=True)
    state = serializers.CharField(source="session.state", read_only=True)
    closed_at = serializers.DateTimeField(source="session.closed_at", read_only=True)
    seconds_to_dead = serializers.FloatField(read_only=True, allow_null=True)

    class Meta:
        model = KilledSession
        fields: ClassVar[list[str]] = [
            "session", "agent", "target", "worker", "worker_last_seen_at", "state", "closed_at", "seconds_to_dead"
        ]  # fmt: skip
        read_only_fields = fields


class KillOrderDetailSerializer(KillOrderSerializer):
    """An order with its sessions, at most 500: those that aren't over first, then the slowest."""

    sessions = serializers.SerializerMethodField()

    class Meta(KillOrderSerializer.Meta):
        fields: ClassVar[list[str]] = [*KillOrderSerializer.Meta.fields, "sessions"]
        read_only_fields = fields

    @extend_schema(responses=KilledSessionSerializer(many=True))
    def get_sessions(self, order: KillOrder) -> list[dict[str, Any]]:
        """Each with its time."""
        told = KilledSessionSerializer(killed_sessions(order)[:MAX_SESSIONS_TOLD], many=True).data
        return cast("list[dict[str, Any]]", told)


class KillOrderViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, TenantViewSet):
    """The kill switch. Orders about agents, targets and tenants hold until they are lifted."""

    model = KillOrder
    read_power = Power.AUDIT
    related = ("tenant", "agent", "target", "session", "ordered_by", "lifted_by")
    serializer_class = KillOrderSerializer
    filterset_fields: ClassVar[dict[str, list[str]]] = {
        "scope": ["exact", "in"],
        "agent__name": ["exact"],
        "target__name": ["exact"],
        "session": ["exact"],
        "ordered_at": ["gte", "lte"],
        "lifted_at": ["isnull", "gte", "lte"],
        "tenant__slug": ["exact"],
    }
    search_fields: ClassVar[list[str]] = ["reason", "agent__name", "target__name"]
    ordering_fields: ClassVar[list[str]] = ["ordered_at", "session_count"]

    def get_queryset(self) -> QuerySet[KillOrder]:
        """With how far each has come."""
        return with_progress(super().get_queryset())

    def get_serializer_class(self) -> type[serializers.BaseSerializer[Any]]:
        """One order is told with its sessions."""
        return KillOrderDetailSerializer if self.action == "retrieve" else KillOrderSerializer

    @extend_schema(request=KillRequest, responses={201: KillOrderSerializer})
    def create(self, request: Request, **_: Any) -> Response:
        """Stop it now. Answered when the order is kept and the workers are being told; the sessions end in between."""
        wanted = KillRequest(data=request.data, context=self.get_serializer_context())
        wanted.is_valid(raise_exception=True)
        said = wanted.validated_data
        tenant: Tenant = said.get("tenant") or cast("TenantSlugField", wanted.fields["tenant"]).only()
        subject = find_subject(tenant, said["scope"], said["subject"])
        order = actions.kill(subject, reason=said["reason"], acting_user=cast("User", self.acting_user))
        return Response(self._told(order), status=status.HTTP_201_CREATED)

    @extend_schema(request=LiftRequest, responses=KillOrderSerializer)
    @action(detail=True, methods=["post"])
    def lift(self, request: Request, **_: Any) -> Response:
        """Let what was stopped have sessions again."""
        wanted = LiftRequest(data=request.data)
        wanted.is_valid(raise_exception=True)
        acting_user = cast("User", self.acting_user)
        order = actions.lift(self.get_object(), reason=wanted.validated_data["reason"], acting_user=acting_user)
        return Response(self._told(order))

    def _told(self, order: KillOrder) -> Any:
        return KillOrderSerializer(self.get_queryset().get(pk=order.pk)).data


ROUTES: Final = (("kill-orders", KillOrderViewSet),)
