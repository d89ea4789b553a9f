"""The pages of the kill switch: the orders, each with its sessions, and the question before something is stopped."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final, cast

from django import forms
from django.contrib import admin
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase
from django.shortcuts import redirect
from django.urls import URLPattern, path, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.admin import TabularInline
from unfold.contrib.filters.admin import AutocompleteSelectFilter, ChoicesDropdownFilter, RangeDateTimeFilter
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminTextInputWidget

from accounts.models import Agent, Tenant, User
from controlplane.admin import ReadOnlyTenantAdmin, writable_tenants
from controlplane.authority import Power, authority_of
from controlplane.pages import asking_page
from sessions.killing import actions
from sessions.killing.access import Subject, running_sessions
from sessions.killing.models import MAX_REASON_CHARACTERS, KilledSession, KillOrder, KillScope, with_progress
from sessions.models import AgentSession
from targets.models import Target

STATE_LABELS: Final = {"dead": "success", "waiting for a silent worker": "warning", "ending": "info"}
#: An order that is younger may well be waiting for a worker that is about to answer.
YOUNG: Final = timedelta(seconds=15)
#: The page of a young order that isn't done looks again by itself, so often.
REFRESH_SECONDS: Final = 1

_SUBJECTS: Final[dict[str, type[Subject]]] = {
    KillScope.SESSION: AgentSession, KillScope.AGENT: Agent, KillScope.TARGET: Target, KillScope.TENANT: Tenant
}  # fmt: skip


class ReasonForm(forms.Form):
    """Why."""

    reason = forms.CharField(
        max_length=MAX_REASON_CHARACTERS,
        widget=UnfoldAdminTextInputWidget(attrs={"autofocus": True}),
        help_text="The agents are told, and it is kept.",
    )


class KilledSessionInline(TabularInline):
    """An order's sessions, with the time that each took to end."""

    model = KilledSession
    verbose_name_plural = "sessions that ran at that moment"
    fields = readonly_fields = ("who", "state", "worker", "worker_last_seen", "seconds")
    extra = 0
    per_page = 50
    hide_title = True
    can_delete = False

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Those that aren't over first, then the slowest."""
        sessions: QuerySet[Any] = super().get_queryset(request)
        related = sessions.select_related("order", "session__agent", "session__target", "session__worker")
        return related.order_by("-session__closed_at", "pk")

    def has_view_permission(self, request: HttpRequest, _obj: Any = None) -> bool:
        """As for the page."""
        return authority_of(request).may(Power.AUDIT)

    def has_add_permission(self, _request: HttpRequest, _obj: Any = None) -> bool:
        """Never."""
        return False

    def has_change_permission(self, _request: HttpRequest, _obj: Any = None) -> bool:
        """Never."""
        return False

    @display(description="session")
    def who(self, killed: KilledSession) -> SafeString:
        """Leads to the session."""
        url = reverse("admin:agent_sessions_agentsession_change", args=[killed.session_id])
        return format_html('<a class="text-primary-600" href="{}">{}</a>', url, killed.session)

    @display(description="state")
    def state(self, killed: KilledSession) -> str:
        """The session's."""
        return killed.session.get_state_display()

    @display(description="worker")
    def worker(self, killed: KilledSession) -> str:
        """Through which it ran."""
        return str(killed.session.worker)

    @display(description="worker last heard")
    def worker_last_seen(self, killed: KilledSession) -> Any:
        """A silent one can't say that it has ended the session."""
        return killed.session.worker.last_seen_at

    @display(description="dead after", empty_value="not yet")
    def seconds(self, killed: KilledSession) -> str | None:
        """From the order to the end that the worker recorded."""
        return _seconds(killed.seconds_to_dead)


