"""docs/policy.md lists what the engine knows, and its examples are policies."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
import yaml

from policies.engine import Hazard, Kind, check_condition, parse_policy
from policies.engine.conditions import FIELDS, FUNCTIONS, MACROS
from policies.engine.operation import GRAVE_HAZARDS
from targets.manifest import ColumnLabelsKind

TEXT = (Path(__file__).parents[3] / "docs" / "policy.md").read_text()


def table(name: str) -> str:
    """The text between the marks."""
    found = re.search(f"<!-- {name} -->(.*?)<!-- /{name} -->", TEXT, re.DOTALL)
    assert found is not None
    return found[1]


def test_every_kind_is_documented() -> None:
    rows = re.findall(r"^\| (`.*?`) \|", table("kinds"), re.MULTILINE)
    named = [word for row in rows for word in re.findall(r"`([^`]+)`", row)]
    assert sorted(named) == sorted(Kind)


def test_every_hazard_is_documented_with_how_grave_it_is() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\*\*grave\*\*)? ?\| .+ \|$", table("hazards"), re.MULTILINE)
    assert {name: bool(grave) for name, grave in rows} == {str(one): one in GRAVE_HAZARDS for one in Hazard}
    assert len(rows) == len(Hazard)


def test_all_that_a_condition_sees_is_documented() -> None:
    section = TEXT.partition("## Conditions")[2].partition("\n## ")[0]
    for word in (*FIELDS, *(field for fields in FIELDS.values() for field in fields), *FUNCTIONS, *MACROS):
        assert f"`{word}`" in section, word


@pytest.mark.parametrize("block", re.findall(r"```yaml\n(.*?)```", TEXT, re.DOTALL))
def test_the_examples_are_policies_or_documents_of_another_kind(block: str) -> None:
    data = yaml.safe_load(block)
    if data.get("kind") == ColumnLabelsKind.name:
        assert msgspec.convert({name: data[name] for name in data if name != "kind"}, ColumnLabelsKind.document).columns
    elif "rules" in data:
        assert parse_policy("p@1", data["rules"], within=data.get("scope")).rules
    else:
        rule = {"name": "r", "effect": "allow", "agents": ["*"], "targets": ["*"], **data}
        assert parse_policy("p@1", [rule]).rules
        check_condition(data.get("condition", "true"), field="condition")
