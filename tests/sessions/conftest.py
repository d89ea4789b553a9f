"""Two tenants with an agent, a target, a policy and a worker each."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.utils import timezone
from django_scopes import scope

from accounts.models import Agent, Tenant
from policies.actions import publish_version, save_policy
from policies.models import Policy
from sessions.ingest import LinkedWorker
from sessions.models import AgentSession
from targets.actions import save_credential, save_target
from targets.models import Credential, ProxyWorker, Target

AT = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Site:
    """One tenant's set-up. `key` is the worker's."""

    tenant: Tenant
    agent: Agent
    target: Target
    worker: ProxyWorker
    key: Ed25519PrivateKey

    @property
    def linked(self) -> LinkedWorker:
        """The worker as the link knows it."""
        return LinkedWorker(id=self.worker.pk, tenant_id=self.tenant.pk, name=self.worker.name)

    def session(self) -> AgentSession:
        """A granted session of the agent on the target."""
        with scope(tenant=self.tenant):
            session: AgentSession = AgentSession.objects.create(
                tenant=self.tenant,
                agent=self.agent,
                target=self.target,
                worker=self.worker,
                protocol="postgres",
                client_address="127.0.0.1:50000",
                policy_version="support@1",
                rule="support/read",
                credential_id="token:0",
                principal={"name": self.agent.name},
                granted_at=timezone.now(),
                expires_at=timezone.now() + timedelta(hours=1),
            )
        return session


def make_site(slug: str) -> Site:
    """A tenant in which agent "reporter" may reach target "shop" through worker "edge"."""
    tenant = Tenant.objects.create(slug=slug, name=slug.title())
    key = Ed25519PrivateKey.generate()
    with scope(tenant=tenant):
        agent = Agent.objects.create(tenant=tenant, name="reporter", groups=["analysts"])
        target = Target(tenant=tenant, name="shop", host="db.internal", database="shop_live", tls_mode="verify-full")
        save_target(target, acting_user=None)
        save_credential(
            Credential(tenant=tenant, target=target, username="gate"),
            secret=f"{slug}-upstream-secret",
            acting_user=None,
        )
        policy = Policy(tenant=tenant, name="support")
        save_policy(policy, acting_user=None)
        rules = [
            {"name": "read", "effect": "allow", "agents": ["reporter"], "targets": ["shop", "gone*"]},
            {
                "name": "never",
                "effect": "deny",
                "agents": ["*"],
                "targets": ["payroll*"],
                "reason": "payroll is for people",
            },
        ]
        publish_version(policy, rules=rules, message="first", acting_user=None)
        worker = ProxyWorker.objects.create(
            tenant=tenant, name="edge", public_key=key.public_key().public_bytes_raw(), enrolled_at=AT
        )
    return Site(tenant=tenant, agent=agent, target=target, worker=worker, key=key)


@pytest.fixture
def acme(db: None) -> Site:
    """A tenant."""
    return make_site("acme")


@pytest.fixture
def globex(db: None) -> Site:
    """Another tenant, set up just alike."""
    return make_site("globex")
