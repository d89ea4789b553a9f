"""The endpoints' words: form parameters in, JSON out, errors exactly as RFC 6749, 5.2 and its relatives want them."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any, Final
from urllib.parse import unquote_plus

import structlog
from django.core.exceptions import RequestDataTooBig, TooManyFieldsSent
from django.core.files.uploadhandler import StopFutureHandlers
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.views.decorators.csrf import csrf_exempt

from accounts.oauth.limits import seconds_to_wait

log = structlog.get_logger(__name__)

#: Two tokens of 32 KB with their encoding, and the rest.
MAX_BODY_BYTES: Final = 128 * 1024
FORM: Final = "application/x-www-form-urlencoded"
#: Parameters that may be there more than once (RFC 8693, 2.1; RFC 8707, 2).
REPEATABLE: Final = frozenset({"resource", "audience"})
NO_STORE: Final = {"Cache-Control": "no-store", "Pragma": "no-cache"}


class OAuthError(Exception):
    """What the client is told: `error` is the RFC's code, `description` is ASCII without quotes and says no secret."""

    def __init__(self, error: str, description: str, *, status: int = 400, headers: Mapping[str, str] | None = None):
        super().__init__(f"{error}: {description}")
        self.error = error
        self.description = description
        self.status = status
        self.headers = dict(headers or {})


def invalid_client(description: str) -> OAuthError:
    """401 with the scheme that would do (RFC 6749, 5.2)."""
    headers = {"WWW-Authenticate": 'Basic realm="narrowgate"'}
    return OAuthError("invalid_client", description, status=401, headers=headers)


def answer(body: Mapping[str, Any], *, status: int = 200, headers: Mapping[str, str] | None = None) -> JsonResponse:
    """JSON that nobody keeps."""
    return JsonResponse(body, status=status, headers={**NO_STORE, **(headers or {})})


View = Callable[..., HttpResponse]


def endpoint(name: str) -> Callable[[View], View]:
    """A form endpoint: POST only, bounded, rate-limited by address, with its errors as JSON."""

    def decorate(view: View) -> View:
        @csrf_exempt  # no cookie is looked at
        @wraps(view)
        def wrapped(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            try:
                _check_request(request, name)
                return view(request, *args, **kwargs)
            except OAuthError as error:
                log.info("oauth_refused", endpoint=name, error=error.error, why=error.description)
                body = {"error": error.error, "error_description": error.description}
                return answer(body, status=error.status, headers=error.headers)

        return wrapped

    return decorate


def parameters(request: HttpRequest) -> dict[str, list[str]]:
    """The form's parameters; those sent empty are left out (RFC 6749, 3.2). Raises `OAuthError`."""
    try:
        form = request.POST
    except (RequestDataTooBig, TooManyFieldsSent, StopFutureHandlers, UnicodeError):
        raise OAuthError("invalid_request", "the form is too large") from None
    read: dict[str, list[str]] = {}
    for key, values in form.lists():
        present = [value for value in values if isinstance(value, str) and value]
        if len(values) > 1 and key not in REPEATABLE:
            raise OAuthError("invalid_request", "a parameter is there twice")
        if any("\x00" in value for value in present):
            raise OAuthError("invalid_request", "a parameter holds a NUL")
        if present:
            read[key] = present
    return read


def one(form: Mapping[str, list[str]], name: str) -> str:
    """A parameter that must be there. Raises `OAuthError`."""
    if name not in form:
        raise OAuthError("invalid_request", f"{name} is missing")
    return form[name][0]


def basic_credentials(request: HttpRequest) -> tuple[str, str] | None:
    """Client id and secret of the Authorization header (RFC 6749, 2.3.1). Raises `OAuthError`."""
    header = request.headers.get("Authorization", "")
    scheme, _, encoded = header.partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        client_id, colon, secret = base64.b64decode(encoded.strip(), validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        raise invalid_client("the Authorization header is no Basic one") from None
    if not colon:
        raise invalid_client("the Authorization header is no Basic one")
    return unquote_plus(client_id), unquote_plus(secret)


def _check_request(request: HttpRequest, name: str) -> None:
    if request.method != "POST":
        raise OAuthError("invalid_request", "use POST", status=405, headers={"Allow": "POST"})
    wait = seconds_to_wait(request, name)
    if wait:
        raise OAuthError("temporarily_unavailable", "too many requests", status=429, headers={"Retry-After": str(wait)})
    if request.content_type != FORM:
        raise OAuthError("invalid_request", f"send {FORM}")
    try:
        length = int(request.headers.get("Content-Length") or 0)
    except ValueError:
        length = -1
    if not 0 <= length <= MAX_BODY_BYTES:
        raise OAuthError("invalid_request", f"a request has at most {MAX_BODY_BYTES} bytes", status=413)
