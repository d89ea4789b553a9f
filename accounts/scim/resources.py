"""SCIM's resources: rows as JSON, and what a client sends, checked. Unknown attributes are ignored (RFC 7644, 3.3)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import validate_email

from accounts.scim.filters import Attribute
from accounts.scim.models import ScimGroup, ScimUser

USER: Final = "urn:ietf:params:scim:schemas:core:2.0:User"
GROUP: Final = "urn:ietf:params:scim:schemas:core:2.0:Group"
LIST: Final = "urn:ietf:params:scim:api:messages:2.0:ListResponse"
PATCH: Final = "urn:ietf:params:scim:api:messages:2.0:PatchOp"

USER_ATTRIBUTES: Final = {
    "id": Attribute("pk", UUID),
    "username": Attribute("user_name"),
    "externalid": Attribute("external_id"),
    "active": Attribute("is_active", bool),
    "displayname": Attribute("user__name"),
    "name.formatted": Attribute("user__name"),
    "emails": Attribute("user_name"),
    "emails.value": Attribute("user_name"),
}
GROUP_ATTRIBUTES: Final = {
    "id": Attribute("pk", UUID),
    "displayname": Attribute("display_name"),
    "externalid": Attribute("external_id"),
}
#: What one request may name; a larger group comes in several PATCH requests.
MAX_MEMBERS: Final = 1_000
MAX_OPERATIONS: Final = 100

_MEMBER_PATH = re.compile(r'members\[value eq "([^"\\]{1,64})"\]', re.IGNORECASE)


class ScimError(Exception):
    """What the client is told (RFC 7644, 3.12). `detail` quotes nothing that was sent."""

    def __init__(self, status: int, detail: str, scim_type: str = "") -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.scim_type = scim_type


def invalid(detail: str, scim_type: str = "invalidValue") -> ScimError:
    """400."""
    return ScimError(400, detail, scim_type)


@dataclass(frozen=True, slots=True)
class Wish:
    """One change: of an attribute, by its name in small letters, or of members (`member_ids`)."""

    operation: str
    attribute: str
    value: Any = None
    member_ids: tuple[UUID, ...] = ()


def user_resource(row: ScimUser) -> dict[str, Any]:
    """A person."""
    return {
        "schemas": [USER],
        "id": str(row.pk),
        "externalId": row.external_id or None,
        "userName": row.user_name,
        "displayName": row.user.name,
        "name": {"formatted": row.user.name},
        "emails": [{"value": row.user_name, "primary": True}],
        "active": row.is_active,
        "meta": _meta("User", row),
    }


def group_resource(row: ScimGroup) -> dict[str, Any]:
    """A group with its members."""
    members = [{"value": str(entry.member_id), "display": entry.member.user_name} for entry in row.members.all()]
    return {
        "schemas": [GROUP],
        "id": str(row.pk),
        "externalId": row.external_id or None,
        "displayName": row.display_name,
        "members": members,
        "meta": _meta("Group", row),
    }


def text_of(body: Mapping[str, Any], name: str, *, longest: int, needed: bool = False) -> str:
    """An attribute that is a text; "" when it isn't there. Raises `ScimError`."""
    value = body.get(name)
    if value is None and not needed:
        return ""
    if not isinstance(value, str) or not value.strip() or not value.isprintable() or len(value) > longest:
        raise invalid(f"{name} must be a text of at most {longest} characters")
    return value.strip()


def address_of(body: Mapping[str, Any]) -> str:
    """The userName, which has to be an e-mail address. Raises `ScimError`."""
    address = text_of(body, "userName", longest=254, needed=True).lower()
    try:
        validate_email(address)
    except ValidationError:
        raise invalid("userName must be an e-mail address") from None
    return address


def full_name_of(body: Mapping[str, Any]) -> str:
    """How the person is called: displayName, or the formatted name."""
    name = body.get("name")
    inner = name if isinstance(name, dict) else {}
    return text_of(body, "displayName", longest=200) or text_of(inner, "formatted", longest=200)


def truth_of(value: Any, name: str) -> bool:
    """True or false; Entra ID sends them as texts. Raises `ScimError`."""
    if isinstance(value, str) and value.lower() in {"true", "false"}:
        return value.lower() == "true"
    if not isinstance(value, bool):
        raise invalid(f"{name} must be true or false")
    return value


def member_ids_of(value: Any) -> tuple[UUID, ...]:
    """The ids that a list of members names. Raises `ScimError`."""
    listed = value if isinstance(value, list) else [value]
    if len(listed) > MAX_MEMBERS:
        raise ScimError(413, f"a request names at most {MAX_MEMBERS} members", "tooMany")
    try:
        return tuple(UUID(entry["value"]) for entry in listed)
    except (TypeError, KeyError, ValueError, AttributeError):
        raise invalid("members must have the ids of users as value") from None


def wishes_of(body: Mapping[str, Any]) -> Iterator[Wish]:
    """What a PATCH asks for (RFC 7644, 3.5.2). Raises `ScimError`."""
    operations = body.get("Operations")
    if not isinstance(operations, list) or not 0 < len(operations) <= MAX_OPERATIONS:
        raise invalid(f"Operations must be a list of 1 to {MAX_OPERATIONS}", "invalidSyntax")
    for entry in operations:
        operation = str(entry.get("op", "")).lower() if isinstance(entry, dict) else ""
        path, value = (entry.get("path"), entry.get("value")) if operation else (None, None)
        if operation not in {"add", "replace", "remove"} or not isinstance(path, str | None):
            raise invalid("each operation has op (add, replace, remove) and perhaps path", "invalidSyntax")
        if path is None:
            if operation == "remove":
                raise ScimError(400, "remove needs a path", "noTarget")
            if not isinstance(value, dict):
                raise invalid("without path, value must be an object", "invalidSyntax")
            for name, inner in value.items():
                yield _wish(operation, name, inner)
        else:
            yield _wish(operation, path, value)


def _wish(operation: str, path: str, value: Any) -> Wish:
    one_member = _MEMBER_PATH.fullmatch(path)
    if one_member is not None and operation == "remove":
        return Wish("remove", "members", member_ids=member_ids_of([{"value": one_member[1]}]))
    if "[" in path:
        raise invalid("this path isn't offered", "invalidPath")
    name = path.lower().removeprefix(f"{USER.lower()}:").removeprefix(f"{GROUP.lower()}:")
    if name == "members":
        ids = () if operation == "remove" and value is None else member_ids_of(value)
        return Wish("replace" if operation == "remove" and value is None else operation, name, member_ids=ids)
    return Wish(operation, name, value)


def _meta(kind: str, row: ScimUser | ScimGroup) -> dict[str, str]:
    return {
        "resourceType": kind,
        "created": row.created_at.isoformat(),
        "lastModified": row.updated_at.isoformat(),
        "location": f"{settings.NARROWGATE.public_url}/scim/v2/{kind}s/{row.pk}",
    }
