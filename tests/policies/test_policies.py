"""Policies: published versions that never change, and what applies to a tenant."""

from __future__ import annotations

from typing import Any

import pytest
from django.db import DatabaseError, connection
from django_scopes import scope

from accounts.models import Agent, Tenant
from controlplane.ledger.models import LedgerEntry
from policies import access, engine
from policies.access import MAX_VERSION_CHARACTERS, NO_POLICY, effective_policy, effective_version
from policies.actions import publish_version, save_policy
from policies.documents import EXAMPLE, PolicyDocument, parse_document, read_document, write_document
from policies.engine import Effect, PolicyError, Principal, SessionPolicy
from policies.errors import ImmutableVersion
from policies.models import Policy, PolicyVersion
from targets.actions import save_target
from targets.models import Target

READ_SHOP: dict[str, Any] = {"name": "read", "effect": "allow", "agents": ["reporter"], "targets": ["shop"]}


@pytest.fixture
def acme(db: None) -> Tenant:
    """A tenant with an agent and some targets."""
    tenant = Tenant.objects.create(slug="acme", name="Acme")
    with scope(tenant=tenant):
        Agent.objects.create(tenant=tenant, name="reporter")
        for name in ("shop", "archive", "payroll"):
            save_target(Target(tenant=tenant, name=name, host="db.internal", database=name), acting_user=None)
    return tenant


def publish(tenant: Tenant, name: str, *rules: dict[str, Any], is_active: bool = True) -> Policy:
    """A policy with these rules as its next version."""
    with scope(tenant=tenant):
        policy = Policy.objects.filter(name=name).first() or Policy(tenant=tenant, name=name, is_active=is_active)
        save_policy(policy, acting_user=None)
        publish_version(policy, rules=list(rules), message="because", acting_user=None)
    return policy


def effect(tenant: Tenant, agent: str, target: str) -> tuple[Effect, str]:
    """What applies to the agent there, and by which rule."""
    with scope(tenant=tenant):
        decision = SessionPolicy(
            effective_policy(tenant.pk), principal=Principal(id="1", name=agent), target=engine.Target(name=target)
        ).admits(now=0.0)
    return decision.effect, decision.rule


def test_without_a_published_policy_nothing_is_allowed(acme: Tenant) -> None:
    with scope(tenant=acme):
        save_policy(Policy(tenant=acme, name="empty"), acting_user=None)
        assert effective_policy(acme.pk).version == effective_version(acme.pk) == NO_POLICY
    assert effect(acme, "reporter", "shop")[0] is Effect.DENY


def test_active_policies_apply_together_and_are_named_in_the_version(acme: Tenant) -> None:
    publish(acme, "support", READ_SHOP)
    publish(acme, "support", READ_SHOP)
    publish(acme, "agents", {**READ_SHOP, "targets": ["archive"]})
    publish(acme, "off", {**READ_SHOP, "targets": ["payroll"]}, is_active=False)
    with scope(tenant=acme):
        assert effective_policy(acme.pk).version == effective_version(acme.pk) == "agents@1+support@2"
    assert effect(acme, "reporter", "shop") == (Effect.ALLOW, "support/read")
    assert effect(acme, "reporter", "archive") == (Effect.ALLOW, "agents/read")
    assert effect(acme, "reporter", "payroll")[0] is Effect.DENY