@admin.register(KillOrder)
class KillOrderAdmin(ReadOnlyTenantAdmin):
    """What was stopped, by whom and why, and how fast it was dead."""

    list_display = (
        "ordered", "what", "state_label", "session_count", "dead_after", "holds", "ordered_by", "reason", "tenant"
    )  # fmt: skip
    list_filter = (
        ("scope", ChoicesDropdownFilter),
        ("agent", AutocompleteSelectFilter),
        ("target", AutocompleteSelectFilter),
        ("ordered_at", RangeDateTimeFilter),
        ("tenant", AutocompleteSelectFilter),
    )
    list_filter_submit = True
    list_select_related = ("tenant", "agent", "target", "session__agent", "session__target", "ordered_by")
    search_fields = ("reason", "agent__name", "target__name")
    empty_text = "Stop now, on the page of an agent, a target or a tenant, and End the session, leave an order here."
    ordering = ("-ordered_at",)
    inlines = (KilledSessionInline,)
    actions_list = ("stop_everything",)
    actions_detail = ("lift",)
    fields = (
        ("tenant", "what"), "reason", ("ordered", "ordered_by"), ("state_label", "session_count", "dead_after"),
        "holds", ("lifted_at", "lifted_by"), "lift_reason",
    )  # fmt: skip
    readonly_fields = ("what", "ordered", "state_label", "dead_after", "holds")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """With how far each has come."""
        return with_progress(super().get_queryset(request))

    def get_urls(self) -> list[URLPattern]:
        """With the question before something is stopped, to which the pages of agents, targets and so on lead."""
        ask = path("stop/<slug:scope>/<uuid:pk>/", self.admin_site.admin_view(self.stop), name="kill-switch")
        return [ask, *super().get_urls()]

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """While the sessions of a young order are ending, the page looks again by itself."""
        response = super().changeform_view(request, *args, **kwargs)
        order: KillOrder | None = getattr(response, "context_data", {}).get("original")
        if order is not None and order.alive and _is_young(order):
            response["Refresh"] = str(REFRESH_SECONDS)
        return response

    def stop(self, request: HttpRequest, scope: str, pk: Any) -> HttpResponseBase:
        """Say what would end, ask why, then stop it."""
        subject = _subject(scope, pk)
        tenant_id = subject.pk if isinstance(subject, Tenant) else subject.tenant_id
        if not authority_of(request).may(Power.AUDIT, tenant_id):
            raise Http404
        if not authority_of(request).may(Power.MANAGE, tenant_id):
            raise PermissionDenied

        def act(form: ReasonForm) -> str:
            user = cast("User", request.user)
            order = actions.kill(subject, reason=form.cleaned_data["reason"], acting_user=user)
            return reverse("admin:agent_sessions_killorder_change", args=[order.pk])

        count = running_sessions(subject).count()
        rest = "" if scope == KillScope.SESSION else " No new one opens until somebody lifts the order."
        return asking_page(
            self,
            request,
            title=f"Stop {KillScope(scope).label.removeprefix('a ').removeprefix('an ')} {subject} now?",
            explanation=f"{count} running session{'' if count == 1 else 's'} will be cut off within a second.{rest}",
            form_class=ReasonForm,
            submit="Stop now",
            back_url=_page_of(subject),
            act=act,
            is_dangerous=True,
        )

    @action(description="Stop everything", icon="dangerous", permissions=["stop"], url_path="stop-everything")
    def stop_everything(self, request: HttpRequest) -> HttpResponseBase:
        """Ask in which tenant, where there is a choice; then as for anything else."""
        tenants = writable_tenants(request, Power.MANAGE)

        class TenantForm(forms.Form):
            tenant = forms.ModelChoiceField(queryset=tenants)

        if tenants.count() == 1:
            return _ask(tenants.get())
        return asking_page(
            self,
            request,
            title="Stop everything in which tenant?",
            form_class=TenantForm,
            submit="Go on",
            back_url=reverse("admin:agent_sessions_killorder_changelist"),
            act=lambda form: _ask(form.cleaned_data["tenant"]),
        )

    def has_stop_permission(self, request: HttpRequest) -> bool:
        """Who may manage some tenant."""
        return authority_of(request).may(Power.MANAGE)

    def has_lift_permission(self, request: HttpRequest, object_id: str | None = None) -> bool:
        """Who may manage the order's tenant, while it holds."""
        order = None if object_id is None else cast("KillOrder | None", self.get_object(request, object_id))
        return order is not None and order.is_in_force and authority_of(request).may(Power.MANAGE, order.tenant_id)

    @action(description="Lift the order", icon="lock_open", permissions=["lift"], url_path="lift")
    def lift(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Ask why, then let it go on."""
        order = cast("KillOrder", self.get_object(request, object_id))
        back_url = reverse("admin:agent_sessions_killorder_change", args=[order.pk])

        def act(form: ReasonForm) -> str:
            actions.lift(order, reason=form.cleaned_data["reason"], acting_user=cast("User", request.user))
            return back_url

        return asking_page(
            self,
            request,
            title=f"Let {order} have sessions again?",
            explanation="What was cut off stays so; agents may connect again as the policies say.",
            form_class=ReasonForm,
            submit="Lift the order",
            back_url=back_url,
            act=act,
            done="The order is lifted.",
        )

    @display(description="ordered (UTC)", ordering="ordered_at")
    def ordered(self, order: KillOrder) -> str:
        """To the second."""
        return f"{order.ordered_at:%Y-%m-%d %H:%M:%S}"

    @display(description="what", ordering="scope")
    def what(self, order: KillOrder) -> str:
        """Scope and name."""
        return f"{order.scope} {order.subject}"

    @display(description="state", label=STATE_LABELS)
    def state_label(self, order: KillOrder) -> str:
        """Dead, ending, or waiting for a worker that says nothing."""
        return "ending" if order.alive and _is_young(order) else order.state.label

    @display(description="all dead after", empty_value="—")
    def dead_after(self, order: KillOrder) -> str | None:
        """From the order to the last session's end, by the workers' records."""
        return _seconds(order.seconds_to_dead)

    @display(description="in force", boolean=True)
    def holds(self, order: KillOrder) -> bool:
        """Whether it keeps sessions from opening."""
        return order.is_in_force


def _subject(scope: str, pk: Any) -> Subject:
    kind = _SUBJECTS.get(scope)
    found = None if kind is None else kind._default_manager.filter(pk=pk).first()
    if found is None:
        raise Http404
    return found


def _ask(tenant: Tenant) -> HttpResponseBase:
    return redirect("admin:kill-switch", scope=KillScope.TENANT, pk=tenant.pk)


def _page_of(subject: Subject) -> str:
    meta = subject._meta
    return reverse(f"admin:{meta.app_label}_{meta.model_name}_change", args=[subject.pk])


def _is_young(order: KillOrder) -> bool:
    return timezone.now() - order.ordered_at < YOUNG


def _seconds(seconds: float | None) -> str | None:
    return None if seconds is None else f"{seconds:.3f} s"
