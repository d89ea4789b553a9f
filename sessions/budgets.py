"""Limits, from a worker's side: leases of budgets over the link, and how many sessions there may be at once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Final, TypeVar
from uuid import UUID

import msgspec
import structlog
from django.db import connection
from django.db.models import Q
from django_scopes import scope

from accounts.models import Agent
from policies import engine
from policies.access import describe_target
from policies.budgets.actions import Sharer, count, reserve
from policies.budgets.errors import CountersUnavailable
from policies.budgets.models import MAX_RULE_CHARACTERS
from policies.engine import Effect, Limit, LimitOf, LimitPer, Policy, Principal, Rule
from policies.engine.model import MAX_DISTINCT
from policies.engine.scopes import parties, rules_for
from proxyworker.contract import (
    MAX_COUNTED_VALUES,
    VALUE_BYTES,
    BudgetLease,
    CountValues,
    RefusalCode,
    Refused,
    ReserveBudget,
    ValuesCounted,
)
from sessions.errors import OpenRefused, PeerFault
from sessions.ingest import LinkedWorker
from sessions.models import AgentSession, SessionState
from sessions.principals import principal_of
from targets.models import Target

log = structlog.get_logger(__name__)

#: Whatever a worker says it used or wants: what Redis's scripts still count exactly.
MAX_AMOUNT: Final = 2**53 - 1
Answer = TypeVar("Answer", BudgetLease, ValuesCounted)
_LEASE_ID: Final = re.compile(r"[0-9a-f]{32}")
#: Of PostgreSQL's advisory locks: two openings under the same rule count one after the other.
_LOCK_SPACE: Final = 0x6C69_6D69


def reserve_budget(worker: LinkedWorker, frame: ReserveBudget, *, now: datetime) -> BudgetLease | Refused:
    """Lease what the worker wants, as far as it is there. Raises `PeerFault` for what a sound worker doesn't ask."""
    _check(frame)
    return _counted(worker, frame, lambda sharer: reserve(frame, sharer, now=now))


def count_values(worker: LinkedWorker, frame: CountValues, *, now: datetime) -> ValuesCounted | Refused:
    """Count values that are about to be shown. Raises `PeerFault` for what a sound worker doesn't ask."""
    _check_rule(frame.rule, frame.limit)
    if (
        not 0 < frame.limit.distinct <= MAX_DISTINCT
        or len(frame.values) % VALUE_BYTES
        or len(frame.values) > MAX_COUNTED_VALUES * VALUE_BYTES
    ):
        raise PeerFault("values that are none")
    return _counted(worker, frame, lambda sharer: count(frame, sharer, now=now))


def _counted(
    worker: LinkedWorker, frame: ReserveBudget | CountValues, asked: Callable[[Sharer], Answer]
) -> Answer | Refused:
    with scope(tenant=worker.tenant_id):
        sessions = AgentSession.objects.filter(pk=_uuid(frame.session_id), worker_id=worker.id)
        shared = sessions.values_list("agent_id", "target_id").first()
        if shared is None:
            raise PeerFault("a budget for a session that is not this worker's")
        try:
            return asked(Sharer(worker.tenant_id, *shared))
        except CountersUnavailable:
            log.exception("budget_not_counted", worker=worker.name, rule=frame.rule)
            reason = "what is left of the limit can't be counted now"
            code = RefusalCode.UNAVAILABLE
            return Refused(request_id=frame.request_id, code=code, reason=reason, help="Try again in a minute.")


def refuse_too_many(policy: Policy, *, principal: Principal, agent: Agent, target: Target, now: datetime) -> None:
    """Raises `OpenRefused` when a limit allows no further session at once. In the opening's transaction and scope.

    Sessions count until the record of their end, or their grant's expiry: those of a silent worker too.
    """
    described = describe_target(target)
    for rule, limit in _session_limits(policy, principal, described):
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_advisory_xact_lock(%s, hashtext(%s))", [_LOCK_SPACE, f"{agent.tenant_id}/{rule.name}"]
            )
        running = AgentSession.objects.exclude(state=SessionState.CLOSED).filter(
            _shared_by(limit.of, agent, target), expires_at__gt=now
        )
        count = 0
        for session in running.select_related("agent__sponsor", "target").iterator(chunk_size=200):
            count += _is_under(rule, session)
            if count >= limit.sessions:
                raise OpenRefused(
                    RefusalCode.BUSY,
                    f"rule {rule.name!r} allows {limit.sessions} session{'s'[: limit.sessions != 1]} at once for "
                    f"{_whom(limit.of, agent, target)}, and there are as many",
                    "Close one, or try again when one has ended.",
                    agent=agent,
                )


def _check(frame: ReserveBudget) -> None:
    amounts = (*msgspec.structs.astuple(frame.used), *msgspec.structs.astuple(frame.wanted))
    limit = frame.limit
    limits = (limit.operations, limit.rows, limit.bytes)
    _check_rule(frame.rule, limit)
    if (
        not _LEASE_ID.fullmatch(frame.lease_id)
        or not all(0 <= amount <= MAX_AMOUNT for amount in (*amounts, *limits))
        or not any(limits)
        or not 0 <= frame.period_start < MAX_AMOUNT
    ):
        raise PeerFault("a budget that is none")


def _check_rule(rule: str, limit: Limit) -> None:
    if not 0 < len(rule) <= MAX_RULE_CHARACTERS or not rule.isprintable() or limit.per is LimitPer.SESSION:
        raise PeerFault("a budget of no rule")


def _session_limits(policy: Policy, principal: Principal, target: engine.Target) -> Iterator[tuple[Rule, Limit]]:
    """In the order of their names, so that two openings lock them in the same one."""
    found = {
        rule.name: (rule, rule.limit)
        for party in parties(policy, principal)
        for rule in rules_for(policy, principal, party, target)
        if rule.effect is Effect.LIMIT and rule.limit is not None and rule.limit.sessions
    }
    return (found[name] for name in sorted(found))


def _shared_by(of: LimitOf, agent: Agent, target: Target) -> Q:
    match of:
        case LimitOf.AGENT:
            return Q(agent=agent)
        case LimitOf.TARGET:
            return Q(target=target)
        case LimitOf.AGENT_ON_TARGET:
            return Q(agent=agent, target=target)
        case LimitOf.RULE:
            return Q()


def _whom(of: LimitOf, agent: Agent, target: Target) -> str:
    match of:
        case LimitOf.AGENT:
            return f"agent {agent.name}"
        case LimitOf.TARGET:
            return f"target {target.name}"
        case LimitOf.AGENT_ON_TARGET:
            return f"agent {agent.name} on target {target.name}"
        case LimitOf.RULE:
            return "all whom it is about"


def _is_under(rule: Rule, session: AgentSession) -> bool:
    """Whether the rule is about that session's principal and target."""
    principal = principal_of(session)
    alone = Policy(version="", rules=(rule,))
    target = describe_target(session.target)
    return any(rules_for(alone, principal, party, target) for party in parties(alone, principal))


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise PeerFault("an id that is none") from error
