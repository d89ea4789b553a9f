"""The bases of admin pages: what is seen and changed follows the person's authority; every change is an app's action.

The middleware has put the ORM into the person's scope. `TenantModelAdmin` narrows further to the tenants in which they
hold the page's power, and `ReadOnlyTenantAdmin` is for what nobody changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Final, cast
from uuid import UUID

from django import forms
from django.apps import apps
from django.contrib import admin
from django.contrib.admin.helpers import ActionForm
from django.contrib.admin.widgets import AutocompleteSelect
from django.contrib.auth.base_user import AbstractBaseUser
from django.core.exceptions import ValidationError
from django.db import models
from django.http import Http404, HttpRequest, HttpResponse
from django.utils.text import capfirst
from unfold.admin import ModelAdmin

from controlplane.authority import Power, authority_of
from controlplane.errors import Refusal
from controlplane.pages import add_errors

#: What fields that hold a secret, or what one could be guessed by, have in their names.
_SECRET_WORDS: Final = ("password", "sealed", "digest", "verifier")
#: Long tables are searched and filtered, not paged through.
ROWS_PER_PAGE = 50


class TenantModelAdmin(ModelAdmin):
    """A page for rows of tenants. Override `save_row`, and `delete_row` where deletion is offered."""

    #: Needed in the row's tenant to see it, and to add or change it; None: nobody changes it here.
    read_power: ClassVar[Power] = Power.READ
    write_power: ClassVar[Power | None] = Power.MANAGE
    can_delete: ClassVar[bool] = False
    #: How a row leads to its tenant's id.
    tenant_id_path: ClassVar[str] = "tenant_id"
    #: Said where the list is empty: what would be in it, and what to do.
    empty_text: ClassVar[str] = ""
    #: What the search's field says; empty: by the names of what is searched.
    search_help_text: str = ""

    list_per_page = ROWS_PER_PAGE
    list_fullwidth = True
    list_filter_submit = False
    show_full_result_count = False
    warn_unsaved_form = True
    compressed_fields = True
    action_form = ActionForm

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        if not self.search_help_text and self.search_fields:
            self.search_help_text = f"Search by {_say_fields(self.search_fields)}"

    def save_row(self, request: HttpRequest, row: Any, *, acting_user: AbstractBaseUser) -> None:
        """Save by the app's action."""
        raise NotImplementedError

    def delete_row(self, request: HttpRequest, row: Any, *, acting_user: AbstractBaseUser) -> None:
        """Delete by the app's action."""
        raise NotImplementedError

    # -- what is seen

    def get_queryset(self, request: HttpRequest) -> models.QuerySet[Any]:
        """The rows of the tenants in which the person may read this."""
        authority = authority_of(request)
        rows: models.QuerySet[Any] = super().get_queryset(request)
        return rows.filter(**{f"{self.tenant_id_path}__in": authority.tenant_ids(self.read_power)})

    def has_module_permission(self, request: HttpRequest) -> bool:
        """True when the person may read this in any tenant."""
        return authority_of(request).may(self.read_power)

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """True when the person may read this row, or any."""
        return authority_of(request).may(self.read_power, self._tenant_id(request, obj))

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:  # noqa: ARG002  # Django's signature
        """True when the person may add one somewhere."""
        return self.write_power is not None and authority_of(request).may(self.write_power)

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """True when the person may change this row, or any."""
        return self.write_power is not None and authority_of(request).may(
            self.write_power, self._tenant_id(request, obj)
        )

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """As for a change, where the page offers deletion at all."""
        return self.can_delete and self.has_change_permission(request, obj)

    def changelist_view(self, request: HttpRequest, extra_context: dict[str, Any] | None = None) -> HttpResponse:
        """The list, called what it lists; Django's own title tells people to select one."""
        title = capfirst(self.opts.verbose_name_plural)
        return cast("HttpResponse", super().changelist_view(request, {"title": title, **(extra_context or {})}))

    def get_list_display(self, request: HttpRequest) -> Any:
        """Without the tenant, for whoever knows one only."""
        columns = super().get_list_display(request)
        return columns if _knows_several(request) else [column for column in columns if column != "tenant"]

    def get_list_filter(self, request: HttpRequest) -> Any:
        """Likewise."""
        filters = super().get_list_filter(request)
        return filters if _knows_several(request) else [one for one in filters if _filtered(one) != "tenant"]

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest) -> bool:
        """Nothing is filtered by what isn't shown: `?password__startswith=…` tells a hash, letter by letter."""
        is_hidden = any(word in lookup for word in _SECRET_WORDS)
        return not is_hidden and super().lookup_allowed(lookup, value, request)

    # -- forms

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """A row stays in its tenant."""
        fields = tuple(super().get_readonly_fields(request, obj))
        return fields if obj is None or "tenant" in fields else (*fields, "tenant")

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        """Whoever may add in one tenant only need not choose it."""
        initial: dict[str, Any] = super().get_changeform_initial_data(request)
        writable = writable_tenants(request, self.write_power)[:2]
        if len(writable) == 1:
            initial.setdefault("tenant", writable[0].pk)
        return initial

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """Tenants to choose from are those in which the person may write."""
        if db_field.name == "tenant":
            kwargs["queryset"] = writable_tenants(request, self.write_power)
        if db_field.name in self.get_autocomplete_fields(request):
            kwargs.setdefault("widget", _AutocompleteSelect(db_field, self.admin_site, using=kwargs.get("using")))
        return super().formfield_for_foreignkey(db_field, request, **kwargs)

    # -- changes

    def get_deleted_objects(self, objs: Any, request: HttpRequest) -> tuple[Any, Any, set[str], Any]:
        """What would go with a row, which is for the action to refuse: pages of what goes along offer no deletion."""
        deleted, counts, _, protected = super().get_deleted_objects(objs, request)
        return deleted, counts, set(), protected

    def save_model(self, request: HttpRequest, obj: Any, form: forms.ModelForm[Any], change: bool) -> None:
        """Save by the action; nothing else writes."""
        del form, change
        self.save_row(request, obj, acting_user=cast("AbstractBaseUser", request.user))

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        """Delete by the action."""
        self.delete_row(request, obj, acting_user=cast("AbstractBaseUser", request.user))

    def get_actions(self, request: HttpRequest) -> dict[str, Any]:
        """Bulk deletion would go round the actions."""
        actions: dict[str, Any] = super().get_actions(request)
        actions.pop("delete_selected", None)
        return actions

    def log_addition(self, *_: Any) -> None:
        """The ledger records it, not Django's admin log."""

    log_change = log_addition
    log_deletions = log_addition

    def changeform_view(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """The form. What the action refuses, once the form was valid, stands in it too, and nothing is kept."""
        try:
            return cast("HttpResponse", super().changeform_view(request, *args, **kwargs))
        except (Refusal, ValidationError) as error:
            request.refused_by_action = error  # type: ignore[attr-defined]  # for `get_form`, at the second try
            return cast("HttpResponse", super().changeform_view(request, *args, **kwargs))

    def get_form(self, request: HttpRequest, *args: Any, **kwargs: Any) -> type[forms.BaseModelForm[Any]]:
        """The form's class; after a refusal by the action, one that says so."""
        form_class: type[forms.BaseModelForm[Any]] = super().get_form(request, *args, **kwargs)
        error: Refusal | ValidationError | None = getattr(request, "refused_by_action", None)
        if error is None:
            return form_class
        refused = error

        class RefusedForm(form_class):  # type: ignore[valid-type,misc]  # a class made at run time
            def _post_clean(self) -> None:
                super()._post_clean()
                add_errors(self, refused)

        return RefusedForm

    def construct_change_message(self, *_: Any, **__: Any) -> str:
        """The ledger records it, not Django's admin log."""
        return ""

    def _tenant_id(self, request: HttpRequest, obj: Any) -> UUID | None:
        """The tenant of a row, or of the row with this key: buttons on a page are asked with the key alone."""
        if obj is None:
            return None
        if isinstance(obj, models.Model):
            tenant_id: Any = obj
            for name in self.tenant_id_path.split("__"):
                tenant_id = getattr(tenant_id, name)
            return cast("UUID", tenant_id)
        row = self.get_object(request, str(obj))
        if row is None:
            raise Http404
        return self._tenant_id(request, row)

    def _get_obj_does_not_exist_redirect(self, *_: Any) -> HttpResponse:
        """Missing and forbidden answer alike, and as REST does."""
        raise Http404


class _AutocompleteSelect(AutocompleteSelect):
    """Django's, which asks the database for whatever was sent, key or not, when the form is shown again."""

    def optgroups(self, name: str, value: Sequence[str], attr: Any = None) -> list[Any]:
        """What is chosen, where it could be."""
        return cast("list[Any]", super().optgroups(name, [one for one in value if self._is_key(one)], attr))

    def _is_key(self, text: str) -> bool:
        try:
            self.field.target_field.to_python(text)
        except ValidationError:
            return False
        return True


class ReadOnlyTenantAdmin(TenantModelAdmin):
    """A page for rows of the record: seen with AUDIT, changed by nobody."""

    read_power = Power.AUDIT
    write_power = None


def writable_tenants(request: HttpRequest, power: Power | None) -> models.QuerySet[Any]:
    """The active tenants in which the request's person holds the power."""
    authority = authority_of(request)
    tenants = apps.get_model("accounts", "Tenant")._default_manager.filter(is_active=True)
    if power is None:
        return tenants.none()
    return tenants.filter(pk__in=authority.tenant_ids(power))


def _knows_several(request: HttpRequest) -> bool:
    authority = authority_of(request)
    return authority.is_operator or len(authority.roles) > 1


def _say_fields(paths: Sequence[str]) -> str:
    """Such as "name, agent or token id" for `name`, `agent__name` and `token_id`."""
    said = dict.fromkeys(path.removesuffix("__name").rpartition("__")[2].replace("_", " ") for path in paths)
    *others, last = said
    return f"{', '.join(others)} or {last}" if others else last


def _filtered(one: Any) -> Any:
    return one[0] if isinstance(one, tuple) else one


# Pages that packages brought along know neither tenants nor roles. Their apps are loaded before this one's.
for stranger in list(admin.site._registry):
    admin.site.unregister(stranger)
