"""When a flow approves by itself: the engine's conditions, in CEL, over the same facts as a rule's."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

import msgspec
import structlog

from controlplane.errors import Refusal
from policies.engine import Operation, PolicyError, Principal, Target, conditions

log = structlog.get_logger(__name__)

_FIELD: Final = "terms.auto_approve"


def check_condition(condition: str) -> None:
    """Raises `Refusal` for what is no condition."""
    if not condition:
        return
    try:
        conditions.check_condition(condition, field=_FIELD)
    except PolicyError as error:
        raise Refusal(field=error.field, problem=error.problem, fix=error.fix) from error


def condition_holds(
    condition: str,
    *,
    principal: Mapping[str, Any],
    operation: Operation,
    target: Target,
    text: str,
    now: datetime,
) -> bool:
    """Whether it is true. What gives no answer is not: then people are asked."""
    try:
        return conditions.condition_holds(
            condition,
            principal=msgspec.convert({"id": "", **principal}, Principal),
            target=target,
            operation=operation,
            now=now.timestamp(),
            operation_text=text,
        )
    except (conditions.ConditionFailed, msgspec.ValidationError) as error:
        log.warning("auto_approval_failed", why=str(error))
        return False
