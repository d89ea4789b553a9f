"""The page of the providers whose proofs stand for agents: presets to start from, and a try-out of a token's claims."""

from __future__ import annotations

import json
from typing import Any, Final, cast
from urllib.parse import urlencode

from django import forms
from django.contrib import admin
from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.forms import SimpleArrayField
from django.http import HttpRequest, HttpResponseBase
from django.template.response import TemplateResponse
from django.urls import reverse
from unfold.admin import TabularInline
from unfold.contrib.filters.admin import AutocompleteSelectFilter
from unfold.contrib.forms.widgets import ArrayWidget
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminCheckboxSelectMultipleWidget, UnfoldAdminSelectWidget, UnfoldAdminTextareaWidget

from accounts import actions, trusting
from accounts.admin.labels import ACTIVE_LABELS
from accounts.models import DEFAULT_ALGORITHMS, OidcTrust, SigningAlgorithm, TrustRule, User
from accounts.presets import BY_SLUG, PRESETS
from accounts.trials import MAX_TRIED_CHARACTERS, claims_to_try
from controlplane.admin import TenantModelAdmin
from controlplane.authority import Power, authority_of
from controlplane.pages import asking_page

#: The parameter of the add form's URL that names a preset.
PRESET: Final = "preset"


class TrustRuleForm(forms.ModelForm):  # type: ignore[type-arg]  # not subscriptable at run time
    """A rule: a condition a line."""

    conditions = SimpleArrayField(
        forms.CharField(),
        delimiter="\n",
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 2, "cols": 60}),
        help_text="One a line, all must hold: claim = text, claim ~ pattern with * and ?, /claim/within = text.",
    )

    def clean_conditions(self) -> list[str]:
        """Without what a browser adds to lines, and without empty ones."""
        return [line.strip() for line in self.cleaned_data["conditions"] if line.strip()]


class TrustRuleInline(TabularInline):
    """Which claims stand for which agent."""

    model = TrustRule
    form = TrustRuleForm
    hide_title = True
    fields = ("conditions", "agent")
    autocomplete_fields = ("agent",)
    extra = 0

    def get_extra(self, request: HttpRequest, obj: Any = None, **_: Any) -> int:
        """A preset brings a rule."""
        return 1 if obj is None and request.GET.get(PRESET) in BY_SLUG else 0

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002  # Django's signature
        """As for the page."""
        return authority_of(request).may(Power.READ)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """As for a change of the trust."""
        return authority_of(request).may(Power.MANAGE, None if obj is None else obj.tenant_id)

    has_change_permission = has_add_permission
    has_delete_permission = has_add_permission


class OidcTrustForm(forms.ModelForm):  # type: ignore[type-arg]  # not subscriptable at run time
    """A trust, with its algorithms to tick."""

    algorithms = forms.MultipleChoiceField(
        choices=SigningAlgorithm.choices,
        initial=[one.value for one in DEFAULT_ALGORITHMS],
        widget=UnfoldAdminCheckboxSelectMultipleWidget,
        help_text="What its tokens may be signed with.",
    )


class PresetForm(forms.Form):
    """Which provider it is."""

    preset = forms.ChoiceField(
        choices=[(preset.slug, preset.title) for preset in PRESETS], widget=UnfoldAdminSelectWidget
    )


class TrialForm(forms.Form):
    """Claims to try."""

    token_or_claims = forms.CharField(
        max_length=MAX_TRIED_CHARACTERS,
        widget=UnfoldAdminTextareaWidget(attrs={"rows": 12, "autocomplete": "off", "spellcheck": "false"}),
        help_text="A JWT, or its claims as JSON. Neither is kept. A JWT's signature is not looked at here.",
    )


