"""The pages of the record: sessions with their statements, refused attempts, and what proves them. All read-only."""

from __future__ import annotations

from typing import Any, Final, cast

from django import forms
from django.contrib import admin
from django.core.paginator import Paginator
from django.db.models import Q, QuerySet
from django.db.models.functions import Length
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString
from unfold.contrib.filters.admin import AutocompleteSelectFilter, ChoicesDropdownFilter, RangeDateTimeFilter
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminTextInputWidget

from accounts.models import User
from controlplane.admin import ReadOnlyTenantAdmin
from controlplane.authority import Power, authority_of
from controlplane.pages import asking_page
from policies.approvals.access import waiting_in
from sessions.access import outcomes_of, sessions_with_statement, statements_of
from sessions.killing import admin as killing  # noqa: F401  # registers its pages
from sessions.killing.actions import kill
from sessions.models import (
    AgentSession,
    ContentSegment,
    JournalBatch,
    Operation,
    OperationStatus,
    SessionRefusal,
    SessionState,
)
from sessions.templatetags.timeline import duration

STATE_LABELS: Final = {"granted": "info", "live": "success", "closed": "", "lost": "warning", "ending": "warning"}
STATUS_LABELS: Final = {
    "running": "info", "ok": "success", "error": "warning", "denied": "danger", "unknown outcome": "danger"
}  # fmt: skip
#: A page of a session that can still be read down.
STATEMENTS_PER_PAGE: Final = 100
#: A statement in a list: enough to know it again.
EXCERPT_CHARACTERS: Final = 120

#: Shows what `sessions.home` gathers.
admin.site.index_template = "agent_sessions/home.html"


class EndForm(forms.Form):
    """Why a session is ended."""

    reason = forms.CharField(
        max_length=200,
        initial="ended by an administrator",
        widget=UnfoldAdminTextInputWidget,
        help_text="The agent is told.",
    )


