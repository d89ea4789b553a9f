"""What changes policies, their drafts and versions, each with its ledger entry in the same transaction."""

from __future__ import annotations

from typing import Any, Final

from django.db import transaction
from django.utils import timezone

from accounts.models import User
from controlplane.authority import Power
from controlplane.errors import Refusal
from controlplane.ledger.actions import append_entry
from controlplane.ledger.recording import save_recorded
from policies import signals
from policies.access import holds_power, why_not_review
from policies.checking import refuse_unsound
from policies.documents import PolicyDocument, check_document, diff_of
from policies.errors import DraftMoved, ReviewMissing
from policies.models import OPEN_STATES, DraftState, Policy, PolicyDraft, PolicyVersion

#: What the ledger tells of a draft.
_DRAFT_FIELDS: Final = ("policy", "base", "scope", "rules", "message", "author", "state", "reviewer", "review_comment")


def save_policy(policy: Policy, *, acting_user: User | None) -> bool:
    """Create the policy, without rules, or keep its changes; False when there were none. Raises `ValidationError`."""
    return save_recorded(policy, acting_user=acting_user, noun="policy", fields=("name", "description", "is_active"))


@transaction.atomic
def publish_version(
    policy: Policy,
    *,
    rules: Any,
    message: str,
    acting_user: User | None,
    scope: Any = None,
    forced_because: str = "",
) -> PolicyVersion:
    """Make `rules`, within `scope`, what the policy says from now on.

    Raises `PolicyError`, which names the field, and `ReviewMissing` where the tenant wants a review, unless the
    operator forces it: the ledger then tells why.
    """
    document = check_document({"scope": scope, "rules": rules})
    locked = _lock(policy)
    if locked.tenant.requires_review and not forced_because:
        raise ReviewMissing
    refuse_unsound(locked.tenant_id, document)
    version = _publish(
        locked, document, author=acting_user, message=message, acting_user=acting_user, forced_because=forced_because
    )
    policy.current = version
    return version


@transaction.atomic
def restore_version(
    earlier: PolicyVersion, *, message: str, acting_user: User | None
) -> tuple[PolicyVersion | None, PolicyDraft | None]:
    """Publish an earlier version's document anew; where the tenant wants a review, propose it as a draft.

    Raises `Refusal` when the policy says just that already, and `PolicyError` when it can't be published any more.
    """
    policy = _lock(earlier.policy)
    if policy.current is not None and policy.current.document == earlier.document:
        raise Refusal(problem=f"{policy} says what {earlier} said", fix="Nothing has to be restored")
    note = f"Back to {earlier.number}" + (f": {message}" if message else "")
    if policy.tenant.requires_review:
        draft = PolicyDraft(policy=policy, restores=earlier)
        save_draft(draft, scope=earlier.scope, rules=earlier.rules, message=note, acting_user=acting_user)
        return None, propose_draft(draft, acting_user=acting_user)
    refuse_unsound(policy.tenant_id, earlier.document)
    version = _publish(
        policy, earlier.document, author=acting_user, message=note, acting_user=acting_user, restores=earlier
    )
    return version, None


# ---------------------------------------------------------------- drafts


@transaction.atomic
def save_draft(draft: PolicyDraft, *, scope: Any, rules: Any, message: str, acting_user: User | None) -> bool:
    """Begin a draft, or give it this document and message; False when it says so already.

    What was proposed or approved is a draft again: whoever approved has seen something else. A draft is its author's:
    others make their own. One that came by `manage.py apply` becomes that of the person who changes it first.
    Raises `PolicyError` and `Refusal`.
    """
    document = check_document({"scope": scope, "rules": rules})
    policy = _lock(draft.policy)
    if draft._state.adding:
        draft.tenant, draft.base, draft.author = policy.tenant, policy.current, acting_user
        was = DraftState.DRAFT
    else:
        was = _lock_draft(draft, *OPEN_STATES)
        if draft.author_id is not None and draft.author != acting_user:
            raise Refusal(problem=f"this draft is {draft.author}'s", fix="Make a draft of your own")
        if (draft.document, draft.message) == (document, message):
            return False
        draft.author = acting_user
        if was != DraftState.DRAFT:
            _send_back(draft)
    draft.scope, draft.rules, draft.message = document.scope, document.rules, message[:500]
    return _keep_draft(draft, was=was, acting_user=acting_user)


@transaction.atomic
def update_base(draft: PolicyDraft, *, acting_user: User | None) -> PolicyDraft:
    """Have a draft that is out of date change the current version instead; it has to be reviewed anew."""
    policy = _lock(draft.policy)
    was = _lock_draft(draft, *OPEN_STATES)
    draft.base = policy.current
    _send_back(draft)
    _keep_draft(draft, was=was, acting_user=acting_user)
    return draft


@transaction.atomic
def propose_draft(draft: PolicyDraft, *, acting_user: User | None) -> PolicyDraft:
    """Ask others to review it. Raises `Refusal` unless it is a draft that could be published now."""
    policy = _lock(draft.policy)
    was = _lock_draft(draft, DraftState.DRAFT)
    _refuse_unfit(policy, draft)
    _send_back(draft, comment=draft.review_comment)
    draft.state = DraftState.PROPOSED
    _keep_draft(draft, was=was, acting_user=acting_user)
    return draft


