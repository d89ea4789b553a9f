"""Rights are the intersection of all who are behind an operation."""

from __future__ import annotations

import pytest

from policies.engine import Actor, Effect, Principal, SessionPolicy, Target, parse_policy

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


_OF_GROUPS = parse_policy(
    "p@1",
    [
        {"name": "admins", "effect": "allow", "groups": ["admins"], "targets": ["shop"]},
        {"name": "of ada", "effect": "allow", "sponsors": ["ada@acme.example"], "targets": ["crm"]},
        {"name": "of the repository", "effect": "allow", "claims": {"repository": "acme/*"}, "targets": ["ci"]},
        {"name": "no interns", "effect": "deny", "groups": ["interns"], "targets": ["*"], "reason": "not for interns"},
    ],
)
_SAME = Actor(groups=("admins",), sponsor="ada@acme.example", labels={"repository": "acme/shop"})


@pytest.mark.parametrize(
    ("target", "intern", "allowed"),
    [
        ("shop", _SAME, True),
        ("shop", Actor(), False),  # an admin's agent lends nobody its group
        ("shop", None, False),
        ("shop", Actor(groups=("admins", "interns")), False),  # what is denied to one is denied to all
        ("crm", _SAME, True),
        ("crm", Actor(groups=("admins",), sponsor="bob@acme.example"), False),
        ("ci", _SAME, True),
        ("ci", Actor(labels={"repository": "evil/shop"}), False),
    ],
)
def test_each_agent_in_the_chain_has_its_own_groups_claims_and_sponsor(
    target: str, intern: Actor | None, allowed: bool
) -> None:
    principal = Principal(
        id="1",
        name="orchestrator",
        groups=_SAME.groups,
        sponsor=_SAME.sponsor,
        labels=_SAME.labels,
        actors=("intern",),
        behind={} if intern is None else {"intern": intern},
    )
    session = SessionPolicy(_OF_GROUPS, principal=principal, target=Target(name=target))
    assert (session.admits(now=0.0).effect is Effect.ALLOW) is allowed


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
