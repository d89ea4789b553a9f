"""The kind of document for `manage.py apply`: Policy. It publishes a version when its scope or rules are new.

kind: Policy
tenant: acme
name: support
scope: {environments: [production]}
rules:
  - {name: read, effect: allow, agents: [reporter], targets: [shop]}

Where the tenant wants policies reviewed, it proposes a draft instead, unless `publish_unreviewed_because` says why not.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

from controlplane.apply.kinds import Applying, Change, DocumentError, Kind, TenantDocument, bring_about
from policies import actions
from policies.approvals import manifest as approvals
from policies.checking import warnings_of
from policies.documents import PolicyDocument, check_document
from policies.engine import PolicyError
from policies.models import DraftState, Policy, PolicyDraft
from policies.notifying import manifest as notifying


class PolicyFields(TenantDocument, frozen=True, kw_only=True):
    """A policy with its rules, by tenant and name. `message` says why, in the history."""

    name: str
    description: str = ""
    is_active: bool = True
    message: str = ""
    publish_unreviewed_because: str = ""
    scope: dict[str, Any] = {}
    rules: list[dict[str, Any]]


class PolicyKind:
    """Policies."""

    name: Final = "Policy"
    rank: Final = 70
    document: Final = PolicyFields

    def apply(self, wanted: PolicyFields, *, applying: Applying) -> Change | None:
        """By name within the tenant."""
        policy = Policy.objects.select_related("current").filter(name=wanted.name).first()
        before = None if policy is None or policy.current is None else policy.current.document
        try:
            after = check_document({"scope": wanted.scope, "rules": wanted.rules})
            saved: list[Policy] = [] if policy is None else [policy]

            def new() -> Policy:
                saved.append(Policy(tenant=applying.tenant))
                return saved[0]

            values = {"name": wanted.name, "description": wanted.description, "is_active": wanted.is_active}
            change = bring_about(policy, new, values=values, save=partial(actions.save_policy, acting_user=None))
            told = {} if before == after else _bring_about_rules(saved[0], wanted, before=before, after=after)
        except PolicyError as error:
            raise DocumentError(error.field, error.problem, error.fix) from error
        if not told:
            return change
        fields = {**change.fields, **told} if change else told
        return Change(
            verb="create" if policy is None else "change",
            name=wanted.name,
            fields=fields,
            warnings=partial(_warnings, saved[0], after),
        )


KINDS: Final[tuple[Kind, ...]] = (PolicyKind(), *approvals.KINDS, *notifying.KINDS)


def _warnings(policy: Policy, document: PolicyDocument) -> list[str]:
    found = warnings_of(policy, {"scope": document.scope, "rules": document.rules})
    return [f"{one.field} {one.problem}. {one.fix}" for one in found]


def _bring_about_rules(
    policy: Policy, wanted: PolicyFields, *, before: PolicyDocument | None, after: PolicyDocument
) -> dict[str, tuple[Any, Any]]:
    """Publish, or propose, and tell which. Nothing is told when just that is proposed already."""
    told = {
        name: (getattr(before, name, None), getattr(after, name))
        for name in ("scope", "rules")
        if getattr(before, name, {} if name == "scope" else None) != getattr(after, name)
    }
    if not policy.tenant.requires_review or wanted.publish_unreviewed_because:
        actions.publish_version(
            policy,
            scope=after.scope,
            rules=after.rules,
            message=wanted.message,
            acting_user=None,
            forced_because=wanted.publish_unreviewed_because,
        )
        return told
    waiting = (DraftState.PROPOSED, DraftState.APPROVED)
    for draft in PolicyDraft.objects.filter(policy=policy, state__in=waiting, base=policy.current):
        if draft.document == after:
            return {}
    draft = PolicyDraft(policy=policy)
    actions.save_draft(draft, scope=after.scope, rules=after.rules, message=wanted.message, acting_user=None)
    actions.propose_draft(draft, acting_user=None)
    return {**told, "state": (None, "proposed as a draft: this tenant publishes policies after a review only")}
