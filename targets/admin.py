"""The pages of targets, their credentials, the workers and their join tokens. No page ever shows a secret again."""

from __future__ import annotations

import json
from datetime import timedelta
from typing import Any, Final, cast

from django import forms
from django.contrib import admin
from django.db import models
from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html_join
from unfold.contrib.filters.admin import AutocompleteSelectFilter, ChoicesDropdownFilter
from unfold.decorators import action, display
from unfold.widgets import (
    UnfoldAdminPasswordWidget,
    UnfoldAdminSelectWidget,
    UnfoldAdminTextareaWidget,
    UnfoldAdminTextInputWidget,
)

from accounts.models import User
from controlplane.admin import TenantModelAdmin, writable_tenants
from controlplane.authority import Power, authority_of
from controlplane.pages import asking_page, secret_page
from targets import actions
from targets.models import (
    SILENT_AFTER_SECONDS,
    ColumnLabel,
    Credential,
    JoinToken,
    ProxyWorker,
    Target,
    worker_name_validator,
)
from targets.processes.access import linked_processes
from targets.processes.models import WorkerProcess

ACTIVE_LABELS: Final = {"active": "success", "inactive": "danger"}
WORKER_LABELS: Final = {"connected": "success", "silent": "warning", "never seen": "info", "deactivated": "danger"}
JOIN_TOKEN_LABELS: Final = {"unused": "success", "used": "info", "expired": "warning", "revoked": "danger"}


class LabelsDecoder(json.JSONDecoder):
    """What is nested too deeply to be read, or can't be shown again, is no JSON: that is what a form can answer."""

    def decode(self, s: str, *args: Any) -> Any:
        """As JSON. Raises `json.JSONDecodeError`."""
        try:
            found = super().decode(s, *args)
            json.dumps(found, ensure_ascii=False).encode()  # no half of a surrogate pair
        except (RecursionError, UnicodeEncodeError) as error:
            raise json.JSONDecodeError("unreadable", s, 0) from error
        return found


@admin.register(Target)
class TargetAdmin(TenantModelAdmin):
    """Targets: made, changed, deactivated; deleted while they have no history."""

    can_delete = True
    actions_detail = ("stop",)
    list_display = ("name", "tenant", "state", "protocol", "where", "tls_mode", "environment", "credential_set_on")
    list_filter = (
        "is_active",
        ("protocol", ChoicesDropdownFilter),
        ("tls_mode", ChoicesDropdownFilter),
        "environment",
        ("tenant", AutocompleteSelectFilter),
    )
    list_filter_submit = True
    list_select_related = ("tenant", "credential")
    search_fields = ("name", "host", "database", "environment")
    search_help_text = "Name, host, database or environment"
    empty_text = "A target is a database that agents reach by its name here. Add one, then its credential."
    ordering = ("name",)
    formfield_overrides = {models.JSONField: {"widget": UnfoldAdminTextareaWidget, "decoder": LabelsDecoder}}
    fieldsets = (
        (None, {"fields": ("tenant", ("name", "is_active"), ("protocol", "environment"))}),
        ("Where it is", {"fields": (("host", "port"), "database")}),
        ("Whom to trust there", {"fields": ("tls_mode", "ca_pem")}),
        ("For people", {"fields": ("labels",)}),
    )

    def save_row(self, request: HttpRequest, row: Target, *, acting_user: Any) -> None:
        """By the action."""
        del request
        actions.save_target(row, acting_user=acting_user)

    def delete_row(self, request: HttpRequest, row: Target, *, acting_user: Any) -> None:
        """By the action."""
        del request
        actions.delete_target(row, acting_user=acting_user)

    @display(description="state", ordering="is_active", label=ACTIVE_LABELS)
    def state(self, target: Target) -> str:
        """Active or not."""
        return "active" if target.is_active else "inactive"

    @display(description="where")
    def where(self, target: Target) -> str:
        """Host, port and database."""
        return f"{target.host}:{target.port}/{target.database}"

    @display(description="credential set", empty_value="not yet")
    def credential_set_on(self, target: Target) -> Any:
        """When the secret was last set: all that is ever told of it."""
        return target.credential.secret_set_at if hasattr(target, "credential") else None

    @action(description="Stop now", icon="dangerous", permissions=["change"], url_path="stop")
    def stop(self, request: HttpRequest, object_id: str) -> HttpResponseBase:  # noqa: ARG002  # as buttons are called
        """By the kill switch: this page knows no sessions."""
        return redirect("admin:kill-switch", scope="target", pk=object_id)


