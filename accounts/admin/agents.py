"""The pages of agents."""

from __future__ import annotations

from typing import Any, cast

from django.contrib import admin
from django.contrib.postgres.fields import ArrayField
from django.db.models import Count, Max, Q, QuerySet
from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import redirect
from django.urls import reverse
from django.utils import timezone
from unfold.admin import TabularInline
from unfold.contrib.filters.admin import AutocompleteSelectFilter
from unfold.contrib.forms.widgets import ArrayWidget
from unfold.decorators import action, display

from accounts import actions
from accounts.admin.labels import ACTIVE_LABELS, TOKEN_LABELS
from accounts.admin.tokens import TokenForm, token_arguments, token_state
from accounts.models import Agent, AgentToken, User
from controlplane.admin import TenantModelAdmin
from controlplane.authority import Power, authority_of
from controlplane.pages import asking_page, secret_page


class AgentTokenInline(TabularInline):
    """An agent's tokens."""

    model = AgentToken
    verbose_name_plural = "tokens"
    fields = readonly_fields = ("token_id", "label", "state", "expires_at", "last_used_at", "issued_by")
    extra = 0
    per_page = 10
    hide_title = True
    can_delete = False
    show_change_link = True

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002  # Django's signature
        """As for the page."""
        return authority_of(request).may(Power.READ)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002  # Django's signature
        """Tokens are issued, by the button above."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002  # Django's signature
        """Never."""
        return False

    @display(description="state", label=TOKEN_LABELS)
    def state(self, token: AgentToken) -> str:
        """Active, expired or revoked; nothing for a row that a hand-made number of rows asks for."""
        return "" if token._state.adding else token_state(token)


@admin.register(Agent)
class AgentAdmin(TenantModelAdmin):
    """Agents: made, changed, deactivated, and issued tokens."""

    list_display = ("name", "tenant", "state", "group_names", "sponsor", "live_tokens", "last_used")
    list_filter = ("is_active", ("tenant", AutocompleteSelectFilter), ("sponsor", AutocompleteSelectFilter))
    list_filter_submit = True
    list_select_related = ("tenant", "sponsor")
    search_fields = ("name", "description")
    empty_text = (
        "An agent is a program that reaches targets through the gate. Add one, then issue it a token or set up a trust."
    )
    autocomplete_fields = ("sponsor",)
    formfield_overrides = {ArrayField: {"widget": ArrayWidget}}
    ordering = ("name",)
    inlines = (AgentTokenInline,)
    actions_detail = ("issue_token", "stop")
    fieldsets = (
        (None, {"fields": ("tenant", ("name", "is_active"), "description")}),
        ("For policies and people", {"fields": ("groups", "sponsor")}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[Agent]:
        """With their tokens counted."""
        live = Q(tokens__revoked_at=None, tokens__expires_at__gt=timezone.now())
        agents: QuerySet[Agent] = super().get_queryset(request)
        return agents.annotate(_live=Count("tokens", filter=live), _last_used=Max("tokens__last_used_at"))

    def save_row(self, request: HttpRequest, row: Agent, *, acting_user: Any) -> None:
        """By the action."""
        del request
        actions.save_agent(row, acting_user=acting_user)

    @display(description="state", ordering="is_active", label=ACTIVE_LABELS)
    def state(self, agent: Agent) -> str:
        """Active or not."""
        return "active" if agent.is_active else "inactive"

    @display(description="groups", label=True)
    def group_names(self, agent: Agent) -> list[str]:
        """Each as a chip."""
        return list(agent.groups)

    @display(description="live tokens", ordering="_live")
    def live_tokens(self, agent: Any) -> int:
        """How many tokens are good now."""
        return int(agent._live)  # noqa: SLF001  # annotated above

    @display(description="last used", ordering="_last_used", empty_value="never")
    def last_used(self, agent: Any) -> Any:
        """When it last connected by an issued token."""
        return agent._last_used  # noqa: SLF001  # annotated above

    @action(description="Issue a token", icon="key", permissions=["change"], url_path="issue-token")
    def issue_token(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Ask for how long, then show the token once."""
        agent = cast("Agent", self.get_object(request, object_id))
        back_url = reverse("admin:accounts_agent_change", args=[agent.pk])

        def issue(form: TokenForm) -> HttpResponseBase:
            _, made = actions.issue_agent_token(agent, acting_user=cast("User", request.user), **token_arguments(form))
            return secret_page(
                self,
                request,
                title=f"A token for {agent.name}",
                secret=made.text,
                explanation="The agent presents it as its password.",
                back_url=back_url,
            )

        return asking_page(
            self,
            request,
            title=f"Issue a token for {agent.name}",
            explanation="The agent connects with it as its password, until it expires or is revoked.",
            form_class=TokenForm,
            submit="Issue",
            back_url=back_url,
            act=issue,
        )

    @action(description="Stop now", icon="dangerous", permissions=["change"], url_path="stop")
    def stop(self, request: HttpRequest, object_id: str) -> HttpResponseBase:  # noqa: ARG002  # as buttons are called
        """By the kill switch: this page knows no sessions."""
        return redirect("admin:kill-switch", scope="agent", pk=object_id)
