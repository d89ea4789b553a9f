"""The pages of approvals: flows are edited here; requests and grants are seen, and grants revoked. Voting is elsewhere:
a person decides in the inbox."""

from __future__ import annotations

import json
from typing import Any, cast

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.urls import path, reverse
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.views.decorators.http import require_POST
from unfold.admin import TabularInline
from unfold.contrib.filters.admin import AutocompleteSelectFilter, ChoicesDropdownFilter, RangeDateTimeFilter
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminTextInputWidget

from accounts.models import User
from controlplane.admin import ReadOnlyTenantAdmin, TenantModelAdmin
from controlplane.authority import Power, authority_of
from controlplane.errors import Refusal
from controlplane.pages import asking_page
from policies.approvals import actions
from policies.approvals.editing import as_yaml, look_at
from policies.approvals.models import ApprovalFlow, ApprovalGrant, ApprovalRequest, ApprovalVote
from policies.approvals.terms import parse_terms
from policies.documents import load_document
from policies.engine import PolicyError

MAX_DOCUMENT_CHARACTERS = 64 * 1024
EXAMPLE = """\
stages:
  - approvers: {roles: [approver]}
    quorum: 1
expires_after_seconds: 1800
escalation: {after_seconds: 600, approvers: {roles: [admin]}}
scopes: [once]
"""
STATE_LABELS = {
    "pending": "info", "granted": "success", "rejected": "danger", "expired": "warning", "withdrawn": "", "void": "",
}  # fmt: skip


class TermsWidget(forms.Textarea):
    """The editor of a flow's terms (`editing`). Without scripts it is the YAML."""

    template_name = "policies/flow_terms.html"


class ApprovalFlowForm(forms.ModelForm):  # type: ignore[type-arg]  # not subscriptable at run time
    """A flow, its terms as a form and as YAML."""

    terms = forms.CharField(max_length=MAX_DOCUMENT_CHARACTERS, label="Terms", widget=TermsWidget)

    class Meta:
        model = ApprovalFlow
        fields = ("tenant", "name", "description", "is_active", "terms")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "terms" in self.fields:
            is_new = self.instance._state.adding
            self.initial["terms"] = EXAMPLE if is_new else as_yaml(self.instance.terms)
            attrs = {"check": reverse("admin:policies_approvalflow_check")}
            self.fields["terms"].widget.attrs |= attrs if is_new else {**attrs, "tenant": str(self.instance.tenant_id)}

    def clean_terms(self) -> Any:
        """As data. The error names the line, or the field."""
        try:
            document = load_document(self.cleaned_data["terms"])
        except PolicyError as error:
            raise forms.ValidationError(f"{error.field}: {error.problem}. {error.fix}") from error
        try:
            parse_terms(document)
        except Refusal as refusal:
            raise forms.ValidationError(f"{refusal.field}: {refusal.problem}. {refusal.fix}") from refusal
        return document


