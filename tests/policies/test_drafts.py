"""Drafts: proposed, reviewed by a second person, published; and going back to what a policy said before."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django_scopes import scope

from accounts.actions import save_membership, save_user
from accounts.models import Membership, Tenant, User
from controlplane.apply.run import apply_file
from controlplane.authority import Role
from controlplane.errors import Refusal
from controlplane.ledger.models import LedgerEntry
from policies import actions
from policies.access import effective_policy
from policies.documents import PolicyDocument
from policies.engine import PolicyError
from policies.errors import DraftMoved, ReviewMissing
from policies.models import DraftState, Policy, PolicyDraft, PolicyVersion

READ: dict[str, Any] = {"name": "read", "effect": "allow", "agents": ["*"], "targets": ["*"], "operations": ["select"]}
WRITE: dict[str, Any] = {**READ, "name": "write", "operations": ["insert"]}


def person(tenant: Tenant, name: str, role: Role | None = Role.ADMIN) -> User:
    """Somebody, with a role in the tenant unless None."""
    user = save_user(User(email=f"{name}@acme.example"), acting_user=None)
    if role is not None:
        save_membership(Membership(tenant=tenant, user=user, role=role), acting_user=None)
    return user


@pytest.fixture
def acme(db: None) -> Iterator[Tenant]:
    """A tenant that wants policies reviewed, in scope."""
    tenant = Tenant.objects.create(slug="acme", name="Acme", requires_review=True)
    with scope(tenant=tenant):
        yield tenant


@pytest.fixture
def policy(acme: Tenant) -> Policy:
    """One whose first version lets everybody read."""
    policy = Policy(tenant=acme, name="support")
    actions.save_policy(policy, acting_user=None)
    actions.publish_version(policy, rules=[READ], message="first", acting_user=None, forced_because="set-up")
    return policy


@pytest.fixture
def ada(acme: Tenant) -> User:
    """Who writes drafts."""
    return person(acme, "ada")


@pytest.fixture
def bob(acme: Tenant) -> User:
    """Who reviews them."""
    return person(acme, "bob", Role.APPROVER)


def drafted(policy: Policy, author: User | None, *rules: dict[str, Any]) -> PolicyDraft:
    """A draft of theirs, of reading and writing unless rules are given."""
    draft = PolicyDraft(policy=policy)
    rules = rules or (READ, WRITE)
    actions.save_draft(draft, scope={}, rules=list(rules), message="writing too", acting_user=author)
    return draft


def approved(draft: PolicyDraft, reviewer: User) -> PolicyDraft:
    """Proposed and approved by them."""
    if draft.state == DraftState.DRAFT:
        actions.propose_draft(draft, acting_user=draft.author)
    return actions.review_draft(draft, digest=draft.digest, is_approved=True, comment="", acting_user=reviewer)


def test_a_draft_is_proposed_reviewed_and_published(policy: Policy, ada: User, bob: User) -> None:
    draft = approved(drafted(policy, ada), bob)
    version = actions.publish_draft(draft, acting_user=ada)
    policy.refresh_from_db()
    assert policy.current == version
    assert (version.number, version.author, version.reviewer, version.message) == (2, ada, bob, "writing too")
    assert "+- name: write\n" in version.diff
    assert version.diff.startswith("--- support@1\n+++ support@2\n")
    assert (draft.state, draft.version) == (DraftState.PUBLISHED, version)
    kinds = list(LedgerEntry.objects.filter(subject__contains="support").order_by("seq").values_list("kind", flat=True))
    assert kinds[-5:] == [
        "policy_draft.created", "policy_draft.changed", "policy_draft.changed", "policy.published",
        "policy_draft.changed",
    ]  # fmt: skip
    entry = LedgerEntry.objects.filter(kind="policy.published").latest("seq")
    assert (entry.after["author"], entry.after["reviewer"]) == (ada.email, bob.email)


def test_without_a_review_nothing_is_published_whatever_the_way(policy: Policy, ada: User) -> None:
    draft = drafted(policy, ada)
    with pytest.raises(ReviewMissing):
        actions.publish_draft(draft, acting_user=ada)
    actions.propose_draft(draft, acting_user=ada)
    with pytest.raises(ReviewMissing):
        actions.publish_draft(draft, acting_user=ada)
    with pytest.raises(ReviewMissing):
        actions.publish_version(policy, rules=[WRITE], message="", acting_user=ada)
    assert PolicyVersion.objects.count() == 1


def test_nobody_reviews_their_own(policy: Policy, ada: User) -> None:
    draft = actions.propose_draft(drafted(policy, ada), acting_user=ada)
    with pytest.raises(Refusal, match="nobody reviews their own"):
        approved(draft, ada)


@pytest.mark.parametrize("role", [None, Role.AUDITOR, Role.VIEWER])
def test_who_may_not_approve_reviews_nothing(policy: Policy, acme: Tenant, ada: User, role: Role | None) -> None:
    draft = actions.propose_draft(drafted(policy, ada), acting_user=ada)
    with pytest.raises(Refusal, match="has no role that approves"):
        approved(draft, person(acme, "eve", role))


def test_a_reviewer_who_has_left_since_then_does_not_count(policy: Policy, ada: User, bob: User) -> None:
    draft = approved(drafted(policy, ada), bob)
    bob.is_active = False
    bob.save()
    with pytest.raises(ReviewMissing):
        actions.publish_draft(draft, acting_user=ada)


def test_a_change_after_the_approval_takes_it_back(policy: Policy, ada: User, bob: User) -> None:
    draft = approved(drafted(policy, ada), bob)
    assert not actions.save_draft(draft, scope={}, rules=[READ, WRITE], message="writing too", acting_user=ada)
    assert draft.state == DraftState.APPROVED  # nothing has changed
    actions.save_draft(draft, scope={}, rules=[READ, {**WRITE, "agents": ["x*"]}], message="", acting_user=ada)
    assert (draft.state, draft.reviewer) == (DraftState.DRAFT, None)
    with pytest.raises(ReviewMissing):
        actions.publish_draft(draft, acting_user=ada)


def test_what_changed_since_the_reviewer_looked_is_not_approved(policy: Policy, ada: User, bob: User) -> None:
    draft = actions.propose_draft(drafted(policy, ada), acting_user=ada)
    seen = draft.digest
    actions.save_draft(draft, scope={}, rules=[{**WRITE, "operations": ["*"]}], message="", acting_user=ada)
    actions.propose_draft(draft, acting_user=ada)
    with pytest.raises(DraftMoved):
        actions.review_draft(draft, digest=seen, is_approved=True, comment="", acting_user=bob)


def test_a_draft_that_is_sent_back_says_why(policy: Policy, ada: User, bob: User) -> None:
    draft = actions.propose_draft(drafted(policy, ada), acting_user=ada)
    with pytest.raises(Refusal, match="comment"):
        actions.review_draft(draft, digest=draft.digest, is_approved=False, comment="", acting_user=bob)
    actions.review_draft(draft, digest=draft.digest, is_approved=False, comment="too wide", acting_user=bob)
    assert (draft.state, draft.reviewer, draft.review_comment) == (DraftState.DRAFT, bob, "too wide")


def test_another_version_in_between_makes_it_out_of_date(policy: Policy, ada: User, bob: User) -> None:
    first, second = (approved(drafted(policy, ada, rule), bob) for rule in (WRITE, {**WRITE, "name": "other"}))
    actions.publish_draft(first, acting_user=ada)
    second.refresh_from_db()
    assert second.is_out_of_date
    with pytest.raises(DraftMoved, match="support@2 was published"):
        actions.publish_draft(second, acting_user=ada)
    actions.update_base(second, acting_user=ada)
    assert (second.state, second.is_out_of_date) == (DraftState.DRAFT, False)
    assert actions.publish_draft(approved(second, bob), acting_user=ada).number == 3


def test_a_draft_is_its_authors(policy: Policy, acme: Tenant, ada: User, bob: User) -> None:
    draft = drafted(policy, ada)
    with pytest.raises(Refusal, match=r"is ada@acme\.example's"):
        actions.save_draft(draft, scope={}, rules=[WRITE], message="", acting_user=bob)
    nobodys = drafted(policy, None)
    actions.save_draft(nobodys, scope={}, rules=[WRITE], message="", acting_user=ada)
    assert nobodys.author == ada


@pytest.mark.parametrize("act", ["propose_draft", "publish_draft", "discard_draft", "update_base"])
def test_what_was_discarded_stays_so(policy: Policy, ada: User, act: str) -> None:
    draft = actions.discard_draft(drafted(policy, ada), acting_user=ada)
    with pytest.raises(DraftMoved, match="discarded"):
        getattr(actions, act)(draft, acting_user=ada)


def test_a_draft_that_says_nothing_new_is_not_proposed(policy: Policy, ada: User) -> None:
    draft = drafted(policy, ada, READ)
    with pytest.raises(Refusal, match="says what support@1 says"):
        actions.propose_draft(draft, acting_user=ada)


def test_a_draft_that_is_no_policy_is_not_kept(policy: Policy, ada: User) -> None:
    with pytest.raises(PolicyError):
        drafted(policy, ada, {**READ, "agents": []})
    assert not PolicyDraft.objects.exists()


def test_where_no_review_is_wanted_the_author_publishes(policy: Policy, acme: Tenant, ada: User) -> None:
    acme.requires_review = False
    acme.save()
    version = actions.publish_draft(drafted(policy, ada), acting_user=ada)
    assert (version.number, version.author, version.reviewer) == (2, ada, None)


def test_going_back_publishes_the_earlier_document_anew(policy: Policy, acme: Tenant, ada: User) -> None:
    acme.requires_review = False
    acme.save()
    first = PolicyVersion.objects.get()
    actions.publish_version(policy, scope={"targets": ["shop*"]}, rules=[WRITE], message="", acting_user=ada)
    version, draft = actions.restore_version(first, message="writing broke reports", acting_user=ada)
    assert draft is None
    assert version is not None
    assert (version.number, version.document, version.restores) == (3, first.document, first)
    assert version.message == "Back to 1: writing broke reports"
    with pytest.raises(Refusal, match="Nothing has to be restored"):
        actions.restore_version(first, message="", acting_user=ada)


def test_going_back_wants_a_review_too(policy: Policy, ada: User, bob: User) -> None:
    first = PolicyVersion.objects.get()
    actions.publish_draft(approved(drafted(policy, ada), bob), acting_user=ada)
    version, draft = actions.restore_version(first, message="", acting_user=ada)
    assert version is None
    assert draft is not None
    assert draft.state == DraftState.PROPOSED
    assert actions.publish_draft(approved(draft, bob), acting_user=ada).restores == first


def test_the_ledger_tells_why_the_review_was_passed_over(policy: Policy, acme: Tenant) -> None:
    entry = LedgerEntry.objects.filter(kind="policy.published").latest("seq")
    assert entry.after["forced_because"] == "set-up"


def test_the_scope_narrows_every_rule(policy: Policy, acme: Tenant) -> None:
    rules = [{"name": "all", "effect": "allow"}]
    scoped = {"agents": ["reporter*"], "targets": ["shop*"]}
    actions.publish_version(policy, scope=scoped, rules=rules, message="", acting_user=None, forced_because="test")
    [rule] = effective_policy(acme.pk).rules
    assert rule.within is not None
    assert (rule.name, rule.within.agents, rule.within.targets) == ("support/all", ("reporter*",), ("shop*",))


def test_a_draft_can_be_asked_for_in_place_of_what_is_published(policy: Policy, acme: Tenant) -> None:
    drafted_policy = effective_policy(acme.pk, instead={policy.pk: PolicyDocument(rules=[WRITE])})
    assert (drafted_policy.version, [rule.name for rule in drafted_policy.rules]) == (
        "support@draft",
        ["support/write"],
    )
    assert effective_policy(acme.pk).version == "support@1"


MANIFEST = """\
kind: Policy
tenant: acme
name: support
message: writing too
rules:
  - {name: write, effect: allow, agents: ["*"], targets: ["*"], operations: [insert]}
"""


def test_apply_proposes_a_draft_where_a_review_is_wanted_and_does_so_once(policy: Policy, tmp_path: Path) -> None:
    file, told = tmp_path / "policy.yaml", list[str]()
    file.write_text(MANIFEST)
    assert apply_file(file, environ={}, dry_run=False, tell=told.append) == 1
    assert any("proposed as a draft" in line for line in told)
    draft = PolicyDraft.objects.get()
    assert (draft.state, draft.author, draft.message) == (DraftState.PROPOSED, None, "writing too")
    assert apply_file(file, environ={}, dry_run=False, tell=told.append) == 0
    assert PolicyVersion.objects.count() == 1


def test_apply_publishes_unreviewed_with_a_reason_alone_which_the_ledger_keeps(policy: Policy, tmp_path: Path) -> None:
    file = tmp_path / "policy.yaml"
    file.write_text(MANIFEST + "publish_unreviewed_because: the reviewers are unreachable\n")
    assert apply_file(file, environ={}, dry_run=False, tell=lambda _: None) == 1
    assert PolicyVersion.objects.count() == 2
    entry = LedgerEntry.objects.filter(kind="policy.published").latest("seq")
    assert entry.after["forced_because"] == "the reviewers are unreachable"
