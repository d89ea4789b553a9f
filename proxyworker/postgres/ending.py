"""How a session ends: told to or failed, left by the agent, left by the target.

    fail, end     → the agent is told why; the target is cancelled and hung up on
    agent gone    → the target finishes what it was asked, for a while
    target gone   → the agent is shown what it has answered, and told

In each case what is held is let go, the record is settled, and the session is over once that is done and both
connections are closed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Final

import structlog

from proxyworker.gate.errors import RecordNotKept
from proxyworker.net.tasks import spawn
from proxyworker.postgres.errors import CONNECTION_FAILURE, IO_ERROR, TargetError, fatal
from proxyworker.postgres.upstream import Upstream, send_cancel
from proxyworker.wire.postgres import frontend

if TYPE_CHECKING:
    from proxyworker.contract import SessionGrant
    from proxyworker.gate.record import SessionRecorder
    from proxyworker.gate.services import Services
    from proxyworker.postgres.course import Course
    from proxyworker.postgres.cuts import Cuts
    from proxyworker.postgres.holding import Holding
    from proxyworker.postgres.pipeline import Pipeline
    from proxyworker.postgres.ways_out import WaysOut

#: An agent that has gone: how long the target may take to finish what it was asked, before it is cancelled.
DRAIN_SECONDS: Final = 10.0
#: An agent that does not read the reason why its session ends.
FAREWELL_SECONDS: Final = 2.0

_TARGET_GONE: Final = "the target closed the connection"

_log = structlog.get_logger(__name__)


class _Part(Enum):
    RECORD = "record"
    AGENT = "agent"
    TARGET = "target"


class Ending:
    """The end of one session, whichever it is; the first counts.

    `on_draining`: nobody sees any more what the target answers. `on_over`: nothing of the session is left.
    """

    def __init__(
        self,
        *,
        services: Services,
        grant: SessionGrant,
        course: Course,
        recorder: SessionRecorder,
        pipeline: Pipeline,
        cuts: Cuts,
        holding: Holding,
        ways_out: WaysOut,
        agent: asyncio.Transport,
        upstream: Upstream,
        on_draining: Callable[[], None],
        on_over: Callable[[], None],
    ) -> None:
        self._services = services
        self._session_id = grant.session_id
        self._endpoint = grant.target
        self._course = course
        self._recorder = recorder
        self._pipeline = pipeline
        self._cuts = cuts
        self._holding = holding
        self._ways_out = ways_out
        self._agent = agent
        self._upstream = upstream
        self._target = upstream.handshake.transport
        self._on_draining = on_draining
        self._on_over = on_over
        self._loop = asyncio.get_running_loop()
        self._was_told_why = False
        #: What is not closed yet. The session is over when nothing is left.
        self._open = {_Part.RECORD, _Part.AGENT, _Part.TARGET}
        self._drain_timer: asyncio.TimerHandle | None = None
        self._drain_reason = ""

    # ------------------------------------------------------------ told to, or failed

    def fail(self, code: str, message: str) -> None:
        """Something broke that the session can't go on without. `code`: the SQLSTATE."""
        self.end(message, fatal(code, message))

    def record_failed(self, error: RecordNotKept) -> None:
        """A record could not be kept."""
        _log.error("record_not_kept", session=self._session_id, problem=str(error))
        self.fail(IO_ERROR, "the record of this session cannot be kept, so it may not go on")

    def end(self, reason: str, farewell: bytes) -> None:
        """End now. `farewell`: the last that the agent is told."""
        if not self._course.is_closed:
            self._holding.let_go(reason)
            self._ways_out.shut()
            if not self._pipeline.is_idle:
                self.cancel_target()
            self._agent.write(farewell)
            self._target.abort()
            self._close(reason)
            self._hang_up()

    def journal_failed(self) -> None:
        """The journal will tell nobody of durability any more: the record is as closed as it can be."""
        self._part_closed(_Part.RECORD)

    # ------------------------------------------------------------ left by the agent

    def agent_lost(self) -> None:
        """The agent's connection is closed."""
        self.drain("the agent closed the connection")
        self._part_closed(_Part.AGENT)

    def drain(self, reason: str) -> None:
        """The agent is done: let the target finish what it was asked, then end."""
        if not self._course.is_open:
            return
        self._holding.let_go(reason)
        self._course.drain()
        self._ways_out.to_agent.shut()
        self._on_draining()
        self._ways_out.to_target.put(frontend.TERMINATE_MESSAGE, 0)
        self._agent.close()
        self._drain_timer = self._loop.call_later(DRAIN_SECONDS, self._drain_over)
        self._drain_reason = reason

    def _drain_over(self) -> None:
        self.cancel_target()
        self._target.abort()

    def cancel_target(self) -> None:
        """Ask the target to cancel what runs."""
        if self._upstream.cancel_secret:
            spawn(f"cancel {self._session_id}", self._send_cancel())

    async def _send_cancel(self) -> None:
        try:
            await send_cancel(self._endpoint, self._upstream.process_id, self._upstream.cancel_secret)
        except TargetError as error:
            _log.warning("cancel_failed", session=self._session_id, problem=error.problem)

    # ------------------------------------------------------------ left by the target

    def told_why(self) -> None:
        """The target itself has told the agent why it closes the connection."""
        self._was_told_why = True

    def target_lost(self) -> None:
        """The target's connection is closed."""
        if self._course.is_open:
            self._holding.let_go(_TARGET_GONE)
            if not self._was_told_why:
                farewell = fatal(CONNECTION_FAILURE, _TARGET_GONE)
                self._ways_out.to_agent.put(farewell, self._ways_out.intent_position)
            self._close(_TARGET_GONE)
            self._ways_out.to_agent.when_empty(self._hang_up)
        elif not self._course.is_closed:
            self._close(self._drain_reason)
        self._part_closed(_Part.TARGET)

    # ------------------------------------------------------------ in each case

    def _close(self, reason: str) -> None:
        """Settle the record. Operations without an answer become UNKNOWN."""
        self._course.close()
        if self._drain_timer is not None:
            self._drain_timer.cancel()
        self._cuts.close()
        try:
            self._recorder.close(
                reason, lambda position: self._services.journal.when_durable(position, self._record_closed)
            )
        except RecordNotKept as error:
            _log.error("record_not_kept", session=self._session_id, problem=str(error))
            self._record_closed()
        _log.info("session_closed", session=self._session_id, reason=reason, operations=self._recorder.operations)
        self._services.link.session_closed(self._session_id, reason)

    def _record_closed(self) -> None:
        self._part_closed(_Part.RECORD)

    def _part_closed(self, part: _Part) -> None:
        self._open.discard(part)
        if not self._open:
            self._on_over()

    def _hang_up(self) -> None:
        self._agent.close()
        self._loop.call_later(FAREWELL_SECONDS, self._agent.abort)
