"""How many statements a login and a token cost, once they are in use: each is a wait for every agent that connects."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import pytest
from django.test import Client
from django.utils import timezone

from accounts import actions
from accounts.identify import identify_agent
from accounts.models import OidcTrust
from accounts.oauth import actions as oauth
from accounts.oauth.exchange import TOKEN_EXCHANGE
from controlplane.authority import Role
from tests.accounts.conftest import Site
from tests.accounts.provider import AUDIENCE, Provider

JWT = "urn:ietf:params:oauth:token-type:jwt"


def jwt(provider: Provider) -> str:
    return provider.sign(
        {"iss": provider.url, "aud": AUDIENCE, "sub": "reporter-prod", "exp": int(time.time()) + 600, "jti": "1"}
    )


def post(**form: str) -> str:
    answer = Client().post("/oauth/token", urlencode(form), content_type="application/x-www-form-urlencoded")
    assert answer.status_code == 200, answer.content
    return str(answer.json()["access_token"])


def login(credential: str) -> Callable[[], object]:
    return lambda: identify_agent(credential, now=timezone.now())


@pytest.fixture
def costs(django_assert_num_queries: Any) -> Callable[[Callable[[], object], int], None]:
    """Run it twice, and count the second time: keys are fetched then, and its use was noted this minute."""

    def check(run: Callable[[], object], statements: int) -> None:
        run()
        with django_assert_num_queries(statements):
            run()

    return check


def test_a_login_by_an_issued_token_costs_one_statement_and_one_more_for_a_sponsor(acme: Site, costs: Any) -> None:
    token = actions.issue_agent_token(acme.agent, acting_user=None)[1].text
    costs(login(token), 1)
    acme.agent.sponsor = acme.people[Role.ADMIN]
    actions.save_agent(acme.agent, acting_user=None)
    costs(login(token), 2)


def test_a_login_by_a_jwt_costs_two_statements(provider: Provider, trust: OidcTrust, costs: Any) -> None:
    costs(login(jwt(provider)), 2)


def test_a_login_by_an_exchanged_token_looks_at_what_it_was_made_from(
    provider: Provider, trust: OidcTrust, costs: Any
) -> None:
    token = post(grant_type=TOKEN_EXCHANGE, subject_token=jwt(provider), subject_token_type=JWT)
    costs(login(token), 2)


def test_an_exchange_costs_what_the_login_does_and_the_token(provider: Provider, trust: OidcTrust, costs: Any) -> None:
    form = {"grant_type": TOKEN_EXCHANGE, "subject_token": jwt(provider), "subject_token_type": JWT}
    costs(lambda: post(**form), 3)


def test_a_clients_token_costs_two_statements(acme: Site, costs: Any) -> None:
    client, made = oauth.make_client(acme.agent, acting_user=None)
    assert made is not None
    form = {"grant_type": "client_credentials", "client_id": client.client_id, "client_secret": made.text}
    costs(lambda: post(**form), 2)
