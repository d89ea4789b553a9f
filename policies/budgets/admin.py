"""The page of budgets: what is used of each limit now."""

from __future__ import annotations

from typing import Any, Final, cast

import msgspec
from django.contrib import admin
from django.http import HttpRequest, HttpResponseBase
from django.urls import reverse
from django.utils import timezone
from unfold.contrib.filters.admin import AutocompleteSelectFilter, ChoicesDropdownFilter
from unfold.decorators import action, display

from accounts.models import User
from controlplane.admin import ReadOnlyTenantAdmin
from controlplane.authority import Power, authority_of
from controlplane.pages import asking_page
from policies.budgets import actions
from policies.budgets.access import Measures, Standing, standing_of
from policies.budgets.models import Budget

_WORDS: Final = {"distinct": "distinct values"}


@admin.register(Budget)
class BudgetAdmin(ReadOnlyTenantAdmin):
    """How much of each limit is used, and by whom."""

    list_display = ("rule", "whom", "per", "used", "resets", "last_used_at", "tenant")
    list_filter = (
        ("per", ChoicesDropdownFilter),
        ("agent", AutocompleteSelectFilter),
        ("target", AutocompleteSelectFilter),
        ("tenant", AutocompleteSelectFilter),
    )
    list_filter_submit = True
    list_select_related = ("tenant", "agent", "target")
    search_fields = ("rule", "agent__name", "target__name")
    empty_text = "What is used of a rule's limit is listed here, once somebody has used some of it."
    ordering = ("-last_used_at",)
    actions_detail = ("reset",)
    fields = (("tenant", "rule"), ("whom", "per"), "used", "held", "resets", "last_used_at")
    readonly_fields = ("whom", "used", "held", "resets")

    def has_reset_permission(self, request: HttpRequest, object_id: str | None = None) -> bool:
        """Who may manage its tenant."""
        budget = None if object_id is None else self.get_object(request, object_id)
        return budget is not None and authority_of(request).may(Power.MANAGE, budget.tenant_id)

    @action(description="Set it back", icon="restart_alt", permissions=["reset"], url_path="reset")
    def reset(self, request: HttpRequest, object_id: str) -> HttpResponseBase:
        """Ask, then set it back."""
        budget = cast("Budget", self.get_object(request, object_id))
        back_url = reverse("admin:policies_budget_change", args=[budget.pk])

        def act(_: Any) -> str:
            actions.reset_budget(budget, acting_user=cast("User", request.user))
            return back_url

        return asking_page(
            self,
            request,
            title=f"Let {budget.rule} start anew?",
            explanation=f"Of this {budget.per}'s budget nothing counts as used any more.",
            submit="Set it back",
            back_url=back_url,
            act=act,
            done="Nothing of the budget is used.",
        )

    @display(description="for")
    def whom(self, budget: Budget) -> str:
        """Who shares it."""
        return " on ".join(str(one) for one in (budget.agent, budget.target) if one is not None) or "everybody"

    @display(description="used now")
    def used(self, budget: Budget) -> str:
        """Of how much, by measure."""
        standing = _standing(budget)
        return "can't be read: Redis is away" if standing.used is None else _told(standing.limit, standing.used)

    @display(description="leased by workers", empty_value="—")
    def held(self, budget: Budget) -> str | None:
        """What they may use without asking."""
        standing = _standing(budget)
        return None if standing.held is None else _told(standing.limit, standing.held)

    @display(description="starts anew (UTC)")
    def resets(self, budget: Budget) -> str:
        """When the period ends."""
        return f"{_standing(budget).resets_at:%Y-%m-%d %H:%M}"


def _standing(budget: Budget) -> Standing:
    """Asked once for a row of a page."""
    found: Standing | None = getattr(budget, "_standing", None)
    if found is None:
        found = standing_of(budget, now=timezone.now())
        budget._standing = found  # type: ignore[attr-defined]  # noqa: SLF001
    return found


def _told(limit: Measures, amounts: Measures) -> str:
    limits = msgspec.structs.asdict(limit)
    return ", ".join(
        f"{getattr(amounts, name):,} of {most:,} {_WORDS.get(name, name)}" for name, most in limits.items() if most
    )
