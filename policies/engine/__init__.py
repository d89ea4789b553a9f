"""The policy engine: pure, imported by the control plane and by every worker.

It imports no asyncio, socket, time, random or Django. What it needs to know is in its arguments.
"""

from policies.engine.decision import DEFAULT_DENY, Decision, Effect, Principal, decide
from policies.engine.model import Policy, PolicyError, Rule, parse_policy

__all__ = ["DEFAULT_DENY", "Decision", "Effect", "Policy", "PolicyError", "Principal", "Rule", "decide", "parse_policy"]
