"""REST of policies, their drafts and versions."""

from __future__ import annotations

from typing import Any, ClassVar, Final, cast

from drf_spectacular.utils import extend_schema, extend_schema_field
from rest_framework import mixins, serializers, status
from rest_framework.decorators import action
from rest_framework.request import Request
from rest_framework.response import Response

from accounts.models import User
from controlplane.api import EditableTenantViewSet, ReadOnlyTenantViewSet, TenantModelSerializer, TenantViewSet
from controlplane.authority import Power
from policies import actions
from policies.approvals import api as approvals
from policies.budgets import api as budgets
from policies.checking import findings_of, warnings_of
from policies.documents import read_document, write_document
from policies.engine import PolicyError
from policies.models import Documented, Policy, PolicyDraft, PolicyVersion
from policies.notifying import api as notifying
from policies.simulation import api as simulation


@extend_schema_field({"type": "object", "additionalProperties": {}})
class ScopeField(serializers.JSONField):
    """Whom and what a whole policy is about, as in docs/policy.md."""


@extend_schema_field({"type": "array", "items": {"type": "object", "additionalProperties": {}}})
class RulesField(serializers.JSONField):
    """A policy's rules, as in docs/policy.md."""


class DocumentRequest(serializers.Serializer[Any]):
    """A policy's document: as `scope` and `rules`, or as `yaml`."""

    scope = ScopeField(required=False, default=dict)
    rules = RulesField(required=False)
    yaml = serializers.CharField(required=False, trim_whitespace=False, max_length=512 * 1024)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """One of the two forms."""
        if ("yaml" in attrs) == ("rules" in attrs):
            raise serializers.ValidationError({"rules": "Send either rules or yaml."})
        return attrs

    @property
    def parts(self) -> dict[str, Any]:
        """Scope and rules. Raises `PolicyError`."""
        sent = self.validated_data
        if "yaml" in sent:
            document = read_document(sent["yaml"])
            return {"scope": document.scope, "rules": document.rules}
        return {"scope": sent["scope"], "rules": sent["rules"]}


class PublishRequest(DocumentRequest):
    """What shall apply from now on, and why."""

    message = serializers.CharField(max_length=500, default="", allow_blank=True)


class FindingSerializer(serializers.Serializer[Any]):
    """What keeps a document from being published."""

    field = serializers.CharField()
    problem = serializers.CharField()
    fix = serializers.CharField()


class CheckAnswer(serializers.Serializer[Any]):
    """What is wrong with a document, `findings`: none, when it could be published; and what is worth knowing of it."""

    findings = FindingSerializer(many=True)
    warnings = FindingSerializer(many=True)


class PolicySerializer(TenantModelSerializer):
    """A policy; `scope`, `rules`, `yaml` and `version` are what is published now."""

    version = serializers.IntegerField(source="current.number", read_only=True, allow_null=True, default=None)
    scope = serializers.SerializerMethodField()
    rules = serializers.SerializerMethodField()
    yaml = serializers.SerializerMethodField()

    class Meta(TenantModelSerializer.Meta):
        model = Policy
        fields: ClassVar[list[str]] = [
            "id", "tenant", "name", "description", "is_active", "version", "scope", "rules", "yaml", "created_at",
            "updated_at",
        ]  # fmt: skip

    def get_scope(self, policy: Policy) -> dict[str, Any]:
        """Empty while nothing is published."""
        return {} if policy.current is None else dict(policy.current.scope)

    def get_rules(self, policy: Policy) -> list[dict[str, Any]]:
        """Empty while nothing is published."""
        return [] if policy.current is None else list(policy.current.rules)

    def get_yaml(self, policy: Policy) -> str:
        """Empty while nothing is published."""
        return "" if policy.current is None else write_document(policy.current.document)

    def save_row(self, row: Policy, *, acting_user: Any) -> None:
        """By the action."""
        actions.save_policy(row, acting_user=acting_user)


class DocumentedSerializer(serializers.ModelSerializer[Any]):
    """Base of what holds a document."""

    tenant = serializers.SlugRelatedField[Any](slug_field="slug", read_only=True)
    policy_name = serializers.CharField(source="policy.name", read_only=True)
    scope = ScopeField(read_only=True)
    rules = RulesField(read_only=True)
    yaml = serializers.SerializerMethodField()
    author = serializers.SlugRelatedField[User](slug_field="email", read_only=True)
    reviewer = serializers.SlugRelatedField[User](slug_field="email", read_only=True)

    def get_yaml(self, row: Documented) -> str:
        """The document as people write it."""
        return write_document(row.document)


