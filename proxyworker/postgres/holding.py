"""What of a session is held: one operation at a time that waits for an approval, or for what is left of a limit.

Asked for once everything before it is answered, and once its intent is durable; decided by `gate.approve`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from proxyworker.contract import ApprovalState, OutcomeStatus
from proxyworker.gate.approve import Question, Verdict
from proxyworker.postgres.errors import QUERY_CANCELED
from proxyworker.postgres.held import HeldOperation, waiting_notice
from proxyworker.postgres.preview import preview_of

if TYPE_CHECKING:
    from proxyworker.contract import ApprovalTicket, SessionGrant
    from proxyworker.gate.record import SessionRecorder
    from proxyworker.gate.services import Services
    from proxyworker.postgres.course import Course
    from proxyworker.postgres.pipeline import Pipeline
    from proxyworker.postgres.requests import Requests
    from proxyworker.postgres.ways_out import WaysOut

CANCELLED: Final = "the agent cancelled it"


class Holding:
    """What one session holds. `on_over`: it may be taken again, with what the agent sent behind it."""

    def __init__(
        self,
        *,
        services: Services,
        grant: SessionGrant,
        course: Course,
        recorder: SessionRecorder,
        pipeline: Pipeline,
        requests: Requests,
        ways_out: WaysOut,
        on_over: Callable[[], None],
    ) -> None:
        self._approvals = services.approvals
        self._journal = services.journal
        self._grant = grant
        self._course = course
        self._recorder = recorder
        self._pipeline = pipeline
        self._requests = requests
        self._ways_out = ways_out
        self._on_over = on_over
        self._loop = asyncio.get_running_loop()
        self._question: Question | None = None

    def is_on(self) -> bool:
        """Something is held: what the agent sends stays behind it."""
        held = self._requests.held
        return self._requests.waits_for_budget or (held is not None and held.is_waiting)

    def ask_if_idle(self) -> None:
        """Ask for the approval of what is held, once everything before it is answered."""
        held = self._requests.held
        if held is None or not held.is_waiting or self._question is not None or not self._pipeline.is_idle:
            return
        if self._pipeline.is_skipping:
            held.is_skipped = True
            self._loop.call_soon(self._on_over)
            return
        self._requests.bind_held()
        self._question = Question(
            intent=held.intent,
            operation=held.asked,
            digest=held.digest,
            preview=lambda exact: preview_of(self._grant, held, exact=exact),
            on_waiting=self._tell_waiting,
            on_verdict=self._decided,
        )
        # The intent, and whatever of it is kept as content, is on disk before anybody is asked.
        self._recorder.secure_sent(held.operation, partial(self._ask_when_durable, self._question))

    def cancel(self) -> bool:
        """The agent cancels what it waits for. False: nothing is asked for."""
        question = self._question
        if question is None:
            return False
        self._approvals.withdraw(question, CANCELLED)
        ticket = question.ticket
        approval_id, url = (ticket.approval_id, ticket.url) if ticket is not None else ("", "")
        self._decided(Verdict(ApprovalState.WITHDRAWN, approval_id, url, CANCELLED))
        return True

    def let_go(self, reason: str) -> None:
        """The session ends: what is held is not executed, and nobody needs to decide on it any more."""
        self._approvals.session_over(self._grant.session_id)
        held, question = self._requests.held, self._question
        if held is None or not self.is_on():
            return
        held.operation.fail(QUERY_CANCELED, f"not executed: {reason}")
        held.operation.status = OutcomeStatus.DENIED
        if question is not None:
            self._approvals.withdraw(question, reason)
            ticket = question.ticket
            withdrawn = Verdict(ApprovalState.WITHDRAWN, ticket.approval_id if ticket else "", reason=reason)
            self._record(held, withdrawn)
        self._requests.held = self._question = None

    def _ask_when_durable(self, question: Question, position: int) -> None:
        self._journal.when_durable(max(position, self._ways_out.intent_position), partial(self._ask, question))

    def _ask(self, question: Question) -> None:
        if self._question is question and self._course.is_open:
            self._approvals.ask(question)

    def _tell_waiting(self, ticket: ApprovalTicket) -> None:
        """Nothing of the target's is under way, so this comes between whole messages."""
        held = self._requests.held
        if held is None or not self._course.is_open:
            return
        notice = waiting_notice(ticket)
        self._recorder.shown(held.operation, notice)
        self._ways_out.to_agent.put(notice, self._ways_out.intent_position)

    def _decided(self, verdict: Verdict) -> None:
        held = self._requests.held
        if held is None or not held.is_waiting or not self._course.is_open:
            return
        self._question = None
        held.verdict = verdict
        self._course.last_used = self._loop.time()
        self._record(held, verdict)
        self._on_over()

    def _record(self, held: HeldOperation, verdict: Verdict) -> None:
        self._recorder.approval(
            held.operation, approval_id=verdict.approval_id, state=verdict.state, reason=verdict.reason
        )
