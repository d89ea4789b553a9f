"""The editor of a flow: its terms as a form and as YAML, two views of one document, checked while it changes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final
from uuid import UUID

import yaml

from controlplane.errors import Refusal
from policies.approvals.conditions import check_condition
from policies.approvals.electors import Electorate, electorate_of
from policies.approvals.terms import Approvers, Terms, parse_terms
from policies.documents import line_of, load_document
from policies.engine import PolicyError

_FIX: Final = "See docs/approvals.md for the form of a flow"
#: Where a decoder says that something is: "… - at `$.stages[0].quorum`".
_PLACE: Final = re.compile(r"(.*?) - at `\$\.?(.*)`", re.DOTALL)


def look_at(sent: Any, *, tenant_id: UUID | None) -> dict[str, Any]:
    """Both views of what one says: {yaml, document, findings, warnings}; in the tenant's scope, where there is one.

    `sent` is {"yaml": text} or {"document": {…}}. `document` None: the text can't be shown as a form yet.
    """
    text = sent.get("yaml") if isinstance(sent, dict) else None
    try:
        document = load_document(text) if isinstance(text, str) else sent.get("document")
        written = text if isinstance(text, str) else as_yaml(document)
    except (PolicyError, AttributeError, yaml.YAMLError, RecursionError) as error:
        fault = error if isinstance(error, PolicyError) else PolicyError("the document", "can't be read", _FIX)
        finding = {"field": fault.field, "problem": fault.problem, "fix": fault.fix, "line": None}
        return {"yaml": text or "", "document": None, "findings": [finding], "warnings": []}
    findings, warnings = [], []
    try:
        terms = parse_terms(document)
        check_condition(terms.auto_approve)
        warnings = [] if tenant_id is None else list(_warnings(terms, electorate_of(tenant_id)))
    except Refusal as refusal:
        findings = [(refusal.field, refusal.problem, refusal.fix)]
    return {
        "yaml": written,
        "document": document if _has_outline(document) else None,
        "findings": [_told(*finding, written) for finding in findings],
        "warnings": [_told(*warning, written) for warning in warnings],
    }


def as_yaml(document: Any) -> str:
    """As people write it."""
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True, width=100, default_flow_style=None)


def _told(field: str, problem: str, fix: str, text: str) -> dict[str, Any]:
    placed = _PLACE.fullmatch(problem)
    field = field.removeprefix("terms.") if placed is None else placed[2] or field
    problem = problem if placed is None else placed[1]
    return {"field": field, "problem": problem, "fix": fix, "line": line_of(text, field)}


def _has_outline(document: Any) -> bool:
    """Whether the form can show it: mappings and lists stand where it looks for them."""
    if not isinstance(document, dict):
        return False
    stages = document.get("stages", [])
    wholes = [document.get("escalation"), document.get("break_glass"), *(stages if isinstance(stages, list) else [0])]
    inner = [whole.get("approvers") for whole in wholes if isinstance(whole, dict)]
    return all(one is None or isinstance(one, dict) for one in wholes + inner) and None not in wholes[2:]


def _warnings(terms: Terms, electorate: Electorate) -> Iterator[tuple[str, str, str]]:
    """Of approvers who aren't there now, as (field, problem, fix)."""
    people = electorate.people.values()
    escalated = None if terms.escalation is None else terms.escalation.approvers
    named = [(f"stages[{index}].approvers", stage.approvers) for index, stage in enumerate(terms.stages)]
    named += [("escalation.approvers", escalated)] if escalated is not None else []
    named += [("break_glass", terms.break_glass)] if terms.break_glass is not None else []
    for field, approvers in named:
        yield from _absent(field, approvers, electorate)
    for index, stage in enumerate(terms.stages):
        asked = [stage.approvers] if escalated is None else [stage.approvers, escalated]
        there = sum(any(person.is_among(approvers) for approvers in asked) for person in people)
        if there < stage.quorum:
            problem = f"asks for {stage.quorum}, and of those it names {there} can vote now"
            yield f"stages[{index}].quorum", problem, "Name more approvers, or give them a role that approves"


def _absent(field: str, approvers: Approvers, electorate: Electorate) -> Iterator[tuple[str, str, str]]:
    addresses = {person.email for person in electorate.people.values()}
    groups = {group for person in electorate.people.values() for group in person.groups}
    for address in approvers.people:
        if address not in addresses:
            problem = f"{address!r} has no role here that approves"
            yield f"{field}.people", problem, "Correct the address, or give them the role"
    for group in approvers.groups:
        if group not in groups:
            problem = f"nobody with a role that approves is in the group {group!r} now"
            yield f"{field}.groups", problem, "Correct it, unless somebody is still to come"
