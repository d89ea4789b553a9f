"""The pages of what directories bring: people to look at, groups to give roles to."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from unfold.contrib.filters.admin import AutocompleteSelectFilter

from accounts.scim import actions
from accounts.scim.models import ScimGroup, ScimUser
from controlplane.admin import TenantModelAdmin
from controlplane.authority import Power


@admin.register(ScimUser)
class ScimUserAdmin(TenantModelAdmin):
    """People as the directory knows them; only it changes them."""

    read_power = Power.MANAGE
    write_power = None
    list_display = ("user_name", "tenant", "is_active", "is_deleted", "has_given_role", "updated_at")
    list_filter = ("is_active", "is_deleted", ("tenant", AutocompleteSelectFilter))
    list_filter_submit = True
    list_select_related = ("tenant",)
    search_fields = ("user_name", "external_id")
    empty_text = "People whom your directory sends by SCIM are listed here."
    fields = ("tenant", "user_name", "external_id", "is_active", "is_deleted", "has_given_role")


@admin.register(ScimGroup)
class ScimGroupAdmin(TenantModelAdmin):
    """Groups of the directory; owners say which role each gives."""

    read_power = Power.MANAGE
    write_power = Power.OWN
    list_display = ("display_name", "tenant", "role", "updated_at")
    list_filter = ("role", ("tenant", AutocompleteSelectFilter))
    list_filter_submit = True
    list_select_related = ("tenant",)
    search_fields = ("display_name", "external_id")
    empty_text = "Groups that your directory sends by SCIM are listed here; each can give a role."
    fields = ("tenant", "display_name", "external_id", "role")
    readonly_fields = ("tenant", "display_name", "external_id")

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002  # Django's signature
        """The directory makes them."""
        return False

    def save_row(self, request: HttpRequest, row: ScimGroup, *, acting_user: Any) -> None:
        """By the action."""
        del request
        actions.save_group(row, acting_user=acting_user)