class CredentialForm(forms.ModelForm):  # type: ignore[type-arg]  # not subscriptable at run time
    """A credential; its secret is set by typing a new one."""

    secret = forms.CharField(
        required=False,
        strip=False,
        widget=UnfoldAdminPasswordWidget(attrs={"autocomplete": "new-password"}),
        help_text="Sealed when it is saved, and never shown again. Empty: it stays as it is.",
    )

    class Meta:
        model = Credential
        # The page adds what needs a scope to choose from.
        fields = ("username",)


@admin.register(Credential)
class CredentialAdmin(TenantModelAdmin):
    """How the gate signs on to targets."""

    form = CredentialForm
    can_delete = True
    list_display = ("target", "tenant", "username", "secret_set_at")
    list_filter = (("tenant", AutocompleteSelectFilter), ("target", AutocompleteSelectFilter))
    list_filter_submit = True
    list_select_related = ("tenant", "target")
    search_fields = ("target__name", "username")
    search_help_text = "Target or user name"
    empty_text = "How the gate signs on to each target. Secrets are sealed, and no agent ever sees them."
    autocomplete_fields = ("target",)
    readonly_fields = ("secret_set_at",)
    fields = ("tenant", "target", "username", "secret", "secret_set_at")

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """A credential stays with its target."""
        fields = super().get_readonly_fields(request, obj)
        return fields if obj is None else (*fields, "target")

    def get_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """The secret's field is for those who may set it."""
        fields = super().get_fields(request, obj)
        may_set = self.has_change_permission(request, obj) if obj else self.has_add_permission(request)
        return fields if may_set else [name for name in fields if name != "secret"]

    def save_model(self, request: HttpRequest, obj: Credential, form: forms.BaseForm, change: bool) -> None:
        """By the action, with the secret if there is one."""
        del change
        secret = form.cleaned_data.get("secret", "")
        actions.save_credential(obj, secret=secret, acting_user=cast("User", request.user))

    def delete_row(self, request: HttpRequest, row: Credential, *, acting_user: Any) -> None:
        """By the action."""
        del request
        actions.delete_credential(row, acting_user=acting_user)


@admin.register(ColumnLabel)
class ColumnLabelAdmin(TenantModelAdmin):
    """What columns hold: added and removed, never changed."""

    can_delete = True
    list_display = ("column", "table", "schema", "label", "target", "source", "labelled_by", "created_at", "tenant")
    list_filter = (
        "label",
        ("target", AutocompleteSelectFilter),
        ("source", ChoicesDropdownFilter),
        ("tenant", AutocompleteSelectFilter),
    )
    list_filter_submit = True
    list_select_related = ("tenant", "target", "labelled_by")
    search_fields = ("schema", "table", "column", "label", "target__name")
    ordering = ("target__name", "schema", "table", "column", "label")
    autocomplete_fields = ("target",)
    fieldsets = (
        (None, {"fields": ("tenant", "target")}),
        ("The column, as the target names it", {"fields": (("schema", "table", "column"),)}),
        ("What it holds", {"fields": ("label",)}),
        ("Who says so", {"fields": (("source", "labelled_by", "created_at"),)}),
    )
    readonly_fields = ("source", "labelled_by", "created_at")

    def has_change_permission(self, _request: HttpRequest, _obj: Any = None) -> bool:
        """Remove it and add another."""
        return False

    def save_row(self, request: HttpRequest, row: ColumnLabel, *, acting_user: Any) -> None:
        """By the action."""
        del request
        actions.add_column_label(row, acting_user=acting_user)

    def delete_row(self, request: HttpRequest, row: ColumnLabel, *, acting_user: Any) -> None:
        """By the action."""
        del request
        actions.remove_column_label(row, acting_user=acting_user)


