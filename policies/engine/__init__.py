"""The policy engine: pure, imported by the control plane and by every worker.

It imports no asyncio, socket, time, random or Django. What it needs to know is in its arguments.
"""

from policies.engine.check import Finding, Known, check_policy
from policies.engine.conditions import ConditionFailed, check_condition, condition_holds
from policies.engine.decision import DEFAULT_DENY, Decision, Obligation
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
)
from policies.engine.operation import UNKNOWN_OPERATION, Access, Hazard, Kind, Operation, Target
from policies.engine.parsing import parse_policy
from policies.engine.principal import Actor, Principal
from policies.engine.session import SessionPolicy

__all__ = [
    "DEFAULT_DENY",
    "UNKNOWN_OPERATION",
    "Access",
    "Actor",
    "Approval",
    "ApprovalMode",
    "ConditionFailed",
    "Decision",
    "Effect",
    "Finding",
    "Hazard",
    "Kind",
    "Known",
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
    "check_condition",
    "check_policy",
    "condition_holds",
    "parse_policy",
]
