"""A tenant with an agent, a target, a worker, people, and a policy under which writing needs an approval."""

from __future__ import annotations

import hashlib
import itertools
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone
from django_scopes import scope

from accounts import actions as accounts
from accounts.models import Agent, Membership, Tenant, User
from controlplane.authority import Role
from controlplane.ledger.models import LedgerEntry
from policies.actions import publish_version, save_policy
from policies.approvals.actions import save_flow
from policies.approvals.asking import Answer, Asked, ask
from policies.approvals.models import ApprovalFlow, ApprovalRequest
from policies.engine import Access, Approval, ApprovalMode, Decision, Effect, Operation
from policies.models import Policy
from targets.actions import save_target
from targets.models import ProxyWorker, Target

DELETE = Operation(accesses=(Access("delete", "public.orders", ("id",)),), template="d1")
RULE: dict[str, Any] = {
    "name": "writes",
    "effect": "require_approval",
    "agents": ["*"],
    "targets": ["*"],
    "approval": {"flow": "writes"},
}


@dataclass(slots=True)
class Site:
    """One tenant's set-up. People are made as they are named."""

    tenant: Tenant
    agent: Agent
    target: Target
    worker: ProxyWorker
    policy: Policy
    people: dict[str, User] = field(default_factory=dict)
    ops: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    session_id: uuid.UUID = field(default_factory=uuid.uuid4)

    def person(self, name: str, role: Role = Role.APPROVER) -> User:
        """Somebody with this role."""
        if name not in self.people:
            address = f"{name}@{self.tenant.slug}.example"
            user = accounts.save_user(User(email=address), acting_user=None)
            accounts.save_membership(Membership(tenant=self.tenant, user=user, role=role), acting_user=None)
            self.people[name] = user
        return self.people[name]

    def remove(self, name: str) -> None:
        """Take the person's role in the tenant away."""
        with scope(tenant=self.tenant):
            membership = Membership.objects.get(user=self.people[name])
            accounts.delete_membership(membership, acting_user=None)

    def flow(self, name: str = "writes", **terms: Any) -> ApprovalFlow:
        """A flow with these terms; by itself, one approver has to say yes."""
        document = {"stages": [{"approvers": {"roles": ["approver"]}}], **terms}
        with scope(tenant=self.tenant):
            flow = ApprovalFlow.objects.filter(name=name).first() or ApprovalFlow(tenant=self.tenant, name=name)
            flow.terms = document
            save_flow(flow, acting_user=None)
        return flow

    def publish(self, *rules: dict[str, Any], by: User | None = None) -> None:
        """Another version of the policy."""
        with scope(tenant=self.tenant):
            publish_version(self.policy, rules=list(rules or (RULE,)), message="more", acting_user=by)

    @property
    def version(self) -> str:
        """Of the policy, as decisions name it."""
        with scope(tenant=self.tenant):
            self.policy.refresh_from_db()
            assert self.policy.current is not None
            return f"{self.policy.name}@{self.policy.current.number}"

    def asked(self, text: str = "DELETE FROM orders WHERE id = 1", **changed: Any) -> Asked:
        """What the gate asks about this text, under the policy of now; each call is another operation."""
        flow, mode = changed.pop("flow", "writes"), changed.pop("mode", ApprovalMode.HOLD)
        hold_seconds = changed.pop("hold_seconds", 0)
        version = changed.pop("version", None) or self.version
        values: dict[str, Any] = {
            "session_id": self.session_id,
            "session_expires_at": timezone.now() + timedelta(hours=8),
            "op": next(self.ops),
            "worker": self.worker,
            "agent": self.agent,
            "target": self.target,
            "principal": {"name": self.agent.name, "groups": [], "on_behalf_of": "", "actors": [], "sponsor": ""},
            "kind": "query",
            "text": text,
            "text_bytes": len(text.encode()),
            "parameters": [],
            "operation_sha256": hashlib.sha256(text.encode()).digest(),
            "operation": DELETE,
            "decision": Decision(
                effect=Effect.REQUIRE_APPROVAL,
                policy_version=version,
                rule="support/writes",
                reason="writing takes a yes",
                approval=Approval(flow=flow, mode=mode, hold_seconds=hold_seconds),
            ),
        }
        return Asked(**{**values, **changed})

    def ask(self, text: str = "DELETE FROM orders WHERE id = 1", **changed: Any) -> Answer:
        """The answer to that."""
        return ask(self.asked(text, **changed), now=timezone.now())

    def defer(self, text: str = "DELETE FROM orders WHERE id = 1", **changed: Any) -> Answer:
        """The same where the rule defers."""
        return self.ask(text, mode=ApprovalMode.DEFER, **changed)

    def request(self, answer: Answer) -> ApprovalRequest:
        """The request that the answer is about, as it is now."""
        with scope(tenant=self.tenant):
            return ApprovalRequest.objects.select_related("tenant", "agent", "target").get(pk=answer.approval_id)

    def again(self, request: ApprovalRequest) -> ApprovalRequest:
        """The request as it is now."""
        with scope(tenant=self.tenant):
            return ApprovalRequest.objects.get(pk=request.pk)

    def open(self, text: str = "DELETE FROM orders WHERE id = 1", **changed: Any) -> ApprovalRequest:
        """A request that waits."""
        return self.request(self.ask(text, **changed))

    def set(self, request: ApprovalRequest, **values: Any) -> None:
        """Write these columns."""
        with scope(tenant=self.tenant):
            ApprovalRequest.objects.filter(pk=request.pk).update(**values)

    def ledger(self, kind: str) -> list[LedgerEntry]:
        """The entries of this kind."""
        with scope(tenant=self.tenant):
            return list(LedgerEntry.objects.filter(kind=kind).order_by("seq"))

    def told(self, kind: str) -> list[Any]:
        """What the entries of this kind say of the new state."""
        return [entry.after for entry in self.ledger(kind)]


def make_site(slug: str) -> Site:
    """A tenant in which agent "reporter" works on "shop"."""
    tenant = Tenant.objects.create(slug=slug, name=slug.title())
    with scope(tenant=tenant):
        agent = Agent.objects.create(tenant=tenant, name="reporter")
        target = Target(tenant=tenant, name="shop", host="db.internal", database="shop_live")
        save_target(target, acting_user=None)
        worker = ProxyWorker.objects.create(
            tenant=tenant, name="edge", public_key=uuid.uuid4().bytes * 2, enrolled_at=timezone.now()
        )
        policy = Policy(tenant=tenant, name="support")
        save_policy(policy, acting_user=None)
    site = Site(tenant=tenant, agent=agent, target=target, worker=worker, policy=policy)
    site.flow()
    site.person("ada")
    site.publish()
    return site


@pytest.fixture
def acme(db: None) -> Site:
    """A tenant; Ada may approve there."""
    return make_site("acme")


@pytest.fixture
def globex(db: None) -> Site:
    """Another tenant, set up just alike."""
    return make_site("globex")


def ago(**amount: float) -> datetime:
    """A moment that has passed."""
    return timezone.now() - timedelta(**amount)
