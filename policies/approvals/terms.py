"""What an approval flow says: pure, strictly typed, and kept with each request as it was when it was made.

    stages:
      - approvers: {groups: [dba]}
        quorum: 2
      - name: security
        approvers: {roles: [owner], people: [ada@acme.example]}
    expires_after_seconds: 1800
    escalation: {after_seconds: 600, approvers: {roles: [admin]}}

An approver is a person of the tenant whose role has the power to approve, and whom the stage names: by that role, by a
group of their identity provider or directory, or by address.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Any, Final

import msgspec

from controlplane.errors import Refusal

MAX_STAGES: Final = 10
#: More people than this have never been asked for one thing.
MAX_QUORUM: Final = 20
MAX_NAMES: Final = 100
MAX_NAME_CHARACTERS: Final = 254
MAX_CONDITION_CHARACTERS: Final = 2_000
#: A minute at least: nobody reads faster. A week at most: nobody knows any more what it was about.
MIN_WAIT_SECONDS: Final = 60
MAX_WAIT_SECONDS: Final = 7 * 24 * 3600
#: A standing grant is for a task at hand; what is always allowed is a rule's matter.
MAX_WINDOW_SECONDS: Final = 24 * 3600
MAX_USES: Final = 1_000
#: Those who may vote at all. `controlplane.authority` gives them the power, and a test holds that.
VOTING_ROLES: Final = ("owner", "admin", "approver")


class GrantScope(StrEnum):
    """What a yes covers: this operation; n like it but for literals; or all on the target that asks the same flow."""

    ONCE = "once"
    TEMPLATE = "template"
    WINDOW = "window"


class Struct(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Base of what stands in a flow's document."""


class Approvers(Struct, frozen=True, kw_only=True):
    """Who may vote: whoever one of the lists names."""

    roles: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    people: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.roles or self.groups or self.people)


class Stage(Struct, frozen=True, kw_only=True):
    """So many of these have to say yes. Stages are asked one after the other."""

    approvers: Approvers
    quorum: int = 1
    name: str = ""


class Escalation(Struct, frozen=True, kw_only=True):
    """When nobody has decided after so long, or nobody is left who could, these may vote too, in every stage."""

    after_seconds: int
    approvers: Approvers


class Terms(Struct, frozen=True, kw_only=True):
    """A flow. Nobody ever approves what was asked on their own behalf.

    `expires_after_seconds`: how long a request waits. `unused_after_seconds`: how long a yes stays good that nobody has
    used yet. `auto_approve`: a CEL condition; what it is true of needs nobody. `break_glass`: who may let it pass
    alone, with a reason. `scopes`: what approvers may grant; `once` always.
    """

    stages: tuple[Stage, ...]
    expires_after_seconds: int = 3600
    unused_after_seconds: int = 3600
    forbid_sponsor: bool = False
    forbid_author: bool = False
    escalation: Escalation | None = None
    auto_approve: str = ""
    break_glass: Approvers | None = None
    scopes: tuple[GrantScope, ...] = (GrantScope.ONCE,)
    max_uses: int = 10
    max_window_seconds: int = 3600


def parse_terms(document: Any) -> Terms:
    """The terms of a decoded document. Raises `Refusal`, which names the field (`stages[0].quorum`)."""
    try:
        terms = msgspec.convert(document, Terms)
    except msgspec.ValidationError as error:
        raise Refusal(field="terms", problem=str(error), fix="See docs/approvals.md for the form of a flow") from error
    _check_stages(terms.stages)
    _check_bounds("expires_after_seconds", terms.expires_after_seconds, MIN_WAIT_SECONDS, MAX_WAIT_SECONDS)
    _check_bounds("unused_after_seconds", terms.unused_after_seconds, MIN_WAIT_SECONDS, MAX_WAIT_SECONDS)
    _check_bounds("max_uses", terms.max_uses, 1, MAX_USES)
    _check_bounds("max_window_seconds", terms.max_window_seconds, MIN_WAIT_SECONDS, MAX_WINDOW_SECONDS)
    if terms.escalation is not None:
        _check_approvers("escalation.approvers", terms.escalation.approvers)
        latest = terms.expires_after_seconds - 1
        _check_bounds("escalation.after_seconds", terms.escalation.after_seconds, 1, latest)
    if terms.break_glass is not None:
        _check_approvers("break_glass", terms.break_glass)
    if len(terms.auto_approve) > MAX_CONDITION_CHARACTERS:
        raise _refusal("auto_approve", f"has over {MAX_CONDITION_CHARACTERS} characters", "Make it a rule's condition")
    return terms


