"""The pages of policies: rules are edited as a form or as YAML in a draft, which is reviewed and published.

A policy's page shows what applies; `Edit the rules` opens the editor (`editing`) on the person's own draft.
"""

from __future__ import annotations

import json
from typing import Any, cast

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils.decorators import method_decorator
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
from policies import actions
from policies.access import open_drafts, own_draft, why_not_review
from policies.approvals import admin as approvals  # noqa: F401  # registers its pages
from policies.budgets import admin as budgets  # noqa: F401  # registers its page
from policies.checking import findings_of
from policies.documents import EXAMPLE, MAX_DOCUMENT_CHARACTERS, PolicyDocument, load_document, write_document
from policies.editing import look_at, shaped, vocabulary
from policies.engine import PolicyError
from policies.models import DraftState, Policy, PolicyDraft, PolicyVersion
from policies.notifying import admin as notifying  # noqa: F401  # registers its pages
from policies.simulation import admin as simulation

STATE_LABELS = {
    "draft": "info", "waits for review": "warning", "approved": "success", "published": "", "discarded": "",
    "out of date": "danger",
}  # fmt: skip


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


@admin.register(Policy)
class PolicyAdmin(TenantModelAdmin):
    """Policies: what agents may do on targets."""

    change_form_outer_after_template = "policies/policy_now.html"
    list_display = ("name", "tenant", "state", "version", "rule_count", "published_at", "description")
    list_filter = ("is_active", ("tenant", AutocompleteSelectFilter))
    list_filter_submit = True
    list_select_related = ("tenant", "current")
    search_fields = ("name", "description")
    ordering = ("name",)
    inlines = (PolicyVersionInline,)
    fields = ("tenant", ("name", "is_active"), "description")
    actions_detail = ("edit_rules", "export")

    class Media:
        css = {"all": ("policies/policies.css",)}

    def get_urls(self) -> list[Any]:
        """With what the editor asks while somebody types."""
        check = path("<path:object_id>/check/", self.admin_site.admin_view(self.check_rules), name="policies_check")
        return [check, *super().get_urls()]

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """A policy's name is in every decision."""
        fields = super().get_readonly_fields(request, obj)
        return fields if obj is None else (*fields, "name")

    def save_row(self, request: HttpRequest, row: Policy, *, acting_user: Any) -> None:
        """By the action."""
        del request
        actions.save_policy(row, acting_user=acting_user)

    def response_add(self, request: HttpRequest, obj: Policy, post_url_continue: str | None = None) -> HttpResponse:
        """A new policy has no rules: they come next."""
        if "_save" in request.POST:
            return redirect(_editor_url(obj))
        return cast("HttpResponse", super().response_add(request, obj, post_url_continue))

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """With what applies now, and the drafts."""
        policy = None if object_id is None else cast("Policy | None", self.get_object(request, object_id))
        if policy is not None and self.has_view_permission(request, policy):
            now = "" if policy.current is None else write_document(policy.current.document)
            extra_context = {**(extra_context or {}), "rules_now": now, "open_drafts": open_drafts(policy)[:20]}
        return super().changeform_view(request, object_id, form_url, extra_context)

    @action(description="Edit the rules", icon="edit", permissions=["change"], url_path="rules")
    def edit_rules(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """The editor, on the person's own draft or on what is published."""
        policy = cast("Policy", self.get_object(request, object_id))
        user = cast("User", request.user)
        draft = own_draft(policy, user)
        if request.method != "POST":
            document = draft.document if draft is not None else _current_document(policy)
            text = EXAMPLE if document is None else write_document(document)
            return self._editor(request, policy, draft, text=text, message=draft.message if draft else "")
        text, message, wanted = "", request.POST.get("message", "")[:500], request.POST.get("do", "save")
        try:
            text, data = _sent(request)
            new = draft or PolicyDraft(policy=policy)
            actions.save_draft(new, **_parts(data), message=message, acting_user=user)
            draft = new
            return self._carry_on(request, draft, wanted)
        except (PolicyError, Refusal) as error:
            return self._editor(request, policy, draft, text=text, message=message, problems=[str(error)])

    @method_decorator(require_POST)
    def check_rules(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """What the editor shows of what is typed. Nothing is kept."""
        policy = cast("Policy | None", self.get_object(request, object_id))
        if policy is None:
            return HttpResponse(status=404)
        if not self.has_change_permission(request, policy):
            raise PermissionDenied
        try:
            sent = json.loads(request.body)
        except (ValueError, RecursionError):
            return HttpResponse(status=400)
        return JsonResponse(look_at(policy, sent))

    @action(description="Export as YAML", icon="download", url_path="export")
    def export(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """What is published, as `manage.py apply` reads it."""
        policy = cast("Policy | None", self.get_object(request, object_id))
        if policy is None or not self.has_view_permission(request, policy):
            return HttpResponse(status=404)
        head = f"kind: Policy\ntenant: {policy.tenant.slug}\nname: {policy.name}\n"
        text = head + write_document(_current_document(policy) or PolicyDocument())
        headers = {"Content-Disposition": f'attachment; filename="{policy.name}.yaml"'}
        return HttpResponse(text, content_type="application/yaml; charset=utf-8", headers=headers)

    def _carry_on(self, request: HttpRequest, draft: PolicyDraft, wanted: str) -> HttpResponseBase:
        """After the draft is kept: publish it, propose it, or nothing more."""
        user = cast("User", request.user)
        if wanted == "publish":
            version = actions.publish_draft(draft, acting_user=user)
            messages.success(request, f"{version} applies from now on.")
            return redirect("admin:policies_policy_change", draft.policy_id)
        if wanted == "propose":
            actions.propose_draft(draft, acting_user=user)
            messages.success(request, "It waits for somebody else's review.")
        else:
            messages.success(request, "The draft is kept. Nothing that applies has changed.")
        return redirect("admin:policies_policydraft_change", draft.pk)

    def _editor(
        self,
        request: HttpRequest,
        policy: Policy,
        draft: PolicyDraft | None,
        *,
        text: str,
        message: str,
        problems: list[str] | None = None,
    ) -> TemplateResponse:
        words = vocabulary(policy)
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": f"Rules of {policy}",
            "policy": policy,
            "draft": draft,
            "draft_url": draft and reverse("admin:policies_policydraft_change", args=[draft.pk]),
            "yaml": text,
            "seen": look_at(policy, {"yaml": text}),
            "sent_json": json.dumps({"yaml": text}),
            "words": words,
            "offered": {name: words[name] for name in ("agents", "groups", "targets", "environments", "flows")},
            "message": message,
            "problems": problems or [],
            "needs_review": policy.tenant.requires_review,
            "check_url": reverse("admin:policies_check", args=[policy.pk]),
            "back_url": reverse("admin:policies_policy_change", args=[policy.pk]),
        }
        return TemplateResponse(request, "policies/editor.html", context)

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


class ReviewForm(forms.Form):
    """What a reviewer says."""

    digest = forms.CharField(widget=forms.HiddenInput)
    verdict = forms.ChoiceField(
        choices=(("approve", "Approve: it may be published"), ("send_back", "Send it back")), widget=forms.RadioSelect
    )
    comment = forms.CharField(
        required=False,
        max_length=1000,
        widget=UnfoldAdminTextInputWidget,
        help_text="Wanted when you send it back: what has to change.",
    )


@admin.register(PolicyDraft)
class PolicyDraftAdmin(ReadOnlyTenantAdmin):
    """Drafts: what is going to be published, and who has to look at it first."""

    read_power = Power.READ
    change_form_outer_before_template = "policies/draft_page.html"
    list_display = ("changed", "policy", "state_label", "author", "reviewer", "message", "tenant")
    list_filter = (
        ("state", ChoicesDropdownFilter),
        ("policy", AutocompleteSelectFilter),
        ("tenant", AutocompleteSelectFilter),
    )
    list_filter_submit = True
    list_select_related = ("tenant", "policy__current", "author", "reviewer", "base", "version")
    search_fields = ("policy__name", "message", "author__email")
    ordering = ("-updated_at",)
    actions_detail = ("edit", "simulate", "propose", "review", "publish", "update_base", "discard")

    class Media:
        css = {"all": ("policies/policies.css",)}

    def get_fieldsets(self, _request: HttpRequest, _obj: Any = None) -> Any:
        """None: the template shows everything."""
        return ()

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """With what it changes, and what is wrong with it."""
        draft = None if object_id is None else cast("PolicyDraft | None", self.get_object(request, object_id))
        if draft is not None and self.has_view_permission(request, draft):
            may_audit = authority_of(request).may(Power.AUDIT, draft.tenant_id)
            extra_context = {
                **(extra_context or {}),
                "diff_lines": simulation.diff_lines(draft.diff),
                "findings": findings_of(draft.tenant_id, {"scope": draft.scope, "rules": draft.rules}),
                "simulations": draft.simulations.all()[:10] if may_audit else (),
            }
        return super().changeform_view(request, object_id, form_url, extra_context)

    # -- who may do what, now

    def has_edit_permission(self, request: HttpRequest, object_id: str | None = None) -> bool:
        """Its author, while it is open."""
        draft = self._manageable(request, object_id)
        return draft is not None and draft.author == request.user

    def has_propose_permission(self, request: HttpRequest, object_id: str | None = None) -> bool:
        """Whoever manages policies, where a review is wanted."""
        draft = self._manageable(request, object_id)
        wanted = draft is not None and draft.state == DraftState.DRAFT and draft.policy.tenant.requires_review
        return wanted and not cast("PolicyDraft", draft).is_out_of_date

    def has_review_permission(self, request: HttpRequest, object_id: str | None = None) -> bool:
        """Whoever approves, but for its author."""
        draft = None if object_id is None else cast("PolicyDraft | None", self.get_object(request, object_id))
        if draft is None or draft.state != DraftState.PROPOSED:
            return False
        return not why_not_review(draft, cast("User", request.user))

    def has_publish_permission(self, request: HttpRequest, object_id: str | None = None) -> bool:
        """Whoever manages policies, once it is approved or where no review is wanted."""
        draft = self._manageable(request, object_id)
        if draft is None or draft.is_out_of_date:
            return False
        return draft.state == DraftState.APPROVED or not draft.policy.tenant.requires_review

    def has_update_permission(self, request: HttpRequest, object_id: str | None = None) -> bool:
        """Whoever manages policies, when another version was published."""
        draft = self._manageable(request, object_id)
        return draft is not None and draft.is_out_of_date

    def has_manage_permission(self, request: HttpRequest, object_id: str | None = None) -> bool:
        """Whoever manages policies, while it is open."""
        return self._manageable(request, object_id) is not None

    # -- doing it

    @action(description="Edit", icon="edit", permissions=["edit"], url_path="edit")
    def edit(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """In the editor."""
        return redirect(_editor_url(self._draft(request, object_id).policy))

    @action(description="Simulate", icon="fast_rewind", permissions=["manage"], url_path="simulate")
    def simulate(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Ask for the period, then replay it."""
        return simulation.ask_for_simulation(self, request, self._draft(request, object_id))

    @action(description="Propose for review", icon="send", permissions=["propose"], url_path="propose")
    def propose(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Ask others to review it."""
        return self._ask(request, object_id, actions.propose_draft, title="Propose it for review?", submit="Propose")

    @action(description="Review", icon="rate_review", permissions=["review"], url_path="review")
    def review(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Approve what was seen, or send it back."""
        draft = self._draft(request, object_id)

        class Form(ReviewForm):
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **{**kwargs, "initial": {"digest": draft.digest}})

        def judge(form: ReviewForm) -> str:
            actions.review_draft(
                draft,
                digest=form.cleaned_data["digest"],
                is_approved=form.cleaned_data["verdict"] == "approve",
                comment=form.cleaned_data["comment"],
                acting_user=cast("User", request.user),
            )
            return _draft_url(draft)

        answer = asking_page(
            self,
            request,
            title=f"Review the {draft}",
            explanation="You approve just this. If the draft is changed later, it has to be reviewed anew.",
            form_class=Form,
            submit="Done",
            back_url=_draft_url(draft),
            act=judge,
        )
        if isinstance(answer, TemplateResponse):  # who approves has what they approve before them
            answer.template_name = "policies/review_page.html"
            answer.context_data = {**(answer.context_data or {}), "diff_lines": simulation.diff_lines(draft.diff)}
        return answer

    @action(description="Publish", icon="publish", permissions=["publish"], url_path="publish")
    def publish(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Make it apply."""
        return self._ask(
            request,
            object_id,
            actions.publish_draft,
            title="Publish it?",
            explanation="It applies from now on; running sessions follow at their next operation.",
            submit="Publish",
        )

    @action(description="Bring up to date", icon="sync", permissions=["update"], url_path="update-base")
    def update_base(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Have it change what applies now."""
        return self._ask(
            request,
            object_id,
            actions.update_base,
            title="Have it change what applies now?",
            explanation="Publishing it would take back what was published after it was begun: look at what it changes.",
            submit="Bring up to date",
        )

    @action(description="Discard", icon="delete", permissions=["manage"], url_path="discard")
    def discard(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Give it up."""
        return self._ask(
            request, object_id, actions.discard_draft, title="Discard it?", submit="Discard", is_dangerous=True
        )

    def _ask(self, request: HttpRequest, object_id: str, act: Any, **texts: Any) -> HttpResponseBase:
        draft = self._draft(request, object_id)

        def do(_: forms.Form) -> str:
            try:
                act(draft, acting_user=cast("User", request.user))
            except PolicyError as error:
                raise Refusal(problem=f"{error.field} {error.problem}", fix=error.fix) from error
            return _draft_url(draft)

        return asking_page(self, request, back_url=_draft_url(draft), act=do, **texts)

    def _draft(self, request: HttpRequest, object_id: str) -> PolicyDraft:
        return cast("PolicyDraft", self.get_object(request, object_id))

    def _manageable(self, request: HttpRequest, object_id: str | None) -> PolicyDraft | None:
        draft = None if object_id is None else cast("PolicyDraft | None", self.get_object(request, object_id))
        if draft is None or not draft.is_open or not authority_of(request).may(Power.MANAGE, draft.tenant_id):
            return None
        return draft

    @display(description="changed (UTC)", ordering="updated_at")
    def changed(self, draft: PolicyDraft) -> str:
        """To the minute."""
        return f"{draft.updated_at:%Y-%m-%d %H:%M}"

    @display(description="state", ordering="state", label=STATE_LABELS)
    def state_label(self, draft: PolicyDraft) -> str:
        """Where it is."""
        return "out of date" if draft.is_out_of_date else draft.get_state_display()


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
            return reverse("admin:policies_policy_change", args=[version.policy_id]) if not draft else _draft_url(draft)

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


def _editor_url(policy: Policy) -> str:
    return reverse("admin:policies_policy_edit_rules", args=[policy.pk])


def _draft_url(draft: PolicyDraft) -> str:
    return reverse("admin:policies_policydraft_change", args=[draft.pk])


def _current_document(policy: Policy) -> PolicyDocument | None:
    return None if policy.current is None else policy.current.document


def _sent(request: HttpRequest) -> tuple[str, Any]:
    """What the editor's form says: as YAML, to show it again, and as data. Raises `PolicyError`."""
    sent = request.POST.get("sent", "")
    try:
        told = json.loads(sent) if len(sent) <= 2 * MAX_DOCUMENT_CHARACTERS else None
    except (ValueError, RecursionError):
        told = None
    if isinstance(told, dict) and isinstance(told.get("yaml"), str):
        return told["yaml"], load_document(told["yaml"])
    if isinstance(told, dict) and isinstance(told.get("document"), dict):
        document = shaped(told["document"])
        return write_document(document), {"scope": document.scope, "rules": document.rules}
    raise PolicyError("rules", "can't be read", "Send the form again")


def _parts(data: Any) -> dict[str, Any]:
    """Scope and rules of what was sent; whether they are right is looked at when they are saved."""
    if not isinstance(data, dict):
        return {"scope": {}, "rules": data}
    if set(data) - {"scope", "rules"}:
        raise PolicyError(str(min(set(data) - {"scope", "rules"})), "is no field of a policy", "Use scope and rules")
    return {"scope": data.get("scope") or {}, "rules": data.get("rules") or []}
