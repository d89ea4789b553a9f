"""The pages of tokens: issued by a button that shows them once, listed, revoked, never edited."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, cast

from django import forms
from django.contrib import admin
from django.db.models import Q, QuerySet
from django.http import HttpRequest, HttpResponseBase
from django.urls import reverse
from django.utils import timezone
from unfold.contrib.filters.admin import AutocompleteSelectFilter, RangeDateTimeFilter
from unfold.decorators import action, display
from unfold.widgets import (
    UnfoldAdminSelectWidget,
    UnfoldAdminTextInputWidget,
)

from accounts import actions
from accounts.admin.labels import TOKEN_LABELS
from accounts.models import (
    AgentToken,
    ApiToken,
    HashedToken,
    User,
)
from controlplane.admin import TenantModelAdmin, writable_tenants
from controlplane.authority import Power, authority_of
from controlplane.pages import asking_page, secret_page


class TokenForm(forms.Form):
    """How long a new token shall be good, and what for."""

    lifetime_seconds = forms.TypedChoiceField(
        label="Good for",
        coerce=int,
        choices=((900, "15 minutes"), (3600, "1 hour"), (8 * 3600, "8 hours"), (24 * 3600, "24 hours")),
        initial=3600,
        widget=UnfoldAdminSelectWidget,
    )
    label = forms.CharField(
        max_length=100, required=False, help_text="What it is for.", widget=UnfoldAdminTextInputWidget
    )


class ApiTokenForm(TokenForm):
    """As for agents, but longer."""

    lifetime_seconds = forms.TypedChoiceField(
        label="Good for",
        coerce=int,
        choices=((24 * 3600, "1 day"), (30 * 24 * 3600, "30 days"), (90 * 24 * 3600, "90 days")),
        initial=30 * 24 * 3600,
        widget=UnfoldAdminSelectWidget,
    )


def token_state(token: HashedToken) -> str:
    """Active, expired or revoked."""
    if token.revoked_at is not None:
        return "revoked"
    return "expired" if token.expires_at <= timezone.now() else "active"


def token_arguments(form: TokenForm) -> dict[str, Any]:
    """What the form says, as the actions want it."""
    lifetime = timedelta(seconds=form.cleaned_data["lifetime_seconds"])
    return {"lifetime": lifetime, "label": form.cleaned_data["label"]}


class TokenAdmin(TenantModelAdmin):
    """Base of the pages of tokens: listed and revoked, never edited."""

    list_filter = (
        ("tenant", AutocompleteSelectFilter),
        ("expires_at", RangeDateTimeFilter),
        ("revoked_at", admin.EmptyFieldListFilter),
    )
    list_filter_submit = True
    ordering = ("-created_at",)
    actions_detail = ("revoke",)

    def revoke_token(self, token: Any, *, acting_user: User) -> object:
        """By the action."""
        raise NotImplementedError

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002  # Django's signature
        """Tokens are issued by a button, which shows them."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002  # Django's signature
        """A token can only be revoked."""
        return False

    def has_revoke_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Who may change the row's tenant may revoke."""
        return super().has_change_permission(request, obj)

    @display(description="state", label=TOKEN_LABELS)
    def state(self, token: HashedToken) -> str:
        """Active, expired or revoked."""
        return token_state(token)

    @action(description="Revoke", icon="block", permissions=["revoke"], url_path="revoke")
    def revoke(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Ask, then end the token."""
        token = cast("HashedToken", self.get_object(request, object_id))
        back_url = reverse(f"admin:accounts_{self.opts.model_name}_change", args=[token.pk])

        def revoke(_form: forms.Form) -> str:
            self.revoke_token(token, acting_user=cast("User", request.user))
            return back_url

        return asking_page(
            self,
            request,
            title=f"Revoke token {token.token_id}?",
            explanation="It stops working at once, for good.",
            submit="Revoke",
            back_url=back_url,
            act=revoke,
            done=f"Token {token.token_id} is revoked.",
            is_dangerous=True,
        )


@admin.register(AgentToken)
class AgentTokenAdmin(TokenAdmin):
    """The tokens that agents were issued."""

    list_display = ("token_id", "agent", "tenant", "label", "state", "expires_at", "last_used_at", "issued_by")
    list_select_related = ("tenant", "agent", "issued_by", "trust", "client", "parent")
    search_fields = ("token_id", "label", "agent__name", "parent__token_id")
    fieldsets = (
        (None, {"fields": (("tenant", "agent"), ("token_id", "label"), ("kind", "state"))}),
        ("Life", {"fields": (("created_at", "expires_at"), ("last_used_at", "revoked_at"))}),
        ("Made from", {"fields": ("issued_by", "trust", "client", "parent", "carried", "targets")}),
    )
    readonly_fields = (
        "tenant", "agent", "token_id", "label", "kind", "state", "created_at", "expires_at", "last_used_at",
        "revoked_at", "issued_by", "trust", "client", "parent", "carried", "targets",
    )  # fmt: skip

    def revoke_token(self, token: AgentToken, *, acting_user: User) -> object:
        """By the action."""
        return actions.revoke_agent_token(token, acting_user=acting_user)


@admin.register(ApiToken)
class ApiTokenAdmin(TokenAdmin):
    """People's tokens for REST: everybody's own, and all of a tenant's for its owners."""

    list_display = ("token_id", "user", "tenant", "label", "state", "expires_at", "last_used_at")
    list_select_related = ("tenant", "user")
    search_fields = ("token_id", "label", "user__email")
    fields = ("tenant", "user", "token_id", "label", "state", "expires_at", "revoked_at", "last_used_at")
    readonly_fields = fields
    write_power = Power.OWN
    actions_list = ("make_token",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[ApiToken]:
        """One's own, and those of the tenants that one owns."""
        tokens: QuerySet[ApiToken] = super().get_queryset(request)
        owned = authority_of(request).tenant_ids(Power.OWN)
        return tokens.filter(Q(user=request.user.pk) | Q(tenant__in=owned))

    def has_revoke_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """One's own, and those of the tenants that one owns: whatever the page shows."""
        return obj is None or self._tenant_id(request, getattr(obj, "pk", obj)) is not None

    def has_make_permission(self, request: HttpRequest) -> bool:
        """Everybody with a role somewhere."""
        return authority_of(request).may(Power.READ)

    def revoke_token(self, token: ApiToken, *, acting_user: User) -> object:
        """By the action."""
        return actions.revoke_api_token(token, acting_user=acting_user)

    @action(description="Make a token for yourself", icon="vpn_key", permissions=["make"], url_path="make-token")
    def make_token(self, request: HttpRequest) -> HttpResponseBase:
        """Ask where and for how long, then show the token once."""
        tenants = writable_tenants(request, Power.READ)
        user = cast("User", request.user)
        back_url = reverse("admin:accounts_apitoken_changelist")

        class Form(ApiTokenForm):
            tenant = forms.ModelChoiceField(tenants, initial=tenants.first(), widget=UnfoldAdminSelectWidget)
            field_order = ("tenant", "lifetime_seconds", "label")

        def make(form: Form) -> HttpResponseBase:
            _, made = actions.issue_api_token(
                user, tenant=form.cleaned_data["tenant"], acting_user=user, **token_arguments(form)
            )
            return secret_page(
                self,
                request,
                title="Your token for REST",
                secret=made.text,
                explanation="Send it as `Authorization: Bearer …`. It may do what your role in the tenant may.",
                back_url=back_url,
            )

        return asking_page(
            self,
            request,
            title="Make a token for REST",
            explanation="It acts as you, in one tenant, until it expires or is revoked.",
            form_class=Form,
            submit="Make",
            back_url=back_url,
            act=make,
        )
