"""The pages of published versions: what each said, what it changed, and the way back to it."""

from __future__ import annotations

from typing import Any, cast

from django import forms
from django.contrib import admin
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.urls import reverse
from unfold.admin import TabularInline
from unfold.contrib.filters.admin import AutocompleteSelectFilter, RangeDateTimeFilter
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminTextInputWidget

from accounts.models import User
from controlplane.admin import ReadOnlyTenantAdmin
from controlplane.authority import Power, authority_of
from controlplane.errors import Refusal
from controlplane.pages import asking_page
from policies import actions
from policies.admin.links import draft_url
from policies.documents import write_document
from policies.engine import PolicyError
from policies.models import PolicyVersion
from policies.simulation import admin as simulation


class PolicyVersionInline(TabularInline):
    """The history of a policy."""

    model = PolicyVersion
    verbose_name_plural = "history"
    fields = readonly_fields = ("number", "created_at", "author", "reviewer", "message")
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
        """Versions are published from drafts."""
        return False

    def has_change_permission(self, _request: HttpRequest, _obj: Any = None) -> bool:
        """Never."""
        return False


class RestoreForm(forms.Form):
    """Why to go back."""

    message = forms.CharField(
        required=False, max_length=400, widget=UnfoldAdminTextInputWidget, help_text="For the history."
    )


@admin.register(PolicyVersion)
class PolicyVersionAdmin(ReadOnlyTenantAdmin):
    """Every version that was ever published."""

    read_power = Power.READ
    change_form_outer_after_template = "policies/version_page.html"
    list_display = ("version", "tenant", "created_at", "author", "reviewer", "message")
    list_filter = (("policy", AutocompleteSelectFilter), ("created_at", RangeDateTimeFilter))
    list_filter_submit = True
    list_select_related = ("tenant", "policy__current", "author", "reviewer", "restores")
    search_fields = ("policy__name", "message")
    ordering = ("-created_at",)
    fields = (("version", "restores"), ("author", "reviewer"), ("created_at", "tenant"), "message")
    readonly_fields = ("tenant", "version", "restores", "created_at", "author", "reviewer", "message")
    actions_detail = ("restore",)

    class Media:
        css = {"all": ("policies/policies.css",)}

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """With what changed, and all of it."""
        version = None if object_id is None else cast("PolicyVersion | None", self.get_object(request, object_id))
        if version is not None and self.has_view_permission(request, version):
            shown = {"diff_lines": simulation.diff_lines(version.diff), "yaml_text": write_document(version.document)}
            extra_context = {**(extra_context or {}), **shown}
        return super().changeform_view(request, object_id, form_url, extra_context)

    def has_restore_permission(self, request: HttpRequest, object_id: str | None = None) -> bool:
        """Whoever manages policies, for what doesn't apply now."""
        version = None if object_id is None else cast("PolicyVersion | None", self.get_object(request, object_id))
        if version is None or version.policy.current_id == version.pk:
            return False
        return authority_of(request).may(Power.MANAGE, version.tenant_id)

    @action(description="Go back to this", icon="history", permissions=["restore"], url_path="restore")
    def restore(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Publish what it said anew, or propose that."""
        version = cast("PolicyVersion", self.get_object(request, object_id))

        def go_back(form: RestoreForm) -> str:
            try:
                _, draft = actions.restore_version(
                    version, message=form.cleaned_data["message"], acting_user=cast("User", request.user)
                )
            except PolicyError as error:
                raise Refusal(problem=f"{error.field} {error.problem}", fix=error.fix) from error
            return reverse("admin:policies_policy_change", args=[version.policy_id]) if not draft else draft_url(draft)

        needs_review = version.policy.tenant.requires_review
        return asking_page(
            self,
            request,
            title=f"Go back to what {version} said?",
            explanation="It is proposed as a draft." if needs_review else "It is published as a new version.",
            form_class=RestoreForm,
            submit="Propose" if needs_review else "Publish",
            back_url=reverse("admin:policies_policyversion_change", args=[version.pk]),
            act=go_back,
        )

    @display(description="version", ordering="number")
    def version(self, version: PolicyVersion) -> str:
        """As decisions name it."""
        return str(version)
