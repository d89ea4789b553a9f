"""What is made once for a policy version, and shared."""

from __future__ import annotations

import msgspec

from policies.engine import Access, Effect, Operation, Policy, Principal, SessionPolicy, Target, parse_policy
from policies.engine.index import MAX_SHARED, index_of

RULES = [
    {"name": "reads", "effect": "allow", "agents": ["rep*"], "targets": ["shop"], "operations": ["select"]},
    {
        "name": "by-day", "effect": "deny", "agents": ["*"], "targets": ["shop"], "objects": ["public.a"],
        "when": {"hours": ["08:00-16:00"]},
    },
]  # fmt: skip
SHOP = Target(name="shop")
READ_A = Operation(accesses=(Access("select", "public.a"),))
READ_B = Operation(accesses=(Access("select", "public.b"),))
NIGHT, DAY = 3 * 3600.0, 10 * 3600.0


def test_sessions_of_one_version_share_what_is_made_of_it_even_when_each_was_sent_its_own_copy() -> None:
    policy = parse_policy("p@1", RULES)
    copy = msgspec.msgpack.decode(msgspec.msgpack.encode(policy), type=Policy)
    assert index_of(copy) is index_of(policy)


def test_a_version_of_the_same_name_that_says_something_else_is_another() -> None:
    one = parse_policy("p@1", RULES)
    other = parse_policy("p@1", RULES[:1])
    assert index_of(one) is not index_of(other)
    assert index_of(other).policy == other
    assert index_of(one).policy == one


def test_only_so_many_are_kept() -> None:
    first = parse_policy("first@1", RULES)
    kept = index_of(first)
    for number in range(MAX_SHARED):
        index_of(parse_policy(f"other@{number}", RULES))
    assert index_of(first) is not kept


def test_sessions_that_share_an_index_are_each_at_their_own_time() -> None:
    policy = parse_policy("p@1", RULES)
    reporter = Principal(id="1", name="reporter")
    one, other = (SessionPolicy(policy, principal=reporter, target=SHOP) for _ in range(2))
    for _ in range(2):
        assert one.decide(READ_A, now=NIGHT).effect is Effect.ALLOW
        assert other.decide(READ_A, now=DAY).effect is Effect.DENY
        assert one.decide(READ_B, now=NIGHT).effect is Effect.ALLOW
        assert other.decide(READ_B, now=DAY).effect is Effect.ALLOW


def test_sessions_that_share_an_index_are_each_for_their_own_agent() -> None:
    policy = parse_policy("p@1", RULES)
    effects = [
        SessionPolicy(policy, principal=Principal(id="1", name=name), target=SHOP).decide(READ_A, now=NIGHT).effect
        for name in ("reporter", "writer", "reporter")
    ]
    assert effects == [Effect.ALLOW, Effect.DENY, Effect.ALLOW]


def test_whether_a_policy_hides_columns_is_told_of_all_its_rules() -> None:
    masking = {"name": "m", "effect": "mask", "agents": ["nobody"], "targets": ["x"], "columns": ["ssn"]}
    reporter = Principal(id="1", name="reporter")
    plain, hiding = (parse_policy("p@1", rules) for rules in (RULES, [*RULES, masking]))
    assert not SessionPolicy(plain, principal=reporter, target=SHOP).hides_columns
    assert SessionPolicy(hiding, principal=reporter, target=SHOP).hides_columns
