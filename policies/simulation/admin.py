"""The pages of simulations and suggestions."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final, cast

from django import forms
from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.urls import reverse
from django.utils import timezone
from unfold.admin import ModelAdmin
from unfold.contrib.filters.admin import AutocompleteSelectFilter, ChoicesDropdownFilter
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextInputWidget, UnfoldBooleanSwitchWidget

from accounts.models import Agent, User
from controlplane.admin import ReadOnlyTenantAdmin
from controlplane.authority import Power, authority_of
from controlplane.errors import Refusal
from controlplane.pages import asking_page
from policies.actions import save_draft, save_policy
from policies.documents import PolicyDocument, write_document
from policies.engine import PolicyError
from policies.models import Policy, PolicyDraft, policy_name_validator
from policies.simulation.actions import start_simulation, start_suggestion
from policies.simulation.comparing import Difference
from policies.simulation.models import RunState, Simulation, Suggestion

STATE_LABELS: Final = {"waiting": "info", "running": "info", "done": "success", "failed": "danger"}
#: Days back → how it is offered.
PERIODS: Final = ((1, "the last day"), (7, "the last week"), (30, "the last 30 days"), (90, "the last 90 days"))
_WORDS: Final = {
    Difference.DENIED: "newly denied",
    Difference.ALLOWED: "newly allowed",
    Difference.HELD: "newly held",
    Difference.TERMS: "on other terms",
}


class PeriodForm(forms.Form):
    """Which operations are looked at."""

    days = forms.TypedChoiceField(
        label="Operations of", choices=PERIODS, coerce=int, initial=7, widget=UnfoldAdminSelectWidget
    )

    @property
    def period(self) -> dict[str, Any]:
        """Since and until."""
        now = timezone.now()
        return {"since": now - timedelta(days=self.cleaned_data["days"]), "until": now}


def ask_for_simulation(page: ModelAdmin, request: HttpRequest, draft: PolicyDraft) -> HttpResponseBase:
    """The form that begins a simulation of the draft."""

    def start(form: PeriodForm) -> str:
        simulation = start_simulation(
            draft.policy,
            scope=draft.scope,
            rules=draft.rules,
            draft=draft,
            acting_user=cast("User", request.user),
            **form.period,
        )
        return reverse("admin:policies_simulation_change", args=[simulation.pk])

    return asking_page(
        page,
        request,
        title=f"What would the {draft} have changed?",
        explanation=(
            "Each operation on record is decided twice: by what applies now, and as if this draft did. "
            "Nothing is done to any target."
        ),
        form_class=PeriodForm,
        submit="Simulate",
        back_url=reverse("admin:policies_policydraft_change", args=[draft.pk]),
        act=start,
    )


def diff_lines(diff: str) -> list[dict[str, str]]:
    """A unified diff for a page: each line with its kind."""

    def kind(line: str) -> str:
        if line.startswith(("+++", "---", "@@")):
            return "is-head"
        return {"+": "is-new", "-": "is-gone"}.get(line[:1], "")

    return [{"text": line, "kind": kind(line)} for line in diff.splitlines()]


class RunAdmin(ReadOnlyTenantAdmin):
    """Base of both pages: a template shows everything, and follows what is under way."""

    class Media:
        css = {"all": ("policies/policies.css",)}
        js = ("policies/run.js",)

    def get_fieldsets(self, _request: HttpRequest, _obj: Any = None) -> Any:
        """None: the template shows everything."""
        return ()

    def shown(self, run: Any) -> dict[str, Any]:
        """What the template needs beside the row."""
        raise NotImplementedError

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """With what came of it."""
        run = None if object_id is None else self.get_object(request, object_id)
        if run is not None and self.has_view_permission(request, run):
            extra_context = {**(extra_context or {}), **self.shown(run)}
        return super().changeform_view(request, object_id, form_url, extra_context)

    @display(description="begun (UTC)", ordering="created_at")
    def begun(self, run: Any) -> str:
        """To the minute."""
        return f"{run.created_at:%Y-%m-%d %H:%M}"

    @display(description="operations of", ordering="since")
    def period(self, run: Any) -> str:
        """From when to when."""
        return f"{run.since:%Y-%m-%d} to {run.until:%Y-%m-%d}"

    @display(description="state", ordering="state", label=STATE_LABELS)
    def state_label(self, run: Any) -> str:
        """Where it is."""
        return str(run.state)


@admin.register(Simulation)
class SimulationAdmin(RunAdmin):
    """What policies would change, told by what agents did."""

    change_form_outer_before_template = "policies/simulation_page.html"
    list_display = ("begun", "policy", "state_label", "period", "denied", "allowed", "held", "requested_by", "tenant")
    list_filter = (("policy", AutocompleteSelectFilter), ("state", ChoicesDropdownFilter))
    list_filter_submit = True
    list_select_related = ("tenant", "policy", "requested_by")
    search_fields = ("policy__name",)
    empty_text = "A simulation is begun on a draft's page: it decides what agents did as if the draft applied."
    ordering = ("-created_at",)

    def shown(self, run: Simulation) -> dict[str, Any]:
        """The groups with their words."""
        groups = run.result.get("groups", ())
        return {"groups": [{**group, "words": _WORDS[Difference(group["difference"])]} for group in groups]}

    @display(description="newly denied")
    def denied(self, run: Simulation) -> Any:
        """How many operations."""
        return run.result.get("counts", {}).get(Difference.DENIED.value, "—")

    @display(description="newly allowed")
    def allowed(self, run: Simulation) -> Any:
        """How many operations."""
        return run.result.get("counts", {}).get(Difference.ALLOWED.value, "—")

    @display(description="newly held")
    def held(self, run: Simulation) -> Any:
        """How many operations."""
        return run.result.get("counts", {}).get(Difference.HELD.value, "—")


class SuggestionForm(PeriodForm):
    """Of which agent, and how narrow."""

    agent = forms.ModelChoiceField(queryset=Agent._base_manager.none(), widget=UnfoldAdminSelectWidget)
    by_column = forms.BooleanField(
        label="Name columns too",
        required=False,
        widget=UnfoldBooleanSwitchWidget,
        help_text="Narrower: a statement that reads another column of the same table is refused.",
    )
    field_order = ("agent", "days", "by_column")


class DraftForm(forms.Form):
    """Into which policy."""

    name = forms.CharField(
        label="Policy",
        max_length=63,
        validators=[policy_name_validator],
        widget=UnfoldAdminTextInputWidget,
        help_text="A policy of this name, or a new one. Its rules are replaced in your draft; nothing applies yet.",
    )


@admin.register(Suggestion)
class SuggestionAdmin(RunAdmin):
    """The smallest policies that would have allowed what agents did."""

    change_form_outer_before_template = "policies/suggestion_page.html"
    list_display = ("begun", "agent", "state_label", "period", "observed", "left_out", "requested_by", "tenant")
    list_filter = (("agent", AutocompleteSelectFilter), ("state", ChoicesDropdownFilter))
    list_filter_submit = True
    list_select_related = ("tenant", "agent", "requested_by")
    search_fields = ("agent__name",)
    empty_text = "A suggestion is the smallest policy that would have allowed what an agent did."
    ordering = ("-created_at",)
    actions_list = ("suggest",)
    actions_detail = ("draft",)

    def shown(self, run: Suggestion) -> dict[str, Any]:
        """The rules as YAML."""
        return {"yaml_text": write_document(PolicyDocument(rules=run.rules))}

    def has_suggest_permission(self, request: HttpRequest) -> bool:
        """Whoever manages policies somewhere."""
        return authority_of(request).may(Power.MANAGE)

    def has_draft_permission(self, request: HttpRequest, object_id: str | None = None) -> bool:
        """Whoever manages policies, once there are rules."""
        run = None if object_id is None else cast("Suggestion | None", self.get_object(request, object_id))
        if run is None or run.state != RunState.DONE or not run.rules:
            return False
        return authority_of(request).may(Power.MANAGE, run.tenant_id)

    @action(description="Suggest a policy", icon="auto_awesome", permissions=["suggest"], url_path="suggest")
    def suggest(self, request: HttpRequest) -> HttpResponseBase:
        """Ask of which agent and when, then make it."""
        agents = Agent.objects.filter(tenant__in=authority_of(request).tenant_ids(Power.MANAGE)).order_by("name")

        class Form(SuggestionForm):
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                super().__init__(*args, **kwargs)
                cast("Any", self.fields["agent"]).queryset = agents

        def start(form: SuggestionForm) -> str:
            suggestion = start_suggestion(
                form.cleaned_data["agent"],
                by_column=form.cleaned_data["by_column"],
                acting_user=cast("User", request.user),
                **form.period,
            )
            return reverse("admin:policies_suggestion_change", args=[suggestion.pk])

        return asking_page(
            self,
            request,
            title="Suggest a policy",
            explanation="The smallest policy that would have allowed what an agent really did, and nothing beside it.",
            form_class=Form,
            submit="Suggest",
            back_url=reverse("admin:policies_suggestion_changelist"),
            act=start,
        )

    @action(description="Make it a draft", icon="edit_note", permissions=["draft"], url_path="draft")
    def draft(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Ask into which policy, then make the draft."""
        suggestion = cast("Suggestion", self.get_object(request, object_id))
        user = cast("User", request.user)

        def make(form: DraftForm) -> str:
            name = form.cleaned_data["name"]
            policy = Policy.objects.filter(tenant=suggestion.tenant, name=name).first()
            if policy is None:
                policy = Policy(tenant=suggestion.tenant, name=name)
                save_policy(policy, acting_user=user)
            draft = PolicyDraft(policy=policy)
            message = f"What {suggestion.agent} did from {suggestion.since:%Y-%m-%d} to {suggestion.until:%Y-%m-%d}"
            try:
                save_draft(draft, scope={}, rules=suggestion.rules, message=message, acting_user=user)
            except PolicyError as error:
                raise Refusal(problem=f"{error.field} {error.problem}", fix=error.fix) from error
            messages.success(request, "The draft is made. Look at it, simulate it, then publish it.")
            return reverse("admin:policies_policydraft_change", args=[draft.pk])

        return asking_page(
            self,
            request,
            title="Make it a draft",
            form_class=DraftForm,
            submit="Make the draft",
            back_url=reverse("admin:policies_suggestion_change", args=[suggestion.pk]),
            act=make,
        )
