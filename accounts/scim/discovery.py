"""What this service provider tells of itself: its configuration, its kinds of resources and their schemas.

RFC 7643, 5 to 7; RFC 7644, 4. Attributes that aren't kept aren't listed, and what can't be changed says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from django.conf import settings

from accounts.scim.resources import GROUP, USER

CONFIG: Final = "urn:ietf:params:scim:schemas:core:2.0:ServiceProviderConfig"
RESOURCE_TYPE: Final = "urn:ietf:params:scim:schemas:core:2.0:ResourceType"
SCHEMA: Final = "urn:ietf:params:scim:schemas:core:2.0:Schema"

_NOT_OFFERED: Final = {"supported": False}


def _attribute(
    name: str,
    description: str,
    *,
    type: str = "string",  # noqa: A002  # RFC 7643, 7 calls it so
    mutability: str = "readWrite",
    is_required: bool = False,
    is_multiple: bool = False,
    uniqueness: str = "none",
    parts: tuple[Mapping[str, Any], ...] = (),
) -> dict[str, Any]:
    told: dict[str, Any] = {
        "name": name,
        "type": type,
        "multiValued": is_multiple,
        "description": description,
        "required": is_required,
        "mutability": mutability,
        "returned": "default",
    }
    if type == "string":
        told |= {"caseExact": False, "uniqueness": uniqueness}
    return told | {"subAttributes": list(parts)} if parts else told


_SCHEMAS: Final[Mapping[str, Mapping[str, Any]]] = {
    USER: {
        "name": "User",
        "description": "A person of the tenant.",
        "attributes": [
            _attribute(
                "userName",
                "The person's e-mail address, which is who they are.",
                mutability="immutable",
                is_required=True,
                uniqueness="server",
            ),
            _attribute("displayName", "How the person is called, from their first coming on.", mutability="immutable"),
            _attribute(
                "name",
                "The same as displayName.",
                type="complex",
                mutability="immutable",
                parts=(_attribute("formatted", "How the person is called.", mutability="immutable"),),
            ),
            _attribute(
                "emails",
                "The one address, which is the userName.",
                type="complex",
                mutability="readOnly",
                is_multiple=True,
                parts=(
                    _attribute("value", "The address.", mutability="readOnly"),
                    _attribute("primary", "Always true.", type="boolean", mutability="readOnly"),
                ),
            ),
            _attribute("active", "False ends the person's sessions, tokens and role at once.", type="boolean"),
        ],
    },
    GROUP: {
        "name": "Group",
        "description": "A group of the directory. An owner of the tenant may give it a role.",
        "attributes": [
            _attribute("displayName", "Its name.", is_required=True, uniqueness="server"),
            _attribute(
                "members",
                "Who is in it.",
                type="complex",
                is_multiple=True,
                parts=(
                    _attribute("value", "The id of a User.", mutability="immutable", is_required=True),
                    _attribute("display", "The userName.", mutability="readOnly"),
                ),
            ),
        ],
    },
}

_RESOURCE_TYPES: Final[Mapping[str, Mapping[str, Any]]] = {
    "User": {"endpoint": "/Users", "description": "People", "schema": USER},
    "Group": {"endpoint": "/Groups", "description": "Groups of people", "schema": GROUP},
}


def configuration(*, max_page: int) -> dict[str, Any]:
    """What is offered (RFC 7643, 5)."""
    scheme = {
        "type": "oauthbearertoken",
        "name": "Service token",
        "description": "Authorization: Bearer ngs_…",
        "primary": True,
    }
    return {
        "schemas": [CONFIG],
        "patch": {"supported": True},
        "bulk": {**_NOT_OFFERED, "maxOperations": 0, "maxPayloadSize": 0},
        "filter": {"supported": True, "maxResults": max_page},
        "changePassword": _NOT_OFFERED,
        "sort": _NOT_OFFERED,
        "etag": _NOT_OFFERED,
        "authenticationSchemes": [scheme],
        "meta": _meta("ServiceProviderConfig", "ServiceProviderConfig"),
    }


def schemas() -> dict[str, dict[str, Any]]:
    """Each schema by its URN (RFC 7643, 7)."""
    return {
        urn: {"schemas": [SCHEMA], "id": urn, **told, "meta": _meta("Schema", f"Schemas/{urn}")}
        for urn, told in _SCHEMAS.items()
    }


def resource_types() -> dict[str, dict[str, Any]]:
    """Each kind of resource by its name (RFC 7643, 6)."""
    return {
        name: {
            "schemas": [RESOURCE_TYPE],
            "id": name,
            "name": name,
            **told,
            "meta": _meta("ResourceType", f"ResourceTypes/{name}"),
        }
        for name, told in _RESOURCE_TYPES.items()
    }


def _meta(kind: str, path: str) -> dict[str, str]:
    return {"resourceType": kind, "location": f"{settings.NARROWGATE.public_url}/scim/v2/{path}"}