def test_a_version_is_parsed_once_and_what_is_in_force_is_read_each_time(
    acme: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[PolicyDocument] = []

    def counted(document: PolicyDocument, *, version: str) -> engine.Policy:
        parsed.append(document)
        return parse_document(document, version=version)

    monkeypatch.setattr(access, "parse_document", counted)
    policy = publish(acme, "support", READ_SHOP)
    with scope(tenant=acme):
        first, again = effective_policy(acme.pk), effective_policy(acme.pk)
        assert (first, len(parsed)) == (again, 1)
        publish(acme, "support", {**READ_SHOP, "targets": ["archive"]})
        assert effective_policy(acme.pk).rules[0].targets == ("archive",)
        assert len(parsed) == 2
        policy.refresh_from_db()
        policy.name = "renamed"
        save_policy(policy, acting_user=None)
        assert effective_policy(acme.pk).rules[0].name == "renamed/read"
        policy.is_active = False
        save_policy(policy, acting_user=None)
        assert effective_policy(acme.pk).rules == ()
        effective_policy(acme.pk, instead={policy.pk: PolicyDocument(rules=[READ_SHOP])})
        effective_policy(acme.pk, instead={policy.pk: PolicyDocument(rules=[READ_SHOP])})
    assert len(parsed) == 5


def test_a_deny_of_one_policy_wins_over_an_allow_of_another(acme: Tenant) -> None:
    publish(acme, "a-support", READ_SHOP)
    publish(acme, "freeze", {"name": "all", "effect": "deny", "agents": ["*"], "targets": ["*"]})
    assert effect(acme, "reporter", "shop") == (Effect.DENY, "freeze/all")


def test_the_version_of_many_policies_is_a_digest_of_bounded_length(acme: Tenant) -> None:
    for number in range(20):
        publish(acme, f"policy-{number:02}", READ_SHOP)
    with scope(tenant=acme):
        before = effective_policy(acme.pk).version
        publish(acme, "policy-07", READ_SHOP)
        after = effective_policy(acme.pk).version
        assert after == effective_version(acme.pk)
    assert before.startswith("sha256:")
    assert before != after
    assert len(after) <= MAX_VERSION_CHARACTERS


def test_another_tenants_policies_do_not_apply(acme: Tenant) -> None:
    publish(acme, "support", READ_SHOP)
    globex = Tenant.objects.create(slug="globex", name="Globex")
    assert effect(globex, "reporter", "shop")[0] is Effect.DENY


def test_a_version_is_neither_changed_nor_deleted_by_the_orm(acme: Tenant) -> None:
    publish(acme, "support", READ_SHOP)
    with scope(tenant=acme):
        version = PolicyVersion.objects.get()
        version.rules = []
        with pytest.raises(ImmutableVersion):
            version.save()
        with pytest.raises(ImmutableVersion):
            version.delete()


@pytest.mark.parametrize("statement", ["UPDATE {} SET rules = '[]'", "DELETE FROM {}", "TRUNCATE {} CASCADE"])
def test_a_version_is_neither_changed_nor_deleted_by_sql(acme: Tenant, statement: str) -> None:
    publish(acme, "support", READ_SHOP)
    table = PolicyVersion._meta.db_table
    with scope(tenant=acme), connection.cursor() as cursor, pytest.raises(DatabaseError, match="permission denied"):
        cursor.execute(statement.format(table))


def test_publishing_is_in_the_ledger_with_the_rules_before_and_after(acme: Tenant) -> None:
    publish(acme, "support", READ_SHOP)
    publish(acme, "support", {**READ_SHOP, "targets": ["archive"]})
    with scope(tenant=acme):
        entry = LedgerEntry.objects.filter(kind="policy.published").order_by("-seq")[0]
    assert (entry.before["number"], entry.after["number"]) == (1, 2)
    assert (entry.before["rules"][0]["targets"], entry.after["rules"][0]["targets"]) == (["shop"], ["archive"])


@pytest.mark.parametrize(
    ("rules", "field"),
    [
        ([{**READ_SHOP, "agents": []}], "rules[0].agents"),
        ([{**READ_SHOP, "name": " "}], "rules[0].name"),
        ([READ_SHOP, READ_SHOP], "rules[1].name"),
        ([{**READ_SHOP, "effect": "maybe"}], "rules[0].effect"),
        ([{**READ_SHOP, "surprise": 1}], "rules[0].surprise"),
        ("read", "rules"),
        ([{**READ_SHOP, "agents": ["nobody"]}], "rules[0].agents"),
        ([{**READ_SHOP, "targets": ["nowhere"]}], "rules[0].targets"),
        ([READ_SHOP, {**READ_SHOP, "name": "again", "operations": ["select"]}], "rules[1]"),
        ([{**READ_SHOP, "effect": "require_approval", "approval": {"flow": "leads"}}], "rules[0].approval.flow"),
    ],
)
def test_rules_that_are_no_policy_are_not_published(acme: Tenant, rules: Any, field: str) -> None:
    policy = publish(acme, "support", READ_SHOP)
    with scope(tenant=acme):
        with pytest.raises(PolicyError) as refused:
            publish_version(policy, rules=rules, message="", acting_user=None)
        assert Policy.objects.get().current_id == PolicyVersion.objects.get().pk
    assert refused.value.field == field


def test_rules_come_back_from_yaml_as_they_were_written(acme: Tenant) -> None:
    rules = [READ_SHOP, {**READ_SHOP, "name": "deny: 'odd' # name", "effect": "deny", "reason": "ä\nb"}]
    document = PolicyDocument(scope={"environments": ["production"]}, rules=rules)
    assert read_document(write_document(document)) == document
    assert read_document(EXAMPLE).rules[0]["effect"] == "allow"
    assert read_document("").rules == []


@pytest.mark.parametrize("text", ["- [", "a: b: c", "- !!python/object:os.system {}", "\x00", "x" * 600_000])
def test_text_that_is_no_yaml_is_refused_with_its_place(text: str) -> None:
    with pytest.raises(PolicyError) as refused:
        read_document(text)
    assert refused.value.field
    assert refused.value.fix
