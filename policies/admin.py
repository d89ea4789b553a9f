"""The pages of policies: rules are edited as YAML, and saving other rules publishes a version."""

from __future__ import annotations

from typing import Any, cast

from django import forms
from django.contrib import admin
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.admin import TabularInline
from unfold.contrib.filters.admin import AutocompleteSelectFilter, RangeDateTimeFilter
from unfold.decorators import display
from unfold.widgets import UnfoldAdminTextareaWidget, UnfoldAdminTextInputWidget

from accounts.models import User
from controlplane.admin import ReadOnlyTenantAdmin, TenantModelAdmin
from controlplane.authority import Power, authority_of
from policies import actions
from policies.approvals import admin as approvals  # noqa: F401  # registers its pages
from policies.budgets import admin as budgets  # noqa: F401  # registers its page
from policies.documents import EXAMPLE, PolicyDocument, read_document, write_document
from policies.engine import PolicyError
from policies.models import Policy, PolicyVersion
from policies.notifying import admin as notifying  # noqa: F401  # registers its pages


class PolicyForm(forms.ModelForm):  # type: ignore[type-arg]  # not subscriptable at run time
    """A policy with the rules that it has now."""

    rules = forms.CharField(
        widget=UnfoldAdminTextareaWidget(
            attrs={"rows": 22, "spellcheck": "false", "style": "font-family: ui-monospace, monospace"}
        ),
        help_text=(
            "YAML: a list of rules, each with name, effect (allow or deny), agents, targets and, for people, reason. "
            "* and ? match in names. A deny wins over an allow; what no rule allows is denied."
        ),
    )
    message = forms.CharField(
        required=False,
        max_length=500,
        widget=UnfoldAdminTextInputWidget,
        help_text="Why the rules change, for the history.",
    )

    class Meta:
        model = Policy
        fields = ("tenant", "name", "description", "is_active")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        current = self.instance.current
        if "rules" in self.fields:
            self.fields["rules"].initial = EXAMPLE if current is None else write_document(current.document)

    def clean_rules(self) -> Any:
        """As data. The error names the line, or the field of the rule."""
        try:
            return read_document(self.cleaned_data["rules"])
        except PolicyError as error:
            raise forms.ValidationError(str(error)) from error


class PolicyVersionInline(TabularInline):
    """The history of a policy."""

    model = PolicyVersion
    verbose_name_plural = "history"
    fields = readonly_fields = ("number", "created_at", "author", "message")
    ordering = ("-number",)
    extra = 0
    per_page = 20
    can_delete = False
    show_change_link = True
    tab = True

    def has_view_permission(self, request: HttpRequest, _obj: Any = None) -> bool:
        """As for the page."""
        return authority_of(request).may(Power.READ)

    def has_add_permission(self, _request: HttpRequest, _obj: Any = None) -> bool:
        """Versions are published by saving other rules."""
        return False

    def has_change_permission(self, _request: HttpRequest, _obj: Any = None) -> bool:
        """Never."""
        return False


@admin.register(Policy)
class PolicyAdmin(TenantModelAdmin):
    """Policies: what agents may do on targets."""

    form = PolicyForm
    list_display = ("name", "tenant", "state", "version", "rule_count", "published_at", "description")
    list_filter = ("is_active", ("tenant", AutocompleteSelectFilter))
    list_filter_submit = True
    list_select_related = ("tenant", "current")
    search_fields = ("name", "description")
    ordering = ("name",)
    inlines = (PolicyVersionInline,)
    fieldsets = (
        (None, {"fields": ("tenant", ("name", "is_active"), "description")}),
        ("Rules", {"fields": ("rules", "message")}),
    )

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """Whoever may not write sees the rules as text."""
        if obj is None or self.has_change_permission(request, obj):
            return self.fieldsets
        return (self.fieldsets[0], ("Rules", {"fields": ("rules_text",)}))

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """A policy's name is in every decision."""
        fields = super().get_readonly_fields(request, obj)
        return fields if obj is None else (*fields, "name", "rules_text")

    def save_model(self, request: HttpRequest, obj: Policy, form: forms.BaseForm, change: bool) -> None:
        """By the actions: the policy, and a version when the rules are new."""
        del change
        user = cast("User", request.user)
        actions.save_policy(obj, acting_user=user)
        document = form.cleaned_data["rules"]
        if obj.current is None or obj.current.document != document:
            actions.publish_version(
                obj,
                scope=document.scope,
                rules=document.rules,
                message=form.cleaned_data["message"],
                acting_user=user,
            )

    @display(description="state", ordering="is_active", label={"active": "success", "inactive": "danger"})
    def state(self, policy: Policy) -> str:
        """Active or not."""
        return "active" if policy.is_active else "inactive"

    @display(description="version", empty_value="none published")
    def version(self, policy: Policy) -> int | None:
        """The current one."""
        return policy.current.number if policy.current else None

    @display(description="rules")
    def rule_count(self, policy: Policy) -> int:
        """How many the current version has."""
        return len(policy.current.rules) if policy.current else 0

    @display(description="published", empty_value="never")
    def published_at(self, policy: Policy) -> Any:
        """When the current version was."""
        return policy.current.created_at if policy.current else None

    @display(description="rules")
    def rules_text(self, policy: Policy) -> SafeString | str:
        """The current ones."""
        return _as_text(policy.current.document) if policy.current else "none published"


@admin.register(PolicyVersion)
class PolicyVersionAdmin(ReadOnlyTenantAdmin):
    """Every version that was ever published."""

    read_power = Power.READ
    list_display = ("version", "tenant", "created_at", "author", "message")
    list_filter = (("policy", AutocompleteSelectFilter), ("created_at", RangeDateTimeFilter))
    list_filter_submit = True
    list_select_related = ("tenant", "policy", "author")
    search_fields = ("policy__name", "message")
    ordering = ("-created_at",)
    fields = ("tenant", "version", "created_at", "author", "message", "rules_text")
    readonly_fields = fields

    @display(description="version", ordering="number")
    def version(self, version: PolicyVersion) -> str:
        """As decisions name it."""
        return str(version)

    @display(description="rules")
    def rules_text(self, version: PolicyVersion) -> SafeString:
        """As YAML."""
        return _as_text(version.document)


def _as_text(document: PolicyDocument) -> SafeString:
    return format_html('<pre class="font-mono text-sm whitespace-pre-wrap">{}</pre>', write_document(document))
