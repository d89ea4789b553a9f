"""Operations that need somebody's yes: asks the control plane, waits, and asks again after a lost link.

    ask ─► ticket ─► GRANTED, REJECTED …                       that is the verdict
                 └─► PENDING ─► deferred: the verdict, for now
                            └─► held: decided by push, or lapsed, or withdrawn by whoever holds it

Everything fails closed: no link, no answer, an answer that nobody waits for any more are all no grant.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

import structlog

from policies.engine import ApprovalMode
from proxyworker.contract import ApprovalDecided, ApprovalPreview, ApprovalState, ApprovalTicket, AskPreview
from proxyworker.errors import ApprovalRefused, LinkUnavailable
from proxyworker.net.tasks import spawn

if TYPE_CHECKING:
    from policies.engine import Operation
    from proxyworker.contract import OperationIntent

#: How long a question waits for a link that is down. Whoever waits on it has a client that waits.
ASK_SECONDS: Final = 30.0
#: The control plane says itself when a request lapses; a worker that hears nothing gives up this much later.
LAPSE_GRACE_SECONDS: Final = 5.0
#: Withdrawals kept until there is a link again; what is lost beyond lapses by itself.
MAX_UNSENT: Final = 1_000
#: Operations whose preview can be asked for: those that wait now, and those deferred lately.
MAX_PREVIEWS: Final = 1_000
#: Previews worked on at once: each is a connection to a target.
MAX_PREVIEWING: Final = 4

_log = structlog.get_logger(__name__)


class ApprovalLink(Protocol):
    """What is asked of the link."""

    async def request_approval(
        self, intent: OperationIntent, *, operation: Operation, operation_sha256: bytes
    ) -> ApprovalTicket:
        """Raises `ApprovalRefused` or `LinkUnavailable`."""

    def withdraw_approval(self, approval_id: str, reason: str) -> bool:
        """Say that nobody waits any more. False: there is no link to say it over."""

    def approval_preview(self, preview: ApprovalPreview) -> None:
        """Say what an operation would touch; dropped without a link."""


@dataclass(frozen=True, slots=True)
class Preview:
    """What an operation would touch. See `contract.ApprovalPreview`."""

    rows: int | None = None
    plan: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of the approval. `is_local`: the worker itself gave up waiting."""

    state: ApprovalState
    approval_id: str = ""
    url: str = ""
    reason: str = ""
    is_local: bool = False


