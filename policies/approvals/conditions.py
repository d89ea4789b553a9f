"""When a flow approves by itself: a CEL condition over the same facts as a rule's."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from controlplane.errors import Refusal
from policies.engine import Operation, Target


def check_condition(condition: str) -> None:
    """Raises `Refusal` for what is no condition."""
    if condition:
        raise Refusal(field="terms.auto_approve", problem="conditions aren't evaluated yet", fix="Leave it out")


def condition_holds(
    condition: str,
    *,
    principal: Mapping[str, Any],
    operation: Operation,
    target: Target,
    text: str,
    now: datetime,
) -> bool:
    """Whether it is true. What fails is not: then people are asked."""
    del condition, principal, operation, target, text, now
    return False