class PolicyVersionSerializer(DocumentedSerializer):
    """A published version. `diff` is against the one before; `restores` names the version that it says again."""

    restores = serializers.IntegerField(source="restores.number", read_only=True, allow_null=True, default=None)

    class Meta:
        model = PolicyVersion
        fields: ClassVar[list[str]] = [
            "id", "tenant", "policy", "policy_name", "number", "scope", "rules", "yaml", "author", "reviewer",
            "message", "diff", "restores", "created_at",
        ]  # fmt: skip
        read_only_fields = fields


class PolicyDraftSerializer(DocumentedSerializer):
    """What somebody wants a policy to say. `base` and `version` are versions' numbers; a review names the `digest`."""

    base = serializers.IntegerField(source="base.number", read_only=True, allow_null=True, default=None)
    version = serializers.IntegerField(source="version.number", read_only=True, allow_null=True, default=None)
    diff = serializers.CharField(read_only=True)
    digest = serializers.CharField(read_only=True)
    is_out_of_date = serializers.BooleanField(read_only=True)

    class Meta:
        model = PolicyDraft
        fields: ClassVar[list[str]] = [
            "id", "tenant", "policy", "policy_name", "state", "base", "is_out_of_date", "scope", "rules", "yaml",
            "diff", "digest", "message", "author", "reviewer", "reviewed_at", "review_comment", "version",
            "created_at", "updated_at",
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
        """Publish this document as the policy's next version. 409 where the tenant wants a review: make a draft."""
        policy = self.get_object()
        wanted = PublishRequest(data=request.data)
        wanted.is_valid(raise_exception=True)
        try:
            version = actions.publish_version(
                policy,
                **wanted.parts,
                message=wanted.validated_data["message"],
                acting_user=cast("User", self.acting_user),
            )
        except PolicyError as error:
            raise invalid(error) from error
        return Response(PolicyVersionSerializer(version).data, status=status.HTTP_201_CREATED)

    @extend_schema(request=DocumentRequest, responses=CheckAnswer)
    @action(detail=True, methods=["post"], serializer_class=DocumentRequest)
    def check(self, request: Request, **_: Any) -> Response:
        """Say what is wrong with this document; nothing is kept."""
        policy = self.get_object()
        wanted = DocumentRequest(data=request.data)
        wanted.is_valid(raise_exception=True)
        try:
            parts = wanted.parts
        except PolicyError as error:
            raise invalid(error) from error
        answer = {"findings": findings_of(policy.tenant_id, parts), "warnings": warnings_of(policy, parts)}
        return Response(CheckAnswer(answer).data)


class DraftRequest(PublishRequest):
    """A draft's document, and why."""


class NewDraftRequest(DraftRequest):
    """A draft of a policy."""

    policy = serializers.PrimaryKeyRelatedField[Policy](queryset=Policy._base_manager.none())

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        view = self.context.get("view")
        if view is not None and hasattr(view, "authority"):
            writable = view.authority.tenant_ids(Power.MANAGE)
            cast("Any", self.fields["policy"]).queryset = Policy.objects.filter(tenant_id__in=writable)


class ReviewRequest(serializers.Serializer[Any]):
    """What a reviewer says of the draft whose `digest` they saw. Sending it back takes a comment."""

    digest = serializers.CharField(max_length=64)
    is_approved = serializers.BooleanField()
    comment = serializers.CharField(max_length=1000, default="", allow_blank=True)


class PolicyDraftViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, TenantViewSet):
    """Drafts: what is going to be published, and who has to look at it first."""

    model = PolicyDraft
    related = ("tenant", "policy__current", "base", "author", "reviewer", "version")
    serializer_class = PolicyDraftSerializer
    filterset_fields: ClassVar[list[str]] = ["policy", "policy__name", "state", "author__email", "tenant__slug"]
    ordering_fields: ClassVar[list[str]] = ["updated_at", "created_at"]
    http_method_names = ["get", "post", "patch", "head", "options"]

    @extend_schema(request=NewDraftRequest, responses={201: PolicyDraftSerializer})
    def create(self, request: Request, **_: Any) -> Response:
        """Begin a draft."""
        wanted = NewDraftRequest(data=request.data, context=self.get_serializer_context())
        wanted.is_valid(raise_exception=True)
        draft = PolicyDraft(policy=wanted.validated_data["policy"])
        self._save(draft, wanted)
        return Response(self.get_serializer(draft).data, status=status.HTTP_201_CREATED)

    @extend_schema(request=DraftRequest, responses=PolicyDraftSerializer)
    def partial_update(self, request: Request, **_: Any) -> Response:
        """Give one's own draft this document; it has to be proposed and reviewed anew."""
        draft = self.get_object()
        wanted = DraftRequest(data=request.data)
        wanted.is_valid(raise_exception=True)
        self._save(draft, wanted)
        return Response(self.get_serializer(draft).data)

    @extend_schema(request=None, responses=PolicyDraftSerializer)
    @action(detail=True, methods=["post"])
    def propose(self, *_: Any, **__: Any) -> Response:
        """Ask others to review it."""
        return self._told(actions.propose_draft)

    @extend_schema(request=ReviewRequest, responses=PolicyDraftSerializer)
    @action(detail=True, methods=["post"], write_power=Power.APPROVE)
    def review(self, request: Request, **_: Any) -> Response:
        """Approve it, or send it back."""
        draft = self.get_object()
        wanted = ReviewRequest(data=request.data)
        wanted.is_valid(raise_exception=True)
        actions.review_draft(draft, **wanted.validated_data, acting_user=cast("User", self.acting_user))
        return Response(self.get_serializer(draft).data)

    @extend_schema(request=None, responses={201: PolicyVersionSerializer})
    @action(detail=True, methods=["post"])
    def publish(self, *_: Any, **__: Any) -> Response:
        """Make it the policy's next version; where the tenant wants a review, once it is approved."""
        draft = self.get_object()
        try:
            version = actions.publish_draft(draft, acting_user=cast("User", self.acting_user))
        except PolicyError as error:
            raise invalid(error) from error
        return Response(PolicyVersionSerializer(version).data, status=status.HTTP_201_CREATED)

    @extend_schema(request=None, responses=PolicyDraftSerializer)
    @action(detail=True, methods=["post"], url_path="update-base")
    def update_base(self, *_: Any, **__: Any) -> Response:
        """Have it change the version that applies now, after another was published."""
        return self._told(actions.update_base)

    @extend_schema(request=None, responses=PolicyDraftSerializer)
    @action(detail=True, methods=["post"])
    def discard(self, *_: Any, **__: Any) -> Response:
        """Give it up."""
        return self._told(actions.discard_draft)

    def _told(self, act: Any) -> Response:
        draft = self.get_object()
        try:
            act(draft, acting_user=cast("User", self.acting_user))
        except PolicyError as error:
            raise invalid(error) from error
        return Response(self.get_serializer(draft).data)

    def _save(self, draft: PolicyDraft, wanted: DraftRequest) -> None:
        try:
            actions.save_draft(
                draft,
                **wanted.parts,
                message=wanted.validated_data["message"],
                acting_user=cast("User", self.acting_user),
            )
        except PolicyError as error:
            raise invalid(error) from error