def told(terms: Terms) -> dict[str, Any]:
    """As a document, as the database gives it back: what is left out has its default."""
    document: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(terms))
    return document


def merge_terms(flows: Iterable[Terms]) -> Terms:
    """Several flows that one operation needs, as one: all their stages, and of the rest whatever is stricter.

    Nothing approves itself, and nobody breaks the glass, unless each of the flows lets them.
    """
    all_terms = tuple(flows)
    if len(all_terms) == 1:
        return all_terms[0]
    first = all_terms[0]
    escalations = [terms.escalation for terms in all_terms]
    conditions = [terms.auto_approve for terms in all_terms]
    return Terms(
        stages=tuple(stage for terms in all_terms for stage in terms.stages),
        expires_after_seconds=min(terms.expires_after_seconds for terms in all_terms),
        unused_after_seconds=min(terms.unused_after_seconds for terms in all_terms),
        forbid_sponsor=any(terms.forbid_sponsor for terms in all_terms),
        forbid_author=any(terms.forbid_author for terms in all_terms),
        escalation=first.escalation if all(one == first.escalation for one in escalations) else None,
        auto_approve=" && ".join(f"({condition})" for condition in conditions) if all(conditions) else "",
        break_glass=first.break_glass if all(terms.break_glass == first.break_glass for terms in all_terms) else None,
        scopes=tuple(scope for scope in GrantScope if all(scope in terms.scopes for terms in all_terms)),
        max_uses=min(terms.max_uses for terms in all_terms),
        max_window_seconds=min(terms.max_window_seconds for terms in all_terms),
    )


def _check_stages(stages: tuple[Stage, ...]) -> None:
    if not 1 <= len(stages) <= MAX_STAGES:
        raise _refusal("stages", f"has {len(stages)}", f"A flow has 1 to {MAX_STAGES} stages")
    for index, stage in enumerate(stages):
        _check_approvers(f"stages[{index}].approvers", stage.approvers)
        _check_bounds(f"stages[{index}].quorum", stage.quorum, 1, MAX_QUORUM)
        if len(stage.name) > MAX_NAME_CHARACTERS:
            raise _refusal(f"stages[{index}].name", "is too long", f"At most {MAX_NAME_CHARACTERS} characters")


def _check_approvers(field: str, approvers: Approvers) -> None:
    if not approvers:
        raise _refusal(field, "names nobody", "Name roles, groups or people")
    for role in approvers.roles:
        if role not in VOTING_ROLES:
            raise _refusal(
                f"{field}.roles", f"{role[:50]!r} may not vote", f"Roles that may: {', '.join(VOTING_ROLES)}"
            )
    for name, names in (("groups", approvers.groups), ("people", approvers.people)):
        if len(names) > MAX_NAMES:
            raise _refusal(f"{field}.{name}", f"has {len(names)} names", f"A list has at most {MAX_NAMES}")
        for one in names:
            if not one.strip() or len(one) > MAX_NAME_CHARACTERS:
                raise _refusal(f"{field}.{name}", "has a name that is empty or too long", "Correct or remove it")
    for address in approvers.people:
        if "@" not in address or address != address.lower():
            raise _refusal(f"{field}.people", f"{address[:50]!r} is no address", "Use addresses in small letters")


def _check_bounds(field: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise _refusal(field, f"is {value}", f"Use {least} to {most}")


def _refusal(field: str, problem: str, fix: str) -> Refusal:
    return Refusal(field=f"terms.{field}", problem=problem, fix=fix)
