"""REST of sessions, operations, refused attempts, and the proofs. All read-only, but for ending a session."""

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
from controlplane.api import ReadOnlyTenantViewSet
from controlplane.authority import Power
from sessions.killing import api as killing
from sessions.killing.actions import kill
from sessions.models import AgentSession, ContentSegment, JournalBatch, Operation, SessionRefusal


@extend_schema_field(OpenApiTypes.STR)
class HexField(serializers.Field[Any, Any, str, Any]):
    """Bytes in hex; null when there are none."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(read_only=True, **kwargs)

    def to_representation(self, value: Any) -> str:
        """In hex."""
        return bytes(value).hex()


class SessionSerializer(serializers.ModelSerializer[AgentSession]):
    """A session. `agent`, `target` and `worker` are names."""

    tenant = serializers.SlugRelatedField[Any](slug_field="slug", read_only=True)
    agent = serializers.SlugRelatedField[Any](slug_field="name", read_only=True)
    target = serializers.SlugRelatedField[Any](slug_field="name", read_only=True)
    worker = serializers.SlugRelatedField[Any](slug_field="name", read_only=True)

    class Meta:
        model = AgentSession
        fields: ClassVar[list[str]] = [
            "id", "tenant", "agent", "target", "worker", "protocol", "state", "client_address", "client_name",
            "tls_version", "tls_cipher", "policy_version", "rule", "principal", "credential_id", "granted_at",
            "expires_at", "opened_at", "closed_at", "close_reason", "operation_count", "end_requested_at", "end_reason",
            "withdrawn_at", "seconds_to_end",
        ]  # fmt: skip
        read_only_fields = fields


class EndRequest(serializers.Serializer[Any]):
    """Why the session is ended; the agent is told."""

    reason = serializers.CharField(max_length=200, default="ended by an administrator")


class SessionViewSet(ReadOnlyTenantViewSet):
    """Sessions of agents on targets."""

    model = AgentSession
    related = ("tenant", "agent", "target", "worker")
    serializer_class = SessionSerializer
    filterset_fields: ClassVar[dict[str, list[str]]] = {
        "state": ["exact", "in"],
        "agent__name": ["exact"],
        "target__name": ["exact"],
        "worker__name": ["exact"],
        "granted_at": ["gte", "lte"],
        "tenant__slug": ["exact"],
    }
    search_fields: ClassVar[list[str]] = ["client_address", "client_name", "agent__name", "target__name"]
    ordering_fields: ClassVar[list[str]] = ["granted_at", "closed_at", "operation_count"]

    @extend_schema(request=EndRequest, responses={202: SessionSerializer})
    @action(detail=True, methods=["post"], write_power=Power.MANAGE)
    def end(self, request: Request, **_: Any) -> Response:
        """Have the worker end this session now."""
        wanted = EndRequest(data=request.data)
        wanted.is_valid(raise_exception=True)
        session: AgentSession = self.get_object()
        kill(session, acting_user=cast("User", self.acting_user), reason=wanted.validated_data["reason"])
        session.refresh_from_db(fields=["state", "end_requested_at", "end_reason"])
        return Response(SessionSerializer(session).data, status=status.HTTP_202_ACCEPTED)


class OperationSerializer(serializers.ModelSerializer[Operation]):
    """A statement and its outcome. `op` counts from 1 within the session."""

    tenant = serializers.SlugRelatedField[Any](slug_field="slug", read_only=True)
    agent = serializers.CharField(source="session.agent.name", read_only=True)
    target = serializers.CharField(source="session.target.name", read_only=True)
    text_sha256 = HexField()
    content_sha256 = HexField()
    content_in_sha256 = HexField()

    class Meta:
        model = Operation
        fields: ClassVar[list[str]] = [
            "id", "tenant", "session", "op", "agent", "target", "at", "kind", "text", "text_bytes", "text_sha256",
            "parameters", "effect", "rule", "reason", "policy_version", "status", "finished_at", "duration_us", "rows",
            "bytes_in", "bytes_out", "content_sha256", "content_in_sha256", "error_code", "error_message", "tags",
            "columns", "facts", "approval_id", "approval_state", "approval_reason",
        ]  # fmt: skip
        read_only_fields = fields


class OperationViewSet(ReadOnlyTenantViewSet):
    """Statements. `?status=unknown` lists those of which nobody knows whether they were done."""

    model = Operation
    related = ("tenant", "session__agent", "session__target")
    serializer_class = OperationSerializer
    filterset_fields: ClassVar[dict[str, list[str]]] = {
        "session": ["exact"],
        "status": ["exact", "in"],
        "kind": ["exact"],
        "effect": ["exact"],
        "approval_id": ["exact"],
        "approval_state": ["exact", "in"],
        "error_code": ["exact"],
        "session__agent__name": ["exact"],
        "session__target__name": ["exact"],
        "at": ["gte", "lte"],
        "tenant__slug": ["exact"],
    }
    search_fields: ClassVar[list[str]] = ["text"]
    ordering_fields: ClassVar[list[str]] = ["at", "op", "duration_us", "rows"]


class RefusalSerializer(serializers.ModelSerializer[SessionRefusal]):
    """Attempts of one kind within one hour. `agent` is null when nobody knows who it was."""

    tenant = serializers.SlugRelatedField[Any](slug_field="slug", read_only=True)
    agent = serializers.SlugRelatedField[Any](slug_field="name", read_only=True)
    worker = serializers.SlugRelatedField[Any](slug_field="name", read_only=True)

    class Meta:
        model = SessionRefusal
        fields: ClassVar[list[str]] = [
            "id", "tenant", "agent", "target_name", "client_host", "code", "reason", "worker", "hour", "last_at",
            "count",
        ]  # fmt: skip
        read_only_fields = fields


class RefusalViewSet(ReadOnlyTenantViewSet):
    """Refused attempts to open a session."""

    model = SessionRefusal
    related = ("tenant", "agent", "worker")
    serializer_class = RefusalSerializer
    filterset_fields: ClassVar[dict[str, list[str]]] = {
        "code": ["exact", "in"],
        "agent__name": ["exact"],
        "target_name": ["exact"],
        "last_at": ["gte", "lte"],
        "tenant__slug": ["exact"],
    }
    ordering_fields: ClassVar[list[str]] = ["last_at", "count"]


class ContentSegmentSerializer(serializers.ModelSerializer[ContentSegment]):
    """What is known of a content segment's file."""

    tenant = serializers.SlugRelatedField[Any](slug_field="slug", read_only=True)
    sha256 = HexField()

    class Meta:
        model = ContentSegment
        fields: ClassVar[list[str]] = ["id", "tenant", "session", "index", "sha256", "size_bytes", "created_at"]
        read_only_fields = fields


