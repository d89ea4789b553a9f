"""Decisions of one session."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from policies.engine import (
    DEFAULT_DENY,
    Access,
    Approval,
    Decision,
    Effect,
    Kind,
    Mask,
    Operation,
    Policy,
    Rule,
    SessionPolicy,
)
from policies.engine.decision import Obligation
from proxyworker.contract import SessionGrant
from proxyworker.gate import decide as decide_module
from proxyworker.gate.decide import KEPT_SECONDS, Decider
from tests.proxyworker.records import AT

READ = Operation(accesses=(Access(Kind.SELECT, "public.orders", ("id",)),))
WRITE = Operation(accesses=(Access(Kind.DELETE, "public.orders"),))


@dataclass
class Clock:
    """Seconds since the epoch, moved by hand."""

    now: float = AT

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def decider(grant: SessionGrant, clock: Clock) -> Decider:
    return Decider(grant, clock)


def rules(*effects: Effect, **fields: object) -> Policy:
    given = [
        {"name": effect.value, "effect": effect, "agents": ("*",), "targets": ("*",), **fields} for effect in effects
    ]
    return Policy(version="shop@2", rules=tuple(Rule(**one) for one in given))  # type: ignore[arg-type]


def test_the_grants_policy_decides_until_another_is_used(decider: Decider) -> None:
    assert (decider.session().effect, decider.decide(READ, b"r").policy_version) == (Effect.ALLOW, "shop@1")
    decider.use_policy(
        Policy(
            version="shop@2",
            rules=(Rule(name="not the shop", effect=Effect.DENY, agents=("reporter",), targets=("shop",)),),
        )
    )
    assert (decider.decide(READ, b"r").effect, decider.decide(READ, b"r").rule) == (Effect.DENY, "not the shop")
    decider.use_policy(Policy(version="shop@3"))
    assert (decider.decide(READ, b"r").effect, decider.session().rule) == (Effect.DENY, DEFAULT_DENY)


def test_a_policy_for_others_denies(decider: Decider) -> None:
    decider.use_policy(
        Policy(version="4", rules=(Rule(name="others", effect=Effect.ALLOW, agents=("writer",), targets=("*",)),))
    )
    assert decider.decide(READ, b"r").effect is Effect.DENY
    decider.use_policy(
        Policy(version="5", rules=(Rule(name="elsewhere", effect=Effect.ALLOW, agents=("*",), targets=("bank",)),))
    )
    assert decider.decide(READ, b"r").effect is Effect.DENY


def test_each_operation_is_decided_on_by_itself(decider: Decider) -> None:
    decider.use_policy(rules(Effect.ALLOW, operations=("select",)))
    assert decider.decide(READ, b"r").effect is Effect.ALLOW
    assert decider.decide(WRITE, b"w").effect is Effect.DENY
    assert decider.session().effect is Effect.ALLOW


def test_the_same_text_may_stand_for_another_operation(decider: Decider) -> None:
    decider.use_policy(rules(Effect.ALLOW, operations=("select",)))
    for _ in range(2):
        assert decider.decide(READ, b"PREPARE s AS ...").effect is Effect.ALLOW
        assert decider.decide(WRITE, b"PREPARE s AS ...").effect is Effect.DENY


class Counting(SessionPolicy):
    """A policy that knows how often it was asked."""

    asked = 0

    def decide(self, operation: Operation, *, now: float, text: str = "") -> Decision:
        type(self).asked += 1
        return super().decide(operation, now=now, text=text)


def test_a_decision_is_kept_for_its_text_and_a_second(
    grant: SessionGrant, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decide_module, "SessionPolicy", Counting)
    monkeypatch.setattr(decide_module, "KEPT_DECISIONS", 2)
    Counting.asked = 0
    decider = Decider(grant, clock)
    for _ in range(3):
        decider.decide(READ, b"r")
    assert Counting.asked == 1
    clock.now += KEPT_SECONDS
    decider.decide(READ, b"r")
    assert Counting.asked == 2
    decider.use_policy(grant.policy)
    decider.decide(READ, b"r")
    assert Counting.asked == 3
    for _ in range(2):
        decider.decide(READ, b"x" * (decide_module.MAX_KEPT_TEXT_BYTES + 1))
    assert Counting.asked == 5
    for text in (b"s", b"t", b"t"):
        decider.decide(READ, text)
    assert Counting.asked == 8


@pytest.mark.parametrize(
    ("obligation", "reason"),
    [
        (
            Obligation(rule="pii", mask=Mask(), object="public.customers", columns=("email",)),
            "column email of public.customers is masked for you by rule 'pii', and this gate can't mask yet",
        ),
        (
            Obligation(rule="pii", mask=Mask(), object="public.customers", columns=("email", "ssn")),
            "columns email, ssn of public.customers are masked for you by rule 'pii', and this gate can't mask yet",
        ),
        (
            Obligation(rule="own", filter="owner = 1", object="public.orders"),
            "rule 'own' lets you see only some rows of public.orders, and this gate can't filter rows yet",
        ),
    ],
)
@pytest.mark.parametrize("effect", [Effect.ALLOW, Effect.REQUIRE_APPROVAL])
def test_what_may_only_pass_masked_or_filtered_is_denied(
    decider: Decider, obligation: Obligation, reason: str, effect: Effect, monkeypatch: pytest.MonkeyPatch
) -> None:
    approval = Approval(flow="dba") if effect is Effect.REQUIRE_APPROVAL else None
    given = Decision(effect, "shop@1", "all", "so", approval=approval, obligations=(obligation,))
    monkeypatch.setattr(SessionPolicy, "decide", lambda *_args, **_named: given)
    decision = decider.decide(READ, b"r")
    assert (decision.effect, decision.rule, decision.reason) == (Effect.DENY, obligation.rule, reason)
    assert decision.approval is None
