"""Rights are the intersection of all who are behind an operation."""

from __future__ import annotations

import pytest

from policies.engine import Effect, Principal, SessionPolicy, Target, parse_policy

POLICY = parse_policy(
    "p@1",
    [
        {"name": "agents", "effect": "allow", "agents": ["reporter", "planner"], "targets": ["shop"]},
        {"name": "reporter more", "effect": "allow", "agents": ["reporter"], "targets": ["crm"]},
        {"name": "ada", "effect": "allow", "agents": ["person:ada@*", "actor:chat"], "targets": ["shop"]},
        {
            "name": "not bob",
            "effect": "deny",
            "agents": ["person:bob@acme.example"],
            "targets": ["*"],
            "reason": "left",
        },
    ],
)


@pytest.mark.parametrize(
    ("target", "person", "actors", "allowed"),
    [
        ("shop", "", (), True),
        ("crm", "", (), True),
        ("shop", "ada@acme.example", (), True),
        ("crm", "ada@acme.example", (), False),  # named, and not allowed there
        ("crm", "eve@acme.example", (), True),  # the policy says nothing of her
        ("shop", "bob@acme.example", (), False),
        ("shop", "", ("planner",), True),
        ("crm", "", ("planner",), False),  # an agent of the tenant needs a rule of its own
        ("shop", "", ("unheard-of",), False),
        ("shop", "", ("actor:chat",), True),
        ("crm", "", ("actor:chat",), False),
        ("crm", "", ("actor:unheard-of",), True),
        ("crm", "", ("actor:unheard-of", "actor:chat"), False),
        ("shop", "ada@acme.example", ("planner", "actor:chat"), True),
        ("shop", "bob@acme.example", ("planner", "actor:chat"), False),
    ],
)
def test_everybody_in_the_chain_has_to_be_allowed(
    target: str, person: str, actors: tuple[str, ...], allowed: bool
) -> None:
    principal = Principal(id="1", name="reporter", on_behalf_of=person, actors=actors)
    decision = SessionPolicy(POLICY, principal=principal, target=Target(name=target)).admits(now=0.0)
    assert (decision.effect is Effect.ALLOW) is allowed
    assert allowed or decision.reason


def test_a_pattern_for_agents_takes_in_no_person() -> None:
    policy = parse_policy("p@1", [{"name": "r", "effect": "allow", "agents": ["r*", "p*"], "targets": ["*"]}])
    principal = Principal(id="1", name="person:x")
    assert SessionPolicy(policy, principal=principal, target=Target(name="shop")).admits(now=0.0).effect is Effect.DENY


def test_a_deny_for_everybody_denies_a_person_too() -> None:
    rules = [
        {"name": "a", "effect": "allow", "agents": ["reporter", "person:ada@acme.example"], "targets": ["*"]},
        {"name": "d", "effect": "deny", "agents": ["*"], "targets": ["payroll"]},
    ]
    principal = Principal(id="1", name="reporter", on_behalf_of="ada@acme.example")
    assert (
        SessionPolicy(parse_policy("p@1", rules), principal=principal, target=Target(name="payroll"))
        .admits(now=0.0)
        .effect
        is Effect.DENY
    )
    assert (
        SessionPolicy(parse_policy("p@1", rules), principal=principal, target=Target(name="shop"))
        .admits(now=0.0)
        .effect
        is Effect.ALLOW
    )