@admin.register(AgentSession)
class AgentSessionAdmin(ReadOnlyTenantAdmin):
    """Sessions: who was on which target, when, from where, and each statement."""

    change_form_outer_before_template = "agent_sessions/summary.html"
    change_form_outer_after_template = "agent_sessions/timeline.html"
    list_display = (
        "when", "state_label", "agent", "target", "operation_count", "lasted", "client_address", "client_name",
        "rule", "tenant",
    )  # fmt: skip
    list_filter = (
        ("state", ChoicesDropdownFilter),
        ("agent", AutocompleteSelectFilter),
        ("target", AutocompleteSelectFilter),
        ("worker", AutocompleteSelectFilter),
        ("granted_at", RangeDateTimeFilter),
        ("tenant", AutocompleteSelectFilter),
    )
    list_filter_submit = True
    list_select_related = ("tenant", "agent", "target", "worker")
    search_fields = ("agent__name", "target__name", "client_address", "client_name", "id")
    search_help_text = "Agent, target, address, client, or words of a statement"
    empty_text = "An agent that connects through a worker is listed here, with each of its statements."
    ordering = ("-granted_at",)
    date_hierarchy = "granted_at"
    actions_detail = ("end",)

    class Media:
        css = {"all": ("agent_sessions/timeline.css",)}

    def get_fieldsets(self, _request: HttpRequest, _obj: Any = None) -> Any:
        """None: the templates show everything, and there is nothing to fill in."""
        return ()

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """By the fields, or by a statement's text."""
        found, may_have_duplicates = super().get_search_results(request, queryset, search_term)
        if search_term and request.resolver_match and request.resolver_match.url_name != "autocomplete":
            said = Q(pk__in=sessions_with_statement(search_term))
            found = queryset.filter(said | Q(pk__in=found.order_by().values("pk")))
        return found, may_have_duplicates

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> HttpResponse:
        """With the page of statements that was asked for."""
        session = None if object_id is None else cast("AgentSession | None", self.get_object(request, object_id))
        if session is not None and self.has_view_permission(request, session):
            query, status = request.GET.get("q", ""), request.GET.get("status", "")
            statements = statements_of(session, containing=query, status=status)
            extra_context = {
                **(extra_context or {}),
                "session_state": self.state_label(session),
                "session_lasted": self.lasted(session),
                "statements": Paginator(statements, STATEMENTS_PER_PAGE).get_page(request.GET.get("page")),
                "statement_query": query,
                "statement_status": status,
                "statement_statuses": OperationStatus.choices,
                "statement_counts": outcomes_of(session),
                "waiting": waiting_in(session.pk),
            }
        return super().changeform_view(request, object_id, form_url, extra_context)

    def has_end_permission(self, request: HttpRequest, object_id: str | None = None) -> bool:
        """Who may manage the session's tenant, while it isn't over."""
        session = None if object_id is None else cast("AgentSession | None", self.get_object(request, object_id))
        if session is None:
            return False
        is_over = session.state == SessionState.CLOSED or session.end_requested_at is not None
        return not is_over and authority_of(request).may(Power.MANAGE, session.tenant_id)

    @action(description="End the session", icon="block", permissions=["end"], url_path="end")
    def end(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Ask why, then end it."""
        session = cast("AgentSession", self.get_object(request, object_id))
        back_url = reverse("admin:agent_sessions_agentsession_change", args=[session.pk])

        def end(form: EndForm) -> str:
            kill(session, acting_user=cast("User", request.user), reason=form.cleaned_data["reason"])
            return back_url

        return asking_page(
            self,
            request,
            title=f"End the session of {session.agent} on {session.target}?",
            explanation="What runs is cancelled and the connection is closed, within seconds.",
            form_class=EndForm,
            submit="End it",
            back_url=back_url,
            act=end,
            done="The worker is told to end the session.",
            is_dangerous=True,
        )

    @display(description="when (UTC)", ordering="granted_at")
    def when(self, session: AgentSession) -> str:
        """To the second."""
        return f"{session.granted_at:%Y-%m-%d %H:%M:%S}"

    @display(description="state", ordering="state", label=STATE_LABELS)
    def state_label(self, session: AgentSession) -> str:
        """The state, or that it is about to end."""
        is_ending = session.end_requested_at is not None and session.state != SessionState.CLOSED
        return "ending" if is_ending else session.state

    @display(description="lasted", empty_value="not yet opened")
    def lasted(self, session: AgentSession) -> str | None:
        """From opening to closing."""
        if session.opened_at is None:
            return None
        if session.closed_at is None:
            return "still open"
        return duration(int((session.closed_at - session.opened_at).total_seconds() * 1_000_000))


@admin.register(Operation)
class OperationAdmin(ReadOnlyTenantAdmin):
    """Statements of all sessions, to search in."""

    list_display = ("when", "status_label", "agent", "target", "excerpt", "rule", "rows", "took", "error_code")
    list_filter = (
        ("status", ChoicesDropdownFilter),
        ("at", RangeDateTimeFilter),
        ("session__agent", AutocompleteSelectFilter),
        ("session__target", AutocompleteSelectFilter),
        ("tenant", AutocompleteSelectFilter),
    )
    list_filter_submit = True
    list_select_related = ("tenant", "session__agent", "session__target")
    search_fields = ("text", "error_code", "rule", "session__agent__name")
    search_help_text = "Words of a statement, a rule, an agent, or an error code"
    empty_text = "Each statement of an agent is listed here, with what was decided and what came of it."
    ordering = ("-at",)
    fields = (
        ("session_link", "op", "kind"), "statement", "parameters", ("status_label", "at", "took"),
        ("rows", "bytes_in", "bytes_out"), ("tags", "columns"), ("error_code", "error_message"),
        ("effect", "rule", "policy_version"), "reason", ("approval_link", "approval_reason"),
        "text_bytes", "text_digest", "content_digest", "content_in_digest",
    )  # fmt: skip
    readonly_fields = (
        "session_link", "statement", "status_label", "took", "approval_link", "text_digest", "content_digest",
        "content_in_digest",
    )  # fmt: skip

    @display(description="when (UTC)", ordering="at")
    def when(self, operation: Operation) -> str:
        """To the millisecond."""
        return f"{operation.at:%Y-%m-%d %H:%M:%S.%f}"[:-3]

    @display(description="status", ordering="status", label=STATUS_LABELS)
    def status_label(self, operation: Operation) -> str:
        """As the record has it."""
        return operation.get_status_display()

    @display(description="approval", empty_value="none was needed")
    def approval_link(self, operation: Operation) -> SafeString | str | None:
        """What became of it, leading to who said what."""
        if operation.approval_id is None:
            return operation.approval_state or None
        url = reverse("admin:policies_approvalrequest_change", args=[operation.approval_id])
        return format_html('<a href="{}">{}</a>', url, operation.approval_state)

    @display(description="agent")
    def agent(self, operation: Operation) -> str:
        """Whose session it was."""
        return operation.session.agent.name

    @display(description="target")
    def target(self, operation: Operation) -> str:
        """Where it was done."""
        return operation.session.target.name

    @display(description="statement")
    def excerpt(self, operation: Operation) -> SafeString:
        """Its beginning."""
        text = operation.text
        shown = text if len(text) <= EXCERPT_CHARACTERS else f"{text[:EXCERPT_CHARACTERS]}…"
        return format_html('<code class="font-mono text-xs">{}</code>', shown)

    @display(description="statement")
    def statement(self, operation: Operation) -> SafeString:
        """All that is recorded of it."""
        return format_html('<pre class="font-mono text-sm whitespace-pre-wrap">{}</pre>', operation.text)

    @display(description="took", ordering="duration_us", empty_value="—")
    def took(self, operation: Operation) -> str | None:
        """From forwarding to the last answer."""
        return None if operation.duration_us is None else duration(operation.duration_us)

    @display(description="session")
    def session_link(self, operation: Operation) -> SafeString:
        """Its page."""
        url = reverse("admin:agent_sessions_agentsession_change", args=[operation.session_id])
        return format_html('<a class="text-primary-600" href="{}">{}</a>', url, operation.session_id)

    @display(description="SHA-256 of the statement")
    def text_digest(self, operation: Operation) -> str:
        """In hex."""
        return bytes(operation.text_sha256).hex()

    @display(description="SHA-256 of what was shown")
    def content_digest(self, operation: Operation) -> str:
        """In hex."""
        return bytes(operation.content_sha256 or b"").hex() or "—"

    @display(description="SHA-256 of what was sent")
    def content_in_digest(self, operation: Operation) -> str:
        """In hex."""
        return bytes(operation.content_in_sha256 or b"").hex() or "—"


@admin.register(SessionRefusal)
class SessionRefusalAdmin(ReadOnlyTenantAdmin):
    """Who was turned away, and why."""

    list_display = ("last_at", "code", "agent", "target_name", "client_host", "count", "reason", "worker", "tenant")
    list_filter = (
        ("code", ChoicesDropdownFilter),
        ("agent", AutocompleteSelectFilter),
        ("last_at", RangeDateTimeFilter),
        ("tenant", AutocompleteSelectFilter),
    )
    list_filter_submit = True
    list_select_related = ("tenant", "agent", "worker")
    search_fields = ("target_name", "client_host", "agent__name", "reason")
    search_help_text = "Agent, target, address, or words of the reason"
    empty_text = "Whoever tries to connect and isn't let in is listed here: once for each kind of attempt and hour."
    ordering = ("-last_at",)
    fields = (
        "tenant",
        ("agent", "target_name"),
        ("code", "count"),
        "reason",
        ("client_host", "worker"),
        ("hour", "last_at"),
    )


@admin.register(JournalBatch)
class JournalBatchAdmin(ReadOnlyTenantAdmin):
    """The records as the workers wrote them: what statements are an index of."""

    list_display = ("created_at", "worker", "short_journal", "first_seq", "last_seq", "size", "short_chain", "tenant")
    list_filter = (("created_at", RangeDateTimeFilter), ("tenant", AutocompleteSelectFilter))
    list_filter_submit = True
    list_select_related = ("tenant", "journal__worker")
    ordering = ("-created_at",)
    fields = ("tenant", "worker", "journal", ("first_seq", "last_seq"), ("created_at", "size"), "chain_from", "chain")
    readonly_fields = ("worker", "size", "chain_from", "chain")

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Without the payloads, which are large."""
        batches: QuerySet[Any] = super().get_queryset(request)
        sized: QuerySet[Any] = batches.defer("payload").annotate(_size=Length("payload"))
        return sized

    @display(description="worker")
    def worker(self, batch: JournalBatch) -> str:
        """Whose journal."""
        return batch.journal.worker.name

    @display(description="journal", ordering="journal")
    def short_journal(self, batch: JournalBatch) -> str:
        """Enough of its id to tell it from others."""
        return str(batch.journal.journal_id)[:8]

    @display(description="hash chain after")
    def short_chain(self, batch: JournalBatch) -> str:
        """Enough of it to compare; the batch's page has all."""
        return f"{self.chain(batch)[:16]}…"

    @display(description="stored")
    def size(self, batch: Any) -> str:
        """Compressed."""
        return f"{batch._size / 1024:,.1f} KiB"  # noqa: SLF001  # annotated above

    @display(description="hash chain before")
    def chain_from(self, batch: JournalBatch) -> str:
        """In hex."""
        return bytes(batch.chain_before).hex()

    @display(description="hash chain after")
    def chain(self, batch: JournalBatch) -> str:
        """In hex."""
        return bytes(batch.chain_after).hex()


@admin.register(ContentSegment)
class ContentSegmentAdmin(ReadOnlyTenantAdmin):
    """The files with what was sent and shown."""

    list_display = ("created_at", "session", "index", "size_bytes", "digest", "tenant")
    list_filter = (("created_at", RangeDateTimeFilter), ("tenant", AutocompleteSelectFilter))
    list_filter_submit = True
    list_select_related = ("tenant", "session__agent", "session__target")
    search_fields = ("session__id",)
    ordering = ("-created_at",)
    fields = ("tenant", "session", "index", "size_bytes", "digest", "storage_name", "created_at")
    readonly_fields = ("digest",)

    @display(description="SHA-256")
    def digest(self, segment: ContentSegment) -> str:
        """In hex."""
        return bytes(segment.sha256).hex()