@dataclass(slots=True, eq=False)
class Question:
    """One operation that needs an approval. `preview` finds out what it would touch; `exact`: by counting."""

    intent: OperationIntent
    operation: Operation
    digest: bytes
    preview: Callable[[bool], Awaitable[Preview]]
    on_waiting: Callable[[ApprovalTicket], None]
    on_verdict: Callable[[Verdict], None]
    ticket: ApprovalTicket | None = None
    decided: ApprovalDecided | None = None
    #: It has passed or was refused; deferred is not decided.
    is_decided: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class Approvals:
    """Every question of this worker. `clock` gives seconds since the epoch."""

    def __init__(self, link: ApprovalLink, clock: Callable[[], float]) -> None:
        self._link = link
        self._clock = clock
        self._open: set[Question] = set()
        #: Decided before the ticket was looked at: the push may come right behind it.
        self._early: dict[str, ApprovalDecided] = {}
        self._previews: dict[str, Question] = {}
        self._preview_tasks: dict[str, set[asyncio.Task[None]]] = {}
        self._previewing = asyncio.Semaphore(MAX_PREVIEWING)
        self._unsent: deque[tuple[str, str]] = deque(maxlen=MAX_UNSENT)

    # ------------------------------------------------------------ for sessions

    def ask(self, question: Question) -> None:
        """Ask; the question's callbacks hear of it, never within this call."""
        self._open.add(question)
        question.task = spawn(f"approval {question.intent.session_id} {question.intent.op}", self._run(question))

    def withdraw(self, question: Question, reason: str) -> None:
        """Nobody waits any more; its callbacks hear nothing. Idempotent."""
        if question not in self._open:
            return
        self._forget(question)
        if question.task is not None:
            question.task.cancel()
        question.is_decided = True
        if question.ticket is not None:
            self._previews.pop(question.ticket.approval_id, None)
            self._withdraw(question.ticket.approval_id, reason)

    def session_over(self, session_id: str) -> None:
        """The session's credential is not used any more, so nothing can be previewed with it."""
        gone = [key for key, question in self._previews.items() if question.intent.session_id == session_id]
        for key in gone:
            del self._previews[key]
        for task in self._preview_tasks.pop(session_id, ()):
            task.cancel()

    # ------------------------------------------------------------ for the link

    def linked(self) -> None:
        """There is a link again: say what was not said, and ask again for all that waits."""
        while self._unsent and self._link.withdraw_approval(*self._unsent[0]):
            self._unsent.popleft()
        for question in self._open:
            question.changed.set()

    def decided(self, decided: ApprovalDecided) -> None:
        """A request is not pending any more."""
        for question in self._open:
            if question.ticket is not None and question.ticket.approval_id == decided.approval_id:
                question.decided = decided
                question.changed.set()
                return
        if any(question.ticket is None for question in self._open):
            self._early[decided.approval_id] = decided

    def preview_asked(self, asked: AskPreview) -> None:
        """Somebody wants to know what an operation would touch."""
        question = self._previews.get(asked.approval_id)
        if question is None:
            problem = "it doesn't wait any more, or its session has ended"
            self._link.approval_preview(ApprovalPreview(asked.approval_id, asked.exact, None, "", problem))
        else:
            self._start_preview(asked.approval_id, question, exact=asked.exact)

    # ------------------------------------------------------------ one question

    async def _run(self, question: Question) -> None:
        verdict = await self._verdict(question)
        self._forget(question)
        question.is_decided = verdict.state is not ApprovalState.PENDING
        if question.is_decided:
            self._previews.pop(verdict.approval_id, None)
        question.on_verdict(verdict)

    async def _verdict(self, question: Question) -> Verdict:
        try:
            async with asyncio.timeout(ASK_SECONDS):
                ticket = await self._ask(question)
        except TimeoutError:
            reason = "the control plane can't be asked for an approval now"
            return Verdict(ApprovalState.EXPIRED, reason=reason, is_local=True)
        except ApprovalRefused as error:
            return Verdict(ApprovalState.REJECTED, reason=error.refused.reason)
        approval = question.intent.decision.approval
        if ticket.state is not ApprovalState.PENDING:
            return _told(ticket, ticket.state, ticket.reason)
        self._keep_preview(question, ticket.approval_id)
        self._start_preview(ticket.approval_id, question, exact=False)
        if approval is None or approval.mode is ApprovalMode.DEFER:
            return _told(ticket, ApprovalState.PENDING, ticket.reason)
        return await self._wait(question, ticket, hold_seconds=approval.hold_seconds)

    async def _wait(self, question: Question, ticket: ApprovalTicket, *, hold_seconds: int) -> Verdict:
        wait_seconds = ticket.expires_at - self._clock() + LAPSE_GRACE_SECONDS
        if hold_seconds:
            wait_seconds = min(wait_seconds, hold_seconds)
        question.on_waiting(ticket)
        try:
            async with asyncio.timeout(max(wait_seconds, 0)):
                while True:
                    await question.changed.wait()
                    question.changed.clear()
                    if question.decided is not None:
                        return _told(ticket, question.decided.state, question.decided.reason)
                    # The link was lost: what was decided meanwhile was told to nobody.
                    again = await self._ask(question)
                    if again.state is not ApprovalState.PENDING:
                        return _told(again, again.state, again.reason)
                    ticket = again
        except TimeoutError:
            reason = f"nobody decided within {round(wait_seconds)} seconds"
            self._withdraw(ticket.approval_id, reason)
            return Verdict(ApprovalState.EXPIRED, ticket.approval_id, ticket.url, reason, is_local=True)
        except ApprovalRefused as error:
            return Verdict(ApprovalState.REJECTED, ticket.approval_id, ticket.url, error.refused.reason)

    async def _ask(self, question: Question) -> ApprovalTicket:
        """Ask until there is an answer; the caller bounds the time. Raises `ApprovalRefused`."""
        while True:
            try:
                ticket = await self._link.request_approval(
                    question.intent, operation=question.operation, operation_sha256=question.digest
                )
            except LinkUnavailable:
                await question.changed.wait()
                question.changed.clear()
                continue
            question.ticket = ticket
            early = self._early.pop(ticket.approval_id, None)
            if early is not None and question.decided is None:
                question.decided = early
                question.changed.set()
            return ticket

    def _forget(self, question: Question) -> None:
        self._open.discard(question)
        if not any(one.ticket is None for one in self._open):
            self._early.clear()

    def _withdraw(self, approval_id: str, reason: str) -> None:
        if not self._link.withdraw_approval(approval_id, reason):
            self._unsent.append((approval_id, reason))

    # ------------------------------------------------------------ previews

    def _keep_preview(self, question: Question, approval_id: str) -> None:
        self._previews[approval_id] = question
        if len(self._previews) > MAX_PREVIEWS:
            del self._previews[next(iter(self._previews))]

    def _start_preview(self, approval_id: str, question: Question, *, exact: bool) -> None:
        task = spawn(f"preview {approval_id}", self._preview(approval_id, question, exact=exact))
        of_session = self._preview_tasks.setdefault(question.intent.session_id, set())
        of_session.add(task)
        task.add_done_callback(of_session.discard)

    async def _preview(self, approval_id: str, question: Question, *, exact: bool) -> None:
        async with self._previewing:
            if question.is_decided:
                return  # nobody looks at it any more
            found = await question.preview(exact)
        self._link.approval_preview(ApprovalPreview(approval_id, exact, found.rows, found.plan, found.problem))


def _told(ticket: ApprovalTicket, state: ApprovalState, reason: str) -> Verdict:
    return Verdict(state, ticket.approval_id, ticket.url, reason)
