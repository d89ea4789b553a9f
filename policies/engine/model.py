"""What a policy says: an immutable list of rules. How it is applied is in `decision`."""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Any, Final

import msgspec

#: A policy is read by people; a larger one is a mistake.
MAX_RULES: Final = 1_000
#: Patterns in one list, conditions in one mapping.
MAX_PATTERNS: Final = 500
#: Longer patterns name nothing that a tenant can have created.
MAX_PATTERN_CHARACTERS: Final = 200
MAX_CONDITION_CHARACTERS: Final = 2_000
MAX_REASON_CHARACTERS: Final = 500

_PATTERN = re.compile(r"[A-Za-z0-9_.:@/*?-]+")


class PolicyError(ValueError):
    """A policy document that can't be used. `field` is the path to what is wrong, `fix` says what would be right."""

    def __init__(self, field: str, problem: str, fix: str) -> None:
        super().__init__(f"{field}: {problem}. {fix}")
        self.field = field
        self.problem = problem
        self.fix = fix


class Effect(StrEnum):
    """What a rule says of an operation. A decision is one of the first three."""

    ALLOW = "allow"
    DENY = "deny"
    REQUIRE_APPROVAL = "require_approval"
    #: Shows these columns masked. Allows nothing by itself; nor do the next two.
    MASK = "mask"
    #: Allows only so much.
    LIMIT = "limit"
    #: Shows, and lets change, only the rows that a predicate is true of.
    FILTER = "filter"


