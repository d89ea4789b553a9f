"""The kind of document for `manage.py apply`: Policy. It publishes a version when its rules are new.

kind: Policy
tenant: acme
name: support
rules:
  - {name: read, effect: allow, agents: [reporter], targets: [shop]}
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import msgspec

from controlplane.apply.kinds import Applying, Change, DocumentError, Kind, TenantDocument, bring_about
from policies import actions
from policies.engine import Policy as EnginePolicy
from policies.engine import PolicyError, parse_policy
from policies.models import Policy


class PolicyFields(TenantDocument, frozen=True, kw_only=True):
    """A policy with its rules, by tenant and name. `message` says why, in the history."""

    name: str
    description: str = ""
    is_active: bool = True
    message: str = ""
    rules: list[dict[str, Any]]


class PolicyKind:
    """Policies."""

    name: Final = "Policy"
    rank: Final = 70
    document: Final = PolicyFields

    def apply(self, wanted: PolicyFields, *, applying: Applying) -> Change | None:
        """By name within the tenant."""
        policy = Policy.objects.select_related("current").filter(name=wanted.name).first()
        rules_before = None if policy is None or policy.current is None else _told(_parse(policy.current.rules))
        rules_after = _told(_parse(wanted.rules))
        saved: list[Policy] = [] if policy is None else [policy]

        def new() -> Policy:
            saved.append(Policy(tenant=applying.tenant))
            return saved[0]

        values = {"name": wanted.name, "description": wanted.description, "is_active": wanted.is_active}
        change = bring_about(policy, new, values=values, save=partial(actions.save_policy, acting_user=None))
        if rules_before == rules_after:
            return change
        actions.publish_version(saved[0], rules=wanted.rules, message=wanted.message, acting_user=None)
        told = {"rules": (rules_before, rules_after)}
        fields = {**change.fields, **told} if change else told
        return Change(verb="create" if policy is None else "change", name=wanted.name, fields=fields)


KINDS: Final[tuple[Kind, ...]] = (PolicyKind(),)


def _parse(rules: Any) -> EnginePolicy:
    try:
        return parse_policy("", rules)
    except PolicyError as error:
        raise DocumentError(error.field, error.problem, error.fix) from error


def _told(policy: EnginePolicy) -> list[Any]:
    """The rules in one form, whatever was left out of the document."""
    rules: list[Any] = msgspec.to_builtins(policy.rules)
    return rules
