"""The pages of OAuth clients and service tokens: made by a button that shows the secret once, listed, ended."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, cast

from django import forms
from django.contrib import admin
from django.http import HttpRequest, HttpResponseBase
from django.urls import reverse
from unfold.contrib.filters.admin import AutocompleteSelectFilter
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminSelectWidget, UnfoldAdminTextareaWidget, UnfoldAdminTextInputWidget

from accounts.admin.labels import ACTIVE_LABELS
from accounts.admin.tokens import TokenAdmin
from accounts.models import Agent, ServicePurpose, ServiceToken, User
from accounts.oauth import actions
from accounts.oauth.models import OAuthClient
from controlplane.admin import TenantModelAdmin, writable_tenants
from controlplane.authority import Power, authority_of
from controlplane.pages import asking_page, secret_page


@admin.register(OAuthClient)
class OAuthClientAdmin(TenantModelAdmin):
    """Credentials with which agents get tokens at the token endpoint."""

    list_display = ("client_id", "agent", "tenant", "label", "authentication", "state", "last_used_at")
    list_filter = ("is_active", "authentication", ("tenant", AutocompleteSelectFilter))
    list_filter_submit = True
    list_select_related = ("tenant", "agent")
    search_fields = ("client_id", "label", "agent__name")
    empty_text = "A client gets short tokens for its agent at /oauth/token. Make one by the button above."
    fields = ("tenant", "agent", "client_id", "authentication", "public_keys", "label", "is_active", "last_used_at")
    readonly_fields = ("tenant", "agent", "client_id", "authentication", "public_keys", "last_used_at")
    actions_list = ("make_client",)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002  # Django's signature
        """By the button, which shows the secret."""
        return False

    def has_make_permission(self, request: HttpRequest) -> bool:
        """Who may manage a tenant."""
        return authority_of(request).may(Power.MANAGE)

    def save_row(self, request: HttpRequest, row: OAuthClient, *, acting_user: Any) -> None:
        """By the action."""
        del request
        actions.save_client(row, acting_user=acting_user)

    @display(description="state", ordering="is_active", label=ACTIVE_LABELS)
    def state(self, client: OAuthClient) -> str:
        """Active or not."""
        return "active" if client.is_active else "inactive"

    @action(description="Make a client", icon="key", permissions=["make"], url_path="make-client")
    def make_client(self, request: HttpRequest) -> HttpResponseBase:
        """Ask for which agent and how it proves itself, then show the secret once."""
        agents = Agent.objects.filter(is_active=True, tenant__in=writable_tenants(request, Power.MANAGE))
        back_url = reverse("admin:accounts_oauthclient_changelist")

        class Form(forms.Form):
            agent = forms.ModelChoiceField(agents, widget=UnfoldAdminSelectWidget)
            label = forms.CharField(
                max_length=100, required=False, help_text="What it is for.", widget=UnfoldAdminTextInputWidget
            )
            public_keys = forms.JSONField(
                required=False,
                widget=UnfoldAdminTextareaWidget(attrs={"rows": 6}),
                help_text="A list of public JWKs: it then signs assertions. Empty: it has a secret.",
            )

        def make(form: Form) -> HttpResponseBase | str:
            client, made = actions.make_client(
                form.cleaned_data["agent"],
                acting_user=cast("User", request.user),
                label=form.cleaned_data["label"],
                public_keys=form.cleaned_data["public_keys"] or None,
            )
            if made is None:
                return reverse("admin:accounts_oauthclient_change", args=[client.pk])
            return secret_page(
                self,
                request,
                title=f"The secret of {client.client_id}",
                secret=made.text,
                explanation=f"The agent sends it with client id {client.client_id} to the token endpoint.",
                back_url=back_url,
            )

        return asking_page(
            self, request, title="Make a client", form_class=Form, submit="Make", back_url=back_url, act=make
        )


@admin.register(ServiceToken)
class ServiceTokenAdmin(TokenAdmin):
    """A tenant's tokens for machines that serve it."""

    read_power = Power.MANAGE
    write_power = Power.OWN
    list_display = ("token_id", "purpose", "tenant", "label", "state", "expires_at", "last_used_at")
    list_select_related = ("tenant",)
    search_fields = ("token_id", "label")
    empty_text = "Service tokens are for machines that look after the set-up: a directory (SCIM), or introspection."
    fields = ("tenant", "purpose", "token_id", "label", "state", "expires_at", "revoked_at", "last_used_at")
    readonly_fields = fields
    actions_list = ("make_token",)

    def has_make_permission(self, request: HttpRequest) -> bool:
        """Owners."""
        return authority_of(request).may(Power.OWN)

    def revoke_token(self, token: Any, *, acting_user: User) -> object:
        """By the action."""
        return actions.revoke_service_token(token, acting_user=acting_user)

    @action(description="Make a token", icon="vpn_key", permissions=["make"], url_path="make-token")
    def make_token(self, request: HttpRequest) -> HttpResponseBase:
        """Ask where and what for, then show the token once."""
        tenants = writable_tenants(request, Power.OWN)
        back_url = reverse("admin:accounts_servicetoken_changelist")

        class Form(forms.Form):
            tenant = forms.ModelChoiceField(tenants, initial=tenants.first(), widget=UnfoldAdminSelectWidget)
            purpose = forms.ChoiceField(choices=ServicePurpose.choices, widget=UnfoldAdminSelectWidget)
            days = forms.IntegerField(min_value=1, max_value=366, initial=180, widget=UnfoldAdminTextInputWidget)
            label = forms.CharField(max_length=100, required=False, widget=UnfoldAdminTextInputWidget)

        def make(form: Form) -> HttpResponseBase:
            token, made = actions.issue_service_token(
                form.cleaned_data["tenant"],
                purpose=ServicePurpose(form.cleaned_data["purpose"]),
                acting_user=cast("User", request.user),
                lifetime=timedelta(days=form.cleaned_data["days"]),
                label=form.cleaned_data["label"],
            )
            return secret_page(
                self,
                request,
                title=f"A token for {token.get_purpose_display()}",
                secret=made.text,
                explanation="The machine sends it as Authorization: Bearer.",
                back_url=back_url,
            )

        return asking_page(
            self, request, title="Make a service token", form_class=Form, submit="Make", back_url=back_url, act=make
        )