@admin.register(ProxyWorker)
class ProxyWorkerAdmin(TenantModelAdmin):
    """The workers. They enrol by themselves, with a join token."""

    list_display = ("name", "tenant", "state", "last_seen_at", "reported_sessions", "unshipped", "enrolled_at")
    list_filter = ("is_active", ("tenant", AutocompleteSelectFilter))
    list_filter_submit = True
    list_select_related = ("tenant",)
    search_fields = ("name",)
    search_help_text = "Name"
    empty_text = "A worker stands near your targets and lets agents in. Issue a join token, and start it with that."
    ordering = ("name",)
    readonly_fields = (
        "name", "state", "enrolled_at", "last_seen_at", "reported_sessions", "unshipped", "processes", "fingerprint"
    )  # fmt: skip
    fieldsets = (
        (None, {"fields": ("tenant", "name", "is_active")}),
        ("Now", {"fields": (("state", "last_seen_at"), ("reported_sessions", "unshipped"), "processes")}),
        ("Identity", {"fields": (("enrolled_at", "fingerprint"),)}),
    )

    def has_add_permission(self, _request: HttpRequest, _obj: Any = None) -> bool:
        """Workers enrol."""
        return False

    def save_row(self, request: HttpRequest, row: ProxyWorker, *, acting_user: Any) -> None:
        """By the action."""
        del request
        actions.save_worker(row, acting_user=acting_user)

    @display(description="state", label=WORKER_LABELS)
    def state(self, worker: ProxyWorker) -> str:
        """What its link says."""
        if not worker.is_active:
            return "deactivated"
        if worker.last_seen_at is None:
            return "never seen"
        silent = timezone.now() - worker.last_seen_at > timedelta(seconds=SILENT_AFTER_SECONDS)
        return "silent" if silent else "connected"

    @display(description="records not shipped", ordering="reported_journal_bytes")
    def unshipped(self, worker: ProxyWorker) -> str:
        """What its journal holds that we don't have yet."""
        return f"{worker.reported_journal_bytes / 1024:,.0f} KiB"

    @display(description="processes")
    def processes(self, worker: ProxyWorker) -> str:
        """One line for each: whether it has a link, its sessions, and what of its record we don't have yet."""
        linked = set(linked_processes(now=timezone.now()).filter(worker=worker).values_list("number", flat=True))
        return format_html_join(
            "",
            "<div>{}: {}, {} sessions, {} KiB not shipped</div>",
            (
                (
                    process,
                    "connected" if process.number in linked else "no link",
                    process.reported_sessions,
                    f"{process.reported_journal_bytes / 1024:,.0f}",
                )
                for process in WorkerProcess.objects.filter(worker=worker)
            ),
        )

    @display(description="public key (Ed25519)")
    def fingerprint(self, worker: ProxyWorker) -> str:
        """In hex; it is no secret."""
        return bytes(worker.public_key).hex()


class JoinTokenForm(forms.Form):
    """For which worker, and how long it shall be good."""

    worker_name = forms.CharField(
        max_length=63,
        validators=[worker_name_validator],
        widget=UnfoldAdminTextInputWidget,
        help_text="As it will enrol.",
    )
    lifetime_seconds = forms.TypedChoiceField(
        label="Good for",
        coerce=int,
        choices=((900, "15 minutes"), (3600, "1 hour"), (24 * 3600, "1 day"), (7 * 24 * 3600, "7 days")),
        initial=3600,
        widget=UnfoldAdminSelectWidget,
    )


