"""`python -m tests.bench.decisions [--decisions N]`: processor time per decision, cold and cached, beside Cedar.

Cold is the first decision on an operation in a session that has decided on others; cached is each later one. `index` is
what a new version costs once in a process, its first decision included, `bind` each session under it. In most shapes a
rule allows one group of agents to read one table. Cedar is asked through cedarpy, policies and entities parsed
beforehand.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import cedarpy
import msgspec

from policies.engine import Access, Effect, Hazard, Operation, Policy, Principal, SessionPolicy, Target, parse_policy
from policies.engine.model import MAX_CONDITIONS

#: Rules of a policy.
SIZES = (10, 100, 1_000)
ROUNDS = 5
#: Cedar takes milliseconds: fewer of them.
CEDAR_DECISIONS = 50

PRINCIPAL = Principal(id="1", name="reporter", groups=("analysts",), labels={"repository": "acme/shop"})
SHOP = Target(name="shop", environment="prod")
EVERYBODY: dict[str, Any] = {"agents": ["report*"], "groups": ["analysts"], "targets": ["shop"]}


def _document(count: int, *, kind: str) -> list[dict[str, Any]]:
    """`tables`: a rule a table. `patterns`: wildcards. `mixed`: denies, hazards, windows and conditions among them.

    In the others no rule names an object: `masks` of a column each, of which none applies; `refused`, allowing rules of
    which none covers; `allowed`, of which all do; `asked`, as many conditions about the operation as a policy may have;
    `limits`, which all apply, so that there are as many obligations.
    """
    rules: list[dict[str, Any]] = []
    for number in range(count):
        table = f"public.t{number}_*" if kind == "patterns" else f"public.t{number}"
        rule = {
            **EVERYBODY, "name": f"r{number}", "effect": "allow", "operations": ["select"], "objects": [table],
            "columns": ["id", "name", "created_*"],
        }  # fmt: skip
        if kind == "mixed" and number % 10 == 1:
            rule |= {"effect": "deny", "operations": ["update", "delete"], "hazards": ["*_without_where"]}
        if kind == "mixed" and number % 10 == 2:
            rule |= {"when": {"hours": ["09:00-17:00"], "timezone": "Europe/Berlin"}}
        if kind == "mixed" and number % 10 == 3:
            rule |= {"condition": '"analysts" in agent.groups && size(operation.objects) < 5'}
        if kind in ("masks", "refused", "allowed", "limits", "asked"):
            rule |= {"objects": [], "columns": []}
        if (kind == "masks" and number) or kind == "refused":
            rule |= {"effect": "mask" if kind == "masks" else "allow", "columns": [f"secret_{number}"]}
        if kind == "limits" and number:
            rule |= {"effect": "limit", "limit": {"operations": number}}
        if kind == "asked" and 0 < number < MAX_CONDITIONS:
            rule |= {"condition": f"size(operation.objects) < {number + 1}"}
        rules.append(rule)
    return rules


def _operations(count: int, rules: int, *, kind: str) -> list[Operation]:
    end = "_x" if kind == "patterns" else ""
    return [
        Operation(
            accesses=(Access("select", f"public.t{number * 7 % rules}{end}", ("id", "name", f"created_{number}")),),
            hazards=(Hazard.MULTI_STATEMENT,) if number % 50 == 0 else (),
        )
        for number in range(count)
    ]


def _decide_all(session: SessionPolicy, operations: list[Operation]) -> None:
    for operation in operations:
        session.decide(operation, now=0.0)


def _microseconds(run: Callable[[], object], count: int) -> float:
    begun = time.process_time()
    run()
    return (time.process_time() - begun) * 1e6 / count


def _measure(kind: str, size: int, decisions: int) -> None:
    policy = parse_policy("bench@1", _document(size, kind=kind))
    operations = _operations(decisions, size, kind=kind)
    sent = msgspec.msgpack.encode(policy)
    taken: dict[str, list[float]] = {"decode": [], "index": [], "bind": [], "cold": [], "cached": []}
    for round_ in range(ROUNDS):
        version = msgspec.structs.replace(msgspec.msgpack.decode(sent, type=Policy), version=f"bench@{round_}")
        bind = partial(SessionPolicy, version, principal=PRINCIPAL, target=SHOP)
        taken["decode"].append(_microseconds(partial(msgspec.msgpack.decode, sent, type=Policy), 1))
        taken["index"].append(_microseconds(partial(_bind_and_decide, bind, operations[0]), 1))
        taken["bind"].append(_microseconds(bind, 1))
        session = bind()
        for name in ("cold", "cached"):
            taken[name].append(_microseconds(partial(_decide_all, session, operations), decisions))
        effect = session.decide(operations[1], now=0.0).effect
        assert kind == "mixed" or effect is (Effect.DENY if kind == "refused" else Effect.ALLOW)
    figures = "  ".join(f"{name} {statistics.median(values):9.2f}" for name, values in taken.items())
    print(f"{kind:<9}{size:>6} rules  {figures}")


def _bind_and_decide(bind: Callable[[], SessionPolicy], operation: Operation) -> None:
    bind().decide(operation, now=0.0)


def _measure_cedar(size: int) -> None:
    policies = "\n".join(
        f'permit (principal in Group::"analysts", action == Action::"select", resource == Table::"public.t{number}") '
        'when { ["id", "name", "created_1"].containsAll(context.columns) };'
        for number in range(size)
    )
    entities = [
        {"uid": {"type": "Agent", "id": "reporter"}, "attrs": {}, "parents": [{"type": "Group", "id": "analysts"}]},
        {"uid": {"type": "Group", "id": "analysts"}, "attrs": {}, "parents": []},
    ]
    requests = [
        {
            "principal": 'Agent::"reporter"',
            "action": 'Action::"select"',
            "resource": f'Table::"public.t{number * 7 % size}"',
            "context": {"columns": ["id", "name"]},
        }
        for number in range(CEDAR_DECISIONS)
    ]
    known = cedarpy.Entities.from_json_str(json.dumps(entities))
    begun = time.process_time()
    parsed = cedarpy.PolicySet.from_str(policies)
    parse = (time.process_time() - begun) * 1e6
    assert cedarpy.is_authorized(requests[0], parsed, known).allowed
    each = statistics.median(
        _microseconds(partial(_ask_cedar, requests, parsed, known), len(requests)) for _ in range(ROUNDS)
    )
    batch = statistics.median(
        _microseconds(partial(cedarpy.is_authorized_batch, requests, parsed, known), len(requests))
        for _ in range(ROUNDS)
    )
    print(f"{'cedarpy':<9}{size:>6} rules  parse {parse:10.2f}  each {each:10.2f}  in batches {batch:10.2f}")


def _ask_cedar(requests: list[dict[str, Any]], policies: cedarpy.PolicySet, entities: cedarpy.Entities) -> None:
    for request in requests:
        cedarpy.is_authorized(request, policies, entities)


def main() -> None:
    """Print a line a case, medians in µs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--decisions", type=int, default=2_000, help="of each case")
    decisions = parser.parse_args().decisions
    print("µs of processor time, medians: a version decoded and indexed, a session bound to it, each decision")
    for kind in ("tables", "patterns", "mixed", "masks", "refused", "allowed", "asked", "limits"):
        for size in SIZES:
            _measure(kind, size, decisions)
    for size in SIZES:
        _measure_cedar(size)


if __name__ == "__main__":
    main()
