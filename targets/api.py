"""REST of targets, credentials (their secrets go in and never come out), workers and join tokens."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, ClassVar, Final, cast

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, serializers, status
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.models import User
from controlplane.api import EditableTenantViewSet, TenantModelSerializer, TenantSlugField, TenantViewSet
from targets import actions
from targets.models import ColumnLabel, Credential, JoinToken, ProxyWorker, Target
from targets.processes.models import WorkerProcess


class TargetSerializer(TenantModelSerializer):
    """A target. `credential_set_at` is when its secret was last set."""

    credential_set_at = serializers.SerializerMethodField()

    class Meta(TenantModelSerializer.Meta):
        model = Target
        fields: ClassVar[list[str]] = [
            "id", "tenant", "name", "protocol", "host", "port", "database", "tls_mode", "ca_pem", "labels",
            "environment", "is_active", "credential_set_at", "created_at", "updated_at",
        ]  # fmt: skip

    def get_credential_set_at(self, target: Target) -> str | None:
        """ISO 8601, or null while it has none."""
        return target.credential.secret_set_at.isoformat() if hasattr(target, "credential") else None

    def save_row(self, row: Target, *, acting_user: Any) -> None:
        """By the action."""
        actions.save_target(row, acting_user=acting_user)


class TargetViewSet(mixins.DestroyModelMixin, EditableTenantViewSet):
    """Targets. One that has had sessions is deactivated, not deleted."""

    model = Target
    related = ("tenant", "credential")
    serializer_class = TargetSerializer
    http_method_names = [*EditableTenantViewSet.http_method_names, "delete"]
    filterset_fields: ClassVar[list[str]] = ["name", "protocol", "environment", "is_active", "tenant__slug"]
    search_fields: ClassVar[list[str]] = ["name", "host", "database"]
    ordering_fields: ClassVar[list[str]] = ["name", "created_at"]

    def perform_destroy(self, instance: Target) -> None:
        """By the action."""
        actions.delete_target(instance, acting_user=cast("User", self.acting_user))


class TargetField(serializers.PrimaryKeyRelatedField[Target]):
    """A target in scope, by id."""

    def get_queryset(self) -> QuerySet[Target]:
        """Whatever the caller's tenants have."""
        targets: QuerySet[Target] = Target.objects.all()
        return targets


class CredentialSerializer(TenantModelSerializer):
    """A target's credential. `secret` is written, and never read."""

    target = TargetField()
    secret = serializers.CharField(
        write_only=True, required=False, allow_blank=True, trim_whitespace=False, max_length=16_384
    )

    class Meta(TenantModelSerializer.Meta):
        model = Credential
        fields: ClassVar[list[str]] = ["id", "tenant", "target", "username", "secret", "secret_set_at", "created_at"]
        read_only_fields: ClassVar[list[str]] = ["secret_set_at"]

    def create(self, validated_data: dict[str, Any]) -> Any:
        """A new credential, with its secret."""
        secret = validated_data.pop("secret", "")
        return self._save(Credential(**validated_data), secret)

    def update(self, instance: Any, validated_data: dict[str, Any]) -> Any:
        """The credential with these values, and this secret if there is one. It stays with its target."""
        if validated_data.get("target", instance.target) != instance.target:
            raise serializers.ValidationError({"target": "A credential stays with its target; make a new one."})
        secret = validated_data.pop("secret", "")
        instance.username = validated_data.get("username", instance.username)
        return self._save(instance, secret)

    def _save(self, credential: Credential, secret: str) -> Credential:
        actions.save_credential(credential, secret=secret, acting_user=cast("User", self._acting_user))
        return credential


class CredentialViewSet(mixins.DestroyModelMixin, EditableTenantViewSet):
    """Credentials, without their secrets."""

    model = Credential
    related = ("tenant", "target")
    serializer_class = CredentialSerializer
    http_method_names = [*EditableTenantViewSet.http_method_names, "delete"]
    filterset_fields: ClassVar[list[str]] = ["target", "target__name", "username", "tenant__slug"]
    ordering_fields: ClassVar[list[str]] = ["secret_set_at", "created_at"]

    def perform_destroy(self, instance: Credential) -> None:
        """By the action."""
        actions.delete_credential(instance, acting_user=cast("User", self.acting_user))


class ColumnLabelSerializer(TenantModelSerializer):
    """What a column of a target holds: one label. Names are the target's own, without quotes."""

    target = TargetField()
    labelled_by = serializers.SlugRelatedField[Any](slug_field="email", read_only=True)

    class Meta(TenantModelSerializer.Meta):
        model = ColumnLabel
        fields: ClassVar[list[str]] = [
            "id", "tenant", "target", "schema", "table", "column", "label", "source", "labelled_by", "created_at",
        ]  # fmt: skip
        read_only_fields: ClassVar[list[str]] = ["source"]

    def save_row(self, row: ColumnLabel, *, acting_user: Any) -> None:
        """By the action."""
        actions.add_column_label(row, acting_user=acting_user)


class ColumnLabelViewSet(mixins.DestroyModelMixin, EditableTenantViewSet):
    """What columns hold, for limits that count distinct values. A label is added or removed, never changed."""

    model = ColumnLabel
    related = ("tenant", "target", "labelled_by")
    serializer_class = ColumnLabelSerializer
    http_method_names = ["get", "post", "delete", "head", "options"]
    filterset_fields: ClassVar[list[str]] = [
        "target", "target__name", "schema", "table", "column", "label", "source", "tenant__slug",
    ]  # fmt: skip
    search_fields: ClassVar[list[str]] = ["schema", "table", "column", "label"]
    ordering_fields: ClassVar[list[str]] = ["label", "table", "column", "created_at"]

    def perform_destroy(self, instance: ColumnLabel) -> None:
        """By the action."""
        actions.remove_column_label(instance, acting_user=cast("User", self.acting_user))