@admin.register(JoinToken)
class JoinTokenAdmin(TenantModelAdmin):
    """Join tokens: issued by a button that shows them once, listed, revoked, never edited."""

    list_display = ("token_id", "worker_name", "tenant", "state", "created_at", "expires_at", "used_by")
    list_filter = (("tenant", AutocompleteSelectFilter), ("last_used_at", admin.EmptyFieldListFilter))
    list_filter_submit = True
    list_select_related = ("tenant", "used_by")
    search_fields = ("token_id", "worker_name")
    search_help_text = "Worker's name, or the token's id"
    empty_text = "A new worker enrols with a join token, once. Issue one by the button above."
    ordering = ("-created_at",)
    fields = ("tenant", "worker_name", "token_id", "state", "expires_at", "last_used_at", "used_by", "revoked_at")
    readonly_fields = fields
    actions_list = ("issue",)
    actions_detail = ("revoke",)

    def has_add_permission(self, _request: HttpRequest, _obj: Any = None) -> bool:
        """Tokens are issued by a button, which shows them."""
        return False

    def has_change_permission(self, _request: HttpRequest, _obj: Any = None) -> bool:
        """A token can only be revoked."""
        return False

    def has_issue_permission(self, request: HttpRequest) -> bool:
        """Who may manage a tenant."""
        return authority_of(request).may(Power.MANAGE)

    def has_revoke_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Who may manage the token's tenant."""
        return super().has_change_permission(request, obj)

    @display(description="state", label=JOIN_TOKEN_LABELS)
    def state(self, token: JoinToken) -> str:
        """Unused, used, expired or revoked."""
        if token.last_used_at is not None:
            return "used"
        if token.revoked_at is not None:
            return "revoked"
        return "expired" if token.expires_at <= timezone.now() else "unused"

    @action(description="Issue a join token", icon="confirmation_number", permissions=["issue"], url_path="issue")
    def issue(self, request: HttpRequest) -> HttpResponseBase:
        """Ask for which worker, then show the token once."""
        tenants = writable_tenants(request, Power.MANAGE)
        back_url = reverse("admin:targets_jointoken_changelist")

        class Form(JoinTokenForm):
            tenant = forms.ModelChoiceField(tenants, initial=tenants.first(), widget=UnfoldAdminSelectWidget)
            field_order = ("tenant", "worker_name", "lifetime_seconds")

        def issue(form: Form) -> HttpResponseBase:
            token, text = actions.issue_join_token(
                tenant=form.cleaned_data["tenant"],
                worker_name=form.cleaned_data["worker_name"],
                lifetime=timedelta(seconds=form.cleaned_data["lifetime_seconds"]),
                acting_user=cast("User", request.user),
            )
            return secret_page(
                self,
                request,
                title=f"A join token for {token.worker_name}",
                secret=text,
                explanation="Write it into the file that NARROWGATE_JOIN_TOKEN_FILE names, and start the worker.",
                back_url=back_url,
            )

        return asking_page(
            self,
            request,
            title="Issue a join token",
            explanation="One worker enrols with it, once. A worker of that name that exists gets a new key.",
            form_class=Form,
            submit="Issue",
            back_url=back_url,
            act=issue,
        )

    @action(description="Revoke", icon="block", permissions=["revoke"], url_path="revoke")
    def revoke(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Ask, then end the token."""
        token = cast("JoinToken", self.get_object(request, object_id))
        back_url = reverse("admin:targets_jointoken_change", args=[token.pk])

        def revoke(_form: forms.Form) -> str:
            actions.revoke_join_token(token, acting_user=cast("User", request.user))
            return back_url

        return asking_page(
            self,
            request,
            title=f"Revoke join token {token.token_id}?",
            explanation="No worker can enrol with it any more.",
            submit="Revoke",
            back_url=back_url,
            act=revoke,
            done=f"Join token {token.token_id} is revoked.",
            is_dangerous=True,
        )
