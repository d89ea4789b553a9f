"""What a policy says: an immutable list of rules. `parsing` makes it of a document, `session` applies it."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import msgspec

#: A policy is read by people; a larger one is a mistake.
MAX_RULES: Final = 1_000
#: Patterns in one list, conditions in one mapping.
MAX_PATTERNS: Final = 500
#: Longer patterns name nothing that a tenant can have created.
MAX_PATTERN_CHARACTERS: Final = 200
MAX_CONDITION_CHARACTERS: Final = 2_000
MAX_REASON_CHARACTERS: Final = 500
#: A filter is one predicate.
MAX_FILTER_CHARACTERS: Final = 1_000
MAX_NAME_CHARACTERS: Final = 100
#: Each may cost an operation some microseconds, over long lists a millisecond.
MAX_CONDITIONS: Final = 200
MAX_HOLD_SECONDS: Final = 24 * 60 * 60
#: Counts in limits: what a signed 64-bit integer and JSON both hold.
MAX_COUNT: Final = 2**53


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


class Struct(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """Base of what stands in a policy's document. None refers to itself, so the garbage collector may pass it by."""


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
    """How much in a period: operations, rows and bytes shown, distinct values of some columns. 0: no limit.

    `distinct` counts the values of columns with one of these `labels`, and of these `columns` (`schema.table.column`),
    together. `sessions` (at once) and `statement_seconds` (each) know no period.
    """

    per: LimitPer = LimitPer.DAY
    of: LimitOf = LimitOf.AGENT
    operations: int = 0
    rows: int = 0
    bytes: int = 0
    distinct: int = 0
    sessions: int = 0
    statement_seconds: int = 0
    labels: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()


#: Distinct values are remembered, each in 16 bytes, by Redis and by the workers.
MAX_DISTINCT: Final = 100_000
#: Of columns: short words, such as `email` or `pii.card`.
LABEL_PATTERN: Final = r"[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?"


#: What a mask can do to a value.
MASK_METHODS: Final = ("redact", "null", "hash", "last4")


class Mask(Struct, frozen=True, kw_only=True):
    """How the rule's columns are shown: `redact` (fixed text), `null`, `hash` (same for same), `last4`."""

    method: str = "redact"


class Rule(Scope, frozen=True, kw_only=True):
    """Scope × operations, and what is said of them. What is empty is not asked, with the exceptions below.

    A rule that restricts, which is each effect but ALLOW, applies to what it touches; ALLOW and REQUIRE_APPROVAL let
    pass what they cover. `operations`: kinds (`operation.Kind`; `http:*` is a pattern); with none, all but `unknown`
    are covered. `objects` and `columns` are patterns: to cover, they must take in all of the access, to touch, some of
    it. `hazards`: those named are covered (`*`: all), with none all but `GRAVE_HAZARDS`; a rule that restricts and
    names some touches operations with one of them. `condition` is in CEL. `within`: the policy's own scope.
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
    """One immutable version. The empty policy allows nothing.

    `labelled` isn't written by its authors: by target and column (`schema.table.column`), labels that rules ask for.
    """

    version: str
    rules: tuple[Rule, ...] = ()
    labelled: dict[str, dict[str, tuple[str, ...]]] = {}
