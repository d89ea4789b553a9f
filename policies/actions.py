"""What changes policies, each with its ledger entry in the same transaction."""

from __future__ import annotations

from typing import Any

from django.db import transaction

from accounts.models import User
from controlplane.ledger.actions import append_entry
from controlplane.ledger.recording import save_recorded
from policies.engine import parse_policy
from policies.models import Policy, PolicyVersion


def save_policy(policy: Policy, *, acting_user: User | None) -> bool:
    """Create the policy, without rules, or keep its changes; False when there were none. Raises `ValidationError`."""
    return save_recorded(policy, acting_user=acting_user, noun="policy", fields=("name", "description", "is_active"))


@transaction.atomic
def publish_version(policy: Policy, *, rules: Any, message: str, acting_user: User | None) -> PolicyVersion:
    """Make `rules` what the policy says from now on. Raises `PolicyError`, which names the field."""
    locked = Policy.objects.select_for_update().get(pk=policy.pk)
    newest = PolicyVersion.objects.filter(policy=locked).order_by("-number").first()
    number = 1 if newest is None else newest.number + 1
    parse_policy(f"{locked.name}@{number}", rules)
    version = PolicyVersion(
        tenant=locked.tenant, policy=locked, number=number, rules=rules, author=acting_user, message=message
    )
    version.full_clean()
    version.save(force_insert=True)
    locked.current = version
    locked.save(update_fields=["current", "updated_at"])
    policy.current = version
    append_entry(
        tenant=locked.tenant,
        kind="policy.published",
        acting_user=acting_user,
        subject=f"policy:{locked.name}",
        before=None if newest is None else {"number": newest.number, "rules": newest.rules},
        after={"number": number, "rules": rules, "message": message},
    )
    return version
