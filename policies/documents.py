"""A policy's document, and the YAML in which people write it.

    scope:                     # optional: holds for all rules
      environments: [production]
    rules:
      - name: analysts-read-shop
        effect: allow
        …

A list of rules alone is read as a document without a scope. The same form goes over REST and by `manage.py apply`.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
import yaml

from controlplane.strict_yaml import StrictLoader, yaml_problem
from policies.engine import Policy, PolicyError, Rule, parse_policy

#: A thousand long rules.
MAX_DOCUMENT_CHARACTERS: Final = 512 * 1024
_FIELDS: Final = ("scope", "rules")
#: What a rule is called and says comes first.
_ORDER: Final = dict.fromkeys(("name", "effect", "reason", *Rule.__struct_fields__))
_RANK: Final = {name: rank for rank, name in enumerate(_ORDER)}
_STEP = re.compile(r"([^.\[\]]+)|\[(\d+)\]")

EXAMPLE: Final = """\
rules:
- name: analysts-read-shop
  effect: allow
  reason: Reports are made of it
  agents: [reporter, report-*]
  targets: [shop]
  operations: [select]
"""


@dataclass(frozen=True, slots=True)
class PolicyDocument:
    """What a policy says, as data: `scope` a mapping with the fields of `engine.Scope`, `rules` a list of mappings."""

    scope: dict[str, Any] = field(default_factory=dict)
    rules: list[dict[str, Any]] = field(default_factory=list)


class _Dumper(yaml.SafeDumper):
    """Writes what `StrictLoader` reads: without aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        """Always."""
        del data
        return True


def check_document(data: Any) -> PolicyDocument:
    """The document in its one form: fields in their order, nothing that is empty. Raises `PolicyError`."""
    if isinstance(data, list):
        data = {"rules": data}
    if not isinstance(data, dict):
        raise PolicyError("rules", "is no list", "Write a list of rules, each with name, effect, agents and targets")
    for name in data:
        if name not in _FIELDS:
            raise PolicyError(str(name), "is no field of a policy", "A policy has the fields scope and rules")
    scope, rules = data.get("scope") or {}, data.get("rules")
    for index, rule in enumerate(rules if isinstance(rules, list) else ()):
        if isinstance(rule, dict) and "within" in rule:
            raise PolicyError(f"rules[{index}].within", "is no field of a rule", "Give the policy a scope instead")
    parsed = parse_policy("", [] if rules is None else rules, within=scope)
    within = parsed.rules[0].within if parsed.rules else None
    return PolicyDocument(
        scope=scope if within is None else _plain(within),
        rules=[_plain(msgspec.structs.replace(rule, within=None)) for rule in parsed.rules],
    )


def parse_document(document: PolicyDocument, *, version: str) -> Policy:
    """What the engine makes of it. Raises `PolicyError`."""
    return parse_policy(version, document.rules, within=document.scope)


def read_document(text: str) -> PolicyDocument:
    """The document in a YAML text. Raises `PolicyError`, which names the line or the field."""
    return check_document(load_document(text))


def load_document(text: str) -> Any:
    """What the YAML text says, whether it is a policy or not. Raises `PolicyError`, which names the line."""
    if len(text) > MAX_DOCUMENT_CHARACTERS:
        raise PolicyError("rules", f"has over {MAX_DOCUMENT_CHARACTERS} characters", "Split it into several policies")
    try:
        data = yaml.load(text, Loader=StrictLoader)  # noqa: S506  # a SafeLoader, made stricter
    except yaml.YAMLError as error:
        problem, place = yaml_problem(error)
        raise PolicyError(place or "the document", problem, "Correct the YAML") from error
    except RecursionError as error:
        raise PolicyError("the document", "is nested too deeply", "Write it flat") from error
    return {} if data is None else data


def write_document(document: PolicyDocument) -> str:
    """The document as YAML."""
    told: dict[str, Any] = {"scope": _ordered(document.scope)} if document.scope else {}
    told["rules"] = [_ordered(rule) for rule in document.rules]
    return yaml.dump(told, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100, default_flow_style=None)


def diff_of(before: PolicyDocument | None, after: PolicyDocument, *, before_name: str, after_name: str) -> str:
    """A unified diff of the two as YAML; empty when they say the same."""
    old = [] if before is None else write_document(before).splitlines(keepends=True)
    new = write_document(after).splitlines(keepends=True)
    return "".join(difflib.unified_diff(old, new, before_name, after_name))


def line_of(text: str, path: str) -> int | None:
    """The line, from 1, of `rules[3].when.hours[0]` in a YAML text, or of the nearest thing around it."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError):
        return None
    line = None
    for name, index in _STEP.findall(path):
        if isinstance(node, yaml.SequenceNode) and name == "rules" and line is None:
            continue  # a list of rules alone
        if isinstance(node, yaml.MappingNode) and name:
            found = next(((key, value) for key, value in node.value if key.value == name), None)
        elif isinstance(node, yaml.SequenceNode) and index and int(index) < len(node.value):
            found = (node.value[int(index)],) * 2
        else:
            found = None
        if found is None:
            break
        line, node = found[0].start_mark.line + 1, found[1]
    return line


def _plain(struct: msgspec.Struct) -> dict[str, Any]:
    """As JSON holds it: lists, not tuples."""
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(struct))
    return plain


def _ordered(fields: dict[str, Any]) -> dict[str, Any]:
    """In the order in which people read them; a jsonb column keeps none."""
    return {name: fields[name] for name in sorted(fields, key=lambda name: (_RANK.get(name, len(_RANK)), name))}
