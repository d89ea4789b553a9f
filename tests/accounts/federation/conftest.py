"""A real OpenID provider (Canaille) set up as acme's, and a site whose public URL is the test client's."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from django.conf import settings
from django.core.cache import cache
from django.test import Client

from accounts.federation import actions
from accounts.federation.actions import MappingSpec
from accounts.federation.models import IdentityProvider
from tests.accounts.conftest import Site

PUBLIC_URL = "http://testserver"


@pytest.fixture(autouse=True)
def _public_url(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(settings, "NARROWGATE", replace(settings.NARROWGATE, public_url=PUBLIC_URL))
    monkeypatch.setattr(settings, "ALLOWED_HOSTS", [*settings.ALLOWED_HOSTS, "testserver"])
    cache.clear()
    yield
    cache.clear()


def make_provider(site: Site, *, mappings: dict[str, str] | None = None, **fields: Any) -> IdentityProvider:
    """An OIDC provider of the site, through the action."""
    values = {"slug": "idp", "name": "Example", "issuer": "http://127.0.0.1:1", "client_id": "narrowgate", **fields}
    provider = IdentityProvider(tenant=site.tenant, **values)
    given = {"admins": "admin", "staff": "viewer"} if mappings is None else mappings
    actions.save_provider(
        provider,
        acting_user=None,
        secret="client-secret" if provider.is_oidc else None,
        mappings=[MappingSpec(group, role) for group, role in given.items()],
    )
    return provider


@pytest.fixture
def browser() -> Client:
    return Client()