class WorkerProcessSerializer(serializers.ModelSerializer[WorkerProcess]):
    """A process of a worker. `has_link` may lag behind a network that fell silent: see `last_seen_at`."""

    has_link = serializers.BooleanField(read_only=True)

    class Meta:
        model = WorkerProcess
        fields: ClassVar[list[str]] = [
            "number", "has_link", "linked_at", "last_seen_at", "reported_sessions", "reported_journal_bytes",
        ]  # fmt: skip
        read_only_fields = fields


class WorkerSerializer(TenantModelSerializer):
    """A worker, with what all of its processes report. Only whether it is active can be changed."""

    tenant = TenantSlugField(read_only=True)
    processes = WorkerProcessSerializer(many=True, read_only=True)

    class Meta(TenantModelSerializer.Meta):
        model = ProxyWorker
        fields: ClassVar[list[str]] = [
            "id", "tenant", "name", "is_active", "enrolled_at", "last_seen_at", "reported_sessions",
            "reported_journal_bytes", "processes",
        ]  # fmt: skip
        read_only_fields: ClassVar[list[str]] = [name for name in fields if name != "is_active"]

    def save_row(self, row: ProxyWorker, *, acting_user: Any) -> None:
        """By the action."""
        actions.save_worker(row, acting_user=acting_user)


class WorkerViewSet(EditableTenantViewSet):
    """Workers. They enrol by themselves."""

    model = ProxyWorker
    serializer_class = WorkerSerializer
    http_method_names = ["get", "patch", "head", "options"]
    filterset_fields: ClassVar[list[str]] = ["name", "is_active", "tenant__slug"]
    ordering_fields: ClassVar[list[str]] = ["name", "enrolled_at", "last_seen_at"]

    def get_queryset(self) -> QuerySet[Any]:
        """With their processes."""
        return super().get_queryset().prefetch_related("processes")


class JoinTokenRequest(serializers.Serializer[Any]):
    """What a new join token should be."""

    tenant = TenantSlugField()
    worker_name = serializers.CharField(max_length=63)
    lifetime_seconds = serializers.IntegerField(
        min_value=60,
        max_value=int(actions.MAX_JOIN_TOKEN_LIFETIME.total_seconds()),
        default=int(actions.DEFAULT_JOIN_TOKEN_LIFETIME.total_seconds()),
    )


class JoinTokenSerializer(serializers.ModelSerializer[JoinToken]):
    """A join token, without the token itself."""

    tenant = TenantSlugField(read_only=True)
    used_by = serializers.SlugRelatedField[ProxyWorker](slug_field="name", read_only=True)

    class Meta:
        model = JoinToken
        fields: ClassVar[list[str]] = [
            "id", "tenant", "worker_name", "token_id", "created_at", "expires_at", "last_used_at", "used_by",
            "revoked_at",
        ]  # fmt: skip
        read_only_fields = fields


class IssuedJoinTokenSerializer(JoinTokenSerializer):
    """A token that was just issued, with the token itself."""

    token = serializers.CharField(
        read_only=True, help_text="The token itself. It is shown in this answer and never again."
    )

    class Meta(JoinTokenSerializer.Meta):
        fields: ClassVar[list[str]] = [*JoinTokenSerializer.Meta.fields, "token"]
        read_only_fields = fields


class JoinTokenViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, TenantViewSet):
    """Join tokens: issued, listed, revoked."""

    model = JoinToken
    related = ("tenant", "used_by")
    serializer_class = JoinTokenSerializer
    filterset_fields: ClassVar[dict[str, list[str]]] = {
        "worker_name": ["exact"],
        "last_used_at": ["isnull"],
        "revoked_at": ["isnull"],
        "tenant__slug": ["exact"],
    }
    ordering_fields: ClassVar[list[str]] = ["created_at", "expires_at"]

    @extend_schema(request=JoinTokenRequest, responses={201: IssuedJoinTokenSerializer})
    def create(self, request: Request, **_: Any) -> Response:
        """Issue a join token. The answer shows it, once."""
        wanted = JoinTokenRequest(data=request.data, context=self.get_serializer_context())
        wanted.is_valid(raise_exception=True)
        token, text = actions.issue_join_token(
            tenant=wanted.validated_data.get("tenant") or cast("TenantSlugField", wanted.fields["tenant"]).only(),
            worker_name=wanted.validated_data["worker_name"],
            lifetime=timedelta(seconds=wanted.validated_data["lifetime_seconds"]),
            acting_user=cast("User", self.acting_user),
        )
        shown = {**JoinTokenSerializer(token).data, "token": text}
        return Response(shown, status=status.HTTP_201_CREATED, headers={"Cache-Control": "no-store"})

    @extend_schema(request=None, responses=JoinTokenSerializer)
    @action(detail=True, methods=["post"])
    def revoke(self, request: Request, **_: Any) -> Response:  # noqa: ARG002  # DRF's signature
        """End this token now."""
        token = self.get_object()
        actions.revoke_join_token(token, acting_user=cast("User", self.acting_user))
        token.refresh_from_db()
        return Response(JoinTokenSerializer(token).data)


ROUTES: Final = (
    ("targets", TargetViewSet),
    ("credentials", CredentialViewSet),
    ("column-labels", ColumnLabelViewSet),
    ("workers", WorkerViewSet),
    ("join-tokens", JoinTokenViewSet),
)
