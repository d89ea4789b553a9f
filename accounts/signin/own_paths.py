"""Where a sign-in leads in the end: to a path of ours, never to another site."""

from __future__ import annotations

from django.conf import settings
from django.shortcuts import resolve_url
from django.utils.http import url_has_allowed_host_and_scheme

#: The longest path with a query that is kept.
MAX_PATH = 2_000


def own_path(wanted: str) -> str:
    """`wanted` when it is a path of this site, else the admin's index."""
    is_own = wanted.startswith("/") and len(wanted) <= MAX_PATH and url_has_allowed_host_and_scheme(wanted, None)
    return wanted if is_own else resolve_url(settings.LOGIN_REDIRECT_URL)
