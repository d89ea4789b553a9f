"""The pages of identity providers, of whom they have vouched for, and of people's sign-ins."""

from __future__ import annotations

from typing import Any, cast

from django import forms
from django.contrib import admin
from django.contrib.postgres.fields import ArrayField
from django.http import HttpRequest, HttpResponseBase
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html_join
from unfold.admin import TabularInline
from unfold.contrib.filters.admin import AutocompleteSelectFilter, ChoicesDropdownFilter
from unfold.contrib.forms.widgets import ArrayWidget
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminPasswordWidget

from accounts.admin.labels import ACTIVE_LABELS, SIGN_IN_LABELS
from accounts.federation import actions
from accounts.federation.checks import check_provider, pasted_there
from accounts.federation.models import FederatedIdentity, IdentityProvider, RoleMapping
from accounts.models import User
from accounts.signin.models import SignIn
from accounts.signin.sessions import end_sign_ins, live
from controlplane.admin import ReadOnlyTenantAdmin, TenantModelAdmin
from controlplane.authority import Power, authority_of
from controlplane.pages import asking_page


class RoleMappingInline(TabularInline):
    """Which group gives which role."""

    model = RoleMapping
    hide_title = True
    fields = ("group", "role")
    extra = 0

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002  # Django's signature
        """As for the page."""
        return authority_of(request).may(Power.MANAGE)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """As for a change of the provider: whoever gives roles owns the tenant."""
        return authority_of(request).may(Power.OWN, None if obj is None else obj.tenant_id)

    has_change_permission = has_add_permission
    has_delete_permission = has_add_permission


class IdentityProviderForm(forms.ModelForm):  # type: ignore[type-arg]  # not subscriptable at run time
    """A provider; its client secret is set by typing a new one."""

    client_secret = forms.CharField(
        required=False,
        widget=UnfoldAdminPasswordWidget(attrs={"autocomplete": "new-password"}),
        help_text="OIDC only. Empty: it stays as it is. It is never shown.",
    )