@admin.register(OidcTrust)
class OidcTrustAdmin(TenantModelAdmin):
    """Providers whose proofs stand for agents."""

    form = OidcTrustForm
    can_delete = True
    list_display = ("name", "tenant", "kind", "issuer", "audience", "state")
    list_filter = ("kind", "is_active", ("tenant", AutocompleteSelectFilter))
    list_filter_submit = True
    list_select_related = ("tenant",)
    search_fields = ("name", "issuer", "audience")
    empty_text = (
        "A trust has the tokens of a provider (GitHub Actions, Kubernetes, your own …) stand for agents. "
        "Begin with a preset."
    )
    ordering = ("name",)
    inlines = (TrustRuleInline,)
    actions_list = ("use_preset",)
    actions_detail = ("try_claims",)
    formfield_overrides = {ArrayField: {"widget": ArrayWidget}}
    fieldsets = (
        (None, {"fields": ("tenant", ("name", "is_active"))}),
        ("Provider", {"fields": ("kind", ("issuer", "audience"), "jwks_url", "metadata_url", "metadata")}),
        ("Tokens", {"fields": ("algorithms", ("clock_skew_seconds", "person_claim"), "groups_claim", "label_claims")}),
    )

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        """What the preset knows."""
        initial = super().get_changeform_initial_data(request)
        preset = BY_SLUG.get(str(initial.pop(PRESET, "")))
        if preset is not None:
            initial |= {
                "name": preset.title,
                "kind": preset.kind,
                "issuer": preset.issuer,
                "audience": preset.audience,
                "algorithms": [one.value for one in preset.algorithms],
                "person_claim": preset.person_claim,
                "groups_claim": preset.groups_claim,
                "label_claims": list(preset.label_claims),
            }
        return initial

    def get_formset_kwargs(self, request: HttpRequest, obj: Any, inline: Any, prefix: str) -> dict[str, Any]:
        """With the rule that the preset brings."""
        kwargs: dict[str, Any] = super().get_formset_kwargs(request, obj, inline, prefix)
        preset = BY_SLUG.get(request.GET.get(PRESET, ""))
        if preset is not None and obj is not None and obj._state.adding and request.method == "GET":
            kwargs["initial"] = [{"conditions": list(preset.conditions)}]
        return kwargs

    @action(description="Start from a preset", icon="bolt", permissions=["add"], url_path="use-preset")
    def use_preset(self, request: HttpRequest) -> HttpResponseBase:
        """Ask for which provider, then open the form with what is known of it."""
        add_url = reverse("admin:accounts_oidctrust_add")
        return asking_page(
            self,
            request,
            title="Trust a well-known provider",
            explanation="The form opens with what is known of it; replace what stands in braces.",
            form_class=PresetForm,
            submit="Go on",
            back_url=reverse("admin:accounts_oidctrust_changelist"),
            act=lambda form: f"{add_url}?{urlencode({PRESET: form.cleaned_data['preset']})}",
        )

    @action(description="Try a token's claims", icon="labs", permissions=["view"], url_path="try-claims")
    def try_claims(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Ask for claims, then show which agent they stand for, and why not."""
        trust = cast("OidcTrust", self.get_object(request, object_id))
        back_url = reverse("admin:accounts_oidctrust_change", args=[trust.pk])

        def show(form: TrialForm) -> HttpResponseBase:
            claims = claims_to_try(form.cleaned_data["token_or_claims"])
            context = {
                **self.admin_site.each_context(request),
                "opts": self.opts,
                "title": f"What {trust.name} makes of these claims",
                "verdict": trusting.explain(claims, [trust])[0],
                "claims": json.dumps(claims, indent=2, sort_keys=True, ensure_ascii=False),
                "back_url": back_url,
            }
            headers = {"Cache-Control": "no-store"}
            return TemplateResponse(request, "accounts/trial_page.html", context, headers=headers)

        return asking_page(
            self,
            request,
            title="Try a token's claims",
            explanation="Shows which agent they stand for, or why none. Nothing is kept and nobody is let in.",
            form_class=TrialForm,
            submit="Try",
            back_url=back_url,
            act=show,
        )

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Not yet: the trust is saved with its rules."""

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        """The trust and the rules that stand in the form, by the action."""
        del change
        rules = [
            actions.RuleSpec(conditions=tuple(row["conditions"]), agent_id=row["agent"].pk)
            for formset in formsets
            for row in formset.cleaned_data
            if row and not row.get("DELETE")
        ]
        actions.save_trust(form.instance, acting_user=cast("User", request.user), rules=rules)

    def delete_row(self, request: HttpRequest, row: OidcTrust, *, acting_user: Any) -> None:
        """By the action."""
        del request
        actions.delete_trust(row, acting_user=acting_user)

    @display(description="state", ordering="is_active", label=ACTIVE_LABELS)
    def state(self, trust: OidcTrust) -> str:
        """Active or not."""
        return "active" if trust.is_active else "inactive"
