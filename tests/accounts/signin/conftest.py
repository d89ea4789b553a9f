"""An owner with a password, and settings as in production."""

from __future__ import annotations

from dataclasses import replace

import pytest
from django.conf import settings
from django.core.cache import cache

from accounts import actions
from accounts.models import User
from controlplane.authority import Role
from controlplane.env import LocalTotp
from tests.accounts.conftest import Site
from tests.accounts.signin.local import PASSWORD


@pytest.fixture(autouse=True)
def _no_lockout() -> None:
    cache.clear()


@pytest.fixture
def owner(acme: Site) -> User:
    return actions.save_user(acme.people[Role.OWNER], acting_user=None, password=PASSWORD)


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in production."""
    monkeypatch.setattr(settings, "NARROWGATE", replace(settings.NARROWGATE, local_totp=LocalTotp.REQUIRED))
