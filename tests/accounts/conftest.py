"""Two tenants, people in every role, an outsider, an agent each, and a provider."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from django.core.cache import cache
from django_scopes import scope

from accounts import actions
from accounts.models import Agent, Membership, OidcTrust, Tenant, User
from controlplane.authority import Role
from tests.accounts.provider import AUDIENCE, Provider, running_provider

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Site:
    """A tenant with an agent, and a person in each role."""

    tenant: Tenant
    agent: Agent
    people: dict[Role, User]


def make_site(slug: str) -> Site:
    """Through the actions, as the system."""
    tenant = actions.save_tenant(Tenant(slug=slug, name=slug.title()), acting_user=None)
    people = {}
    for role in Role:
        person = actions.save_user(User(email=f"{role}@{slug}.example"), acting_user=None)
        actions.save_membership(Membership(tenant=tenant, user=person, role=role), acting_user=None)
        people[role] = person
    agent = actions.save_agent(Agent(tenant=tenant, name="reporter", groups=["analysts"]), acting_user=None)
    return Site(tenant=tenant, agent=agent, people=people)


@pytest.fixture
def acme(db: None) -> Site:
    return make_site("acme")


@pytest.fixture
def globex(db: None) -> Site:
    return make_site("globex")


@pytest.fixture
def outsider(db: None) -> User:
    """A person without a role anywhere."""
    return actions.save_user(User(email="mallory@nowhere.example"), acting_user=None)


@pytest.fixture
def operator(db: None) -> User:
    return actions.save_user(User(email="root@gate.example", is_superuser=True), acting_user=None)


@pytest.fixture(scope="session")
def _provider() -> Iterator[Provider]:
    with running_provider() as provider:
        yield provider


@pytest.fixture
def provider(_provider: Provider) -> Iterator[Provider]:
    """The provider with its two keys published, and nobody having asked yet."""
    keys = dict(_provider.keys)
    _provider.publish()
    _provider.asked.clear()
    cache.clear()
    yield _provider
    _provider.keys = keys


def make_trust(site: Site, provider: Provider, **fields: object) -> OidcTrust:
    """A trust of the site in the provider: `sub` "reporter-prod" stands for the site's agent."""
    values = {
        "name": "idp",
        "issuer": provider.url,
        "audience": AUDIENCE,
        "jwks_url": provider.jwks_url,
        "algorithms": ["RS256", "ES256"],
        **fields,
    }
    trust = OidcTrust(tenant=site.tenant, **values)
    rule = actions.RuleSpec(conditions=("sub = reporter-prod",), agent_id=site.agent.pk)
    actions.save_trust(trust, acting_user=None, rules=[rule])
    return trust


@pytest.fixture
def trust(acme: Site, provider: Provider) -> OidcTrust:
    return make_trust(acme, provider)


@pytest.fixture
def in_acme(acme: Site) -> Iterator[Site]:
    """The ORM in acme's scope."""
    with scope(tenant=acme.tenant):
        yield acme
