"""What decisions say and ask for, example by example; what holds in general is in `test_properties`."""

from __future__ import annotations

from typing import Any

import pytest

from policies.engine import (
    DEFAULT_DENY,
    UNKNOWN_OPERATION,
    Access,
    ApprovalMode,
    Decision,
    Effect,
    Hazard,
    Mask,
    Operation,
    Policy,
    Principal,
    Rule,
    SessionPolicy,
    Target,
    When,
    parse_policy,
)
from policies.engine import session as session_module
from policies.engine.session import MAX_CACHED_PIECES

REPORTER = Principal(id="1", name="reporter")
SHOP = Target(name="shop")


def session(*rules: dict[str, Any], principal: Principal = REPORTER) -> SessionPolicy:
    """Of rules for everybody, everywhere."""
    named = [{"name": f"r{i}", "agents": ["*"], "targets": ["*"], **rule} for i, rule in enumerate(rules)]
    return SessionPolicy(parse_policy("p@1", named), principal=principal, target=SHOP)


def decide(policy: SessionPolicy, *accesses: Access, hazards: tuple[str, ...] = (), now: float = 0.0) -> Decision:
    """On one operation."""
    return policy.decide(Operation(accesses=accesses, hazards=hazards), now=now)


ALLOW: dict[str, Any] = {"effect": "allow"}
DENY: dict[str, Any] = {"effect": "deny"}
READ_ORDERS = {**ALLOW, "operations": ["select"], "objects": ["public.orders"], "columns": ["id", "na*"]}


def test_a_refusal_says_what_was_refused_by_which_rule_and_what_is_allowed() -> None:
    policy = session(READ_ORDERS, {**DENY, "objects": ["hr.*"], "reason": "salaries are private"})
    denied = decide(policy, Access("select", "hr.pay", ("amount",)))
    assert (denied.effect, denied.rule, denied.policy_version) == (Effect.DENY, "r1", "p@1")
    assert denied.reason == "rule 'r1' denies reporter on shop: select on hr.pay (columns amount): salaries are private"
    assert "retrying will not help" in denied.help
    assert "Allowed here: select on public.orders (columns id, na*)." in denied.help


@pytest.mark.parametrize(
    ("access", "hazards", "words"),
    [
        (Access("select", "orders", ("id", "ssn")), (), "rule 'r0' covers columns id, na* only"),
        (Access("select", "orders", ("id",)), (Hazard.SERVER_FILE,), "rule 'r0' doesn't cover the hazard server_file"),
        (Access("delete", "orders"), (), "covers delete there at other times: sat, sun 09:00-17:30 Europe/Berlin"),
        (Access("update", "orders"), (), 'only when: "ops" in agent.groups'),
        (Access("insert", "orders"), (), "ask an administrator for a policy rule that allows agent reporter on target"),
        (Access("select", "pay"), (), "Write pay with its schema, such as public.pay"),
    ],
)
def test_what_no_rule_covers_is_refused_with_what_came_near(
    access: Access, hazards: tuple[str, ...], words: str
) -> None:
    weekend = {"days": ["sat", "sun"], "hours": ["09:00-17:30"], "timezone": "Europe/Berlin"}
    policy = session(
        READ_ORDERS,
        {**ALLOW, "operations": ["delete"], "when": weekend},
        {**ALLOW, "operations": ["update"], "condition": '"ops" in agent.groups'},
    )
    denied = decide(policy, access, hazards=hazards)
    assert (denied.effect, denied.rule) == (Effect.DENY, DEFAULT_DENY)
    assert denied.reason.startswith(f"no rule allows reporter on shop: {access.kind} on {access.object}")
    assert words in denied.help


def test_what_the_agent_names_is_told_fit_for_a_line() -> None:
    denied = decide(session(READ_ORDERS), Access("select", "public.\x1b[2J" + "x" * 500, tuple(map(str, range(40)))))
    assert denied.reason.isprintable()
    assert len(denied.reason) < 400
    assert "and 32 more" in denied.reason


def test_an_operation_is_as_good_as_its_worst_access() -> None:
    policy = session(READ_ORDERS, {**DENY, "operations": ["insert"]})
    read = Access("select", "public.orders", ("id",))
    assert decide(policy, read).effect is Effect.ALLOW
    assert decide(policy, read, Access("insert", "public.copy")).effect is Effect.DENY
    assert decide(policy).effect is Effect.DENY  # an operation that does nothing is none
    assert policy.decide(UNKNOWN_OPERATION, now=0.0).effect is Effect.DENY