class ContentSegmentViewSet(ReadOnlyTenantViewSet):
    """Content segments, without their content."""

    model = ContentSegment
    serializer_class = ContentSegmentSerializer
    filterset_fields: ClassVar[list[str]] = ["session", "tenant__slug"]
    ordering_fields: ClassVar[list[str]] = ["created_at", "index"]


class JournalBatchSerializer(serializers.ModelSerializer[JournalBatch]):
    """A batch of records, without the records."""

    tenant = serializers.SlugRelatedField[Any](slug_field="slug", read_only=True)
    journal = serializers.UUIDField(source="journal.journal_id", read_only=True)
    worker = serializers.CharField(source="journal.worker.name", read_only=True)
    chain_before = HexField()
    chain_after = HexField()

    class Meta:
        model = JournalBatch
        fields: ClassVar[list[str]] = [
            "id", "tenant", "worker", "journal", "first_seq", "last_seq", "chain_before", "chain_after", "created_at"
        ]  # fmt: skip
        read_only_fields = fields


class JournalBatchViewSet(ReadOnlyTenantViewSet):
    """What the workers' journals have handed over."""

    model = JournalBatch
    related = ("tenant", "journal__worker")
    serializer_class = JournalBatchSerializer
    filterset_fields: ClassVar[list[str]] = ["journal__journal_id", "journal__worker__name", "tenant__slug"]
    ordering_fields: ClassVar[list[str]] = ["created_at", "first_seq"]

    def get_queryset(self) -> QuerySet[JournalBatch]:
        """Without the payloads, which are large."""
        batches: QuerySet[JournalBatch] = super().get_queryset()
        return batches.defer("payload")


ROUTES: Final = (
    ("sessions", SessionViewSet),
    ("operations", OperationViewSet),
    ("session-refusals", RefusalViewSet),
    ("content-segments", ContentSegmentViewSet),
    ("journal-batches", JournalBatchViewSet),
    *killing.ROUTES,
)
