"""What the target sends: frames → pipeline (which operation) → record what is shown → the way out to the agent.

Runs inside `data_received`, without a task or an await. Rows of operations under limits may wait here until it is
known whether they may be shown.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

import structlog

from proxyworker.gate.errors import RecordNotKept
from proxyworker.gate.forward import Pressure, Valve
from proxyworker.postgres.cuts import Cuts, Edited
from proxyworker.postgres.errors import CONNECTION_FAILURE, PROGRAM_LIMIT_EXCEEDED, TargetBrokeProtocol
from proxyworker.postgres.names import TooManyNames
from proxyworker.postgres.pipeline import ASYNCHRONOUS
from proxyworker.wire.postgres import backend
from proxyworker.wire.postgres.errors import WireError
from proxyworker.wire.postgres.gather import UNTIL_KNOWN, Gathered, needed_for
from proxyworker.wire.postgres.scan import FrameError, FrameScanner

if TYPE_CHECKING:
    from proxyworker.gate.decide import Decider
    from proxyworker.gate.record import RecordedOperation, SessionRecorder
    from proxyworker.postgres.course import Course
    from proxyworker.postgres.ending import Ending
    from proxyworker.postgres.holding import Holding
    from proxyworker.postgres.pipeline import Pipeline
    from proxyworker.postgres.requests import Requests
    from proxyworker.postgres.ways_out import WaysOut

#: A message of the target that is no row: errors, notices, descriptions of up to 1,600 columns.
MAX_TARGET_MESSAGE_BYTES: Final = 16 * 1024 * 1024

_log = structlog.get_logger(__name__)


class TargetStream:
    """One target's bytes, from its connection to the way out. `session_id` is for the log."""

    def __init__(
        self,
        *,
        session_id: str,
        course: Course,
        recorder: SessionRecorder,
        decider: Decider,
        pipeline: Pipeline,
        requests: Requests,
        cuts: Cuts,
        holding: Holding,
        ways_out: WaysOut,
        ending: Ending,
        valve: Valve,
        agent_valve: Valve,
    ) -> None:
        self._session_id = session_id
        self._course = course
        self._recorder = recorder
        self._decider = decider
        self._pipeline = pipeline
        self._requests = requests
        self._cuts = cuts
        self._holding = holding
        self._ways_out = ways_out
        self._ending = ending
        self._valve = valve
        self._agent_valve = agent_valve
        self._loop = asyncio.get_running_loop()
        self._frames = FrameScanner(bytes((backend.DATA_ROW, backend.COPY_DATA)), MAX_TARGET_MESSAGE_BYTES)
        self._gathered = Gathered()
        #: Operations under limits that were shown something by the read that is being looked at.
        self._charged: list[RecordedOperation] = []

    @property
    def unfinished_bytes(self) -> int:
        """What is still to come of a row that has begun to."""
        return self._frames.run_left

    def data_received(self, data: bytes) -> None:
        """The target's next bytes, of any length."""
        self._course.last_used = self._loop.time()
        if self._course.is_closed:
            return
        whole = self._gathered.add(data)
        if whole is None:
            return
        try:
            self._take(whole)
        except (FrameError, WireError, TargetBrokeProtocol) as error:
            _log.error("target_broke_protocol", session=self._session_id, problem=error.problem)
            self._ending.fail(CONNECTION_FAILURE, "the target's answer could not be understood")
        except TooManyNames:
            self._ending.fail(PROGRAM_LIMIT_EXCEEDED, "the session has too many prepared statements or portals")
        except RecordNotKept as error:
            self._ending.record_failed(error)

    def budget_known(self, operation: RecordedOperation) -> None:
        """It was asked what is left of a limit that a running statement has come to."""
        if self._cuts.waits_for_values:
            self._values_known()
        elif self._course.is_open:
            self._valve.set(Pressure.BUDGET, on=self._cuts.settle([operation]))

    def nobody_sees(self) -> None:
        """The agent has gone: the target is read to the end, whatever waits."""
        self._valve.set(Pressure.TRANSPORT | Pressure.RELEASE | Pressure.BUDGET, on=False)
        self._cuts.nobody_sees()
        self._values_known()

    def _take(self, data: bytes) -> None:
        frames = self._frames
        pipeline = self._pipeline
        spans = frames.scan(data)
        if frames.oversized:
            raise TargetBrokeProtocol("a message that is too long")
        out, consumed = self._shown_of(spans, data, frames.consumed)
        if self._course.is_closed:
            return
        if consumed < frames.consumed:
            self._keep_back(data[consumed:])
        else:
            self._gathered.keep(data[consumed:], frames.needed)
        self._ways_out.release(out)
        if self._charged:
            charged, self._charged = self._charged, []
            waits = self._cuts.settle(charged) or self._cuts.waits_for_values
            self._valve.set(Pressure.BUDGET, on=waits)
        if pipeline.is_at_rest:
            self._requests.at_rest()
        if self._holding.is_on():
            self._holding.ask_if_idle()
        if not pipeline.is_full:
            self._agent_valve.set(Pressure.PIPELINE, on=False)

    def _keep_back(self, rows: bytes) -> None:
        """These come again, with what comes next: their values aren't whole, or it isn't known whether they may go."""
        self._frames.forget_run()
        if self._cuts.waits_for_values:
            self._gathered.keep(rows, UNTIL_KNOWN)
            self._valve.set(Pressure.BUDGET, on=True)
        else:
            self._gathered.keep(rows, needed_for(rows))

    def _values_known(self) -> None:
        if not self._course.is_closed and self._cuts.waits_for_values:
            self._cuts.waits_for_values = False
            self._valve.set(Pressure.BUDGET, on=False)
            self._gathered.hurry()
            self.data_received(b"")

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
            instead = self._without_values(operation, kind, data, start, end)
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
            if pipeline.refusals and (said := self._ways_out.take_refusals()):
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
            self._ending.told_why()

    def _show_aside(self, kind: int, data: bytes, start: int, end: int, instead: bytes | None) -> None:
        if kind in ASYNCHRONOUS or kind == backend.ERROR_RESPONSE:
            self._recorder.aside(data[start:end] if instead is None else instead)

    def _without_values(
        self, operation: RecordedOperation | None, kind: int, data: bytes, start: int, end: int
    ) -> bytes | None:
        """An error or a notice without what shows values, where the policy hides or counts them. None: as it is.

        "Failing row contains (…)" has all columns of the row, "Key (…)=(…)" those of the key; the message itself may
        quote any value that the statement makes.
        """
        if kind not in (backend.ERROR_RESPONSE, backend.NOTICE_RESPONSE):
            return None
        charge = None if operation is None else operation.charge
        if charge is not None and charge.watch is not None and charge.watch.hides_messages:
            return backend.without_message(data, start, end)
        return backend.without_detail(data, start, end) if self._decider.hides_columns else None

    def _show(self, operation: RecordedOperation | None, data: bytes, start: int, end: int) -> None:
        if operation is None or start == end or not self._course.is_open:
            return
        self._recorder.shown(operation, data if end - start == len(data) else data[start:end])
        if operation.charge is not None:
            operation.charge.bytes += end - start
            self._charged.append(operation)
