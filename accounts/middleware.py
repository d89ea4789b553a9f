"""Puts the signed-in person's authority on the request, and the ORM into its scope."""

from __future__ import annotations

from collections.abc import Callable

from django.contrib.auth import logout
from django.http import HttpRequest, HttpResponse
from django.utils import timezone

from accounts.access import authority_for
from accounts.signin.sessions import current_sign_in


class AuthorityMiddleware:
    """After Django's AuthenticationMiddleware. Anonymous requests run in an empty scope: they see no tenant's rows.

    A session whose sign-in was ended, or has run out, is signed out here. A provider vouches for people in its tenant
    only, so what they may do elsewhere isn't theirs in such a session.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answer within the scope; a template that renders late still does."""
        sign_in = current_sign_in(request, now=timezone.now()) if request.user.is_authenticated else None
        if request.user.is_authenticated and sign_in is None:
            logout(request)
        request.sign_in = sign_in  # type: ignore[attr-defined]
        authority = authority_for(request.user)
        if sign_in is not None and sign_in.tenant_id is not None:
            authority = authority.within(sign_in.tenant_id)
        request.authority = authority  # type: ignore[attr-defined]
        with authority.scope():
            return self._get_response(request)