class RestoreRequest(serializers.Serializer[Any]):
    """Why to go back to an earlier version."""

    message = serializers.CharField(max_length=400, default="", allow_blank=True)


class RestoreAnswer(serializers.Serializer[Any]):
    """The version that says it again, or the draft that was proposed because the tenant wants a review."""

    version = PolicyVersionSerializer(allow_null=True)
    draft = PolicyDraftSerializer(allow_null=True)


class PolicyVersionViewSet(ReadOnlyTenantViewSet):
    """Every version that was ever published."""

    model = PolicyVersion
    read_power = Power.READ
    related = ("tenant", "policy", "author", "reviewer", "restores")
    serializer_class = PolicyVersionSerializer
    filterset_fields: ClassVar[list[str]] = ["policy", "policy__name", "number", "tenant__slug"]
    ordering_fields: ClassVar[list[str]] = ["number", "created_at"]

    @extend_schema(request=RestoreRequest, responses={201: RestoreAnswer})
    @action(detail=True, methods=["post"], write_power=Power.MANAGE)
    def restore(self, request: Request, **_: Any) -> Response:
        """Publish what this version said as the policy's next one."""
        earlier = self.get_object()
        wanted = RestoreRequest(data=request.data)
        wanted.is_valid(raise_exception=True)
        try:
            version, draft = actions.restore_version(
                earlier, **wanted.validated_data, acting_user=cast("User", self.acting_user)
            )
        except PolicyError as error:
            raise invalid(error) from error
        answer = RestoreAnswer({"version": version, "draft": draft})
        return Response(answer.data, status=status.HTTP_201_CREATED)


def invalid(error: PolicyError) -> serializers.ValidationError:
    """As REST tells it."""
    return serializers.ValidationError({error.field: f"{error.problem}. {error.fix}"})


ROUTES: Final = (
    ("policies", PolicyViewSet),
    ("policy-drafts", PolicyDraftViewSet),
    ("policy-versions", PolicyVersionViewSet),
    *simulation.ROUTES,
    *notifying.ROUTES,
    *approvals.ROUTES,
    *budgets.ROUTES,
)
