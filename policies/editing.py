"""The editor of a policy: one document, shown as a form and as YAML. What either view says is checked while it changes.

The browser sends one view; the answer has both, with what is wrong and what would change. Nothing is kept by that.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any, Final

import yaml

from accounts.models import Agent
from policies.approvals.models import ApprovalFlow
from policies.checking import findings_of, warnings_of
from policies.documents import PolicyDocument, diff_of, line_of, load_document, write_document
from policies.engine import Effect, Hazard, Kind, LimitOf, LimitPer, PolicyError
from policies.engine.check import Finding
from policies.engine.operation import GRAVE_HAZARDS
from policies.models import Policy
from targets.models import Target

#: Names that are offered while typing.
MAX_OFFERED: Final = 500
#: What the choices of effects mean, in a person's words.
EFFECTS: Final = {
    Effect.ALLOW: "Allow",
    Effect.DENY: "Deny",
    Effect.REQUIRE_APPROVAL: "Ask for approval",
    Effect.MASK: "Mask columns",
    Effect.LIMIT: "Limit",
    Effect.FILTER: "Show only some rows",
}
_GROUPS: Final = (("SQL", ""), ("HTTP", "http:"), ("SSH", "ssh:"), ("SFTP", "sftp:"), ("MCP", "mcp:"))


def look_at(policy: Policy, sent: Any) -> dict[str, Any]:
    """Both views of what one view says: {yaml, document, findings, warnings, diff}.

    `sent` is {"yaml": text} or {"document": {scope, rules}}. `document` None: the text can't be shown as a form yet.
    """
    text = sent.get("yaml") if isinstance(sent, dict) else None
    document: PolicyDocument | None
    try:
        document = shaped(load_document(text) if isinstance(text, str) else sent.get("document"))
    except (PolicyError, AttributeError) as error:
        fault = error if isinstance(error, PolicyError) else PolicyError("rules", "is missing", "Write a list of rules")
        finding = {"field": fault.field, "problem": fault.problem, "fix": fault.fix, "line": None}
        return {"yaml": text or "", "document": None, "findings": [finding], "warnings": [], "diff": []}
    if not isinstance(text, str):
        text = write_document(document)
    current = None if policy.current is None else policy.current.document
    diff = diff_of(current, document, before_name=str(policy.current or "nothing"), after_name="this draft")
    parts = {"scope": document.scope, "rules": document.rules}
    return {
        "yaml": text,
        "document": asdict(document),
        "findings": _placed(findings_of(policy.tenant_id, parts), text),
        "warnings": _placed(warnings_of(policy, parts), text),
        "diff": diff.splitlines(),
    }


def _placed(findings: list[Finding], text: str) -> list[dict[str, Any]]:
    return [{**asdict(finding), "line": line_of(text, finding.field)} for finding in findings]


def vocabulary(policy: Policy) -> dict[str, Any]:
    """The words and names that the form offers; in the policy's scope."""
    tenant = policy.tenant_id
    targets = list(Target.objects.filter(tenant=tenant).order_by("name")[:MAX_OFFERED])
    agents = list(Agent.objects.filter(tenant=tenant).order_by("name")[:MAX_OFFERED])
    return {
        "effects": [{"value": effect.value, "title": title} for effect, title in EFFECTS.items()],
        "kinds": [{"title": title, "kinds": _kinds(prefix)} for title, prefix in _GROUPS],
        "hazards": [
            {"value": hazard.value, "title": hazard.value.replace("_", " "), "isGrave": hazard in GRAVE_HAZARDS}
            for hazard in Hazard
        ],
        "agents": [agent.name for agent in agents],
        "groups": sorted({group for agent in agents for group in agent.groups}),
        "targets": [target.name for target in targets],
        "environments": sorted({target.environment for target in targets} - {""}),
        "flows": list(ApprovalFlow.objects.filter(tenant=tenant, is_active=True).values_list("name", flat=True)),
        "periods": [period.value for period in LimitPer],
        "sharers": [sharer.value for sharer in LimitOf],
    }


def _kinds(prefix: str) -> list[str]:
    return [kind.value for kind in Kind if (kind.startswith(prefix) if prefix else ":" not in kind)]


def shaped(data: Any) -> PolicyDocument:
    """Data that has the outline of a document: a mapping of scope, and rules that are mappings."""
    if isinstance(data, list):
        data = {"rules": data}
    scope = (data.get("scope") or {}) if isinstance(data, dict) else None
    rules = (data.get("rules") or []) if isinstance(data, dict) else None
    if not isinstance(scope, dict) or not isinstance(rules, list) or not all(isinstance(rule, dict) for rule in rules):
        raise PolicyError("rules", "is no list of rules", "Write rules: and below it a list, each rule with its name")
    extra = sorted(str(name) for name in data if name not in {"scope", "rules"})
    if extra:
        raise PolicyError(extra[0], "is no field of a policy", "A policy has the fields scope and rules")
    try:
        json.dumps([scope, rules], allow_nan=False)
        write_document(PolicyDocument(scope=scope, rules=rules))
    except (yaml.YAMLError, TypeError, ValueError, RecursionError) as error:
        raise PolicyError("rules", "has a value that is no text, number or list", "Write it as text") from error
    return PolicyDocument(scope=scope, rules=rules)
