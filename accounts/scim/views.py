"""The endpoints of SCIM. A service token says whose directory it is; of other tenants nothing is there."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, Final
from uuid import UUID

import structlog
from django.core.exceptions import RequestDataTooBig, ValidationError
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.utils import timezone
from django.views.decorators.csrf import csrf_exempt
from django_scopes import scope

from accounts.models import ServicePurpose, ServiceToken, Tenant
from accounts.oauth.limits import seconds_to_wait
from accounts.oauth.views import service_token
from accounts.scim import actions, discovery
from accounts.scim.filters import Attributes, BadFilter, parse_filter
from accounts.scim.models import ScimGroup, ScimUser
from accounts.scim.resources import (
    GROUP_ATTRIBUTES,
    LIST,
    USER_ATTRIBUTES,
    ScimError,
    address_of,
    full_name_of,
    group_resource,
    invalid,
    member_ids_of,
    text_of,
    truth_of,
    user_resource,
    wishes_of,
)
from controlplane.origin import acting_as
from controlplane.tenancy import every_tenant

log = structlog.get_logger(__name__)

CONTENT_TYPE: Final = "application/scim+json"
#: A thousand members with their ids, generously.
MAX_BODY_BYTES: Final = 256 * 1024
PAGE: Final = 100
MAX_PAGE: Final = 200
ERROR: Final = "urn:ietf:params:scim:api:messages:2.0:Error"

View = Callable[..., HttpResponse]


def _endpoint(*methods: str) -> Callable[[View], View]:
    """In the scope of the token's tenant, with errors as SCIM wants them."""

    def decorate(view: View) -> View:
        @csrf_exempt  # no cookie is looked at
        @wraps(view)
        def wrapped(request: HttpRequest, **kwargs: Any) -> HttpResponse:
            try:
                token = _token_of(request)
                if request.method not in methods:
                    raise ScimError(405, "this method isn't offered here")
                with scope(tenant=token.tenant_id), acting_as(_directory(token)), transaction.atomic():
                    return view(request, token.tenant, **kwargs)  # a request is done whole or not at all
            except ValidationError:
                return _error(invalid("a value can't be kept"))
            except ScimError as error:
                return _error(error)

        return wrapped

    return decorate


@_endpoint("GET", "POST")
def users(request: HttpRequest, tenant: Tenant) -> HttpResponse:
    """List or make people."""
    rows = ScimUser.objects.filter(is_deleted=False).select_related("user")
    if request.method == "GET":
        return _list(request, rows, USER_ATTRIBUTES, user_resource)
    body = _body(request)
    row = actions.provision(
        tenant,
        user_name=address_of(body),
        full_name=full_name_of(body),
        external_id=text_of(body, "externalId", longest=254),
        is_active=truth_of(body.get("active", True), "active"),
    )
    return _answer(user_resource(row), status=201)


@_endpoint("GET", "PUT", "PATCH", "DELETE")
def user(request: HttpRequest, tenant: Tenant, pk: UUID) -> HttpResponse:  # noqa: ARG001  # it is the scope's
    """One person."""
    row: ScimUser = _one(ScimUser.objects.filter(is_deleted=False).select_related("user"), pk)
    match request.method:
        case "DELETE":
            actions.deprovision(row)
            return HttpResponse(status=204)
        case "PUT":
            body = _body(request)
            _keep_name(row, address_of(body))
            row.external_id = text_of(body, "externalId", longest=254)
            row.is_active = truth_of(body.get("active", True), "active")
            actions.save_user(row)
        case "PATCH":
            for wish in wishes_of(_body(request)):
                if wish.attribute == "active":
                    row.is_active = wish.operation != "remove" and truth_of(wish.value, "active")
                elif wish.attribute == "externalid":
                    row.external_id = text_of({"externalId": wish.value}, "externalId", longest=254)
                elif wish.attribute == "username":
                    _keep_name(row, address_of({"userName": wish.value}))
            actions.save_user(row)
    return _answer(user_resource(row))


@_endpoint("GET", "POST")
def groups(request: HttpRequest, tenant: Tenant) -> HttpResponse:
    """List or make groups."""
    if request.method == "GET":
        rows = ScimGroup.objects.prefetch_related("members__member")
        return _list(request, rows, GROUP_ATTRIBUTES, group_resource)
    body = _body(request)
    row = ScimGroup(
        tenant=tenant,
        display_name=text_of(body, "displayName", longest=200, needed=True),
        external_id=text_of(body, "externalId", longest=254),
    )
    members = member_ids_of(body.get("members") or [])
    actions.save_group(row, acting_user=None)
    actions.change_members(row, "add", members)
    return _answer(group_resource(row), status=201)


