"""The bases of REST endpoints: scope, powers, tenant, pages. Each app's `api` has the viewsets, `urls` the routes.

Whoever may not see a row gets the 404 of a row that isn't there; whoever may see it but not change it is told so.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any, ClassVar, cast

from django.apps import apps
from django.contrib.auth.base_user import AbstractBaseUser
from django.db import models
from django.http.response import HttpResponseBase
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework import mixins, permissions, serializers, viewsets
from rest_framework.exceptions import NotAuthenticated, PermissionDenied, ValidationError
from rest_framework.request import Request

from controlplane.authority import Authority, Power, authority_of


@extend_schema_field(OpenApiTypes.STR)
class TenantSlugField(serializers.SlugRelatedField[Any]):
    """A tenant by its slug: one in which the person may write. Left out, it is their only one."""

    def __init__(self, **kwargs: Any) -> None:
        if not kwargs.get("read_only"):
            kwargs.setdefault("required", False)
        super().__init__(slug_field="slug", **kwargs)

    def get_queryset(self) -> models.QuerySet[Any]:
        """The active tenants that the view may write in."""
        view = self.context.get("view")
        tenants = apps.get_model("accounts", "Tenant")._default_manager.filter(is_active=True)
        if not isinstance(view, TenantViewSet) or view.write_power is None:
            return tenants.none()
        return tenants.filter(pk__in=view.authority.tenant_ids(view.write_power))

    def only(self) -> Any:
        """The one tenant that need not be named. Raises ValidationError when there are more, or none."""
        tenants = list(self.get_queryset()[:2])
        if len(tenants) != 1:
            raise ValidationError({"tenant": "Say in which tenant, by its slug."})
        return tenants[0]


class TenantModelSerializer(serializers.ModelSerializer[Any]):
    """A row of a tenant, saved by the app's action. The model and the action validate: errors name the same fields."""

    tenant = TenantSlugField()

    class Meta:
        validators: ClassVar[list[Any]] = []

    def save_row(self, row: Any, *, acting_user: AbstractBaseUser) -> None:
        """Save by the app's action."""
        raise NotImplementedError

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Find the tenant, and keep a row in the one it has."""
        if self.instance is not None:
            if attrs.pop("tenant", self.instance.tenant) != self.instance.tenant:
                raise ValidationError({"tenant": "It can't be moved to another tenant; make a new one there."})
        elif "tenant" not in attrs:
            attrs["tenant"] = cast("TenantSlugField", self.fields["tenant"]).only()
        return attrs

    def create(self, validated_data: dict[str, Any]) -> Any:
        """A new row."""
        row = self.Meta.model(**validated_data)  # type: ignore[attr-defined]
        self.save_row(row, acting_user=self._acting_user)
        return row

    def update(self, instance: Any, validated_data: dict[str, Any]) -> Any:
        """The row with these values."""
        for name, value in validated_data.items():
            setattr(instance, name, value)
        self.save_row(instance, acting_user=self._acting_user)
        return instance

    @property
    def _acting_user(self) -> AbstractBaseUser:
        return cast("AbstractBaseUser", self.context["request"].user)


class TenantViewSet(viewsets.GenericViewSet[Any]):
    """Rows of the tenants in which the caller holds `read_power`; writing wants `write_power` in the row's tenant."""

    read_power: ClassVar[Power] = Power.READ
    write_power: ClassVar[Power | None] = Power.MANAGE
    model: ClassVar[type[models.Model]]
    #: Related rows that the serializer shows.
    related: ClassVar[tuple[str, ...]] = ("tenant",)
    #: How a row leads to its tenant's id.
    tenant_id_path: ClassVar[str] = "tenant_id"

    authority: Authority

    def dispatch(self, request: Any, *args: Any, **kwargs: Any) -> HttpResponseBase:
        """Answer in the caller's scope, which `initial` enters once it knows the caller."""
        with ExitStack() as self._scope:
            return super().dispatch(request, *args, **kwargs)

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Authenticate, enter the scope, check the permissions."""
        self.perform_authentication(request)
        self.authority = authority_of(request._request)  # the authenticator left it there
        self._scope.enter_context(self.authority.scope())
        super().initial(request, *args, **kwargs)
        if request.method not in permissions.SAFE_METHODS:
            self.require_power()

    def get_queryset(self) -> models.QuerySet[Any]:
        """The rows that the caller may see."""
        if getattr(self, "swagger_fake_view", False):  # drf-spectacular asks without a caller
            return self.model._base_manager.none()
        rows = self.model._default_manager.all()
        rows = rows.select_related(*self.related) if self.related else rows
        return rows.filter(**{f"{self.tenant_id_path}__in": self.authority.tenant_ids(self.read_power)})

    def check_object_permissions(self, request: Request, obj: Any) -> None:
        """Who sees a row need not be allowed to change it."""
        super().check_object_permissions(request, obj)
        if request.method not in permissions.SAFE_METHODS:
            self.require_power(obj)

    def require_power(self, row: Any = None) -> None:
        """Raises PermissionDenied, or NotAuthenticated, without `write_power` in the row's tenant (or in any)."""
        if not self.request.user.is_authenticated:
            raise NotAuthenticated
        tenant_id: Any = row
        if row is not None:
            for name in self.tenant_id_path.split("__"):
                tenant_id = getattr(tenant_id, name)
        if self.write_power is None or not self.authority.may(self.write_power, tenant_id):
            needed = "" if self.write_power is None else f"; it takes a role with the power to {self.write_power.value}"
            raise PermissionDenied(f"Your role doesn't permit this{needed}.")

    @property
    def acting_user(self) -> AbstractBaseUser:
        """Who calls."""
        return cast("AbstractBaseUser", self.request.user)


class ReadOnlyTenantViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, TenantViewSet):
    """Rows of the record: read with AUDIT, written by nobody."""

    read_power = Power.AUDIT
    write_power = None


class EditableTenantViewSet(
    mixins.ListModelMixin, mixins.RetrieveModelMixin, mixins.CreateModelMixin, mixins.UpdateModelMixin, TenantViewSet
):
    """Rows that are listed, read, made and changed, by a `TenantModelSerializer`."""

    http_method_names = ["get", "post", "patch", "head", "options"]
