"""The pages of drafts: what would change, what is wrong with it, and what its author and a reviewer can do."""

from __future__ import annotations

from typing import Any, cast

from django import forms
from django.contrib import admin
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from unfold.contrib.filters.admin import AutocompleteSelectFilter, ChoicesDropdownFilter
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminTextInputWidget

from accounts.models import User
from controlplane.admin import ReadOnlyTenantAdmin
from controlplane.authority import Power, authority_of
from controlplane.errors import Refusal
from controlplane.pages import asking_page
from policies import actions
from policies.access import why_not_review
from policies.admin.links import draft_url, editor_url
from policies.checking import findings_of, warnings_of
from policies.engine import PolicyError
from policies.models import DraftState, PolicyDraft
from policies.simulation import admin as simulation

STATE_LABELS = {
    "draft": "info", "waits for review": "warning", "approved": "success", "published": "", "discarded": "",
    "out of date": "danger",
}  # fmt: skip


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
    empty_text = "A draft begins with Edit the rules, on a policy's page."
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
            parts = {"scope": draft.scope, "rules": draft.rules}
            extra_context = {
                **(extra_context or {}),
                "diff_lines": simulation.diff_lines(draft.diff),
                "findings": findings_of(draft.tenant_id, parts),
                "warnings": warnings_of(draft.policy, parts),
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
        return redirect(editor_url(self._draft(request, object_id).policy))

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
            return draft_url(draft)

        answer = asking_page(
            self,
            request,
            title=f"Review the {draft}",
            explanation="You approve just this. If the draft is changed later, it has to be reviewed anew.",
            form_class=Form,
            submit="Done",
            back_url=draft_url(draft),
            act=judge,
        )
        if isinstance(answer, TemplateResponse):  # who approves has what they approve before them
            answer.template_name = "policies/review_page.html"
            answer.context_data = {
                **(answer.context_data or {}),
                "diff_lines": simulation.diff_lines(draft.diff),
                "warnings": warnings_of(draft.policy, {"scope": draft.scope, "rules": draft.rules}),
            }
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
            return draft_url(draft)

        return asking_page(self, request, back_url=draft_url(draft), act=do, **texts)

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
