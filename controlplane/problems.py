"""How REST says what is wrong: problem details (RFC 9457), application/problem+json.

A problem is `{"type", "title", "status", "detail", "errors": [{"field", "problem"}]}`. Nothing in it is internal: what
isn't foreseen becomes Django's plain 500.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from http import HTTPStatus
from typing import Any

from django.conf import settings
from django.core.exceptions import NON_FIELD_ERRORS, PermissionDenied, RequestDataTooBig, ValidationError
from django.db import DataError
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse
from django.views.defaults import page_not_found
from rest_framework import exceptions
from rest_framework.response import Response
from rest_framework.views import set_rollback

from controlplane.errors import Refusal

PROBLEM_CONTENT_TYPE = "application/problem+json"
_NOT_HERE = "There is no such thing here, or you may not see it."


class _BodyTooLarge(exceptions.APIException):
    status_code = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    default_detail = f"Send at most {settings.DATA_UPLOAD_MAX_MEMORY_SIZE:,} bytes in one request."


def problem_response(error: Exception, _context: Mapping[str, Any]) -> Response | None:
    """DRF's exception handler. None for what isn't foreseen."""
    match error:
        case Http404():
            error = exceptions.NotFound()
        case PermissionDenied():
            error = exceptions.PermissionDenied()
        case Refusal():
            return _problem(HTTPStatus.CONFLICT, str(error), [{"field": error.field, "problem": str(error)}])
        case DataError():  # such as a NUL, or a time outside of PostgreSQL's: what it says would quote the value
            return _invalid([{"field": "", "problem": "A value is out of range, or has a character that isn't text."}])
        case RequestDataTooBig():
            error = _BodyTooLarge()
        case ValidationError():
            return _invalid(list(_django_errors(error)))
        case exceptions.ValidationError():
            return _invalid(list(_rest_errors(error.detail)))
    if not isinstance(error, exceptions.APIException):
        return None
    response = _problem(HTTPStatus(error.status_code), _detail(error), [])
    if isinstance(error, exceptions.NotAuthenticated | exceptions.AuthenticationFailed):
        response["WWW-Authenticate"] = getattr(error, "auth_header", "Bearer")
    wait = getattr(error, "wait", None)  # seconds, of Throttled
    if wait:
        response["Retry-After"] = str(int(wait) + 1)
    return response


def not_found(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Django's `handler404`: a path that is none, told as REST tells it below /api/."""
    if not request.path.startswith("/api/"):
        return page_not_found(request, exception)
    status = HTTPStatus.NOT_FOUND
    fields: dict[str, object] = {"type": "about:blank", "title": status.phrase, "status": status.value}
    body = {**fields, "detail": _NOT_HERE, "errors": []}
    return JsonResponse(body, status=status.value, content_type=PROBLEM_CONTENT_TYPE)


def _detail(error: exceptions.APIException) -> str:
    match error:
        case exceptions.NotFound():
            return _NOT_HERE
        case exceptions.NotAuthenticated():
            return "Sign in, or send a token: Authorization: Bearer ngp_…"
    return str(error.detail)


def _invalid(errors: list[dict[str, str]]) -> Response:
    fields = ", ".join(dict.fromkeys(error["field"] or "the request" for error in errors))
    return _problem(HTTPStatus.BAD_REQUEST, f"Correct {fields} and send it again.", errors)


def _problem(status: HTTPStatus, detail: str, errors: list[dict[str, str]]) -> Response:
    set_rollback()
    body = {"type": "about:blank", "title": status.phrase, "status": status.value, "detail": detail, "errors": errors}
    return Response(body, status=status.value, content_type=PROBLEM_CONTENT_TYPE)


def _django_errors(error: ValidationError) -> Iterator[dict[str, str]]:
    by_field = error.message_dict if hasattr(error, "error_dict") else {NON_FIELD_ERRORS: error.messages}
    for field, messages in by_field.items():
        for message in messages:
            yield {"field": "" if field == NON_FIELD_ERRORS else field, "problem": message}


def _rest_errors(detail: Any, path: str = "") -> Iterator[dict[str, str]]:
    if isinstance(detail, Mapping):
        for key, inner in detail.items():
            yield from _rest_errors(inner, _joined(path, key))
    elif isinstance(detail, list):
        for index, inner in enumerate(detail):
            nested = isinstance(inner, Mapping | list)
            yield from _rest_errors(inner, f"{path}[{index}]" if nested else path)
    else:
        yield {"field": path, "problem": str(detail)}


def _joined(path: str, key: object) -> str:
    """`rules`, 0, `agent` → `rules[0].agent`."""
    if isinstance(key, int):
        return f"{path}[{key}]"
    if key == "non_field_errors":
        return path
    return f"{path}.{key}" if path else str(key)
