"""Rules as people write them: YAML, in a form of the admin."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import yaml

from policies.engine import PolicyError, parse_policy

#: A thousand long rules.
MAX_DOCUMENT_CHARACTERS: Final = 512 * 1024

EXAMPLE: Final = """\
- name: analysts-read-shop
  effect: allow
  agents: [reporter, "report-*"]
  targets: [shop]
  reason: Reports are made of it
"""


def read_rules(text: str) -> Any:
    """The rules in a YAML text. Raises `PolicyError`, which names the line or the field."""
    if len(text) > MAX_DOCUMENT_CHARACTERS:
        raise PolicyError("rules", f"has over {MAX_DOCUMENT_CHARACTERS} characters", "Split it into several policies")
    try:
        rules = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}, column {mark.column + 1}" if mark else "the document"
        problem = getattr(error, "problem", None) or "can't be read"
        raise PolicyError(place, str(problem), "Correct the YAML") from error
    parse_policy("", rules)
    return rules


def write_rules(rules: Any) -> str:
    """The rules as YAML, in the order of their fields, and without what is empty. Raises `PolicyError`."""
    told = msgspec.to_builtins(parse_policy("", rules).rules)
    fields = [{name: value for name, value in rule.items() if value} for rule in told]
    return yaml.safe_dump(fields, sort_keys=False, allow_unicode=True, width=100, default_flow_style=None)
