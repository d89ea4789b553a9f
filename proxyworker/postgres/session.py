"""One agent's session on one target: bytes of both sides through the stages.

    agent  → frames → requests (decide, record intents) → hold for approval → release → target
    target → frames → pipeline (which operation) → record outcomes → release → agent

Both directions run inside `data_received`, without a task or an await; what is held for an approval goes on when that
is decided (`gate.approve`). Everything that ends a session ends it here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from enum import Enum
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog

from proxyworker.contract import ApprovalState, OutcomeStatus
from proxyworker.gate.approve import Question, Verdict
from proxyworker.gate.decide import Decider
from proxyworker.gate.errors import RecordNotKept
from proxyworker.gate.forward import Pressure, Side, Valve, bound_write_buffer
from proxyworker.gate.record import RecordedOperation, SessionRecorder
from proxyworker.gate.release import Held, ReleaseQueue
from proxyworker.net.tasks import spawn
from proxyworker.postgres.cuts import Cuts, Edited
from proxyworker.postgres.errors import (
    ADMIN_SHUTDOWN,
    CONNECTION_FAILURE,
    IO_ERROR,
    PROGRAM_LIMIT_EXCEEDED,
    PROTOCOL_VIOLATION,
    QUERY_CANCELED,
    TargetBrokeProtocol,
    TargetError,
    fatal,
)
from proxyworker.postgres.held import HeldOperation, waiting_notice
from proxyworker.postgres.names import TooManyNames
from proxyworker.postgres.pipeline import ASYNCHRONOUS, Pipeline
from proxyworker.postgres.preview import preview_of
from proxyworker.postgres.requests import FLUSH_MESSAGE, Requests
from proxyworker.postgres.upstream import Upstream, send_cancel
from proxyworker.postgres.values import CountedValues
from proxyworker.wire.postgres import backend, frontend
from proxyworker.wire.postgres.errors import WireError
from proxyworker.wire.postgres.gather import UNTIL_KNOWN, Gathered, needed_for
from proxyworker.wire.postgres.scan import FrameError, FrameScanner

if TYPE_CHECKING:
    from policies.engine import Policy
    from proxyworker.contract import ApprovalTicket, SessionGrant
    from proxyworker.gate.services import Services

#: A message of the target that is no row: errors, notices, descriptions of up to 1,600 columns.
MAX_TARGET_MESSAGE_BYTES: Final = 16 * 1024 * 1024
#: What an agent may send behind a statement that waits for an approval; it is read on so that its leaving is seen.
HELD_BACKLOG_BYTES: Final = 1024 * 1024
CANCELLED: Final = "the agent cancelled it"
#: An agent that has gone: how long the target may take to finish what it was asked, before it is cancelled.
DRAIN_SECONDS: Final = 10.0
#: An agent that does not read the reason why its session ends.
FAREWELL_SECONDS: Final = 2.0

_log = structlog.get_logger(__name__)


class _State(Enum):
    OPEN = "open"
    #: The agent wants no more; the target finishes what it was asked.
    DRAINING = "draining"
    CLOSED = "closed"


class _Part(Enum):
    RECORD = "record"
    AGENT = "agent"
    TARGET = "target"


class PostgresSession:
    """A session between its admission and its last record. See `gate.live.LiveSession`."""

    def __init__(
        self,
        *,
        services: Services,
        grant: SessionGrant,
        recorder: SessionRecorder,
        agent: asyncio.Transport,
        upstream: Upstream,
        on_closed: Callable[[], None],
    ) -> None:
        self.session_id = grant.session_id
        self._services = services
        self._grant = grant
        self._loop = asyncio.get_running_loop()
        self._started = self._last_used = self._loop.time()
        self._on_closed = on_closed
        self._upstream = upstream
        self._agent = agent
        self._target = upstream.handshake.transport
        self._agent_valve = Valve(agent)
        self._target_valve = Valve(self._target)
        self._state = _State.OPEN
        self._recorder = recorder
        self._pipeline = Pipeline(upstream.transaction_status)
        self._decider = Decider(grant, services.clock)
        self._cuts = Cuts(
            self._pipeline,
            unfinished=lambda: self._target_frames.run_left,
            cancel=self._cancel_target,
            on_known=self._budget_known,
            fail=self._fail,
        )
        self._values = CountedValues(services.budgets.meter(grant), grant)
        self._requests = Requests(
            recorder=recorder,
            decider=self._decider,
            meter=self._values,
            pipeline=self._pipeline,
            on_barrier_over=self._barrier_over,
            on_charged=self._cuts.begin,
        )
        if upstream.began_with:
            self._requests.began_with(upstream.began_with)
        self._agent_frames = FrameScanner(bytes((frontend.COPY_DATA,)), grant.limits.max_statement_bytes)
        self._agent_gathered = Gathered()
        self._discard_bytes = 0
        self._backlog_bound_bytes = 0
        self._backlog = bytearray()
        self._question: Question | None = None
        #: Operations under limits that were shown something by the read that is being looked at.
        self._charged: list[RecordedOperation] = []
        self._target_frames = FrameScanner(bytes((backend.DATA_ROW, backend.COPY_DATA)), MAX_TARGET_MESSAGE_BYTES)
        self._target_gathered = Gathered()
        self._to_target = ReleaseQueue(
            services.journal,
            write=self._target.write,
            on_level=lambda high: self._agent_valve.set(Pressure.RELEASE, on=high),
        )
        self._to_agent = ReleaseQueue(
            services.journal,
            write=agent.write,
            on_level=lambda high: self._target_valve.set(Pressure.RELEASE, on=high),
        )
        #: Where the last intent stands: no answer leaves before it is durable.
        self._intent_position = 0
        self._was_told_why = False
        #: What is not closed yet. The session is over when nothing is left.
        self._open = {_Part.RECORD, _Part.AGENT, _Part.TARGET}
        self._drain_timer: asyncio.TimerHandle | None = None
        for name, value in upstream.settings():
            self._requests.heed_setting(name, value)
        bound_write_buffer(agent)
        bound_write_buffer(self._target)
        self.agent_side = Side(data=self._agent_data, lost=self._agent_lost, other=lambda: self._target_valve)
        self.target_side = Side(data=self._target_data, lost=self._target_lost, other=lambda: self._agent_valve)

    # ------------------------------------------------------------ agent → target

    def _agent_data(self, data: bytes) -> None:
        self._last_used = self._loop.time()
        if self._state is not _State.OPEN:
            return
        if self._requests.is_at_barrier or self._backlog or self._is_holding:
            self._backlog += data
            if len(self._backlog) > self._backlog_bound_bytes:
                self._agent_valve.set(Pressure.BARRIER, on=True)
            return
        whole = self._agent_gathered.add(data)
        if whole is None:
            return
        try:
            self._requests_of(whole)
        except (FrameError, WireError) as error:
            self._fail(PROTOCOL_VIOLATION, f"the client broke the protocol: {error.problem}")
        except TooManyNames:
            self._fail(PROGRAM_LIMIT_EXCEEDED, "the session has too many prepared statements or portals")
        except RecordNotKept as error:
            self._record_failed(error)

    def _requests_of(self, data: bytes) -> None:
        if self._discard_bytes:
            dropped = min(self._discard_bytes, len(data))
            self._discard_bytes -= dropped
            data = data[dropped:]
        frames = self._agent_frames
        while data:
            spans = frames.scan(data)
            consumed = frames.consumed
            forwarded = 0
            for kind, start, end, _ in spans:
                if kind == frontend.COPY_DATA:
                    keep = self._copy_data(data[start:end])
                elif kind in (frontend.COPY_DONE, frontend.COPY_FAIL):
                    self._dispatch(data[forwarded:start])
                    self._copy_end(data[start:end])
                    forwarded = end
                    continue
                else:
                    keep = self._requests.take(kind, data, start, end)
                if not keep and self._is_holding:
                    ahead = b"" if self._pipeline.is_idle else FLUSH_MESSAGE
                    self._dispatch(data[forwarded:start] + ahead)
                    # Taken again when the approval is decided, then what the agent sends meanwhile.
                    self._wait_with(data[start:], bound_bytes=len(data) - start + HELD_BACKLOG_BYTES)
                    self._ask_if_idle()
                    return
                if not keep:
                    self._dispatch(data[forwarded:start])
                    forwarded = end
                    if self._requests.is_over:
                        self._dispatch(b"")
                        self._drain("the agent ended the session")
                        return
                elif self._requests.is_at_barrier:
                    self._dispatch(data[forwarded:end] + (b"" if kind == frontend.QUERY else FLUSH_MESSAGE))
                    self._wait_with(data[end:], bound_bytes=0)
                    self._agent_valve.set(Pressure.BARRIER, on=True)
                    self._refuse_what_is_due()
                    return
            self._dispatch(data if forwarded == 0 and consumed == len(data) else data[forwarded:consumed])
            self._refuse_what_is_due()
            if not frames.oversized:
                self._agent_gathered.keep(data[consumed:], frames.needed)
                return
            self._requests.refuse_oversized(data[consumed], self._grant.limits.max_statement_bytes)
            self._dispatch(b"")
            self._refuse_what_is_due()
            left = len(data) - consumed
            self._discard_bytes = max(0, frames.oversized - left)
            data = data[consumed + frames.oversized :]

    def _dispatch(self, data: bytes) -> None:
        """Record the intents so far, and send the bytes once they may go."""
        requests = self._requests
        requests.settle_batch()
        position = self._recorder.flush()
        self._intent_position = max(self._intent_position, position)
        held = self._requests.held
        # What is held for an approval is secured before anybody is asked.
        cut = [one for one in self._recorder.take_cut() if held is None or one is not held.operation]
        if data:
            position = self._intent_position if requests.has_write else 0
            sent = self._to_target.put(data, position, unrecorded=len(cut))
            for operation in cut:
                self._recorder.secure_sent(operation, partial(self._settle, self._to_target, sent))
        requests.has_write = False
        if self._pipeline.finished:
            # Skipped at once: the target is ignoring everything until the next Sync.
            self._finish_operations()
            self._recorder.flush()
        if self._pipeline.is_full:
            self._agent_valve.set(Pressure.PIPELINE, on=True)

    def _copy_data(self, data: bytes) -> bool:
        operation = self._pipeline.last
        if operation is None:
            # The COPY has failed already; the target ignores what still comes ("COPY Operations").
            return False
        self._recorder.sent(operation, data)
        return True

    def _copy_end(self, frame: bytes) -> None:
        """CopyDone makes the rows count: it waits until all that the agent sent is on record."""
        operation = self._pipeline.last
        if operation is None:
            return
        self._pipeline.copy_ended()
        held = self._to_target.put(frame, 0, unrecorded=1)
        self._recorder.secure_sent(operation, partial(self._settle, self._to_target, held))

    def _wait_with(self, data: bytes, *, bound_bytes: int) -> None:
        """Go on with these bytes later; above the bound the agent is not read meanwhile."""
        self._backlog = bytearray(data)
        self._backlog_bound_bytes = bound_bytes
        # What follows is scanned anew: forget a run that the scanner has seen beyond here.
        self._agent_frames.forget_run()

    def _barrier_over(self) -> None:
        # Called from within the target's data: go on with the agent's when that is done.
        self._loop.call_soon(self._resume_after_barrier)

    def _resume_after_barrier(self) -> None:
        if self._state is not _State.OPEN or self._requests.is_at_barrier or self._is_holding:
            return
        backlog, self._backlog = bytes(self._backlog), bytearray()
        if backlog:
            self._agent_data(backlog)
        if not self._requests.is_at_barrier and len(self._backlog) <= self._backlog_bound_bytes:
            self._agent_valve.set(Pressure.BARRIER, on=False)

    # ------------------------------------------------------------ held for an approval

    @property
    def _is_holding(self) -> bool:
        held = self._requests.held
        return self._requests.waits_for_budget or (held is not None and held.is_waiting)

    def _ask_if_idle(self) -> None:
        """Ask for the approval of what is held, once everything before it is answered."""
        held = self._requests.held
        if held is None or not held.is_waiting or self._question is not None or not self._pipeline.is_idle:
            return
        if self._pipeline.is_skipping:
            held.is_skipped = True
            self._loop.call_soon(self._resume_after_barrier)
            return
        self._requests.bind_held()
        self._question = Question(
            intent=held.intent,
            operation=held.asked,
            digest=held.digest,
            preview=lambda exact: preview_of(self._grant, held, exact=exact),
            on_waiting=self._tell_waiting,
            on_verdict=self._approval_decided,
        )
        # The intent, and whatever of it is kept as content, is on disk before anybody is asked.
        self._recorder.secure_sent(held.operation, partial(self._ask_when_durable, self._question))

    def _ask_when_durable(self, question: Question, position: int) -> None:
        self._services.journal.when_durable(max(position, self._intent_position), partial(self._ask, question))

    def _ask(self, question: Question) -> None:
        if self._question is question and self._state is _State.OPEN:
            self._services.approvals.ask(question)

    def _tell_waiting(self, ticket: ApprovalTicket) -> None:
        """Nothing of the target's is under way, so this comes between whole messages."""
        held = self._requests.held
        if held is None or self._state is not _State.OPEN:
            return
        notice = waiting_notice(ticket)
        self._recorder.shown(held.operation, notice)
        self._to_agent.put(notice, self._intent_position)

    def _approval_decided(self, verdict: Verdict) -> None:
        held = self._requests.held
        if held is None or not held.is_waiting or self._state is not _State.OPEN:
            return
        self._question = None
        held.verdict = verdict
        self._last_used = self._loop.time()
        self._record_approval(held, verdict)
        self._resume_after_barrier()

    def _record_approval(self, held: HeldOperation, verdict: Verdict) -> None:
        self._recorder.approval(
            held.operation, approval_id=verdict.approval_id, state=verdict.state, reason=verdict.reason
        )

    def _let_go(self, reason: str) -> None:
        """The session ends: what is held is not executed, and nobody needs to decide on it any more."""
        self._services.approvals.session_over(self.session_id)
        held, question = self._requests.held, self._question
        if held is None or not self._is_holding:
            return
        held.operation.fail(QUERY_CANCELED, f"not executed: {reason}")
        held.operation.status = OutcomeStatus.DENIED
        if question is not None:
            self._services.approvals.withdraw(question, reason)
            ticket = question.ticket
            withdrawn = Verdict(ApprovalState.WITHDRAWN, ticket.approval_id if ticket else "", reason=reason)
            self._record_approval(held, withdrawn)
        self._requests.held = self._question = None

    # ------------------------------------------------------------ target → agent

    def _target_data(self, data: bytes) -> None:
        self._last_used = self._loop.time()
        if self._state is _State.CLOSED:
            return
        whole = self._target_gathered.add(data)
        if whole is None:
            return
        try:
            self._answers_of(whole)
        except (FrameError, WireError, TargetBrokeProtocol) as error:
            _log.error("target_broke_protocol", session=self.session_id, problem=error.problem)
            self._fail(CONNECTION_FAILURE, "the target's answer could not be understood")
        except TooManyNames:
            self._fail(PROGRAM_LIMIT_EXCEEDED, "the session has too many prepared statements or portals")
        except RecordNotKept as error:
            self._record_failed(error)

    def _answers_of(self, data: bytes) -> None:
        frames = self._target_frames
        pipeline = self._pipeline
        spans = frames.scan(data)
        if frames.oversized:
            raise TargetBrokeProtocol("a message that is too long")
        out, consumed = self._shown_of(spans, data, frames.consumed)
        if self._state is _State.CLOSED:
            return
        if consumed < frames.consumed:
            self._keep_back(data[consumed:])
        else:
            self._target_gathered.keep(data[consumed:], frames.needed)
        self._release(out)
        if self._charged:
            charged, self._charged = self._charged, []
            waits = self._cuts.settle(charged) or self._cuts.waits_for_values
            self._target_valve.set(Pressure.BUDGET, on=waits)
        if pipeline.is_at_rest:
            self._requests.at_rest()
        if self._is_holding:
            self._ask_if_idle()
        if not pipeline.is_full:
            self._agent_valve.set(Pressure.PIPELINE, on=False)

    def _keep_back(self, rows: bytes) -> None:
        """These come again, with what comes next: their values aren't whole, or it isn't known whether they may go."""
        self._target_frames.forget_run()
        if self._cuts.waits_for_values:
            self._target_gathered.keep(rows, UNTIL_KNOWN)
            self._target_valve.set(Pressure.BUDGET, on=True)
        else:
            self._target_gathered.keep(rows, needed_for(rows))

    def _values_known(self) -> None:
        if self._state is not _State.CLOSED and self._cuts.waits_for_values:
            self._cuts.waits_for_values = False
            self._target_valve.set(Pressure.BUDGET, on=False)
            self._target_gathered.hurry()
            self._target_data(b"")

    def _shown_of(self, spans: Iterable[tuple[int, int, int, int]], data: bytes, consumed: int) -> tuple[bytes, int]:
        """Match the messages with what was asked, and record what the agent is shown: they, and what we say instead.

        Returns that, and how much of the data it is made of.
        """
        pipeline = self._pipeline
        edited: Edited | None = None
        shown_from = 0
        shown_for: RecordedOperation | None = None
        for kind, start, end, count in self._cuts.looked_at(spans, data, consumed):
            if kind == backend.ERROR_RESPONSE:
                self._error_ahead(data, start, end)
            operation = pipeline.current
            if operation is not shown_for:
                self._show(shown_for, data, shown_from, start)
                shown_for, shown_from = operation, start
            instead = self._without_values(kind, data, start, end)
            if operation is None:
                shown_from = end
                self._show_aside(kind, data, start, end, instead)
            else:
                if operation.charge is not None:
                    cut = self._cuts.instead_of(operation, kind, data, start, end, count=count)
                    instead = instead if cut is None else cut
                if instead is not None:
                    self._show(operation, data, shown_from, start)
                    self._recorder.shown(operation, instead)
                    shown_from = end
            if instead is not None:
                edited = edited or Edited(data)
                edited.put(start, end, instead)
                if kind in (backend.DATA_ROW, backend.COPY_DATA):
                    continue
            if kind == backend.PARAMETER_STATUS:
                self._requests.heed_setting(*backend.parse_parameter_status(data, start, end))
            pipeline.answer(kind, data, start, end, count)
            if pipeline.refusals and (said := self._take_refusals()):
                edited = edited or Edited(data)
                edited.put(end, end, said)
        consumed = self._cuts.reached
        self._show(shown_for, data, shown_from, consumed)
        if edited is not None:
            return edited.until(consumed), consumed
        return data if consumed == len(data) else data[:consumed], consumed

    def _error_ahead(self, data: bytes, start: int, end: int) -> None:
        self._requests.heed_error()
        if self._pipeline.is_at_sync and self._pipeline.current is None:
            # The transaction of a pipeline failed at its commit: that is an operation of its own.
            self._pipeline.attach_first(self._recorder.begin("commit", b"", decision=self._decider.session()))
        if backend.parse_error(data, start, end).severity in ("FATAL", "PANIC"):
            self._was_told_why = True

    def _show_aside(self, kind: int, data: bytes, start: int, end: int, instead: bytes | None) -> None:
        if kind in ASYNCHRONOUS or kind == backend.ERROR_RESPONSE:
            self._recorder.aside(data[start:end] if instead is None else instead)

    def _without_values(self, kind: int, data: bytes, start: int, end: int) -> bytes | None:
        """An error or a notice without what shows a row, where the policy hides columns. None: as it is.

        "Failing row contains (…)" has all columns of the row, "Key (…)=(…)" those of the key.
        """
        if kind not in (backend.ERROR_RESPONSE, backend.NOTICE_RESPONSE) or not self._decider.hides_columns:
            return None
        return backend.without_detail(data, start, end)

    def _show(self, operation: RecordedOperation | None, data: bytes, start: int, end: int) -> None:
        if operation is None or start == end or self._state is not _State.OPEN:
            return
        self._recorder.shown(operation, data if end - start == len(data) else data[start:end])
        if operation.charge is not None:
            operation.charge.bytes += end - start
            self._charged.append(operation)

    def _budget_known(self, operation: RecordedOperation) -> None:
        """It was asked what is left of a limit that a running statement has come to."""
        if self._cuts.waits_for_values:
            self._values_known()
        elif self._state is _State.OPEN:
            self._target_valve.set(Pressure.BUDGET, on=self._cuts.settle([operation]))

    def _release(self, data: bytes) -> None:
        """Put the answer on its way: behind the outcomes of the operations that it ends, and behind every intent."""
        if not data:
            return
        late = self._finish_operations() if self._pipeline.finished else ()
        position = max(self._recorder.flush(), self._intent_position)
        held = self._to_agent.put(data, position, unrecorded=len(late))
        for operation in late:
            operation.on_recorded = partial(self._settle, self._to_agent, held)

    def _finish_operations(self) -> list[RecordedOperation]:
        finished, self._pipeline.finished = self._pipeline.finished, []
        for operation in finished:
            self._cuts.over(operation)
        return [operation for operation in finished if not self._recorder.finish(operation)]

    @staticmethod
    def _settle(queue: ReleaseQueue, held: Held | None, position: int) -> None:
        if held is not None:
            queue.settle(held, position)

    def _refuse_what_is_due(self) -> None:
        """Say refusals that no answer of the target stands before."""
        if self._pipeline.refusals and (said := self._take_refusals()):
            self._release(said)

    def _take_refusals(self) -> bytes:
        refusals = self._pipeline.take_refusals()
        for operation, said in refusals:
            if operation is not None:
                self._recorder.shown(operation, said)
        return b"".join(said for _, said in refusals)

    # ------------------------------------------------------------ endings

    def reason_to_end(self, *, now: float, loop_now: float) -> str:
        """See `gate.live.LiveSession`."""
        limits = self._grant.limits
        if now >= self._grant.expires_at:
            return "the agent's credential has expired"
        if loop_now - self._started > limits.max_session_seconds:
            return f"the session has lasted {limits.max_session_seconds} seconds"
        if loop_now - self._last_used > limits.idle_seconds and self._pipeline.is_idle and not self._is_holding:
            return f"the session was idle for {limits.idle_seconds} seconds"
        return ""

    def end(self, reason: str) -> None:
        """See `gate.live.LiveSession`."""
        said = f"this session was ended: {reason}"
        self._end(reason, fatal(ADMIN_SHUTDOWN, said, "Unless that asks you to stop, open a new session to go on."))
        if self._services.journal.failed is not None:
            # The journal will tell nobody of durability any more: the record is as closed as it can be.
            self._record_closed()

    def use_policy(self, policy: Policy) -> None:
        """See `gate.live.LiveSession`."""
        self._decider.use_policy(policy)
        self._values.use_policy(policy)

    def cancel(self) -> None:
        """The agent asks to cancel what runs. The request is on record before the target hears of it."""
        if self._state is _State.CLOSED:
            return
        try:
            operation = self._recorder.begin("cancel", b"", decision=self._decider.session())
            self._recorder.finish(operation)
            position = self._recorder.flush()
        except RecordNotKept as error:
            self._record_failed(error)
            return
        question = self._question
        if question is not None:
            self._services.approvals.withdraw(question, CANCELLED)
            ticket = question.ticket
            approval_id, url = (ticket.approval_id, ticket.url) if ticket is not None else ("", "")
            self._approval_decided(Verdict(ApprovalState.WITHDRAWN, approval_id, url, CANCELLED))
            return
        self._services.journal.when_durable(position, self._cancel_target)

    def _cancel_target(self) -> None:
        if self._upstream.cancel_secret:
            spawn(f"cancel {self.session_id}", self._send_cancel())

    async def _send_cancel(self) -> None:
        upstream = self._upstream
        try:
            await send_cancel(self._grant.target, upstream.process_id, upstream.cancel_secret)
        except TargetError as error:
            _log.warning("cancel_failed", session=self.session_id, problem=error.problem)

    def _fail(self, code: str, message: str) -> None:
        self._end(message, fatal(code, message))

    def _record_failed(self, error: RecordNotKept) -> None:
        _log.error("record_not_kept", session=self.session_id, problem=str(error))
        self._fail(IO_ERROR, "the record of this session cannot be kept, so it may not go on")

    def record_failed(self, error: RecordNotKept) -> None:
        """For the recorder: a record could not be kept outside of a call."""
        self._record_failed(error)

    def _end(self, reason: str, farewell: bytes) -> None:
        if self._state is _State.CLOSED:
            return
        self._let_go(reason)
        self._to_agent.shut()
        self._to_target.shut()
        if not self._pipeline.is_idle:
            self._cancel_target()
        self._agent.write(farewell)
        self._target.abort()
        self._close(reason)
        self._hang_up()

    def _agent_lost(self) -> None:
        self._drain("the agent closed the connection")
        self._part_closed(_Part.AGENT)

    def _drain(self, reason: str) -> None:
        """The agent is done: let the target finish what it was asked, then end."""
        if self._state is not _State.OPEN:
            return
        self._let_go(reason)
        self._state = _State.DRAINING
        self._to_agent.shut()
        self._target_valve.set(Pressure.TRANSPORT | Pressure.RELEASE | Pressure.BUDGET, on=False)
        self._cuts.nobody_sees()
        self._values_known()
        self._to_target.put(frontend.TERMINATE_MESSAGE, 0)
        self._agent.close()
        self._drain_timer = self._loop.call_later(DRAIN_SECONDS, self._drain_over)
        self._drain_reason = reason

    def _drain_over(self) -> None:
        self._cancel_target()
        self._target.abort()

    def _target_lost(self) -> None:
        self._end_with_target()
        self._part_closed(_Part.TARGET)

    def _end_with_target(self) -> None:
        if self._state is _State.CLOSED:
            return
        if self._state is _State.DRAINING:
            self._close(self._drain_reason)
            return
        self._let_go("the target closed the connection")
        if not self._was_told_why:
            self._to_agent.put(fatal(CONNECTION_FAILURE, "the target closed the connection"), self._intent_position)
        self._close("the target closed the connection")
        self._to_agent.when_empty(self._hang_up)

    def _close(self, reason: str) -> None:
        """Settle the record. Operations without an answer become UNKNOWN."""
        self._state = _State.CLOSED
        if self._drain_timer is not None:
            self._drain_timer.cancel()
        self._cuts.close()
        try:
            self._recorder.close(
                reason, lambda position: self._services.journal.when_durable(position, self._record_closed)
            )
        except RecordNotKept as error:
            _log.error("record_not_kept", session=self.session_id, problem=str(error))
            self._record_closed()
        _log.info("session_closed", session=self.session_id, reason=reason, operations=self._recorder.operations)
        self._services.link.session_closed(self.session_id, reason)

    def _record_closed(self) -> None:
        self._part_closed(_Part.RECORD)

    def _part_closed(self, part: _Part) -> None:
        self._open.discard(part)
        if not self._open:
            self._services.live.remove(self)
            self._on_closed()

    def _hang_up(self) -> None:
        self._agent.close()
        self._loop.call_later(FAREWELL_SECONDS, self._agent.abort)

    def content_level(self, high: bool) -> None:
        """For the recorder: content comes faster than it can be kept, or does no more."""
        self._target_valve.set(Pressure.CONTENT, on=high)
        self._agent_valve.set(Pressure.CONTENT, on=high)
