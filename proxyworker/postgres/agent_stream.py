"""What the agent sends: frames → requests (decide, record intents) → the way out to the target.

Runs inside `data_received`, without a task or an await. What comes behind something that is held, or that can't be
understood before an answer that is under way, waits here and is taken when that is over.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from proxyworker.gate.errors import RecordNotKept
from proxyworker.gate.forward import Pressure, Valve
from proxyworker.postgres.errors import PROGRAM_LIMIT_EXCEEDED, PROTOCOL_VIOLATION
from proxyworker.postgres.names import TooManyNames
from proxyworker.postgres.requests import FLUSH_MESSAGE
from proxyworker.wire.postgres import frontend
from proxyworker.wire.postgres.errors import WireError
from proxyworker.wire.postgres.gather import Gathered
from proxyworker.wire.postgres.scan import FrameError, FrameScanner

if TYPE_CHECKING:
    from proxyworker.gate.record import SessionRecorder
    from proxyworker.postgres.course import Course
    from proxyworker.postgres.ending import Ending
    from proxyworker.postgres.holding import Holding
    from proxyworker.postgres.pipeline import Pipeline
    from proxyworker.postgres.requests import Requests
    from proxyworker.postgres.ways_out import WaysOut

#: What an agent may send behind a statement that waits for an approval; it is read on so that its leaving is seen.
HELD_BACKLOG_BYTES: Final = 1024 * 1024


class AgentStream:
    """One agent's bytes, from its connection to the way out."""

    def __init__(
        self,
        *,
        course: Course,
        recorder: SessionRecorder,
        pipeline: Pipeline,
        requests: Requests,
        holding: Holding,
        ways_out: WaysOut,
        ending: Ending,
        valve: Valve,
        max_statement_bytes: int,
    ) -> None:
        self._course = course
        self._recorder = recorder
        self._pipeline = pipeline
        self._requests = requests
        self._holding = holding
        self._ways_out = ways_out
        self._ending = ending
        self._valve = valve
        self._max_statement_bytes = max_statement_bytes
        self._loop = asyncio.get_running_loop()
        self._frames = FrameScanner(bytes((frontend.COPY_DATA,)), max_statement_bytes)
        self._gathered = Gathered()
        self._discard_bytes = 0
        self._backlog_bound_bytes = 0
        self._backlog = bytearray()

    def data_received(self, data: bytes) -> None:
        """The agent's next bytes, of any length."""
        self._course.last_used = self._loop.time()
        if not self._course.is_open:
            return
        if self._requests.is_at_barrier or self._backlog or self._holding.is_on():
            self._backlog += data
            if len(self._backlog) > self._backlog_bound_bytes:
                self._valve.set(Pressure.BARRIER, on=True)
            return
        whole = self._gathered.add(data)
        if whole is None:
            return
        try:
            self._take(whole)
        except (FrameError, WireError) as error:
            self._ending.fail(PROTOCOL_VIOLATION, f"the client broke the protocol: {error.problem}")
        except TooManyNames:
            self._ending.fail(PROGRAM_LIMIT_EXCEEDED, "the session has too many prepared statements or portals")
        except RecordNotKept as error:
            self._ending.record_failed(error)

    def barrier_over(self) -> None:
        """What waits can be understood now."""
        # Called from within the target's data: go on with the agent's when that is done.
        self._loop.call_soon(self.resume)

    def resume(self) -> None:
        """Take what waits here, unless something is in its way still."""
        if not self._course.is_open or self._requests.is_at_barrier or self._holding.is_on():
            return
        backlog, self._backlog = bytes(self._backlog), bytearray()
        if backlog:
            self.data_received(backlog)
        if not self._requests.is_at_barrier and len(self._backlog) <= self._backlog_bound_bytes:
            self._valve.set(Pressure.BARRIER, on=False)

    def _take(self, data: bytes) -> None:
        if self._discard_bytes:
            dropped = min(self._discard_bytes, len(data))
            self._discard_bytes -= dropped
            data = data[dropped:]
        frames = self._frames
        while data:
            spans = frames.scan(data)
            consumed = frames.consumed
            forwarded = 0
            for kind, start, end, _ in spans:
                if kind == frontend.COPY_DATA:
                    keep = self._copy_data(data[start:end])
                elif kind in (frontend.COPY_DONE, frontend.COPY_FAIL):
                    self._ways_out.dispatch(data[forwarded:start])
                    self._copy_end(data[start:end])
                    forwarded = end
                    continue
                else:
                    keep = self._requests.take(kind, data, start, end)
                if not keep and self._holding.is_on():
                    ahead = b"" if self._pipeline.is_idle else FLUSH_MESSAGE
                    self._ways_out.dispatch(data[forwarded:start] + ahead)
                    # Taken again when the approval is decided, then what the agent sends meanwhile.
                    self._wait_with(data[start:], bound_bytes=len(data) - start + HELD_BACKLOG_BYTES)
                    self._holding.ask_if_idle()
                    return
                if not keep:
                    self._ways_out.dispatch(data[forwarded:start])
                    forwarded = end
                    if self._requests.is_over:
                        self._ways_out.dispatch(b"")
                        self._ending.drain("the agent ended the session")
                        return
                elif self._requests.is_at_barrier:
                    ahead = b"" if kind == frontend.QUERY else FLUSH_MESSAGE
                    self._ways_out.dispatch(data[forwarded:end] + ahead)
                    self._wait_with(data[end:], bound_bytes=0)
                    self._valve.set(Pressure.BARRIER, on=True)
                    self._ways_out.release_refusals()
                    return
            self._ways_out.dispatch(data if forwarded == 0 and consumed == len(data) else data[forwarded:consumed])
            self._ways_out.release_refusals()
            if not frames.oversized:
                self._gathered.keep(data[consumed:], frames.needed)
                return
            self._requests.refuse_oversized(data[consumed], self._max_statement_bytes)
            self._ways_out.dispatch(b"")
            self._ways_out.release_refusals()
            left = len(data) - consumed
            self._discard_bytes = max(0, frames.oversized - left)
            data = data[consumed + frames.oversized :]

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
        self._ways_out.dispatch_secured(operation, frame)

    def _wait_with(self, data: bytes, *, bound_bytes: int) -> None:
        """Go on with these bytes later; above the bound the agent is not read meanwhile."""
        self._backlog = bytearray(data)
        self._backlog_bound_bytes = bound_bytes
        # What follows is scanned anew: forget a run that the scanner has seen beyond here.
        self._frames.forget_run()
