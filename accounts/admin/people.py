"""The pages of tenants, of people, and of who has which role where."""

from __future__ import annotations

from typing import Any, ClassVar, cast

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import redirect
from unfold.admin import TabularInline
from unfold.contrib.filters.admin import AutocompleteSelectFilter, ChoicesDropdownFilter
from unfold.decorators import action, display
from unfold.widgets import (
    UnfoldAdminPasswordWidget,
)

from accounts import actions
from accounts.access import colleagues
from accounts.admin.labels import ACTIVE_LABELS
from accounts.models import (
    Membership,
    Tenant,
    User,
)
from controlplane.admin import TenantModelAdmin
from controlplane.authority import Power, authority_of


@admin.register(Tenant)
class TenantAdmin(TenantModelAdmin):
    """Tenants. Operators make them; their owners rename them."""

    tenant_id_path = "pk"
    write_power = Power.OWN
    list_display = ("slug", "name", "state", "created_at")
    list_filter = ("is_active",)
    search_fields = ("slug", "name")
    ordering = ("slug",)
    fields = ("slug", "name", "is_active", "requires_review")
    actions_detail = ("stop",)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Tenant]:
        """All of them for an operator."""
        return Tenant.objects.all() if authority_of(request).is_operator else super().get_queryset(request)

    def has_module_permission(self, request: HttpRequest) -> bool:
        """For operators, and for everybody with a role."""
        return authority_of(request).is_operator or super().has_module_permission(request)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """For operators, and for everybody with a role in it."""
        return authority_of(request).is_operator or super().has_view_permission(request, obj)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002  # Django's signature
        """Operators only."""
        return authority_of(request).is_operator

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Operators, and its owners."""
        return authority_of(request).is_operator or super().has_change_permission(request, obj)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """The slug is in people's scripts; activity is the operators'."""
        if obj is None:
            return ()
        return ("slug",) if authority_of(request).is_operator else ("slug", "is_active")

    def save_row(self, request: HttpRequest, row: Tenant, *, acting_user: Any) -> None:
        """By the action."""
        del request
        actions.save_tenant(row, acting_user=acting_user)

    def has_stop_permission(self, request: HttpRequest, object_id: str | None = None) -> bool:
        """Whoever manages it; operators don't see what runs in it."""
        return object_id is not None and authority_of(request).may(Power.MANAGE, self._tenant_id(request, object_id))

    @action(description="Stop now", icon="dangerous", permissions=["stop"], url_path="stop")
    def stop(self, request: HttpRequest, object_id: str) -> HttpResponseBase:  # noqa: ARG002  # as buttons are called
        """By the kill switch, for all agents in the tenant: this page knows no sessions."""
        return redirect("admin:kill-switch", scope="tenant", pk=object_id)

    @display(description="state", ordering="is_active", label=ACTIVE_LABELS)
    def state(self, tenant: Tenant) -> str:
        """Active or not."""
        return "active" if tenant.is_active else "inactive"


class UserForm(forms.ModelForm):  # type: ignore[type-arg]  # not subscriptable at run time
    """A person; a password is set by typing a new one."""

    new_password = forms.CharField(
        required=False,
        strip=False,
        widget=UnfoldAdminPasswordWidget(attrs={"autocomplete": "new-password"}),
        help_text="Empty: it stays as it is. A new person without one can't sign in by password.",
    )

    class Meta:
        model = User
        fields = ("email", "name", "is_active", "is_superuser")
        help_texts: ClassVar[dict[str, str]] = {
            "is_superuser": "Manages tenants and people; sees into a tenant by a role there alone."
        }


