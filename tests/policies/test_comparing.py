"""What two policies say of the same operations, and the policy that allows just what was seen."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from policies.documents import check_document, parse_document
from policies.engine import Access, Effect, Operation, Policy, Principal, SessionPolicy, Target, parse_policy
from policies.simulation import comparing
from policies.simulation.comparing import Comparison, Recorded, Subject
from policies.simulation.suggesting import Observer

SUBJECT = Subject(principal=Principal(id="1", name="reporter"), target=Target(name="shop"))
EVERYBODY = {"agents": ["*"], "targets": ["*"]}


def policy(*rules: dict[str, Any]) -> Policy:
    """Of rules for everybody everywhere."""
    return parse_policy("p@1", [{"name": str(number), **EVERYBODY, **rule} for number, rule in enumerate(rules)])


def recorded(kind: str, name: str, *hazards: str, op: int = 1, text: str = "…") -> Recorded:
    """An operation of one access."""
    operation = Operation((Access(kind, name),), hazards)
    return Recorded(session="s", op=op, at=0.0, text=text, facts=msgspec.json.encode(operation).decode())


def test_differences_are_counted_and_shown_by_agent_and_rule() -> None:
    before = policy({"effect": "allow", "operations": ["select", "delete", "update"]})
    after = policy(
        {"effect": "allow", "operations": ["select", "insert", "update"]},
        {"effect": "require_approval", "operations": ["update"], "approval": {"flow": "leads"}},
    )
    comparison = Comparison(before, after)
    for op in range(1, 11):
        comparison.add(SUBJECT, recorded("delete", "public.orders", op=op, text=f"delete {op}"))
    comparison.add(SUBJECT, recorded("insert", "public.orders"))
    comparison.add(SUBJECT, recorded("update", "public.orders"))
    comparison.add(SUBJECT, recorded("select", "public.orders"))
    comparison.add(SUBJECT, Recorded(session="s", op=1, at=0.0, text="?", facts=""))
    result = comparison.result()
    assert (result["operations"], result["left_out"]) == (14, 1)
    assert result["counts"] == {"newly_denied": 10, "newly_allowed": 1, "newly_held": 1, "other_terms": 0}
    denied, *others = result["groups"]
    assert (denied["difference"], denied["agent"], denied["target"], denied["count"]) == (
        "newly_denied", "reporter", "shop", 10
    )  # fmt: skip
    assert (denied["rule_before"], denied["rule_after"]) == ("0", "default deny")
    assert [example["text"] for example in denied["examples"]] == ["delete 1", "delete 2", "delete 3"]
    assert {other["difference"] for other in others} == {"newly_allowed", "newly_held"}
    assert msgspec.json.decode(msgspec.json.encode(result)) == result


def test_other_masks_and_limits_are_told_as_well() -> None:
    allowed = {"effect": "allow", "operations": ["select"]}
    flow = {"effect": "require_approval", "approval": {"flow": "leads"}}
    comparison = Comparison(policy(flow), policy({**flow, "approval": {"flow": "others"}}))
    comparison.add(SUBJECT, recorded("select", "public.orders"))
    assert comparison.result()["counts"]["other_terms"] == 1
    same = Comparison(policy(allowed), policy(allowed))
    same.add(SUBJECT, recorded("select", "public.orders"))
    assert not same.result()["groups"]


def test_what_is_kept_is_bounded(monkeypatch: Any) -> None:
    monkeypatch.setattr(comparing, "MAX_GROUPS", 3)
    monkeypatch.setattr(comparing, "MAX_BOUND", 2)
    monkeypatch.setattr(comparing, "MAX_DECIDED", 2)
    comparison = Comparison(policy({"effect": "allow"}), policy())
    for number in range(10):
        subject = Subject(principal=Principal(id="1", name=f"agent-{number}"), target=SUBJECT.target)
        comparison.add(subject, recorded("select", "public.orders"))
    result = comparison.result()
    assert (len(result["groups"]), result["in_other_groups"], result["counts"]["newly_denied"]) == (3, 7, 10)
    assert (len(comparison._bound), len(comparison._decided)) == (2, 2)


# ---------------------------------------------------------------- suggesting

KINDS = ["select", "insert", "delete", "transaction", "http:get", "http:post"]
OBJECTS = ["", "public.a", "public.b", "public.c", "lower()", "odd*name", "?"]
HAZARDS = ["delete_without_where", "multi_statement", "copy_program"]

accesses = st.builds(
    Access,
    kind=st.sampled_from(KINDS),
    object=st.sampled_from(OBJECTS),
    columns=st.lists(st.sampled_from(["id", "name", "*"]), unique=True, max_size=2).map(tuple),
)
operations = st.builds(
    Operation,
    accesses=st.lists(accesses, min_size=1, max_size=3).map(tuple),
    hazards=st.lists(st.sampled_from(HAZARDS), unique=True, max_size=2).map(tuple),
)
done = st.lists(st.tuples(st.sampled_from(["shop", "crm"]), operations), max_size=12)


def allows(suggested: Policy, target: str, operation: Operation) -> bool:
    """Whether it lets the agent do this there."""
    bound = SessionPolicy(suggested, principal=SUBJECT.principal, target=Target(name=target))
    return bound.decide(operation, now=0.0).effect is Effect.ALLOW


def nameable(operation: Operation) -> bool:
    """Whether rules can name just this."""
    return not any(set("*?") & set(access.object) for access in operation.accesses)


@given(seen=done, asked=done, by_column=st.booleans())
def test_a_suggestion_allows_what_was_seen_and_nothing_beside(
    seen: list[tuple[str, Operation]], asked: list[tuple[str, Operation]], by_column: bool
) -> None:
    observer = Observer("reporter", by_column=by_column)
    for target, operation in seen:
        observer.add(target, operation)
    document = check_document({"rules": observer.rules()})
    suggested = parse_document(document, version="p@1")
    assert observer.observed + observer.left_out == len(seen)
    taken = [(target, operation) for target, operation in seen if nameable(operation)]
    assert observer.observed == len(taken)
    hazards: dict[tuple[str, str, str], set[str]] = {}
    for target, operation in taken:
        assert allows(suggested, target, operation)
        for access in operation.accesses:
            hazards.setdefault((target, access.kind, access.object), set()).update(operation.hazards)
    for target, operation in asked:
        for access in operation.accesses:
            known = hazards.get((target, access.kind, access.object))
            beside = access.object != "" and (known is None or not set(operation.hazards) <= known)
            assert not (beside and allows(suggested, target, operation))


def test_a_suggestion_is_small() -> None:
    observer = Observer("reporter")
    for target in ("shop", "crm"):
        for name in ("public.a", "public.b"):
            for kind in ("select", "insert"):
                observer.add(target, Operation((Access(kind, name),)))
    for method in ("get", "head", "post", "put", "patch", "delete", "options"):
        observer.add("api", Operation((Access(f"http:{method}", "/orders"),)))
    first, second = observer.rules()
    assert (first["operations"], first["objects"], first["targets"]) == (["http:*"], ["/orders"], ["api"])
    assert (second["operations"], second["objects"], second["targets"]) == (
        ["insert", "select"], ["public.a", "public.b"], ["crm", "shop"]
    )  # fmt: skip


def test_what_was_not_understood_is_left_out() -> None:
    observer = Observer("reporter")
    observer.add("shop", None)
    observer.add("shop", Operation((Access("unknown", "?"),)))
    assert (observer.rules(), observer.observed, observer.left_out) == ([], 0, 2)
