"""Conditions: what they see, what may stand in them, and that whatever goes wrong denies."""

from __future__ import annotations

import subprocess
import sys
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.engine import (
    Access,
    ConditionFailed,
    Effect,
    Operation,
    Policy,
    PolicyError,
    Principal,
    Rule,
    SessionPolicy,
    Target,
    check_condition,
    condition_holds,
    parse_policy,
)
from policies.engine.conditions import MAX_DEPTH, MAX_LIST, MAX_TEXT_CHARACTERS, MAX_TOKENS

#: Wednesday, 1 July 2026, 22:30 UTC.
NOW = 1_782_945_000.0
AGENT = Principal(
    id="1",
    name="reporter",
    groups=("ops", "night"),
    on_behalf_of="ada@acme.example",
    actors=("planner",),
    labels={"repository": "acme/shop", "odd key": "x"},
    sponsor="eve@acme.example",
)
SHOP = Target(name="shop", environment="prod", labels={"tier": "1"})
READ = Operation(
    accesses=(Access("select", "public.orders", ("id",)), Access("select", "hr.pay", ("*",)), Access("insert")),
    hazards=("drop",),
)


def holds(condition: str, *, operation: Operation = READ, text: str = "SELECT 1", zone: ZoneInfo | None = None) -> bool:
    """What the condition says."""
    return condition_holds(
        condition, principal=AGENT, target=SHOP, operation=operation, now=NOW, operation_text=text, zone=zone
    )


@pytest.mark.parametrize(
    "condition",
    [
        'agent.name == "reporter"',
        '"night" in agent.groups && agent.groups.exists(g, g.startsWith("op"))',
        'agent.sponsor.endsWith("@acme.example") && agent.on_behalf_of.startsWith("ada@")',
        'agent.actors == ["planner"]',
        'agent.claims.repository == "acme/shop" && agent.claims["odd key"] == "x"',
        'has(agent.claims.repository) && !has(agent.claims.branch) && !("branch" in agent.claims)',
        'operation.kinds == ["select", "insert"] && operation.verb == "select, insert"',
        'operation.objects.all(o, o.startsWith("public.") || o == "hr.pay")',
        'operation.objects.exists_one(o, o == "hr.pay") && size(operation.objects) == 2',
        'operation.columns == ["id", "*"] && operation.hazards == ["drop"]',
        'operation.text.contains("SELECT")',
        'target.name == "shop" && target.environment == "prod" && target.protocol == "postgres"',
        'target.labels.tier == "1"',
        "time.hour == 22 && time.minute == 30 && time.day == 1 && time.month == 7",
        'time.weekday == "wed" && time.date == "2026-07-01"',
        'time.now > timestamp("2026-07-01T22:00:00Z") && time.now - timestamp("2026-07-01T22:00:00Z") < duration("1h")',
    ],
)
def test_a_condition_sees_agent_operation_target_and_time(condition: str) -> None:
    assert holds(condition)
    assert not holds(f"!({condition})")


def test_time_is_told_in_the_zone_of_the_rule() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    assert holds('time.hour == 0 && time.weekday == "thu" && time.date == "2026-07-02"', zone=berlin)


@pytest.mark.parametrize(
    ("condition", "problem"),
    [
        ("", "is empty"),
        ("true &&", "no CEL"),
        ("foo == 1", "uses foo"),
        ("agent", "without one of its fields"),
        ('agent["name"] == "x"', "without one of its fields"),
        ("agent.nmae == 'x'", "without one of its fields"),
        ("agent.name.first == 'x'", "has no fields"),
        ("agent.name", "no true or false"),
        ("size(agent.groups)", "no true or false"),
        ("time.hour > '9'", "can't work"),
        ("operation.text.matches('(a+)+b')", "matches"),
        ("agent.groups.map(g, g) == []", "uses g"),
        ("agent.groups.filter(g, true) == []", "uses g"),
        ("agent.groups.exists(a, agent.groups.exists(b, a == b))", "macro within a macro"),
        ("agent.groups.exists(agent, true)", "for an element"),
        (" || ".join(["agent.groups.exists(g, g == 'x')"] * 5), "has over 4"),
        ("nope()", "calls nope()"),
        ("cel.bind(x, 1, x == 1)", "uses cel"),
        ("google.protobuf.Timestamp{} == null", "makes a message"),
        ("(" * (MAX_DEPTH + 1) + "true" + ")" * (MAX_DEPTH + 1), "nests over"),
        ("[" * 13, "nests over"),
        ("!" * (MAX_TOKENS + 1) + "true", "words and signs"),
        ("true" + " " * 2_000, "2000 characters"),
        ("'''a''' == 'a'", "something odd"),
        (r"r'\' == agent.name", "something odd"),
        ("b'a' == b'a'", "something odd"),
        ("true // agent.name", "something odd"),
        ("'\x07' == agent.name", "something odd"),
        ("agent.name == `x`", "something odd"),
        ("agent.name == 'a\nb'", "something odd"),
        ("é == 1", "something odd"),
    ],
)
def test_a_condition_that_cannot_be_trusted_is_refused(condition: str, problem: str) -> None:
    with pytest.raises(PolicyError) as refused:
        check_condition(condition, field="rules[0].condition")
    assert refused.value.field == "rules[0].condition"
    assert problem in f"{refused.value.problem}"
    with pytest.raises(ConditionFailed):
        holds(condition)


