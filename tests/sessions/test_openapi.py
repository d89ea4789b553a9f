"""The served OpenAPI document against the served REST: whatever is sent, no 5xx and no answer that isn't documented."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from django.core.signals import request_finished, request_started
from django.core.wsgi import get_wsgi_application
from django.db import close_old_connections
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, status_code_conformance

from accounts import actions
from accounts.authentication import ApiTokenAuthentication
from controlplane.api import TenantViewSet
from controlplane.authority import Role
from tests.sessions.conftest import make_site
from tests.sessions.people import furnish, person

pytestmark = [
    pytest.mark.slow,
    pytest.mark.django_db(transaction=True),
]  # a value refused by PostgreSQL ends a transaction

#: The document as it is served.
schema = schemathesis.openapi.from_wsgi("/api/v1/schema/?format=json", get_wsgi_application())


@pytest.fixture(autouse=True)
def _one_connection() -> Iterator[None]:
    """The requests share the test's connection, as those of Django's client do."""
    signals = (request_started, request_finished)
    for signal in signals:
        signal.disconnect(close_old_connections)
    yield
    for signal in signals:
        signal.connect(close_old_connections)


@pytest.fixture
def authorization(db: None, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """An owner's, in a tenant with a row of each kind; they may ask as often as they like."""
    monkeypatch.setattr(TenantViewSet, "throttle_classes", [])
    monkeypatch.setattr(TenantViewSet, "authentication_classes", [ApiTokenAuthentication])
    site = make_site("acme")
    furnish(site)
    _, made = actions.issue_api_token(person(site.tenant, Role.OWNER), tenant=site.tenant, acting_user=None)
    return {"Authorization": f"Bearer {made.text}"}


@schema.parametrize()
@hypothesis_settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_every_answer_is_documented_and_none_is_a_5xx(case: Any, authorization: dict[str, str]) -> None:
    case.call_and_validate(
        headers=authorization, checks=[not_a_server_error, status_code_conformance, content_type_conformance]
    )
