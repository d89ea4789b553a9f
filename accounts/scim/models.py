"""What a tenant's directory said. `accounts.models` imports it for Django."""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Lower

from accounts.tenancy import TenantOwned
from controlplane.authority import Role


class ScimUser(TenantOwned):
    """A person as the directory knows them. Deleted there, the row stays and keeps them out; see `actions`."""

    user = models.ForeignKey("accounts.User", on_delete=models.CASCADE, related_name="+")
    user_name = models.EmailField(help_text="The person's address.")
    external_id = models.CharField(max_length=254, blank=True)
    is_active = models.BooleanField(default=True)
    is_deleted = models.BooleanField(default=False)
    has_given_role = models.BooleanField(default=False, help_text="The role in the tenant comes of the groups.")

    class Meta:
        ordering = ("user_name",)
        verbose_name = "SCIM user"
        constraints = (models.UniqueConstraint("tenant", Lower("user_name"), name="scim_user_once_per_tenant"),)

    def __str__(self) -> str:
        return self.user_name


class ScimGroup(TenantOwned):
    """A group of the directory, and the role that it gives."""

    display_name = models.CharField(max_length=200)
    external_id = models.CharField(max_length=254, blank=True)
    role = models.CharField(max_length=16, choices=Role.choices, blank=True, help_text="Empty: it gives none.")

    class Meta:
        ordering = ("display_name",)
        verbose_name = "SCIM group"
        constraints = (models.UniqueConstraint("tenant", Lower("display_name"), name="scim_group_once_per_tenant"),)

    def __str__(self) -> str:
        return self.display_name


class ScimMember(TenantOwned):
    """Somebody in a group."""

    group = models.ForeignKey(ScimGroup, on_delete=models.CASCADE, related_name="members")
    member = models.ForeignKey(ScimUser, on_delete=models.CASCADE, related_name="groups")

    class Meta:
        ordering = ("member__user_name",)
        constraints = (models.UniqueConstraint(fields=("group", "member"), name="scim_member_once"),)

    def __str__(self) -> str:
        return f"{self.member} in {self.group}"
