"""Random policies over a small world, so that rules meet operations and one another."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from policies.engine import Access, Hazard, Operation, Policy, Principal, Target, parse_policy
from tests.policies.engine.oracle import CONDITIONS, WINDOWS

AGENTS = ("reporter", "planner", "rep*", "*", "person:ada", "person:*", "actor:x", "a*:x", "?eporter")
TARGETS = ("shop", "crm", "s*", "*")
GROUPS = ("ops", "o*", "dev")
OPERATIONS = ("select", "insert", "update", "*", "http:*", "http:get", "unknown", "*ect")
OBJECTS = (
    "public.a",
    "a",
    "b",
    "hr.*",
    "hr.b",
    "*.b",
    "*",
    "?",
    "h*",
    "pg_x",
    "/v1/*",
    "pg_catalog.*",
    "*.t*_x",
    "*mid*",
)
COLUMNS = ("id", "ssn", "s*", "*", "?d", "*n", "s*n")
HAZARDS = ("drop", "server_file", "*_without_where", "*", "multi_statement", "none")
EFFECTS: tuple[dict[str, Any], ...] = (
    {"effect": "allow"},
    {"effect": "allow"},
    {"effect": "deny"},
    {"effect": "require_approval", "approval": {"flow": "dba"}},
    {"effect": "require_approval", "approval": {"flow": "sec", "hold_seconds": 60}},
    {"effect": "mask", "columns": ["s*", "id"]},
    {"effect": "filter", "filter": "true", "objects": ["a", "hr.*"]},
    {"effect": "limit", "limit": {"rows": 10}},
)
#: The policy's own scope.
WITHIN = (
    None,
    None,
    {"targets": ["s*"]},
    {"groups": ["ops"], "environments": ["prod"]},
    {"agents": ["person:*", "rep*"]},
)
#: What a rule in six asks for.
_RARELY: dict[str, tuple[Any, ...]] = {
    "sponsors": (["bo*"], ["ada"]),
    "environments": (["prod"], ["p*", "dev"]),
    "claims": ({"repository": "acme/*"}, {"repository": ""}),
    "target_labels": ({"tier": "g*"}, {"tier": ""}),
    "reason": ("Ask first",),
}


def _some(values: tuple[str, ...], most: int = 2) -> st.SearchStrategy[list[str]]:
    return st.lists(st.sampled_from(values), max_size=most, unique=True)


@st.composite
def rules(draw: st.DrawFn, *, name: str = "", may_fail: bool = True) -> dict[str, Any]:
    """A rule of a document."""
    conditions = [one for one in CONDITIONS if may_fail or "nope" not in one]
    rule: dict[str, Any] = {
        "name": name or "added",
        "agents": draw(_some(AGENTS)) or ["*"],
        "groups": draw(st.sampled_from(((), (), (), ("ops",), ("d*",)))),
        "targets": draw(_some(TARGETS)) or ["*"],
        "operations": draw(_some(OPERATIONS)),
        "objects": draw(_some(OBJECTS)),
        "columns": draw(st.one_of(st.just([]), _some(COLUMNS))),
        "hazards": draw(st.one_of(st.just([]), _some(HAZARDS))),
        "condition": draw(st.one_of(st.just(""), st.sampled_from(conditions))),
    }
    for field, values in _RARELY.items():
        if draw(st.integers(0, 5)) == 0:
            rule[field] = draw(st.sampled_from(values))
    if draw(st.integers(0, 4)) == 0:
        rule["when"] = {"hours": draw(st.sampled_from(list(WINDOWS)))}
    rule.update(draw(st.sampled_from(EFFECTS)))
    return rule


@st.composite
def documents(draw: st.DrawFn, *, may_fail: bool = True) -> list[dict[str, Any]]:
    """The rules of a policy."""
    count = draw(st.integers(0, 6))
    order = draw(st.permutations(range(count)))
    return [draw(rules(name=f"r{number}", may_fail=may_fail)) for number in order]


@st.composite
def policies(draw: st.DrawFn, *, may_fail: bool = True) -> Policy:
    """A policy, sometimes with a scope."""
    within = draw(
        st.sampled_from(
            (
                None,
                None,
                {"targets": ["s*"]},
                {"groups": ["ops"], "environments": ["prod"]},
                {"agents": ["person:*", "rep*"]},
            )
        )
    )
    return parse_policy("p@1", draw(documents(may_fail=may_fail)), within=within)


principals = st.builds(
    Principal,
    id=st.just("1"),
    name=st.sampled_from(("reporter", "planner")),
    groups=_some(("ops", "dev")).map(tuple),
    on_behalf_of=st.sampled_from(("", "ada", "bob")),
    actors=st.sampled_from(((), ("planner",), ("actor:x", "planner"))),
    labels=st.sampled_from(({}, {"repository": "acme/shop"})),
    sponsor=st.sampled_from(("", "bob", "ada")),
)
targets = st.builds(
    Target,
    name=st.sampled_from(("shop", "crm")),
    environment=st.sampled_from(("prod", "")),
    labels=st.sampled_from(({}, {"tier": "gold"})),
)
accesses = st.builds(
    Access,
    kind=st.sampled_from(("select", "select", "insert", "update", "http:get", "unknown")),
    object=st.sampled_from(("a", "b", "public.a", "hr.b", "hr.a", "", "?", "pg_x", "/v1/b", "c.a", "c.t1_x", "amidb")),
    columns=_some(("id", "ssn", "*", "zip"), 3).map(tuple),
)
operations = st.builds(
    Operation,
    accesses=st.lists(accesses, min_size=1, max_size=3).map(tuple),
    hazards=st.lists(
        st.sampled_from((Hazard.DROP, Hazard.SERVER_FILE, Hazard.DELETE_WITHOUT_WHERE, "new_hazard")), max_size=1
    ).map(tuple),
)
#: Within two days.
times = st.integers(0, 47).map(lambda hour: hour * 3600.0 + 60)
texts = st.sampled_from(("", "SELECT x", "SELECT 1"))
