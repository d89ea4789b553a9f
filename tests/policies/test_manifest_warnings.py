"""`manage.py apply` tells what is worth knowing of the policies in a file, once all of the file is applied."""

from __future__ import annotations

from pathlib import Path

import pytest
from django_scopes import scope

from accounts.models import Agent, Tenant
from controlplane.apply.run import apply_file
from policies.models import Policy

SUPPORT = """\
kind: Policy
tenant: acme
name: support
rules:
  - {name: read, effect: allow, agents: [reporter], targets: ["shop*"]}
  - {name: for-ada, effect: allow, agents: ["person:ada@nowhere.example"], targets: ["shop*"]}
"""
FREEZE = """\
---
kind: Policy
tenant: acme
name: freeze
rules:
  - {name: all, effect: deny, agents: ["*"], targets: ["*"]}
"""
THAW = FREEZE.replace('targets: ["*"]', 'targets: ["archive*"]')


@pytest.fixture
def acme(db: None) -> Tenant:
    """A tenant with an agent."""
    tenant = Tenant.objects.create(slug="acme", name="Acme")
    with scope(tenant=tenant):
        Agent.objects.create(tenant=tenant, name="reporter")
    return tenant


def warnings(folder: Path, text: str, *, dry_run: bool = False) -> list[str]:
    """What applying it warns of."""
    file = folder / "acme.yaml"
    file.write_text(text)
    told: list[str] = []
    apply_file(file, environ={}, dry_run=dry_run, tell=told.append)
    return [line for line in told if line.startswith("! ")]


@pytest.mark.parametrize("dry_run", [True, False])
def test_people_nobody_knows_and_rules_that_another_policy_denies_are_told(
    acme: Tenant, tmp_path: Path, dry_run: bool
) -> None:
    told = warnings(tmp_path, SUPPORT + FREEZE, dry_run=dry_run)
    starts = (
        "! Policy support: rules[1].agents nobody who is known here is called 'ada@nowhere.example'",
        "! Policy support: rules[0] has no effect: 'freeze/all' denies all of it",
        "! Policy freeze: rules[0] ",
    )
    assert all(any(line.startswith(start) for line in told) for start in starts)
    with scope(tenant=acme):
        assert Policy.objects.exists() is not dry_run


def test_warnings_are_of_what_the_whole_file_makes(acme: Tenant, tmp_path: Path) -> None:
    warnings(tmp_path, FREEZE.removeprefix("---\n"))
    told = warnings(tmp_path, SUPPORT + THAW)
    assert len(told) == 1
    assert "is called 'ada@nowhere.example'" in told[0]


def test_what_stays_as_it_is_is_not_warned_of_again(acme: Tenant, tmp_path: Path) -> None:
    warnings(tmp_path, SUPPORT + FREEZE)
    assert warnings(tmp_path, SUPPORT + FREEZE) == []
