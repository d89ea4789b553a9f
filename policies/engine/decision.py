"""What comes of asking a policy."""

from __future__ import annotations

from typing import Final

import msgspec

from policies.engine.model import Approval, Effect, Limit, Mask

#: The rule a decision names when no rule matched.
DEFAULT_DENY: Final = "default deny"


class Obligation(msgspec.Struct, frozen=True, omit_defaults=True):
    """What has to be done with an allowed operation, by a rule: one of `limit`, `mask` and `filter` is set.

    `object` and `columns` say of what, for masks and filters. Where the operation may refer to any column, `columns`
    are the rule's patterns.
    """

    rule: str
    limit: Limit | None = None
    mask: Mask | None = None
    filter: str = ""
    object: str = ""
    columns: tuple[str, ...] = ()


class Decision(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was decided and why. `help` says what the asker could do about it.

    `effect` is ALLOW, DENY or REQUIRE_APPROVAL, which `approval` then describes; where several flows are asked for,
    `further_approvals` are the others, and all must say yes. `obligations` hold for what is allowed or approved; a gate
    that can't carry one out refuses.
    """

    effect: Effect
    policy_version: str
    rule: str
    reason: str
    help: str = ""
    approval: Approval | None = None
    obligations: tuple[Obligation, ...] = ()
    further_approvals: tuple[Approval, ...] = ()
