"""Puts the signed-in person's authority on the request, and the ORM into its scope."""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

from accounts.access import authority_for


class AuthorityMiddleware:
    """After Django's AuthenticationMiddleware. Anonymous requests run in an empty scope: they see no tenant's rows."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answer within the scope; a template that renders late still does."""
        authority = authority_for(request.user)
        request.authority = authority  # type: ignore[attr-defined]
        with authority.scope():
            return self._get_response(request)
