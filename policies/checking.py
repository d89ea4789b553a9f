"""What is wrong with a policy's document, for whoever is about to save it: in its own terms, and for the tenant."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from policies.documents import PolicyDocument, check_document
from policies.engine import PolicyError
from policies.models import Policy


@dataclass(frozen=True, slots=True)
class Finding:
    """`field` is the path to what is wrong, `fix` says what would be right."""

    field: str
    problem: str
    fix: str


def findings_of(policy: Policy, data: Any) -> list[Finding]:
    """Everything that keeps the document from being published; in the policy's scope."""
    del policy
    try:
        check_document(data)
    except PolicyError as error:
        return [Finding(field=error.field, problem=error.problem, fix=error.fix)]
    return []


def refuse_unsound(policy: Policy, document: PolicyDocument) -> None:
    """Raises `PolicyError` for the first of the findings."""
    for finding in findings_of(policy, {"scope": document.scope, "rules": document.rules}):
        raise PolicyError(finding.field, finding.problem, finding.fix)
