"""The pages of channels, of what was delivered, and of linked chat accounts."""

from __future__ import annotations

from typing import Any, cast

from django import forms
from django.contrib import admin
from django.http import HttpRequest, HttpResponseBase
from django.urls import reverse
from django.utils import timezone
from unfold.admin import TabularInline
from unfold.contrib.filters.admin import AutocompleteSelectFilter, ChoicesDropdownFilter
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminCheckboxSelectMultipleWidget, UnfoldAdminPasswordWidget, UnfoldAdminSelectWidget

from accounts.models import User
from controlplane.admin import ReadOnlyTenantAdmin, TenantModelAdmin, writable_tenants
from controlplane.authority import Power, authority_of
from controlplane.pages import asking_page, secret_page
from policies.notifying import actions
from policies.notifying.models import (
    ChannelKind,
    ChatIdentity,
    DeliveryAttempt,
    Event,
    Notification,
    NotificationChannel,
    NotificationState,
)

_STATE_LABELS = {
    NotificationState.SENT.label: "success",
    NotificationState.WAITING.label: "info",
    NotificationState.GIVEN_UP.label: "danger",
}


def _secret_field(help_text: str) -> forms.CharField:
    widget = UnfoldAdminPasswordWidget(attrs={"autocomplete": "new-password"})
    return forms.CharField(required=False, max_length=2_000, widget=widget, help_text=f"{help_text} Empty: as it is.")


class NotificationChannelForm(forms.ModelForm):  # type: ignore[type-arg]  # not subscriptable at run time
    """A channel; its secrets are set by typing new ones."""

    events = forms.MultipleChoiceField(
        choices=Event.choices,
        required=False,
        widget=UnfoldAdminCheckboxSelectMultipleWidget,
        help_text="None: all of them.",
    )
    bot_token = _secret_field("Slack: the bot's token, xoxb-…")
    signing_secret = _secret_field("Slack: the app's signing secret. Webhook: whsec_…, made when left empty.")
    workflow_url = _secret_field("Teams: the URL of the workflow “When a Teams webhook request is received”.")
    security_token = _secret_field("Teams: the outgoing webhook's security token, to approve by saying so.")


