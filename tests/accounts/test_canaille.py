"""A real OpenID provider (Canaille), asked over HTTP for a token, which then works as an agent's credential."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from django.core.cache import cache
from django.utils import timezone

from accounts import actions
from accounts.errors import BadCredential
from accounts.identify import identify_agent
from accounts.models import OidcTrust
from tests.accounts.conftest import Site

pytestmark = pytest.mark.filterwarnings("default")  # Canaille's own


@pytest.fixture
def token(iam_server: Any) -> str:
    """What the provider gives a client for its user, as RFC 6749, 4.3 has it."""
    with iam_server.app.app_context():
        client = iam_server.models.Client(
            client_id="narrowgate",
            client_secret="client-secret",
            client_name="reporter",
            grant_types=["password"],
            scope=["openid", "email"],
            token_endpoint_auth_method="client_secret_basic",
        )
        iam_server.backend.save(client)
        client.audience = [client]
        iam_server.backend.save(client)
    iam_server.random_user(user_name="reporter-prod", emails=["ada@acme.example"], password="user-password")
    answer = httpx.post(
        f"{iam_server.url}oauth/token",
        auth=("narrowgate", "client-secret"),
        data={
            "grant_type": "password",
            "username": "reporter-prod",
            "password": "user-password",
            "scope": "openid email",
        },
    )
    answer.raise_for_status()
    return str(answer.json()["access_token"])


def test_a_token_of_a_real_provider_works_as_the_password(acme: Site, iam_server: Any, token: str) -> None:
    cache.clear()
    trust = OidcTrust(
        tenant=acme.tenant,
        name="canaille",
        issuer=iam_server.url.rstrip("/"),
        audience="narrowgate",
        algorithms=["RS512"],
        person_claim="email",
    )
    rule = actions.RuleSpec(conditions=("sub = reporter-prod",), agent_id=acme.agent.pk)
    actions.save_trust(trust, acting_user=None, rules=[rule])
    identified = identify_agent(token, now=timezone.now())
    assert identified.agent == acme.agent
    assert identified.on_behalf_of == "ada@acme.example"
    header, payload, signature = token.split(".")
    with pytest.raises(BadCredential):
        identify_agent(f"{header}.{payload}.{signature[:-4]}AAAA", now=timezone.now())