class Struct(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of what stands in a policy's document."""


class Scope(Struct, frozen=True, kw_only=True):
    """Subjects × targets. In a list one of the patterns must match, in a mapping all; what is empty is not asked.

    `agents` may also name who is behind an agent: `person:ada@acme.example`, `actor:planner`. `claims` are the labels
    that a trust keeps, `sponsors` e-mail addresses.
    """

    agents: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    sponsors: tuple[str, ...] = ()
    claims: dict[str, str] = {}
    targets: tuple[str, ...] = ()
    environments: tuple[str, ...] = ()
    target_labels: dict[str, str] = {}


class When(Struct, frozen=True, kw_only=True):
    """When a rule holds. `days` are `mon` … `sun`, `hours` such as `09:00-17:30` (over midnight: `22:00-06:00`).

    `since` and `until` are dates (`2026-11-23`) or times (`2026-11-23T18:00:00+01:00`), until being exclusive.
    """

    days: tuple[str, ...] = ()
    hours: tuple[str, ...] = ()
    timezone: str = "UTC"
    since: str = ""
    until: str = ""


class ApprovalMode(StrEnum):
    """What becomes of an operation that needs a yes: it waits, or it is refused now and passes once there is one."""

    HOLD = "hold"
    DEFER = "defer"


class Approval(Struct, frozen=True, kw_only=True):
    """Who has to say yes: an approval flow of the tenant, by name. `hold_seconds` 0: as long as the flow waits."""

    flow: str
    mode: ApprovalMode = ApprovalMode.HOLD
    hold_seconds: int = 0


class LimitPer(StrEnum):
    """The period of a limit; it starts at full hours, days, weeks and months of UTC."""

    SESSION = "session"
    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"
    WEEK = "week"
    MONTH = "month"


class LimitOf(StrEnum):
    """Who shares it."""

    AGENT = "agent"
    TARGET = "target"
    AGENT_ON_TARGET = "agent_on_target"
    RULE = "rule"


class Limit(Struct, frozen=True, kw_only=True):
    """How much in a period: operations, rows and bytes shown, distinct values of a labelled column. 0: no limit.

    `sessions` (at once) and `statement_seconds` (each) know no period.
    """

    per: LimitPer = LimitPer.DAY
    of: LimitOf = LimitOf.AGENT
    operations: int = 0
    rows: int = 0
    bytes: int = 0
    distinct: int = 0
    sessions: int = 0
    statement_seconds: int = 0


class Mask(Struct, frozen=True, kw_only=True):
    """How the rule's columns are shown: `redact` (fixed text), `null`, `hash` (same for same), `last4`."""

    method: str = "redact"


class Rule(Scope, frozen=True, kw_only=True):
    """Scope × operations, and what is said of them. What is empty is not asked, with three exceptions.

    `operations`: kinds (`operation.Kind`; `http:*` is a pattern); empty is all but `unknown`. `objects` and `columns`
    are patterns; an allowing rule must cover all that the access touches, any other rule matches by one of them.
    `hazards`: an allowing rule covers those it names (`*`: all), empty is all but `GRAVE_HAZARDS`; another rule that
    names some matches operations with one of them. `condition` is in CEL. `within`: the policy's own scope.
    """

    name: str
    effect: Effect
    operations: tuple[str, ...] = ()
    objects: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    hazards: tuple[str, ...] = ()
    when: When | None = None
    condition: str = ""
    approval: Approval | None = None
    mask: Mask | None = None
    limit: Limit | None = None
    filter: str = ""
    reason: str = ""
    within: Scope | None = None


class Policy(Struct, frozen=True, kw_only=True):
    """One immutable version. The empty policy allows nothing."""

    version: str
    rules: tuple[Rule, ...] = ()


def parse_policy(version: str, rules: Any, *, within: Any = None) -> Policy:
    """Build a policy from decoded YAML or JSON: a list of mappings with the fields of `Rule`, and the policy's scope.

    Raises `PolicyError`, which names the field, for anything that isn't plainly a policy.
    """
    try:
        policy = Policy(version=version, rules=msgspec.convert(rules, tuple[Rule, ...]))
    except msgspec.ValidationError as error:
        raise PolicyError("rules", str(error), "See docs/policy.md for the form of a rule") from error
    if len(policy.rules) > MAX_RULES:
        raise PolicyError("rules", f"{len(policy.rules)} rules", f"A policy has at most {MAX_RULES}")
    scope = _parse_scope(within)
    seen: set[str] = set()
    for index, rule in enumerate(policy.rules):
        at = f"rules[{index}]"
        if not rule.name.strip():
            raise PolicyError(f"{at}.name", "is empty", "Give the rule a name: decisions cite it")
        if rule.name in seen:
            raise PolicyError(f"{at}.name", f"{rule.name!r} is used twice", "Names are unique within a policy")
        seen.add(rule.name)
        _check_scope(at, rule, scope)
    if scope is None:
        return policy
    return msgspec.structs.replace(
        policy, rules=tuple(msgspec.structs.replace(rule, within=scope) for rule in policy.rules)
    )


def _parse_scope(within: Any) -> Scope | None:
    if not within:
        return None
    try:
        return msgspec.convert(within, Scope)
    except msgspec.ValidationError as error:
        raise PolicyError("scope", str(error), "See docs/policy.md for the form of a scope") from error


def _check_scope(at: str, rule: Rule, within: Scope | None) -> None:
    scopes = (rule, within) if within is not None else (rule,)
    if not any(scope.agents or scope.groups or scope.sponsors or scope.claims for scope in scopes):
        raise PolicyError(f"{at}.agents", "is empty, and so are groups, sponsors and claims", 'Name whom, "*" for all')
    if not any(scope.targets or scope.environments or scope.target_labels for scope in scopes):
        raise PolicyError(f"{at}.targets", "is empty, and so are environments and labels", 'Name what, "*" for all')
    for field in ("agents", "groups", "sponsors", "targets", "environments"):
        _check_patterns(f"{at}.{field}", getattr(rule, field))


def _check_patterns(field: str, patterns: tuple[str, ...]) -> None:
    if len(patterns) > MAX_PATTERNS:
        raise PolicyError(field, f"has {len(patterns)} patterns", f"A list has at most {MAX_PATTERNS}")
    for pattern in patterns:
        if len(pattern) > MAX_PATTERN_CHARACTERS or not _PATTERN.fullmatch(pattern):
            raise PolicyError(field, f"{pattern[:50]!r} is no name or pattern", "Letters, digits, . _ : @ / - * and ?")