def test_what_is_unknown_has_to_be_named() -> None:
    assert session(ALLOW).decide(UNKNOWN_OPERATION, now=0.0).effect is Effect.DENY
    assert session({**ALLOW, "operations": ["unknown"]}).decide(UNKNOWN_OPERATION, now=0.0).effect is Effect.ALLOW


@pytest.mark.parametrize("hazard", [*Hazard, "of_a_newer_gate"])
def test_a_grave_or_new_hazard_has_to_be_named(hazard: str) -> None:
    from policies.engine.operation import GRAVE_HAZARDS

    read = Access("select", "public.orders")
    is_grave = hazard in GRAVE_HAZARDS or hazard == "of_a_newer_gate"
    assert decide(session(ALLOW), read, hazards=(hazard,)).effect is (Effect.DENY if is_grave else Effect.ALLOW)
    assert decide(session({**ALLOW, "hazards": ["*"]}), read, hazards=(hazard,)).effect is Effect.ALLOW


def test_an_approval_lets_nothing_pass_that_no_rule_covers() -> None:
    ask = {"effect": "require_approval", "columns": ["email"], "approval": {"flow": "dba", "hold_seconds": 60}}
    policy = session({**READ_ORDERS, "columns": ["id", "email"]}, ask)
    held = decide(policy, Access("select", "orders", ("id", "email")))
    assert (held.effect, held.rule) == (Effect.REQUIRE_APPROVAL, "r1")
    assert held.approval is not None
    assert (held.approval.flow, held.approval.hold_seconds, held.further_approvals) == ("dba", 60, ())
    assert decide(policy, Access("select", "orders", ("ssn", "email"))).effect is Effect.DENY
    assert decide(policy, Access("select", "orders", ("id",))).effect is Effect.ALLOW


def test_several_flows_must_all_say_yes_and_wait_in_one_way() -> None:
    def ask(flow: str, **approval: Any) -> dict[str, Any]:
        return {"effect": "require_approval", "approval": {"flow": flow, **approval}}

    held = decide(session(ask("dba", hold_seconds=60), ask("sec", hold_seconds=30), ask("dba")), Access("delete", "a"))
    assert held.approval is not None
    flows = [(one.flow, one.mode, one.hold_seconds) for one in (held.approval, *held.further_approvals)]
    assert flows == [("dba", ApprovalMode.HOLD, 30), ("sec", ApprovalMode.HOLD, 30)]
    assert held.reason == "rules 'r0', 'r1', 'r2' require an approval"
    deferred = decide(session(ask("dba", hold_seconds=60), ask("sec", mode="defer")), Access("delete", "a"))
    assert deferred.approval is not None
    assert {one.mode for one in (deferred.approval, *deferred.further_approvals)} == {ApprovalMode.DEFER}


def test_obligations_come_of_every_rule_that_matches() -> None:
    policy = session(
        ALLOW,
        {"effect": "mask", "columns": ["e*", "ssn"]},
        {"effect": "mask", "columns": ["ssn"], "mask": {"method": "last4"}},
        {"effect": "filter", "objects": ["public.orders"], "filter": "region = 'eu'"},
        {"effect": "limit", "limit": {"rows": 10}},
        {"effect": "limit", "limit": {"distinct": 5, "labels": ["email"]}},
        {"effect": "mask", "objects": ["hr.*"], "columns": ["*"]},
    )
    found = decide(policy, Access("select", "public.orders", ("id", "email", "ssn")), Access("select", "public.b"))
    assert found.effect is Effect.ALLOW
    assert [(one.rule, one.object, one.columns) for one in found.obligations] == [
        ("r1", "public.orders", ("email", "ssn")),
        ("r2", "public.orders", ("ssn",)),
        ("r4", "", ()),
        ("r5", "", ()),
        ("r3", "public.orders", ()),
    ]
    assert [one.mask for one in found.obligations[:2]] == [Mask(), Mask(method="last4")]
    assert found.obligations[4].filter == "region = 'eu'"
    whole = decide(policy, Access("select", "public.orders", ("*",)))
    assert whole.obligations[0].columns == ("e*", "ssn")


