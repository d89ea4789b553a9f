"""The policy engine: pure, imported by the control plane and by every worker.

It imports no asyncio, socket, time, random or Django. What it needs to know is in its arguments.
"""

from policies.engine.decision import DEFAULT_DENY, Decision, Obligation, Principal, SessionPolicy
from policies.engine.model import (
    Approval,
    ApprovalMode,
    Effect,
    Limit,
    LimitOf,
    LimitPer,
    Mask,
    Policy,
    PolicyError,
    Rule,
    Scope,
    When,
    parse_policy,
)
from policies.engine.operation import UNKNOWN_OPERATION, Access, Hazard, Kind, Operation, Target

__all__ = [
    "DEFAULT_DENY",
    "UNKNOWN_OPERATION",
    "Access",
    "Approval",
    "ApprovalMode",
    "Decision",
    "Effect",
    "Hazard",
    "Kind",
    "Limit",
    "LimitOf",
    "LimitPer",
    "Mask",
    "Obligation",
    "Operation",
    "Policy",
    "PolicyError",
    "Principal",
    "Rule",
    "Scope",
    "SessionPolicy",
    "Target",
    "When",
    "parse_policy",
]
