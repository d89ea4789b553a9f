"""What a tenant's directory changes, each with its ledger entry. The caller holds the tenant's scope.

Whoever is deactivated or deleted loses their role in the tenant at once, however they got it, and with it their tokens
and their sign-ins by the tenant's providers, which let them in no more; agents they sponsor are suspended, and no agent
acts on their behalf. Their account stays: it may belong to others too.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final
from uuid import UUID

from django.db import transaction

from accounts import actions
from accounts.models import Membership, Tenant, User
from accounts.scim.models import ScimGroup, ScimMember, ScimUser
from accounts.scim.resources import MAX_MEMBERS, ScimError, invalid
from accounts.signin.models import SignIn
from accounts.signin.sessions import end_sign_ins
from controlplane.authority import Role
from controlplane.ledger.actions import append_entry
from controlplane.ledger.recording import save_recorded

#: Groups and people that a directory may bring along; more is another system.
MAX_USERS: Final = 50_000
MAX_GROUPS: Final = 5_000

_USER_FIELDS: Final = ("user_name", "external_id", "is_active", "is_deleted")
_GROUP_FIELDS: Final = ("display_name", "external_id", "role")
#: The strongest first.
_RANKING: Final = (Role.OWNER, Role.ADMIN, Role.APPROVER, Role.AUDITOR, Role.VIEWER)


@transaction.atomic
def provision(
    tenant: Tenant, *, user_name: str, full_name: str = "", external_id: str = "", is_active: bool = True
) -> ScimUser:
    """A new person, or one who comes back. Raises `ScimError` for one who is there (409)."""
    row = ScimUser.objects.select_for_update().filter(user_name=user_name).first()
    if row is not None and not row.is_deleted:
        raise ScimError(409, "there is a user with this userName", "uniqueness")
    if row is None:
        if ScimUser.objects.count() >= MAX_USERS:
            raise ScimError(413, f"a tenant has at most {MAX_USERS} users", "tooMany")
        user = User.objects.filter(email=user_name).first()
        if user is None:
            user = actions.save_user(User(email=user_name, name=full_name), acting_user=None)
        row = ScimUser(tenant=tenant, user=user, user_name=user_name)
    row.is_deleted = False
    row.external_id = external_id
    row.is_active = is_active
    return save_user(row)


@transaction.atomic
def save_user(row: ScimUser) -> ScimUser:
    """Keep what the directory says of a person, and their role with it."""
    save_recorded(row, acting_user=None, noun="scim_user", fields=_USER_FIELDS)
    _settle(row)
    if not row.is_active:
        ours = SignIn.objects.filter(user=row.user_id, tenant=row.tenant_id, ended_at=None)
        end_sign_ins(ours.select_related("tenant", "user"), acting_user=None)
    return row


@transaction.atomic
def deprovision(row: ScimUser) -> None:
    """The person has left the directory."""
    row.is_active = False
    row.is_deleted = True
    save_user(row)
    ScimMember.objects.filter(member=row).delete()


@transaction.atomic
def save_group(row: ScimGroup, *, acting_user: User | None) -> ScimGroup:
    """Keep a group; its members' roles follow. Raises ValidationError, `ScimError` for a name that is taken (409)."""
    named = ScimGroup.objects.filter(display_name__iexact=row.display_name).exclude(pk=row.pk)
    if named.exists():
        raise ScimError(409, "there is a group with this displayName", "uniqueness")
    if row._state.adding and ScimGroup.objects.count() >= MAX_GROUPS:
        raise ScimError(413, f"a tenant has at most {MAX_GROUPS} groups", "tooMany")
    save_recorded(row, acting_user=acting_user, noun="scim_group", fields=_GROUP_FIELDS)
    for entry in ScimMember.objects.filter(group=row).select_related("member__user"):
        _settle(entry.member)
    return row


@transaction.atomic
def change_members(group: ScimGroup, operation: str, member_ids: Iterable[UUID]) -> None:
    """Add, remove or replace. Raises `ScimError` for somebody who isn't a user of this tenant."""
    wanted = set(member_ids)
    known = {row.pk: row for row in ScimUser.objects.filter(pk__in=wanted, is_deleted=False)}
    if operation != "remove" and len(known) != len(wanted):
        raise invalid("a member is no user here")
    kept = set(ScimMember.objects.filter(group=group).values_list("member_id", flat=True))
    going = {"add": set(), "remove": kept & wanted, "replace": kept - wanted}[operation]
    coming = set() if operation == "remove" else wanted - kept
    if len(coming) + len(going) > MAX_MEMBERS:
        raise ScimError(413, f"a request changes at most {MAX_MEMBERS} members", "tooMany")
    if not coming and not going:
        return
    ScimMember.objects.filter(group=group, member__in=going).delete()
    ScimMember.objects.bulk_create(
        [ScimMember(tenant_id=group.tenant_id, group=group, member_id=member_id) for member_id in coming]
    )
    names = ScimUser.objects.filter(pk__in=coming | going).values_list("pk", "user_name")
    told = dict(names)
    after = {"added": sorted(told[pk] for pk in coming), "removed": sorted(told[pk] for pk in going)}
    _tell(group, "scim_group.members_changed", after)
    for row in ScimUser.objects.filter(pk__in=coming | going).select_related("user"):
        _settle(row)


@transaction.atomic
def delete_group(group: ScimGroup) -> None:
    """The group is gone, and what it gave."""
    change_members(group, "replace", ())
    _tell(group, "scim_group.deleted", {"role": group.role})
    group.delete()


def _settle(row: ScimUser) -> None:
    """Give the person the role of their groups, or take it."""
    membership = Membership.objects.filter(user=row.user_id).first()
    roles = set(ScimGroup.objects.filter(members__member=row).exclude(role="").values_list("role", flat=True))
    role = next((one for one in _RANKING if one.value in roles), None) if row.is_active else None
    if role is not None:
        if membership is None or (membership.role != role.value and row.has_given_role):
            membership = membership or Membership(tenant_id=row.tenant_id, user=row.user)
            membership.role = role.value
            actions.save_membership(membership, acting_user=None)
            _note_given(row, True)
    elif membership is not None and (row.has_given_role or not row.is_active):
        actions.delete_membership(membership, acting_user=None)
        _note_given(row, False)


def _note_given(row: ScimUser, has_given: bool) -> None:
    row.has_given_role = has_given
    ScimUser.objects.filter(pk=row.pk).update(has_given_role=has_given)


def _tell(group: ScimGroup, kind: str, after: dict[str, Any]) -> None:
    append_entry(
        tenant=group.tenant, kind=kind, acting_user=None, subject=f"scim_group:{group}", before=None, after=after
    )
