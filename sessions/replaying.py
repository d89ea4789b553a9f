"""Feeds what was recorded to `policies.simulation`: a draft replayed over it, or a policy made of it.

Operations are read in their order, a chunk at a time: memory is bounded whatever the period. A run says how far it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final, NamedTuple
from uuid import UUID

import msgspec
from django.db import connection

from accounts.models import Agent
from policies.access import describe_target, effective_policy
from policies.engine import Effect, Operation
from policies.simulation.actions import finish, move_on
from policies.simulation.comparing import Comparison, Recorded, Subject
from policies.simulation.models import Run, Simulation, Suggestion
from policies.simulation.suggesting import Observer
from sessions.models import AgentSession, OperationStatus
from sessions.principals import principal_of

#: With texts of at most 64 KiB, a chunk is at most 32 MiB.
CHUNK_ROWS: Final = 500
#: The newest ones of a longer period are looked at: some minutes' work.
MAX_OPERATIONS: Final = 1_000_000
#: Subjects of sessions that are kept at hand.
MAX_SUBJECTS: Final = 10_000

_COUNT: Final = """
    SELECT count(*) FROM (
      SELECT 1 FROM agent_sessions_operation o JOIN agent_sessions_agentsession s ON s.id = o.session_id
      WHERE o.tenant_id = %(tenant)s AND o.at >= %(since)s AND o.at < %(until)s
        AND (%(agent)s::uuid IS NULL OR s.agent_id = %(agent)s) LIMIT %(most)s) counted"""
_CHUNK: Final = """
    SELECT o.at, o.id, o.session_id, o.op, o.text, o.facts::text, o.effect, o.status
    FROM agent_sessions_operation o JOIN agent_sessions_agentsession s ON s.id = o.session_id
    WHERE o.tenant_id = %(tenant)s AND o.at >= %(since)s AND o.at < %(until)s
      AND (%(agent)s::uuid IS NULL OR s.agent_id = %(agent)s)
      AND (o.at, o.id) < (%(at)s, %(id)s)
    ORDER BY o.at DESC, o.id DESC LIMIT %(rows)s"""


class _Row(NamedTuple):
    at: datetime
    id: int
    session_id: UUID
    op: int
    text: str
    facts: str | None
    effect: str
    status: str


def replay(simulation: Simulation) -> None:
    """Decide each operation of the period by what applies now and by the simulated document; keep the comparison."""
    tenant_id = simulation.tenant_id
    comparison = Comparison(
        before=effective_policy(tenant_id),
        after=effective_policy(tenant_id, instead={simulation.policy_id: simulation.document}),
    )
    subjects: dict[UUID, Subject] = {}
    for rows in _chunks(simulation):
        _learn_subjects(subjects, rows)
        for row in rows:
            recorded = Recorded(
                session=str(row.session_id), op=row.op, at=row.at.timestamp(), text=row.text, facts=row.facts or ""
            )
            comparison.add(subjects[row.session_id], recorded)
    finish(simulation, result={**comparison.result(), "before": comparison.before.version})


def suggest(suggestion: Suggestion) -> None:
    """Make the policy that would have allowed what the agent did in the period; what was refused isn't asked for."""
    observer = Observer(suggestion.agent.name, by_column=suggestion.by_column)
    subjects: dict[UUID, Subject] = {}
    for rows in _chunks(suggestion, agent=suggestion.agent):
        _learn_subjects(subjects, rows)
        for row in rows:
            if row.effect == Effect.DENY or row.status == OperationStatus.DENIED:
                continue
            operation = None if row.facts is None else msgspec.json.decode(row.facts, type=Operation)
            observer.add(subjects[row.session_id].target.name, operation)
    finish(suggestion, rules=observer.rules(), observed=observer.observed, left_out=observer.left_out)


def _chunks(run: Run, *, agent: Agent | None = None) -> Iterator[list[_Row]]:
    """The operations of the run's period, newest first."""
    period: dict[str, Any] = {
        "tenant": run.tenant_id, "since": run.since, "until": run.until, "agent": agent and agent.pk,
        "most": MAX_OPERATIONS,
    }  # fmt: skip
    with connection.cursor() as cursor:
        cursor.execute(_COUNT, period)
        total: int = cursor.fetchone()[0]
    seen, at, last = 0, run.until, 0
    while seen < total:
        with connection.cursor() as cursor:
            cursor.execute(_CHUNK, {**period, "at": at, "id": last, "rows": min(CHUNK_ROWS, total - seen)})
            rows = [_Row(*row) for row in cursor.fetchall()]
        if not rows:
            return  # fewer than were counted: the retention has taken some
        yield rows
        seen += len(rows)
        at, last = rows[-1].at, rows[-1].id
        move_on(run, percent=min(99, 100 * seen // total))


def _learn_subjects(subjects: dict[UUID, Subject], rows: list[_Row]) -> None:
    """Have `subjects` know who was behind each of the rows, as the policy engine sees them."""
    wanted = {row.session_id for row in rows}
    if len(subjects) + len(wanted) > MAX_SUBJECTS:
        subjects.clear()
    sessions = AgentSession.objects.filter(pk__in=wanted - subjects.keys())
    for session in sessions.select_related("agent__sponsor", "target"):
        subjects[session.pk] = Subject(principal=principal_of(session), target=describe_target(session.target))