@admin.register(NotificationChannel)
class NotificationChannelAdmin(TenantModelAdmin):
    """Where a tenant is told what waits for it."""

    form = NotificationChannelForm
    read_power = Power.MANAGE
    list_display = ("name", "tenant", "kind", "address", "state")
    list_filter = ("is_active", ("tenant", AutocompleteSelectFilter), ("kind", ChoicesDropdownFilter))
    list_filter_submit = True
    list_select_related = ("tenant",)
    search_fields = ("name", "address")
    empty_text = (
        "Without a channel nobody is told that an approval waits: e-mail, Slack, Microsoft Teams, or a signed webhook."
    )
    readonly_fields = ("entered_there",)
    actions_detail = ("renew_secret",)
    fieldsets = (
        (None, {"fields": ("tenant", ("name", "kind"), "address", ("shows_text", "is_active"), "events")}),
        ("Secrets", {"fields": (("bot_token", "signing_secret"), ("workflow_url", "security_token"))}),
        ("Enter there", {"fields": ("entered_there",)}),
    )

    def save_row(self, request: HttpRequest, row: NotificationChannel, *, acting_user: Any) -> None:
        """By the action, with the secrets that were typed."""
        secrets = {name: request.POST.get(name, "") for name in actions.SECRETS.get(row.kind, {})}
        actions.save_channel(row, acting_user=acting_user, secrets=secrets)

    @display(description="state", ordering="is_active", label={"active": "success", "inactive": "warning"})
    def state(self, channel: NotificationChannel) -> str:
        """Active or not."""
        return "active" if channel.is_active else "inactive"

    @display(description="callback URL")
    def entered_there(self, channel: NotificationChannel) -> str:
        """What Slack's app, or Teams' outgoing webhook, is given."""
        from django.conf import settings

        if channel.pk is None or channel._state.adding or channel.kind not in (ChannelKind.SLACK, ChannelKind.TEAMS):
            return "-"
        path = reverse(f"hook-{channel.kind}", args=[channel.pk])
        return f"{settings.NARROWGATE.public_url}{path}"

    @action(description="New signing secret", icon="key", permissions=["change"], url_path="renew-secret")
    def renew_secret(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Make a webhook's signing secret anew, and show it once."""
        channel = self.get_object(request, object_id)
        back_url = reverse("admin:policies_notificationchannel_change", args=[object_id])

        def renew(_form: forms.Form) -> HttpResponseBase | str:
            secret = actions.new_webhook_secret()
            changed = {"signing_secret": secret}
            actions.save_channel(
                cast("NotificationChannel", channel), acting_user=cast("User", request.user), secrets=changed
            )
            return secret_page(
                self,
                request,
                title=f"The signing secret of {channel}",
                secret=secret,
                explanation="The receiver verifies the header webhook-signature with it (Standard Webhooks).",
                back_url=back_url,
            )

        explanation = "Deliveries are signed with the new secret from now on. Only webhooks have one of ours."
        return asking_page(
            self,
            request,
            title="Make a new signing secret?",
            submit="Make it",
            back_url=back_url,
            explanation=explanation,
            act=renew,
            is_dangerous=True,
        )


class DeliveryAttemptInline(TabularInline):
    """Each try."""

    model = DeliveryAttempt
    fields = ("number", "created_at", "succeeded", "status", "answer", "duration_ms")
    readonly_fields = fields
    hide_title = True
    extra = 0
    can_delete = False

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002  # Django's signature
        """Nobody writes the record."""
        return False

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002  # Django's signature
        """As for the page."""
        return authority_of(request).may(Power.AUDIT)


@admin.register(Notification)
class NotificationAdmin(ReadOnlyTenantAdmin):
    """The delivery log."""

    list_display = ("created_at", "event", "channel", "tenant", "shown_state", "attempts")
    list_filter = (
        ("state", ChoicesDropdownFilter),
        ("event", ChoicesDropdownFilter),
        ("tenant", AutocompleteSelectFilter),
        ("channel", AutocompleteSelectFilter),
    )
    list_filter_submit = True
    list_select_related = ("tenant", "channel")
    search_fields = ("subject_id", "channel__name")
    empty_text = "What was told on a channel is listed here, with each try."
    fields = ("tenant", "channel", "event", "subject_id", "shown_state", "attempts", "due_at", "payload", "created_at")
    readonly_fields = fields
    inlines = (DeliveryAttemptInline,)

    @display(description="state", ordering="state", label=_STATE_LABELS)
    def shown_state(self, notification: Notification) -> str:
        """How far it is."""
        return str(NotificationState(notification.state).label)


@admin.register(ChatIdentity)
class ChatIdentityAdmin(TenantModelAdmin):
    """People's accounts in chats, linked by themselves."""

    can_delete = True
    write_power = Power.READ
    list_display = ("user", "channel", "tenant", "external_id", "created_at")
    list_select_related = ("tenant", "channel", "user")
    search_fields = ("external_id", "user__email")
    empty_text = "Whoever wants to decide in a chat links their account there, once."
    fields = ("tenant", "user", "channel", "external_id", "created_at")
    readonly_fields = fields
    actions_list = ("link_account",)

    def get_queryset(self, request: HttpRequest) -> Any:
        """One's own; all, in tenants that one manages."""
        rows = super().get_queryset(request)
        managed = authority_of(request).tenant_ids(Power.MANAGE)
        return rows.filter(tenant__in=managed) | rows.filter(user=cast("User", request.user))

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002  # Django's signature
        """By a code that is said in the chat."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002  # Django's signature
        """It is what the chat said."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whoever sees it may unlink it."""
        return self.has_view_permission(request, obj)

    def delete_row(self, request: HttpRequest, row: ChatIdentity, *, acting_user: Any) -> None:
        """By the action."""
        del request
        actions.unlink_chat_account(row, acting_user=acting_user)

    def has_link_permission(self, request: HttpRequest) -> bool:
        """Who belongs to a tenant."""
        return authority_of(request).may(Power.READ)

    @action(description="Link my chat account", icon="link", permissions=["link"], url_path="link-account")
    def link_account(self, request: HttpRequest) -> HttpResponseBase:
        """Show a code to say in the chat."""
        tenants = writable_tenants(request, Power.READ)
        back_url = reverse("admin:policies_chatidentity_changelist")

        class Form(forms.Form):
            tenant = forms.ModelChoiceField(tenants, widget=UnfoldAdminSelectWidget, initial=tenants.first())

        def make(form: Form) -> HttpResponseBase | str:
            code = actions.make_link_code(
                cast("User", request.user), tenant=form.cleaned_data["tenant"], now=timezone.now()
            )
            return secret_page(
                self,
                request,
                title="Link my chat account",
                secret=f"link {code}",
                explanation="Say this to Narrowgate within ten minutes: in Slack “/narrowgate link …”, in Teams "
                "“@Narrowgate link …”. Whoever says it first is you.",
                back_url=back_url,
            )

        return asking_page(
            self, request, title="Link my chat account", form_class=Form, submit="Show a code", back_url=back_url,
            act=make,
        )  # fmt: skip