@_endpoint("GET", "PUT", "PATCH", "DELETE")
def group(request: HttpRequest, tenant: Tenant, pk: UUID) -> HttpResponse:  # noqa: ARG001  # it is the scope's
    """One group."""
    row: ScimGroup = _one(ScimGroup.objects.all(), pk)
    match request.method:
        case "DELETE":
            actions.delete_group(row)
            return HttpResponse(status=204)
        case "PUT":
            body = _body(request)
            row.display_name = text_of(body, "displayName", longest=200, needed=True)
            row.external_id = text_of(body, "externalId", longest=254)
            members = member_ids_of(body.get("members") or [])
            actions.save_group(row, acting_user=None)
            actions.change_members(row, "replace", members)
        case "PATCH":
            for wish in wishes_of(_body(request)):
                if wish.attribute == "members":
                    actions.change_members(row, wish.operation, wish.member_ids)
                elif wish.attribute == "displayname":
                    row.display_name = text_of({"displayName": wish.value}, "displayName", longest=200, needed=True)
                elif wish.attribute == "externalid":
                    row.external_id = text_of({"externalId": wish.value}, "externalId", longest=254)
            actions.save_group(row, acting_user=None)
    return _answer(group_resource(row))


@_endpoint("GET")
def config(request: HttpRequest, tenant: Tenant) -> HttpResponse:  # noqa: ARG001  # alike for all
    """What is offered."""
    return _answer(discovery.configuration(max_page=MAX_PAGE))


@_endpoint("GET")
def schemas(request: HttpRequest, tenant: Tenant, name: str = "") -> HttpResponse:  # noqa: ARG001  # alike for all
    """What resources are made of: one schema, or all."""
    return _described(request, discovery.schemas(), name)


@_endpoint("GET")
def resource_types(request: HttpRequest, tenant: Tenant, name: str = "") -> HttpResponse:  # noqa: ARG001  # as above
    """Which kinds of resources there are: one, or all."""
    return _described(request, discovery.resource_types(), name)


def _described(request: HttpRequest, known: Mapping[str, dict[str, Any]], name: str) -> HttpResponse:
    if "filter" in request.GET:  # RFC 7644, 4: it wouldn't be the truth about the rest
        raise ScimError(403, "these can't be filtered")
    if name:
        if name not in known:
            raise ScimError(404, "there is no such resource here")
        return _answer(known[name])
    return _answer(_page([*known.values()], total=len(known), start=1))


def _directory(token: ServiceToken) -> str:
    """As the ledger names it: by the token that it was given, and what people call that."""
    return f"SCIM token {token.token_id}" + (f" ({token.label})" if token.label else "")


def _token_of(request: HttpRequest) -> ServiceToken:
    if seconds_to_wait(request, "scim"):
        raise ScimError(429, "too many requests")
    with every_tenant():
        token = service_token(request, ServicePurpose.SCIM, now=timezone.now())
    if token is None:
        raise ScimError(401, "send a service token for SCIM")
    return token


def _body(request: HttpRequest) -> dict[str, Any]:
    try:
        data = request.body if int(request.headers.get("Content-Length") or 0) <= MAX_BODY_BYTES else None
    except (RequestDataTooBig, ValueError):
        data = None
    if data is None or len(data) > MAX_BODY_BYTES:
        raise ScimError(413, f"a request has at most {MAX_BODY_BYTES} bytes")
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        body = None
    if not isinstance(body, dict):
        raise invalid("send a JSON object", "invalidSyntax")
    return body


def _list(
    request: HttpRequest, rows: QuerySet[Any], attributes: Attributes, resource: Callable[[Any], dict[str, Any]]
) -> HttpResponse:
    """A page (RFC 7644, 3.4.2.4): `startIndex` counts from 1, `count` is cut to the bound."""
    if "filter" in request.GET:
        try:
            rows = rows.filter(parse_filter(request.GET["filter"], attributes))
        except BadFilter as error:
            raise invalid(str(error), "invalidFilter") from None
    start = max(1, _number(request, "startIndex", default=1))
    count = min(MAX_PAGE, max(0, _number(request, "count", default=PAGE)))
    page = [resource(row) for row in rows.order_by("pk")[start - 1 : start - 1 + count]]
    return _answer(_page(page, total=rows.count(), start=start))


def _page(resources: list[dict[str, Any]], *, total: int, start: int) -> dict[str, Any]:
    return {
        "schemas": [LIST],
        "totalResults": total,
        "startIndex": start,
        "itemsPerPage": len(resources),
        "Resources": resources,
    }


def _number(request: HttpRequest, name: str, *, default: int) -> int:
    text = request.GET.get(name, str(default))
    if len(text) > 9 or not text.removeprefix("-").isdecimal() or not text.isascii():
        raise invalid(f"{name} must be a number")
    return int(text)


def _one(rows: QuerySet[Any], pk: UUID) -> Any:
    row = rows.filter(pk=pk).first()
    if row is None:
        raise ScimError(404, "there is no such resource here")
    return row


def _keep_name(row: ScimUser, user_name: str) -> None:
    """An address is who a person is: another one is another person, who has to be made."""
    if user_name != row.user_name:
        raise ScimError(400, "userName can't be changed", "mutability")


def _answer(body: dict[str, Any], *, status: int = 200) -> HttpResponse:
    return JsonResponse(body, status=status, content_type=CONTENT_TYPE, headers={"Cache-Control": "no-store"})


def _error(error: ScimError) -> HttpResponse:
    body = {"schemas": [ERROR], "status": str(error.status), "detail": error.detail}
    if error.scim_type:
        body["scimType"] = error.scim_type
    response = _answer(body, status=error.status)
    if error.status == 401:
        response["WWW-Authenticate"] = 'Bearer realm="narrowgate"'
    return response