@admin.register(ApprovalFlow)
class ApprovalFlowAdmin(TenantModelAdmin):
    """Approval flows: who has to say yes."""

    form = ApprovalFlowForm
    list_display = ("name", "tenant", "state", "asks", "description")
    list_filter = ("is_active", ("tenant", AutocompleteSelectFilter))
    list_filter_submit = True
    list_select_related = ("tenant",)
    search_fields = ("name", "description")
    empty_text = "A flow says who has to say yes to what a rule requires an approval for."
    ordering = ("name",)
    fieldsets = (
        (None, {"fields": ("tenant", ("name", "is_active"), "description")}),
        ("Terms", {"fields": ("terms",)}),
    )

    class Media:
        css = {"all": ("policies/policies.css",)}
        js = ("policies/flow.js",)

    def get_urls(self) -> list[Any]:
        """With what the editor asks while somebody types."""
        check = path("check/", self.admin_site.admin_view(self.check_terms), name="policies_approvalflow_check")
        return [check, *super().get_urls()]

    @method_decorator(require_POST)
    def check_terms(self, request: HttpRequest) -> HttpResponseBase:
        """What the editor shows of what is typed; of approvers, where the person may manage. Nothing is kept."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        try:
            sent = json.loads(request.body)
        except (ValueError, RecursionError):
            return HttpResponse(status=400)
        asked = str(sent.get("tenant", "")) if isinstance(sent, dict) else ""
        managed = {str(tenant_id): tenant_id for tenant_id in authority_of(request).tenant_ids(Power.MANAGE)}
        return JsonResponse(look_at(sent, tenant_id=managed.get(asked)))

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """Whoever may not write sees the terms as text."""
        if obj is None or self.has_change_permission(request, obj):
            return self.fieldsets
        return (self.fieldsets[0], ("Terms", {"fields": ("terms_text",)}))

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """Rules use a flow by its name."""
        fields = super().get_readonly_fields(request, obj)
        return fields if obj is None else (*fields, "name", "terms_text")

    def save_row(self, request: HttpRequest, row: Any, *, acting_user: Any) -> None:
        """By the action."""
        del request
        actions.save_flow(row, acting_user=acting_user)

    @display(description="state", ordering="is_active", label={"active": "success", "inactive": "danger"})
    def state(self, flow: ApprovalFlow) -> str:
        """Active or not."""
        return "active" if flow.is_active else "inactive"

    @display(description="asks")
    def asks(self, flow: ApprovalFlow) -> str:
        """Whom, in a line."""
        stages = []
        for stage in parse_terms(flow.terms).stages:
            approvers = stage.approvers
            named = ", ".join((*approvers.roles, *approvers.groups, *approvers.people))
            stages.append(f"{stage.quorum} of {named}")
        return ", then ".join(stages)

    @display(description="terms")
    def terms_text(self, flow: ApprovalFlow) -> SafeString:
        """As YAML."""
        return preformatted(as_yaml(flow.terms))


class ApprovalVoteInline(TabularInline):
    """Who said what."""

    model = ApprovalVote
    verbose_name_plural = "votes"
    fields = readonly_fields = ("created_at", "user", "verdict", "stage", "comment", "scope", "via")
    ordering = ("created_at",)
    extra = 0
    can_delete = False

    def has_view_permission(self, request: HttpRequest, _obj: Any = None) -> bool:
        """As for the page."""
        return authority_of(request).may(Power.AUDIT)

    def has_add_permission(self, _request: HttpRequest, _obj: Any = None) -> bool:
        """Never."""
        return False

    has_change_permission = has_add_permission


@admin.register(ApprovalRequest)
class ApprovalRequestAdmin(ReadOnlyTenantAdmin):
    """Requests for approval, decided or not."""

    list_display = (
        "created_at", "state_label", "agent", "verb", "target", "excerpt", "flow", "mode", "glass", "decision_reason",
        "tenant",
    )  # fmt: skip
    list_filter = (
        ("state", ChoicesDropdownFilter),
        "is_break_glass",
        ("mode", ChoicesDropdownFilter),
        ("agent", AutocompleteSelectFilter),
        ("target", AutocompleteSelectFilter),
        ("created_at", RangeDateTimeFilter),
        ("tenant", AutocompleteSelectFilter),
    )
    list_filter_submit = True
    list_select_related = ("tenant", "agent", "target")
    search_fields = ("text", "agent__name", "target__name", "id")
    empty_text = "What an agent asked people for is listed here, with who said what."
    ordering = ("-created_at",)
    date_hierarchy = "created_at"
    inlines = (ApprovalVoteInline,)
    fieldsets = (
        (None, {"fields": (("state_label", "glass"), "decision_reason", ("decide", "session"))}),
        ("Who", {"fields": (("agent", "target"), "principal_text", "tenant")}),
        ("What", {"fields": ("statement", "parameters_text", "touches", "hazards_text", "preview_text")}),
        ("Why", {"fields": (("rule", "flow", "mode"), "rule_reason", "policy_version")}),
        (
            "When",
            {"fields": (("created_at", "expires_at"), ("escalated_at", "decided_at", "used_at"))},
        ),
        ("Proof", {"fields": ("binding_text", "operation_text")}),
    )
    readonly_fields = (
        "state_label", "glass", "decision_reason", "decide", "session", "agent", "target", "principal_text", "tenant",
        "statement", "parameters_text", "touches", "hazards_text", "preview_text", "rule", "flow", "mode",
        "rule_reason", "policy_version", "created_at", "expires_at", "escalated_at", "decided_at", "used_at",
        "binding_text", "operation_text",
    )  # fmt: skip

    @display(description="state", ordering="state", label=STATE_LABELS)
    def state_label(self, request: ApprovalRequest) -> str:
        """How it stands."""
        return request.get_state_display()

    @display(description="break-glass", label={"glass broken": "danger"})
    def glass(self, request: ApprovalRequest) -> str:
        """Whether somebody let it pass alone."""
        return "glass broken" if request.is_break_glass else ""

    @display(description="statement")
    def excerpt(self, request: ApprovalRequest) -> str:
        """Its beginning."""
        return request.text[:100]

    @display(description="decide")
    def decide(self, request: ApprovalRequest) -> SafeString | str:
        """Where a person does."""
        if not request.is_pending:
            return "decided"
        return format_html('<a href="/approvals/{}/">in the inbox</a>', request.pk)

    @display(description="session")
    def session(self, request: ApprovalRequest) -> SafeString:
        """Its page."""
        url = reverse("admin:agent_sessions_agentsession_change", args=[request.session_id])
        return format_html('<a href="{}">operation {} of the session</a>', url, request.op)

    @display(description="on whose behalf")
    def principal_text(self, request: ApprovalRequest) -> SafeString:
        """Who asked."""
        return preformatted(as_yaml(request.principal))

    @display(description="statement")
    def statement(self, request: ApprovalRequest) -> SafeString:
        """All of it."""
        return preformatted(request.text)

    @display(description="parameters")
    def parameters_text(self, request: ApprovalRequest) -> SafeString | str:
        """Each by its number."""
        shown = (
            (number, "NULL" if one["value"] is None else one["value"])
            for number, one in enumerate(request.parameters, start=1)
        )
        return format_html_join("", "<div>${} = {}</div>", shown) or "none"

    @display(description="touches")
    def touches(self, request: ApprovalRequest) -> SafeString | str:
        """What it does to what."""
        shown = (
            (kind, name or "nothing", ", ".join(cast("list[str]", columns))) for kind, name, columns in request.accesses
        )
        return format_html_join("", "<div>{} {} <i>{}</i></div>", shown)

    @display(description="hazards")
    def hazards_text(self, request: ApprovalRequest) -> str:
        """In words."""
        return ", ".join(hazard.replace("_", " ") for hazard in request.hazards) or "none"

    @display(description="preview")
    def preview_text(self, request: ApprovalRequest) -> str:
        """What the worker found out."""
        if request.preview_at is None:
            return "none came"
        if request.preview_rows is None:
            return request.preview_problem
        return f"{request.preview_rows:,} rows{'' if request.preview_was_exact else ', as the planner estimates'}"

    @display(description="bound to")
    def binding_text(self, request: ApprovalRequest) -> str:
        """The digest, in hex."""
        return bytes(request.binding).hex()

    @display(description="operation's digest")
    def operation_text(self, request: ApprovalRequest) -> str:
        """In hex."""
        return bytes(request.operation_sha256).hex()


class RevokeForm(forms.Form):
    """Why a grant is revoked."""

    reason = forms.CharField(max_length=200, initial="revoked", widget=UnfoldAdminTextInputWidget)


@admin.register(ApprovalGrant)
class ApprovalGrantAdmin(ReadOnlyTenantAdmin):
    """What approvals cover beyond the operation that was asked about."""

    list_display = ("created_at", "state", "scope", "agent", "target", "flow", "uses_left", "expires_at", "tenant")
    list_filter = (
        ("scope", ChoicesDropdownFilter),
        ("agent", AutocompleteSelectFilter),
        ("target", AutocompleteSelectFilter),
        ("tenant", AutocompleteSelectFilter),
    )
    list_filter_submit = True
    list_select_related = ("tenant", "agent", "target")
    search_fields = ("agent__name", "target__name")
    empty_text = "A yes that covers more than one operation, or that waits for its operation, is listed here."
    ordering = ("-created_at",)
    fields = (
        "tenant", "state", "request", "scope", "agent", "target", "flow", "policy_version", "uses", "uses_left",
        "created_at", "expires_at", "ended_at", "end_reason",
    )  # fmt: skip
    readonly_fields = fields
    actions_detail = ("revoke",)

    @display(description="state", label={"open": "success", "used up": "", "expired": "", "ended": "warning"})
    def state(self, given: ApprovalGrant) -> str:
        """Whether it covers anything still."""
        if given.ended_at is not None:
            return "ended"
        if given.uses_left == 0:
            return "used up"
        return "open" if given.is_usable(timezone.now()) else "expired"

    def has_revoke_permission(self, request: HttpRequest, object_id: str | None = None) -> bool:
        """Who may approve, while it covers something."""
        given = None if object_id is None else cast("ApprovalGrant | None", self.get_object(request, object_id))
        return (
            given is not None
            and given.is_usable(timezone.now())
            and authority_of(request).may(Power.APPROVE, given.tenant_id)
        )

    @action(description="Revoke", icon="block", permissions=["revoke"], url_path="revoke")
    def revoke(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Ask why, then revoke it."""
        given = cast("ApprovalGrant", self.get_object(request, object_id))
        back_url = reverse("admin:policies_approvalgrant_change", args=[given.pk])

        def revoke(form: RevokeForm) -> str:
            actions.revoke_grant(given, acting_user=cast("User", request.user), reason=form.cleaned_data["reason"])
            return back_url

        return asking_page(
            self,
            request,
            title="Revoke this grant",
            submit="Revoke",
            back_url=back_url,
            act=revoke,
            form_class=RevokeForm,
            done="It covers nothing more.",
            is_dangerous=True,
        )


def preformatted(text: str) -> SafeString:
    """As it is, in one width."""
    return format_html('<pre class="font-mono text-sm whitespace-pre-wrap">{}</pre>', text)