@pytest.mark.parametrize(
    ("pattern", "name", "allows", "restricts"),
    [
        ("public.customers", "public.customers", True, True),
        ("public.customers", "customers", True, True),
        ("customers", "customers", True, True),
        ("customers", "public.customers", True, True),
        ("customers", "hr.customers", False, True),
        ("hr.customers", "customers", False, True),
        ("hr.*", "customers", False, True),
        ("hr.*", "hr.pay", True, True),
        ("cust*", "customers.secret", False, True),
        ("pg_authid", "pg_authid", True, True),
        ("public.*", "pg_authid", False, True),
        ("pg_catalog.pg_authid", "pg_authid", True, True),
        ("*", "?", True, True),
        ("?", "?", False, True),
        ("public.*", "?", False, True),
        ("public.*", "", True, False),
        ('public."Odd.Name"', 'public."Odd.Name"', True, True),
        ('"Odd.Name"', '"Odd.Name"', True, True),
        ("public.refund()", "refund()", True, True),
    ],
)
def test_names_without_a_schema_are_read_for_the_worse(pattern: str, name: str, allows: bool, restricts: bool) -> None:
    access = Access("select", name)
    assert (decide(session({**ALLOW, "objects": [pattern]}), access).effect is Effect.ALLOW) is allows
    assert (decide(session(ALLOW, {**DENY, "objects": [pattern]}), access).effect is Effect.DENY) is restricts


def test_paths_know_no_schema() -> None:
    policy = session({**ALLOW, "objects": ["/v1/orders*"]}, {**DENY, "objects": ["/v1/*.json"]})
    assert decide(policy, Access("http:get", "/v1/orders/7")).effect is Effect.ALLOW
    assert decide(policy, Access("http:get", "/v1/orders.json")).effect is Effect.DENY
    assert decide(policy, Access("http:get", "/v2/orders")).effect is Effect.DENY


@pytest.mark.parametrize(
    ("rules", "effect", "rule"),
    [
        ((), Effect.DENY, DEFAULT_DENY),
        ((READ_ORDERS,), Effect.ALLOW, "r0"),
        ((READ_ORDERS, {**DENY, "operations": ["*"], "objects": ["*"], "reason": "closed"}), Effect.DENY, "r1"),
        ((READ_ORDERS, {**DENY, "operations": ["insert"]}), Effect.ALLOW, "r0"),
        ((READ_ORDERS, {**DENY, "condition": "time.hour > 100"}), Effect.ALLOW, "r0"),
        (({"effect": "mask", "columns": ["*"]},), Effect.DENY, DEFAULT_DENY),
        (({"effect": "require_approval", "approval": {"flow": "dba"}},), Effect.ALLOW, "r0"),
        (({**ALLOW, "when": {"until": "1970-01-01"}},), Effect.ALLOW, "r0"),
    ],
)
def test_a_session_is_admitted_where_something_may_be_allowed(
    rules: tuple[dict[str, Any], ...], effect: Effect, rule: str
) -> None:
    admitted = session(*rules).admits(now=0.0)
    assert (admitted.effect, admitted.rule) == (effect, rule)


def test_a_policy_that_was_never_checked_denies_where_it_cannot_be_applied() -> None:
    rule = Rule(name="odd", effect=Effect.ALLOW, agents=("*",), targets=("*",), when=When(timezone="Mars/Olympus"))
    policy = Policy(version="p@1", rules=(rule,))
    denied = decide(SessionPolicy(policy, principal=REPORTER, target=SHOP), Access("select", "a"))
    assert (denied.effect, denied.rule) == (Effect.DENY, "odd")


@pytest.mark.parametrize("now", [float("nan"), float("inf"), -1e30])
def test_a_clock_that_makes_no_sense_denies(now: float) -> None:
    policy = session({**ALLOW, "when": {"days": ["mon"]}})
    assert decide(policy, Access("select", "a"), now=now).effect is Effect.DENY


def test_an_error_of_the_engine_itself_denies(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def __init__(self, *_: Any, **__: Any) -> None:
            raise RecursionError("secret of the engine")

    monkeypatch.setattr(session_module, "Deciding", Broken)
    denied = decide(session(ALLOW), Access("select", "a"))
    assert denied.effect is Effect.DENY
    assert "RecursionError" in denied.reason
    assert "secret" not in denied.reason + denied.help


def test_the_cache_is_bounded_by_what_it_holds() -> None:
    policy = session(ALLOW)
    columns = tuple(map(str, range(MAX_CACHED_PIECES // 20)))
    for number in range(60):
        assert decide(policy, Access("select", f"t{number}", columns)).effect is Effect.ALLOW
    assert policy._cache._pieces <= MAX_CACHED_PIECES
    assert len(policy._cache._by_facts) <= 20
    before = policy._cache._pieces
    assert decide(policy, Access("select", "huge", columns * 3)).effect is Effect.ALLOW
    assert policy._cache._pieces == before
