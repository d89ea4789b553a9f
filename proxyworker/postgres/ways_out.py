"""What leaves a session, towards the target and towards the agent: each behind its records.

requests → record intents → queue → target
answers  → record outcomes → queue → agent
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from proxyworker.gate.forward import Pressure, Valve
from proxyworker.gate.release import Held, ReleaseQueue

if TYPE_CHECKING:
    import asyncio

    from proxyworker.gate.record import RecordedOperation, SessionRecorder
    from proxyworker.journal import Journal
    from proxyworker.postgres.cuts import Cuts
    from proxyworker.postgres.pipeline import Pipeline
    from proxyworker.postgres.requests import Requests


class WaysOut:
    """Both ways out of one session. `intent_position`: the last intent; no answer leaves before it is durable."""

    def __init__(
        self,
        *,
        journal: Journal,
        recorder: SessionRecorder,
        pipeline: Pipeline,
        requests: Requests,
        cuts: Cuts,
        agent: asyncio.WriteTransport,
        target: asyncio.WriteTransport,
        agent_valve: Valve,
        target_valve: Valve,
    ) -> None:
        self._recorder = recorder
        self._pipeline = pipeline
        self._requests = requests
        self._cuts = cuts
        self._agent_valve = agent_valve
        self.to_target = ReleaseQueue(
            journal, write=target.write, on_level=lambda high: agent_valve.set(Pressure.RELEASE, on=high)
        )
        self.to_agent = ReleaseQueue(
            journal, write=agent.write, on_level=lambda high: target_valve.set(Pressure.RELEASE, on=high)
        )
        self.intent_position = 0

    def dispatch(self, data: bytes) -> None:
        """Record the intents so far, and send the bytes to the target once they may go. Raises `RecordNotKept`."""
        requests = self._requests
        requests.settle_batch()
        position = self._recorder.flush()
        self.intent_position = max(self.intent_position, position)
        held = self._requests.held
        # What is held for an approval is secured before anybody is asked.
        cut = [one for one in self._recorder.take_cut() if held is None or one is not held.operation]
        if data:
            position = self.intent_position if requests.has_write else 0
            sent = self.to_target.put(data, position, unrecorded=len(cut))
            for operation in cut:
                self._recorder.secure_sent(operation, partial(self._settle, self.to_target, sent))
        requests.has_write = False
        if self._pipeline.finished:
            # Skipped at once: the target is ignoring everything until the next Sync.
            self._finish_operations()
            self._recorder.flush()
        if self._pipeline.is_full:
            self._agent_valve.set(Pressure.PIPELINE, on=True)

    def dispatch_secured(self, operation: RecordedOperation, data: bytes) -> None:
        """Send the bytes to the target once all that the agent sent for the operation is on record."""
        held = self.to_target.put(data, 0, unrecorded=1)
        self._recorder.secure_sent(operation, partial(self._settle, self.to_target, held))

    def release(self, data: bytes) -> None:
        """Put the answer on its way: behind the outcomes of the operations that it ends, and behind every intent."""
        if not data:
            return
        late = self._finish_operations() if self._pipeline.finished else ()
        position = max(self._recorder.flush(), self.intent_position)
        held = self.to_agent.put(data, position, unrecorded=len(late))
        for operation in late:
            operation.on_recorded = partial(self._settle, self.to_agent, held)

    def release_refusals(self) -> None:
        """Say refusals that no answer of the target stands before."""
        if self._pipeline.refusals and (said := self.take_refusals()):
            self.release(said)

    def take_refusals(self) -> bytes:
        """The refusals that are due, recorded as shown; the caller says them."""
        refusals = self._pipeline.take_refusals()
        for operation, said in refusals:
            if operation is not None:
                self._recorder.shown(operation, said)
        return b"".join(said for _, said in refusals)

    def shut(self) -> None:
        """Nothing leaves any more, on either way."""
        self.to_agent.shut()
        self.to_target.shut()

    def _finish_operations(self) -> list[RecordedOperation]:
        finished, self._pipeline.finished = self._pipeline.finished, []
        for operation in finished:
            self._cuts.over(operation)
        return [operation for operation in finished if not self._recorder.finish(operation)]

    @staticmethod
    def _settle(queue: ReleaseQueue, held: Held | None, position: int) -> None:
        if held is not None:
            queue.settle(held, position)