class MembershipInline(TabularInline):
    """A person's roles."""

    model = Membership
    fields = readonly_fields = ("tenant", "role")
    extra = 0
    can_delete = False

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002  # Django's signature
        """As for the page; an operator sees the roles in their own tenants only."""
        return authority_of(request).is_operator or authority_of(request).may(Power.MANAGE)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002  # Django's signature
        """Roles have a page of their own."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002  # Django's signature
        """Roles have a page of their own."""
        return False


@admin.register(User)
class UserAdmin(TenantModelAdmin):
    """People. Operators make and change them; administrators see those of their tenants."""

    form = UserForm
    read_power = Power.MANAGE
    list_display = ("email", "name", "state", "is_superuser", "last_login")
    list_filter = ("is_active", "is_superuser")
    search_fields = ("email", "name")
    ordering = ("email",)
    inlines = (MembershipInline,)
    readonly_fields = ("last_login", "created_at")
    fieldsets = (
        (None, {"fields": (("email", "name"), "new_password", ("is_active", "is_superuser"))}),
        ("History", {"fields": (("last_login", "created_at"),)}),
    )

    def get_queryset(self, request: HttpRequest) -> QuerySet[User]:
        """Everybody for an operator, else the people of one's tenants."""
        return User.objects.all() if authority_of(request).is_operator else colleagues()

    def has_module_permission(self, request: HttpRequest) -> bool:
        """As for any of them."""
        return self.has_view_permission(request)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002  # Django's signature
        """The queryset says whom."""
        return authority_of(request).is_operator or authority_of(request).may(self.read_power)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002  # Django's signature
        """Operators only: a person may belong to several tenants."""
        return authority_of(request).is_operator

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Operators only."""
        return self.has_add_permission(request, obj)

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:  # noqa: ARG002  # Django's signature
        """What the system writes."""
        return self.readonly_fields

    def get_fieldsets(self, request: HttpRequest, obj: Any = None) -> Any:
        """A password field for those who may set it."""
        if self.has_change_permission(request, obj):
            return self.fieldsets
        return ((None, {"fields": (("email", "name"), ("is_active", "is_superuser"))}), self.fieldsets[1])

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """By the action, with the new password if there is one."""
        del change
        password = form.cleaned_data.get("new_password") or None
        try:
            actions.save_user(obj, acting_user=cast("User", request.user), password=password)
        except ValidationError as error:
            by_field = error.message_dict
            raise ValidationError(
                {"new_password" if name == "password" else name: by_field[name] for name in by_field}
            ) from None

    @display(description="state", ordering="is_active", label=ACTIVE_LABELS)
    def state(self, user: User) -> str:
        """Active or not."""
        return "active" if user.is_active else "inactive"


@admin.register(Membership)
class MembershipAdmin(TenantModelAdmin):
    """Who has which role in a tenant; its owners say so. An operator appoints the first of them."""

    read_power = Power.MANAGE
    write_power = Power.OWN
    can_delete = True
    list_display = ("user", "tenant", "role", "created_at")
    list_filter = (("tenant", AutocompleteSelectFilter), ("role", ChoicesDropdownFilter))
    list_filter_submit = True
    list_select_related = ("tenant", "user")
    search_fields = ("user__email", "user__name")
    autocomplete_fields = ("user",)
    fields = ("tenant", "user", "role")

    def has_module_permission(self, request: HttpRequest) -> bool:
        """For operators too, to appoint an owner."""
        return authority_of(request).is_operator or super().has_module_permission(request)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """An operator may open the page, and sees what their roles permit."""
        if obj is None and authority_of(request).is_operator:
            return True
        return super().has_view_permission(request, obj)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """For operators too, to appoint an owner."""
        return authority_of(request).is_operator or super().has_add_permission(request, obj)

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """An operator appoints in any tenant."""
        field = super().formfield_for_foreignkey(db_field, request, **kwargs)
        if db_field.name == "tenant" and authority_of(request).is_operator:
            field.queryset = Tenant.objects.filter(is_active=True)
        return field

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """Of a membership only the role changes."""
        fields = super().get_readonly_fields(request, obj)
        return fields if obj is None else (*fields, "user")

    def save_row(self, request: HttpRequest, row: Membership, *, acting_user: Any) -> None:
        """By the action."""
        if authority_of(request).may(Power.OWN, row.tenant_id):
            actions.save_membership(row, acting_user=acting_user)
        else:
            actions.appoint_owner(row, acting_user=acting_user)

    def delete_row(self, request: HttpRequest, row: Membership, *, acting_user: Any) -> None:
        """By the action."""
        del request
        actions.delete_membership(row, acting_user=acting_user)