@pytest.mark.parametrize("effect", list(Effect))
@pytest.mark.parametrize(
    ("condition", "operation", "text"),
    [
        ('agent.claims.branch == "x"', READ, ""),
        ("1 / size(operation.text) == 1", READ, ""),
        ("9223372036854775807 + size(operation.objects) > 0", READ, ""),
        ("agent.claims.repository", READ, ""),
        ('timestamp(agent.name) > timestamp("2026-01-01T00:00:00Z")', READ, ""),
        ('operation.text.contains("x")', READ, "x" * (MAX_TEXT_CHARACTERS + 1)),
        (
            'operation.objects.exists(o, o == "t0")',
            Operation(accesses=tuple(Access("select", f"t{number}") for number in range(MAX_LIST + 1))),
            "",
        ),
        ("no cel at all", READ, ""),
    ],
)
def test_a_condition_that_fails_denies_whatever_its_rule_says(
    effect: Effect, condition: str, operation: Operation, text: str
) -> None:
    rules = (
        Rule(name="all", effect=Effect.ALLOW, agents=("*",), targets=("*",), hazards=("*",)),
        Rule(name="fails", effect=effect, agents=("*",), targets=("*",), hazards=("*",), condition=condition),
    )
    if effect is Effect.ALLOW:
        operation = Operation(accesses=operation.accesses)
    else:
        operation = Operation(accesses=operation.accesses, hazards=("drop",))
    session = SessionPolicy(Policy(version="p@1", rules=rules), principal=AGENT, target=SHOP)
    decision = session.decide(operation, now=NOW, text=text)
    assert (decision.effect, decision.rule) == (Effect.DENY, "fails")
    assert "could not be applied" in decision.reason


def test_a_long_text_matters_to_those_alone_who_read_it() -> None:
    assert holds('agent.name == "reporter"', text="x" * (MAX_TEXT_CHARACTERS + 1))
    assert holds('operation.verb != ""', text="x" * (MAX_TEXT_CHARACTERS + 1))


def test_decisions_are_kept_by_what_their_conditions_read() -> None:
    policy = parse_policy(
        "p@1",
        [
            {"name": "r", "effect": "allow", "agents": ["*"], "targets": ["*"], "hazards": ["*"]},
            {
                "name": "no x", "effect": "deny", "agents": ["*"], "targets": ["*"],
                "condition": 'operation.text.contains("x") || time.minute == 7',
            },
        ],
    )  # fmt: skip
    session = SessionPolicy(policy, principal=AGENT, target=SHOP)
    for _ in range(2):
        for text, now, effect in (
            ("a", 0.0, Effect.ALLOW),
            ("x", 0.0, Effect.DENY),
            ("a", 7 * 60.0, Effect.DENY),
            ("a", 8 * 60.0, Effect.ALLOW),
        ):
            assert session.decide(READ, now=now, text=text).effect is effect


def test_the_largest_condition_fits_a_small_stack() -> None:
    """The library overflows the C stack of a thread of 512 KB, and takes the process with it, some way beyond."""
    worst = [
        "(" * MAX_DEPTH + "true" + ")" * MAX_DEPTH,
        "[" * MAX_DEPTH + "1" + "]" * MAX_DEPTH + " == []",
        "!" * (MAX_TOKENS - 1) + "true",
        "1" + " + 1" * (MAX_TOKENS // 2 - 2) + " > 1",
        "agent.claims" + ".a" * (MAX_TOKENS // 2 - 2) + " == 1",
        "true" + " && true" * (MAX_TOKENS // 2 - 1),
        "true" + " ? true : false" * (MAX_TOKENS // 4 - 1),
    ]
    program = f"""
import threading
from policies.engine import ConditionFailed, Operation, Principal, Target, condition_holds
def run():
    for condition in {worst!r}:
        try:
            condition_holds(condition, principal=Principal(id="", name=""), target=Target(name=""),
                            operation=Operation(accesses=()), now=0.0)
        except ConditionFailed:
            pass
    print("done")
threading.stack_size(512 * 1024)
thread = threading.Thread(target=run)
thread.start()
thread.join()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr


def test_conditions_bring_no_command_line_with_them() -> None:
    program = """
import sys
from policies.engine import check_condition
check_condition("true", field="")
print(sorted({"typer", "rich", "prompt_toolkit", "pydantic"} & set(sys.modules)))
import cel
print(cel.evaluate("1 + 1"))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "[]\n2\n", done.stderr


_words = st.lists(
    st.sampled_from(
        """agent operation target time . .name .claims .x .text .now ( ) [ ] { } , : ? ! - + == && || in "a" 'b' r'\\' 1
        2u 3.0 true null has( .exists(g, .all(o, size( timestamp( duration( string( // é \\ . agent.name operation.text
        agent.groups target.labels["a"] time.hour""".split()  # noqa: SIM905 - a list of words reads better
    ),
    max_size=14,
)


@settings(derandomize=True, deadline=None, max_examples=400)
@given(words=_words, glue=st.sampled_from((" ", "")))
def test_any_text_is_a_condition_or_is_refused(words: list[str], glue: str) -> None:
    condition = glue.join(words)
    try:
        answer: Any = holds(condition)
    except ConditionFailed:
        answer = None
    assert answer in (True, False, None)
