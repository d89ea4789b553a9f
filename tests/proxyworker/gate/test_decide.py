"""Decisions of one session."""

from __future__ import annotations

from policies.engine import DEFAULT_DENY, Effect, Policy, Rule
from proxyworker.contract import SessionGrant
from proxyworker.gate.decide import Decider


def test_the_grants_policy_decides_until_another_is_used(grant: SessionGrant) -> None:
    decider = Decider(grant)
    assert (decider.decide().effect, decider.decide().policy_version) == (Effect.ALLOW, "shop@1")
    decider.use_policy(
        Policy(
            version="shop@2",
            rules=(Rule(name="not the shop", effect=Effect.DENY, agents=("reporter",), targets=("shop",)),),
        )
    )
    assert (decider.decide().effect, decider.decide().rule) == (Effect.DENY, "not the shop")
    decider.use_policy(Policy(version="shop@3"))
    assert (decider.decide().effect, decider.decide().rule) == (Effect.DENY, DEFAULT_DENY)


def test_a_policy_for_others_denies(grant: SessionGrant) -> None:
    decider = Decider(grant)
    decider.use_policy(
        Policy(version="4", rules=(Rule(name="others", effect=Effect.ALLOW, agents=("writer",), targets=("*",)),))
    )
    assert decider.decide().effect is Effect.DENY
    decider.use_policy(
        Policy(version="5", rules=(Rule(name="elsewhere", effect=Effect.ALLOW, agents=("*",), targets=("bank",)),))
    )
    assert decider.decide().effect is Effect.DENY
