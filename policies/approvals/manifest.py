"""The kind of document for `manage.py apply`: ApprovalFlow.

kind: ApprovalFlow
tenant: acme
name: writes
stages:
  - {approvers: {groups: [dba]}, quorum: 1}
expires_after_seconds: 1800
"""

from __future__ import annotations

from functools import partial
from typing import Any, Final

import msgspec

from controlplane.apply.kinds import Applying, Change, DocumentError, TenantDocument, bring_about
from controlplane.errors import Refusal
from policies.approvals import actions
from policies.approvals.models import ApprovalFlow
from policies.approvals.terms import Approvers, Escalation, GrantScope, Stage, Terms, parse_terms, told


class ApprovalFlowFields(TenantDocument, frozen=True, kw_only=True):
    """A flow by tenant and name, with the fields of `terms.Terms`."""

    name: str
    description: str = ""
    is_active: bool = True
    stages: tuple[Stage, ...]
    expires_after_seconds: int = 3600
    unused_after_seconds: int = 3600
    forbid_sponsor: bool = False
    forbid_author: bool = False
    escalation: Escalation | None = None
    auto_approve: str = ""
    break_glass: Approvers | None = None
    scopes: tuple[GrantScope, ...] = (GrantScope.ONCE,)
    max_uses: int = 10
    max_window_seconds: int = 3600


class ApprovalFlowKind:
    """Approval flows. They come before the policies that name them."""

    name: Final = "ApprovalFlow"
    rank: Final = 65
    document: Final = ApprovalFlowFields

    def apply(self, wanted: ApprovalFlowFields, *, applying: Applying) -> Change | None:
        """By name within the tenant."""
        document = {name: value for name, value in msgspec.to_builtins(wanted).items() if name in _TERMS}
        try:
            terms = told(parse_terms(document))
        except Refusal as refusal:
            raise DocumentError(refusal.field.removeprefix("terms."), refusal.problem, refusal.fix) from refusal
        flow = ApprovalFlow.objects.filter(name=wanted.name).first()
        values: dict[str, Any] = {
            "name": wanted.name,
            "description": wanted.description,
            "terms": terms,
            "is_active": wanted.is_active,
        }
        save = partial(actions.save_flow, acting_user=None)
        return bring_about(flow, lambda: ApprovalFlow(tenant=applying.tenant), values=values, save=save)


_TERMS: Final = frozenset(Terms.__struct_fields__)
KINDS: Final = (ApprovalFlowKind(),)
