"""One agent's session on one target, put together, and what is asked of it from outside.

    agent_stream   agent → requests (decide, record intents) ┐
    holding        waits for an approval                     ├ ways_out → the other side, behind the records
    target_stream  target → pipeline → record outcomes       ┘
    ending         whatever ends it;  course: how far it has come

What happens for every read is in the modules with C types beside them; nothing here is.
"""

# ruff: noqa: PLW0108 - without its lambda, what is called would be looked up before it is there.

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from proxyworker.gate.decide import Decider
from proxyworker.gate.errors import RecordNotKept
from proxyworker.gate.forward import Pressure, Side, Valve, bound_write_buffer
from proxyworker.gate.record import SessionRecorder
from proxyworker.postgres.agent_stream import AgentStream
from proxyworker.postgres.course import Course
from proxyworker.postgres.cuts import Cuts
from proxyworker.postgres.ending import Ending
from proxyworker.postgres.errors import ADMIN_SHUTDOWN, fatal
from proxyworker.postgres.holding import Holding
from proxyworker.postgres.pipeline import Pipeline
from proxyworker.postgres.requests import Requests
from proxyworker.postgres.target_stream import TargetStream
from proxyworker.postgres.upstream import Upstream
from proxyworker.postgres.values import CountedValues
from proxyworker.postgres.ways_out import WaysOut

if TYPE_CHECKING:
    from policies.engine import Policy
    from proxyworker.contract import SessionGrant
    from proxyworker.gate.services import Services


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
        target = upstream.handshake.transport
        self.session_id = grant.session_id
        self._services = services
        self._grant = grant
        self._on_closed = on_closed
        self._recorder = recorder
        self._course = Course(now=asyncio.get_running_loop().time())
        self._agent_valve = Valve(agent)
        self._target_valve = Valve(target)
        self._pipeline = Pipeline(upstream.transaction_status)
        self._decider = Decider(grant, services.clock)
        self._values = CountedValues(services.budgets.meter(grant), grant)
        # They need one another: what is made first calls what is made later by a lambda, once all is there.
        cuts = Cuts(
            self._pipeline,
            unfinished=lambda: self._target_stream.unfinished_bytes,
            cancel=lambda: self._ending.cancel_target(),
            on_known=lambda operation: self._target_stream.budget_known(operation),
            fail=lambda code, message: self._ending.fail(code, message),
        )
        requests = Requests(
            recorder=recorder,
            decider=self._decider,
            meter=self._values,
            pipeline=self._pipeline,
            on_barrier_over=lambda: self._agent_stream.barrier_over(),
            on_charged=cuts.begin,
        )
        ways_out = WaysOut(
            journal=services.journal,
            recorder=recorder,
            pipeline=self._pipeline,
            requests=requests,
            cuts=cuts,
            agent=agent,
            target=target,
            agent_valve=self._agent_valve,
            target_valve=self._target_valve,
        )
        self._holding = Holding(
            services=services,
            grant=grant,
            course=self._course,
            recorder=recorder,
            pipeline=self._pipeline,
            requests=requests,
            ways_out=ways_out,
            on_over=lambda: self._agent_stream.resume(),
        )
        self._ending = Ending(
            services=services,
            grant=grant,
            course=self._course,
            recorder=recorder,
            pipeline=self._pipeline,
            cuts=cuts,
            holding=self._holding,
            ways_out=ways_out,
            agent=agent,
            upstream=upstream,
            on_draining=lambda: self._target_stream.nobody_sees(),
            on_over=self._over,
        )
        self._agent_stream = AgentStream(
            course=self._course,
            recorder=recorder,
            pipeline=self._pipeline,
            requests=requests,
            holding=self._holding,
            ways_out=ways_out,
            ending=self._ending,
            valve=self._agent_valve,
            max_statement_bytes=grant.limits.max_statement_bytes,
        )
        self._target_stream = TargetStream(
            session_id=grant.session_id,
            course=self._course,
            recorder=recorder,
            decider=self._decider,
            pipeline=self._pipeline,
            requests=requests,
            cuts=cuts,
            holding=self._holding,
            ways_out=ways_out,
            ending=self._ending,
            valve=self._target_valve,
            agent_valve=self._agent_valve,
        )
        if upstream.began_with:
            requests.began_with(upstream.began_with)
        for name, value in upstream.settings():
            requests.heed_setting(name, value)
        bound_write_buffer(agent)
        bound_write_buffer(target)
        self.agent_side = Side(
            data=self._agent_stream.data_received, lost=self._ending.agent_lost, other=lambda: self._target_valve
        )
        self.target_side = Side(
            data=self._target_stream.data_received, lost=self._ending.target_lost, other=lambda: self._agent_valve
        )

    def reason_to_end(self, *, now: float, loop_now: float) -> str:
        """See `gate.live.LiveSession`."""
        limits, course = self._grant.limits, self._course
        if now >= self._grant.expires_at:
            return "the agent's credential has expired"
        if loop_now - course.started > limits.max_session_seconds:
            return f"the session has lasted {limits.max_session_seconds} seconds"
        if loop_now - course.last_used > limits.idle_seconds and self._pipeline.is_idle and not self._holding.is_on():
            return f"the session was idle for {limits.idle_seconds} seconds"
        return ""

    def end(self, reason: str) -> None:
        """See `gate.live.LiveSession`."""
        said = f"this session was ended: {reason}"
        hint = "Unless that asks you to stop, open a new session to go on."
        self._ending.end(reason, fatal(ADMIN_SHUTDOWN, said, hint))
        if self._services.journal.failed is not None:
            self._ending.journal_failed()

    def use_policy(self, policy: Policy) -> None:
        """See `gate.live.LiveSession`."""
        self._decider.use_policy(policy)
        self._values.use_policy(policy)

    def cancel(self) -> None:
        """The agent asks to cancel what runs. The request is on record before the target hears of it."""
        if self._course.is_closed:
            return
        try:
            operation = self._recorder.begin("cancel", b"", decision=self._decider.session())
            self._recorder.finish(operation)
            position = self._recorder.flush()
        except RecordNotKept as error:
            self._ending.record_failed(error)
            return
        if not self._holding.cancel():
            self._services.journal.when_durable(position, self._ending.cancel_target)

    def record_failed(self, error: RecordNotKept) -> None:
        """For the recorder: a record could not be kept outside of a call."""
        self._ending.record_failed(error)

    def content_level(self, high: bool) -> None:
        """For the recorder: content comes faster than it can be kept, or does no more."""
        self._target_valve.set(Pressure.CONTENT, on=high)
        self._agent_valve.set(Pressure.CONTENT, on=high)

    def _over(self) -> None:
        self._services.live.remove(self)
        self._on_closed()