@admin.register(IdentityProvider)
class IdentityProviderAdmin(TenantModelAdmin):
    """Providers that vouch for people. They give roles, so the tenant's owners set them up."""

    form = IdentityProviderForm
    read_power = Power.MANAGE
    write_power = Power.OWN
    can_delete = True
    list_display = ("name", "slug", "tenant", "kind", "preset", "issuer", "state")
    list_filter = (
        "is_active",
        ("tenant", AutocompleteSelectFilter),
        ("kind", ChoicesDropdownFilter),
        ("preset", ChoicesDropdownFilter),
    )
    list_filter_submit = True
    list_select_related = ("tenant",)
    search_fields = ("name", "slug", "issuer")
    empty_text = (
        "With your organisation's OpenID Connect or SAML provider, people sign in as they do elsewhere, and "
        "its groups give roles."
    )
    ordering = ("name",)
    inlines = (RoleMappingInline,)
    formfield_overrides = {ArrayField: {"widget": ArrayWidget}}
    readonly_fields = ("pasted",)
    actions_detail = ("test_provider",)
    fieldsets = (
        (None, {"fields": ("tenant", ("name", "slug"), ("kind", "preset"), "is_active")}),
        ("Enter at the provider", {"fields": ("pasted",)}),
        ("Provider", {"fields": ("issuer", "metadata_url", "metadata")}),
        ("OpenID Connect", {"fields": ("client_id", "client_secret", "scopes")}),
        ("SAML", {"fields": (("wants_signed_response", "allows_unasked"),)}),
        ("People", {"fields": (("email_claim", "groups_claim"), "email_domains")}),
    )

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """The protocol stays: a provider of another is another one."""
        fields = super().get_readonly_fields(request, obj)
        return fields if obj is None else (*fields, "kind")

    def has_test_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Who sees it may try it."""
        return self.has_view_permission(request, obj)

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Not yet: the provider is saved with its role mappings."""

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        """The provider and the mappings that stand in the form, by the action."""
        del change
        mappings = [
            actions.MappingSpec(group=row["group"], role=row["role"])
            for formset in formsets
            for row in formset.cleaned_data
            if row and not row.get("DELETE")
        ]
        secret = form.cleaned_data.get("client_secret") or None
        actions.save_provider(form.instance, acting_user=cast("User", request.user), secret=secret, mappings=mappings)

    def delete_row(self, request: HttpRequest, row: IdentityProvider, *, acting_user: Any) -> None:
        """By the action."""
        del request
        actions.delete_provider(row, acting_user=acting_user)

    @display(description="state", ordering="is_active", label=ACTIVE_LABELS)
    def state(self, provider: IdentityProvider) -> str:
        """Active or not."""
        return "active" if provider.is_active else "inactive"

    @display(description="our side", empty_value="Save it to see them.")
    def pasted(self, provider: IdentityProvider) -> Any:
        """Our URLs."""
        if provider._state.adding:
            return None
        return format_html_join("\n", "<div>{}: <code>{}</code></div>", pasted_there(provider).items())

    @action(description="Test", icon="network_check", permissions=["test"], url_path="test")
    def test_provider(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Say what is right with it and what is wrong."""
        provider = cast("IdentityProvider", self.get_object(request, object_id))
        context = {
            **self.admin_site.each_context(request),
            "opts": self.opts,
            "title": f"Test of {provider.name}",
            "findings": check_provider(provider, now=timezone.now()),
            "back_url": reverse("admin:accounts_identityprovider_change", args=[provider.pk]),
        }
        return TemplateResponse(request, "accounts/findings.html", context)


@admin.register(FederatedIdentity)
class FederatedIdentityAdmin(ReadOnlyTenantAdmin):
    """Whom the providers have vouched for, with the groups of the last time."""

    read_power = Power.MANAGE
    list_display = ("user", "provider", "tenant", "subject", "group_names", "last_sign_in_at")
    list_filter = (("tenant", AutocompleteSelectFilter), ("provider", AutocompleteSelectFilter))
    list_filter_submit = True
    list_select_related = ("tenant", "provider", "user")
    search_fields = ("subject", "user__email")
    empty_text = "Whoever has signed in by an identity provider is listed here."
    fields = ("tenant", "provider", "user", "subject", "groups", "last_sign_in_at")

    @display(description="groups", label=True)
    def group_names(self, identity: FederatedIdentity) -> list[str]:
        """Each as a chip."""
        return list(identity.groups)


@admin.register(SignIn)
class SignInAdmin(ReadOnlyTenantAdmin):
    """Where people are signed in: a tenant's owners see, and end, those through its providers."""

    read_power = Power.OWN
    list_display = ("user", "tenant", "method", "provider", "state", "address", "started_at", "last_seen_at")
    list_filter = (("tenant", AutocompleteSelectFilter), ("method", ChoicesDropdownFilter))
    list_filter_submit = True
    list_select_related = ("tenant", "provider", "user")
    search_fields = ("user__email",)
    fields = (
        "tenant", "user", "method", "provider", "state", "address", "user_agent", "started_at", "last_seen_at",
        "expires_at", "ended_at",
    )  # fmt: skip
    readonly_fields = ("state",)
    actions_detail = ("end",)

    def has_end_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """The owners."""
        return authority_of(request).may(Power.OWN, self._tenant_id(request, obj))

    @display(description="state", label=SIGN_IN_LABELS)
    def state(self, sign_in: SignIn) -> str:
        """Live or ended."""
        return "live" if live(now=timezone.now()).filter(pk=sign_in.pk).exists() else "ended"

    @action(description="End", icon="logout", permissions=["end"], url_path="end")
    def end(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Ask, then end it."""
        sign_in = cast("SignIn", self.get_object(request, object_id))
        back_url = reverse("admin:accounts_signin_change", args=[sign_in.pk])

        def end(_form: forms.Form) -> str:
            end_sign_ins([sign_in], acting_user=cast("User", request.user))
            return back_url

        return asking_page(
            self,
            request,
            title=f"End this sign-in of {sign_in.user}?",
            explanation="The browser is signed out at its next request.",
            submit="End",
            back_url=back_url,
            act=end,
            done="It has ended.",
            is_dangerous=True,
        )
