"""The page of a policy, which shows what applies, and the editor of its rules (`editing`) on the person's own draft."""

from __future__ import annotations

import json
from typing import Any, cast

from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import path, reverse
from django.utils.decorators import method_decorator
from django.views.decorators.http import require_POST
from unfold.contrib.filters.admin import AutocompleteSelectFilter
from unfold.decorators import action, display

from accounts.models import User
from controlplane.admin import TenantModelAdmin
from controlplane.errors import Refusal
from policies import actions
from policies.access import open_drafts, own_draft
from policies.admin.links import draft_url, editor_url
from policies.admin.versions import PolicyVersionInline
from policies.documents import EXAMPLE, MAX_DOCUMENT_CHARACTERS, PolicyDocument, load_document, write_document
from policies.editing import look_at, shaped, vocabulary
from policies.engine import PolicyError
from policies.models import Policy, PolicyDraft


@admin.register(Policy)
class PolicyAdmin(TenantModelAdmin):
    """Policies: what agents may do on targets."""

    change_form_outer_after_template = "policies/policy_now.html"
    list_display = ("name", "tenant", "state", "version", "rule_count", "published_at", "description")
    list_filter = ("is_active", ("tenant", AutocompleteSelectFilter))
    list_filter_submit = True
    list_select_related = ("tenant", "current")
    search_fields = ("name", "description")
    empty_text = "What no rule allows is denied: without a policy nobody is let in. Add one, then edit its rules."
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
            return redirect(editor_url(obj))
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
        return redirect(draft_url(draft))

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
            "draft_url": draft and draft_url(draft),
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