@transaction.atomic
def review_draft(draft: PolicyDraft, *, digest: str, is_approved: bool, comment: str, acting_user: User) -> PolicyDraft:
    """Approve what is proposed, or send it back with a comment. Raises `Refusal`, for one's own draft as well.

    `digest` is that of the draft that the reviewer saw.
    """
    policy = _lock(draft.policy)
    was = _lock_draft(draft, DraftState.PROPOSED)
    if digest != draft.digest:
        raise DraftMoved(problem="the draft has changed since you looked at it", fix="Reload it, and look again")
    problem = why_not_review(draft, acting_user)
    if problem:
        raise Refusal(problem=problem, fix="Ask another approver or administrator of the tenant")
    if not is_approved and not comment:
        raise Refusal(field="comment", problem="is empty", fix="Say what has to change")
    if is_approved:
        _refuse_unfit(policy, draft)
    draft.state = DraftState.APPROVED if is_approved else DraftState.DRAFT
    draft.reviewer, draft.reviewed_at, draft.review_comment = acting_user, timezone.now(), comment
    _keep_draft(draft, was=was, acting_user=acting_user)
    return draft


@transaction.atomic
def publish_draft(draft: PolicyDraft, *, acting_user: User | None) -> PolicyVersion:
    """Make it the policy's next version.

    Raises `PolicyError`, `DraftMoved`, and `ReviewMissing` where the tenant wants a review and nobody who could still
    give one has approved it.
    """
    policy = _lock(draft.policy)
    was = _lock_draft(draft, *OPEN_STATES)
    _refuse_unfit(policy, draft)
    if policy.tenant.requires_review and not _is_approved(draft):
        raise ReviewMissing
    version = _publish(
        policy,
        draft.document,
        author=draft.author,
        reviewer=draft.reviewer if draft.state == DraftState.APPROVED else None,
        message=draft.message,
        acting_user=acting_user,
        restores=draft.restores,
    )
    draft.version, draft.state = version, DraftState.PUBLISHED
    _keep_draft(draft, was=was, acting_user=acting_user)
    return version


@transaction.atomic
def discard_draft(draft: PolicyDraft, *, acting_user: User | None) -> PolicyDraft:
    """Give it up; it stays on record."""
    _lock(draft.policy)
    was = _lock_draft(draft, *OPEN_STATES)
    draft.state = DraftState.DISCARDED
    _keep_draft(draft, was=was, acting_user=acting_user)
    return draft


# ---------------------------------------------------------------- inside


def _lock(policy: Policy) -> Policy:
    """The policy as it is now, held until the transaction ends: what concerns one policy happens in a row."""
    policies = Policy.objects.select_for_update(of=("self",)).select_related("tenant", "current")
    return policies.get(pk=policy.pk)


def _lock_draft(draft: PolicyDraft, *states: DraftState) -> DraftState:
    """Make `draft` what its row says, which is in one of these states and is held until the transaction ends."""
    draft.refresh_from_db(from_queryset=PolicyDraft.objects.select_for_update(of=("self",)))
    if draft.state not in states:
        raise DraftMoved(problem=f"this draft is {draft.get_state_display()}", fix="Reload it, or make another")
    return DraftState(draft.state)


def _keep_draft(draft: PolicyDraft, *, was: DraftState, acting_user: User | None) -> bool:
    """Save it, and tell when it is in another state than it was. False when nothing differs."""
    fields = _DRAFT_FIELDS if draft.version is None else (*_DRAFT_FIELDS, "version")
    is_changed = save_recorded(draft, acting_user=acting_user, noun="policy_draft", fields=fields)
    if draft.state != was:
        signals.draft_moved.send(sender=PolicyDraft, draft=draft, was=was)
    return is_changed


def _send_back(draft: PolicyDraft, *, comment: str = "") -> None:
    draft.state = DraftState.DRAFT
    draft.reviewer = draft.reviewed_at = None
    draft.review_comment = comment


def _is_approved(draft: PolicyDraft) -> bool:
    """By somebody who could still approve: whoever has left since then doesn't count."""
    return (
        draft.state == DraftState.APPROVED
        and draft.reviewer is not None
        and draft.reviewer_id != draft.author_id
        and holds_power(draft.reviewer, Power.APPROVE, tenant_id=draft.tenant_id)
    )


def _refuse_unfit(policy: Policy, draft: PolicyDraft) -> None:
    """Raises for a draft that couldn't be published as things are, whoever approves it."""
    if draft.base_id != policy.current_id:
        problem = f"{policy.current} was published after this draft was begun"
        raise DraftMoved(problem=problem, fix="Bring the draft up to date, and look at what it changes now")
    if policy.current is not None and policy.current.document == draft.document:
        raise Refusal(problem=f"it says what {policy.current} says", fix="Change something, or discard it")
    refuse_unsound(policy.tenant_id, draft.document)


def _publish(
    policy: Policy,
    document: PolicyDocument,
    *,
    author: User | None,
    message: str,
    acting_user: User | None,
    reviewer: User | None = None,
    restores: PolicyVersion | None = None,
    forced_because: str = "",
) -> PolicyVersion:
    before = PolicyVersion.objects.filter(policy=policy).order_by("-number").first()
    version = PolicyVersion(
        tenant=policy.tenant,
        policy=policy,
        number=1 if before is None else before.number + 1,
        scope=document.scope,
        rules=document.rules,
        author=author,
        reviewer=reviewer,
        message=message[:500],
        restores=restores,
    )
    version.diff = diff_of(
        None if before is None else before.document,
        document,
        before_name="nothing" if before is None else str(before),
        after_name=str(version),
    )
    version.full_clean()
    version.save(force_insert=True)
    policy.current = version
    policy.save(update_fields=["current", "updated_at"])
    told = {"number": version.number, "scope": version.scope, "rules": version.rules, "message": version.message}
    people = {"author": author, "reviewer": reviewer, "forced_because": forced_because}
    append_entry(
        tenant=policy.tenant,
        kind="policy.published",
        acting_user=acting_user,
        subject=f"policy:{policy.name}",
        before=None if before is None else {"number": before.number, "scope": before.scope, "rules": before.rules},
        after={**told, **{name: str(value) for name, value in people.items() if value}},
    )
    return version
