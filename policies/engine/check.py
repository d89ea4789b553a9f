"""What is wrong with a policy beyond its form: rules that do nothing, names that nobody has, approvals nobody can give.

Pure: what the tenant has is in `Known`. Findings are certain; what can't be told is not found.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from policies.engine.conditions import ConditionFailed, compile_condition, condition_holds
from policies.engine.coverage import Overlaps, is_redundant, is_shadowed
from policies.engine.model import Effect, Policy, Rule, Scope
from policies.engine.operation import Hazard, Kind, Operation, Target, is_sql
from policies.engine.patterns import has_wildcard, matches_any
from policies.engine.principal import Principal
from policies.engine.rules import COVERING
from policies.engine.scopes import is_labelled, names_party
from policies.engine.windows import compile_window

#: More would not be read.
MAX_FINDINGS: Final = 50


@dataclass(frozen=True, slots=True)
class Known:
    """What a tenant has. None: not known, so names of that sort aren't checked.

    `groups` are those of agents; `sponsors` the addresses of those who can answer for one; `people` these and whatever
    else somebody is known to be called. `flows`: by name, how many people could say yes today. `now`: seconds since the
    epoch.
    """

    agents: frozenset[str] | None = None
    groups: frozenset[str] | None = None
    sponsors: frozenset[str] | None = None
    people: frozenset[str] | None = None
    targets: Mapping[str, Target] | None = None
    flows: Mapping[str, int] | None = None
    now: float | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """`field` is the path to what is wrong, `fix` says what would be right."""

    field: str
    problem: str
    fix: str


_UNKNOWN: Final = Known()


def check_policy(policy: Policy, *, known: Known = _UNKNOWN) -> tuple[Finding, ...]:
    """Everything that keeps a policy, as `parse_policy` made it, from being published; in the order of its rules."""
    findings: list[Finding] = []
    within = next((rule.within for rule in policy.rules if rule.within is not None), None)
    if within is not None:
        findings += _unknown_names("scope", within, known)
    overlaps = Overlaps(policy.rules)
    for index, rule in enumerate(policy.rules):
        at = f"rules[{index}]"
        findings += _unknown_names(at, rule, known)
        findings += _never_matches(at, rule, known)
        findings += _approval(at, rule, known)
        findings += _overshadowed(at, index, policy.rules, overlaps.of(rule))
        if len(findings) >= MAX_FINDINGS:
            break
    return tuple(findings[:MAX_FINDINGS])


# ---------------------------------------------------------------- names


def _unknown_names(at: str, scope: Scope, known: Known) -> Iterator[Finding]:
    agents = [name for name in scope.agents if ":" not in name]
    environments = labels = None
    targets = None
    if known.targets is not None:
        targets = frozenset(known.targets)
        environments = frozenset(target.environment for target in known.targets.values())
        labels = frozenset(label for target in known.targets.values() for label in target.labels)
    yield from _missing(f"{at}.agents", agents, known.agents, "there is no agent")
    yield from _missing(f"{at}.groups", scope.groups, known.groups, "no agent is in the group")
    yield from _missing(f"{at}.sponsors", scope.sponsors, known.sponsors, "there is no person")
    yield from _missing(f"{at}.targets", scope.targets, targets, "there is no target")
    yield from _missing(f"{at}.environments", scope.environments, environments, "no target has the environment")
    wanted = [label for label, pattern in scope.target_labels.items() if not matches_any((pattern,), "")]
    yield from _missing(f"{at}.target_labels", wanted, labels, "no target has the label")


def _missing(at: str, named: Iterable[str], known: frozenset[str] | None, problem: str) -> Iterator[Finding]:
    """Patterns may be meant for what is still to come; a whole name that nobody has is a mistake."""
    if known is None:
        return
    for name in named:
        if not has_wildcard(name) and name not in known:
            yield Finding(at, f"{problem} {name!r}", f"Create it first, correct the name, or write {name}*")


# ---------------------------------------------------------------- rules that never match


def _never_matches(at: str, rule: Rule, known: Known) -> Iterator[Finding]:
    if rule.within is not None:
        yield from _outside_scope(at, rule, rule.within)
    if rule.effect not in COVERING and rule.hazards and set(rule.hazards) <= {Hazard.NONE}:
        yield Finding(f"{at}.hazards", "is what no operation has", "Leave them out")
    if rule.operations:
        kinds = [kind for kind in Kind if matches_any(rule.operations, kind)]
        if rule.effect is not Effect.ALLOW and rule.hazards and not any(is_sql(kind) for kind in kinds):
            yield Finding(f"{at}.hazards", "never occur in these kinds of operation", "Leave them out")
        if known.targets is not None and kinds:
            yield from _of_other_protocol(at, rule, kinds, known.targets)
    if rule.condition and compile_condition(rule.condition).is_constant and not _is_true(rule.condition):
        yield Finding(f"{at}.condition", "is never true", "Remove the rule, or correct its condition")
    if rule.when is not None and known.now is not None:
        until = compile_window(rule.when).until
        if until is not None and until * 60 <= known.now:
            yield Finding(f"{at}.when.until", "is over, so the rule never holds again", "Remove the rule")
    if known.targets is not None:
        yield from _no_target(at, rule, known.targets)


def _is_true(condition: str) -> bool:
    nobody, nowhere, nothing = Principal(id="", name=""), Target(name=""), Operation(accesses=())
    try:
        return condition_holds(condition, principal=nobody, target=nowhere, operation=nothing, now=0.0)
    except ConditionFailed:
        return False


def _outside_scope(at: str, rule: Rule, within: Scope) -> Iterator[Finding]:
    fix = "Change the rule, or the policy's scope"
    problem = "are all outside the policy's scope, so the rule never holds"
    for name in ("targets", "environments", "groups", "sponsors", "agents"):
        own, outer = getattr(rule, name), getattr(within, name)
        if not own or not outer or any(has_wildcard(pattern) for pattern in own):
            continue
        inside = names_party if name == "agents" else matches_any
        # An agent may be in several groups, one of each list.
        if name != "groups" and not any(inside(outer, one) for one in own):
            yield Finding(f"{at}.{name}", problem, fix)


def targets_of(rule: Rule, targets: Mapping[str, Target]) -> list[Target]:
    """Those that the rule is about."""
    scopes: tuple[Scope, ...] = (rule,) if rule.within is None else (rule, rule.within)
    return [target for target in targets.values() if all(_takes_in(scope, target) for scope in scopes)]


def _takes_in(scope: Scope, target: Target) -> bool:
    return (
        (not scope.targets or matches_any(scope.targets, target.name))
        and (not scope.environments or matches_any(scope.environments, target.environment))
        and all(is_labelled(target.labels, name, text) for name, text in scope.target_labels.items())
    )


def _no_target(at: str, rule: Rule, targets: Mapping[str, Target]) -> Iterator[Finding]:
    """Targets by name that have another environment, or other labels, than the rule asks for."""
    named = [name for name in rule.targets if not has_wildcard(name) and name in targets]
    if not named or len(named) < len(rule.targets) or targets_of(rule, targets):
        return
    yield Finding(
        f"{at}.targets",
        f"{', '.join(named[:5])} never have the environment and labels asked for",
        "Correct the rule's targets, environments or target_labels",
    )


def _of_other_protocol(at: str, rule: Rule, kinds: list[Kind], targets: Mapping[str, Target]) -> Iterator[Finding]:
    if not rule.targets or any(has_wildcard(name) for name in rule.targets):
        return
    protocols = {target.protocol for target in targets_of(rule, targets)}
    if protocols and not any(kind in _KINDS_OF.get(protocol, ()) for protocol in protocols for kind in kinds):
        problem = f"never happen on targets that speak {', '.join(sorted(protocols))}"
        yield Finding(f"{at}.operations", problem, "Name kinds that do, or other targets")


_KINDS_OF: Final[Mapping[str, frozenset[Kind]]] = {
    "postgres": frozenset(kind for kind in Kind if is_sql(kind)),
    "http": frozenset(kind for kind in Kind if kind.startswith(("http:", "mcp:")) or kind is Kind.UNKNOWN),
    "ssh": frozenset(kind for kind in Kind if kind.startswith(("ssh:", "sftp:")) or kind is Kind.UNKNOWN),
}


# ---------------------------------------------------------------- approvals, and rules in the shadow of others


def _approval(at: str, rule: Rule, known: Known) -> Iterator[Finding]:
    if rule.approval is None or known.flows is None:
        return
    flow = rule.approval.flow
    if flow not in known.flows:
        listed = ", ".join(sorted(known.flows)[:10])
        yield Finding(f"{at}.approval.flow", f"there is no approval flow {flow!r}", f"One of {listed or 'none yet'}")
    elif known.flows[flow] <= 0:
        yield Finding(f"{at}.approval.flow", f"nobody can approve by {flow!r}", "Give the flow approvers who are there")


def _overshadowed(at: str, index: int, rules: tuple[Rule, ...], candidates: Iterable[int]) -> Iterator[Finding]:
    rule = rules[index]
    for place in candidates:
        other = rules[place]
        if place == index:
            continue
        if is_shadowed(rule, other):
            yield Finding(at, f"has no effect: {other.name!r} denies all of it", "Remove it, or narrow the other")
            return
        # Of two that say the same, the later one is too much.
        if is_redundant(rule, other) and (place < index or not is_redundant(other, rule)):
            yield Finding(at, f"says nothing that {other.name!r} doesn't say", "Remove it")
            return
