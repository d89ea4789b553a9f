"""Which answer of the target belongs to which operation ("Message Flow: Simple Query, Extended Query, Pipelining").

Every message that was forwarded and has an answer is a *step*, in order. The target's messages are matched against the
first step; an operation is over when its last step is answered. Pure: knows no transport and no journal.

    step       answered by                                   after an error
    QUERY      … ReadyForQuery                               its own ReadyForQuery follows
    FUNCTION   … ReadyForQuery                               its own ReadyForQuery follows
    PARSE      ParseComplete                                 \\
    BIND       BindComplete                                   |  all up to the next SYNC
    DESCRIBE   RowDescription or NoData                       |  are skipped by the target
    EXECUTE    CommandComplete, EmptyQuery, PortalSuspended   |
    CLOSE      CloseComplete                                 /
    SYNC       ReadyForQuery
    REFUSAL    by us: what stands in it is said to the agent
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import IntEnum
from itertools import islice
from typing import Final

from proxyworker.contract import OutcomeStatus
from proxyworker.gate.record import RecordedOperation
from proxyworker.postgres.errors import TargetBrokeProtocol
from proxyworker.wire.postgres import backend

#: Steps without an answer; above it the agent is not read. Far more than a driver's pipeline, a bound on its memory.
MAX_STEPS: Final = 4_096

NOT_EXECUTED: Final = "not executed: an earlier operation of the pipeline failed"


class Step(IntEnum):
    """What was forwarded."""

    QUERY = 1
    FUNCTION = 2
    PARSE = 3
    BIND = 4
    DESCRIBE = 5
    EXECUTE = 6
    CLOSE = 7
    SYNC = 8
    REFUSAL = 9


class Expected:
    """A step that waits for its answer. `on_done` hears whether it succeeded, `on_described` of a RowDescription.

    `refusal`: the error that a REFUSAL says, with a ReadyForQuery behind it if `with_ready`. `rows`: rows since the
    last command tag. `syncs_within`: of an EXECUTE, the Syncs behind it when the COPY that it may be was ended; before,
    -1.
    """

    __slots__ = (
        "is_copying", "is_settled", "on_described", "on_done", "operation", "refusal", "rows", "step", "syncs_within",
        "with_ready",
    )  # fmt: skip

    def __init__(
        self,
        step: Step,
        operation: RecordedOperation | None = None,
        *,
        on_done: Callable[[bool], None] | None = None,
        on_described: Callable[[bytes], None] | None = None,
        refusal: bytes = b"",
        with_ready: bool = False,
    ) -> None:
        self.step = step
        self.operation = operation
        self.on_done = on_done
        self.on_described = on_described
        self.refusal = refusal
        self.with_ready = with_ready
        self.rows = 0
        self.is_copying = False
        self.syncs_within = -1
        self.is_settled = False


#: The one message that answers a step, for the steps that have just one.
_ANSWERS: Final = {
    backend.PARSE_COMPLETE: Step.PARSE,
    backend.BIND_COMPLETE: Step.BIND,
    backend.NO_DATA: Step.DESCRIBE,
    backend.CLOSE_COMPLETE: Step.CLOSE,
    backend.PORTAL_SUSPENDED: Step.EXECUTE,
}
#: Steps that have all up to the next Sync skipped if they fail.
_SKIPPING: Final = frozenset({Step.PARSE, Step.BIND, Step.DESCRIBE, Step.EXECUTE, Step.CLOSE})
#: Messages that may come between an operation's others and change nothing here.
_WITHIN: Final = frozenset(
    {
        backend.DATA_ROW, backend.COPY_DATA, backend.COPY_DONE, backend.COPY_IN, backend.COPY_OUT,
        backend.PARAMETER_DESCRIPTION, backend.FUNCTION_RESULT,
    }
)  # fmt: skip
#: Messages that the target may send at any time.
ASYNCHRONOUS: Final = frozenset({backend.NOTICE_RESPONSE, backend.NOTIFICATION, backend.PARAMETER_STATUS})


class Pipeline:
    """The steps of one session. `finished` gathers operations that are over; the owner takes them out."""

    def __init__(self, transaction_status: int) -> None:
        self.transaction_status = transaction_status
        self.finished: list[RecordedOperation] = []
        #: After an error the target ignores all until the next Sync; true until that Sync is forwarded.
        self.is_skipping = False
        self._expected: deque[Expected] = deque()
        #: Nothing was forwarded since the target has said that it is ready: what it had to say of itself is said.
        self.is_at_rest = True
        #: REFUSALs that have not been said.
        self.refusals = 0
        #: Syncs that the target has ignored within a COPY, as far as can be told.
        self._ignored_syncs = 0

    @property
    def is_idle(self) -> bool:
        """Nothing waits for an answer."""
        return not self._expected

    @property
    def is_within(self) -> bool:
        """What comes next is skipped by the target if a message before it fails that has not been answered yet."""
        return bool(self._expected) and self._expected[-1].step in _SKIPPING

    @property
    def is_full(self) -> bool:
        """Read no more of the agent for now."""
        return len(self._expected) >= MAX_STEPS

    @property
    def current(self) -> RecordedOperation | None:
        """The operation that the target's next message belongs to."""
        return self._expected[0].operation if self._expected else None

    @property
    def last(self) -> RecordedOperation | None:
        """The operation forwarded last, if it has not been answered: the one that COPY data belongs to."""
        for expected in reversed(self._expected):
            if expected.operation is not None:
                return expected.operation
        return None

    def push(self, expected: Expected) -> None:
        """A message was forwarded."""
        operation = expected.operation
        if operation is not None:
            operation.outstanding += 1
        if self.is_skipping:
            if expected.step is not Step.SYNC:
                self._skip(expected)
                return
            self.is_skipping = False
        if expected.step is Step.SYNC and self._expected:
            head: Expected = self._expected[0]
            if head.is_copying and head.syncs_within < 0:
                self._ignored_syncs += 1
                return
        if expected.step is Step.REFUSAL:
            self.refusals += 1
        else:
            self.is_at_rest = False
        self._expected.append(expected)

    def copy_ended(self) -> None:
        """A CopyDone or CopyFail is forwarded. Syncs that were sent before it are within the COPY, if it is one."""
        syncs = 0
        for expected in reversed(self._expected):
            if expected.step is Step.EXECUTE:
                if expected.syncs_within < 0:
                    expected.syncs_within = syncs
                return
            syncs += expected.step is Step.SYNC

    def _copying(self, head: Expected) -> None:
        """The target reads COPY data now, and ignores a Sync among them.

        libpq sends one right behind each Execute, before it can know of a COPY ("COPY Operations").
        """
        head.is_copying = True
        left = head.syncs_within if head.syncs_within >= 0 else MAX_STEPS
        while left and len(self._expected) > 1 and self._expected[1].step is Step.SYNC:
            del self._expected[1]
            self._ignored_syncs += 1
            left -= 1

    @property
    def is_at_sync(self) -> bool:
        """The target is about to answer a Sync: what fails now is the transaction that the Sync ends."""
        return bool(self._expected) and self._expected[0].step is Step.SYNC

    @property
    def ends_here(self) -> bool:
        """Whether the agent expects nothing behind the first step but that the target is ready for queries."""
        steps = [expected.step for expected in islice(self._expected, 2)]
        return steps[:1] == [Step.QUERY] or steps[:1] == [Step.FUNCTION] or steps[1:] == [Step.SYNC]

    @property
    def describes_statement(self) -> bool:
        """Whether the target describes a statement: the form of the values is then up to each execution."""
        return bool(self._expected) and self._expected[0].on_described is not None

    def attach_first(self, operation: RecordedOperation) -> None:
        """The step that is being answered belongs to this operation, after all."""
        self.attach(self._expected[0], operation)

    def attach(self, expected: Expected, operation: RecordedOperation) -> None:
        """A step that was pushed without an operation belongs to this one."""
        expected.operation = operation
        operation.outstanding += 1
        if expected.is_settled:
            operation.fail("", NOT_EXECUTED)
            self._settle(expected, succeeded=False)

    def take_refusals(self) -> list[tuple[RecordedOperation | None, bytes]]:
        """What must be said to the agent before the target's next message, and of which operation."""
        said: list[tuple[RecordedOperation | None, bytes]] = []
        while self.refusals and self._expected and self._expected[0].step is Step.REFUSAL:
            expected = self._expected[0]
            ready = backend.build_ready(self.transaction_status) if expected.with_ready else b""
            said.append((expected.operation, expected.refusal + ready))
            self._done(succeeded=False)
        return said

    def answer(self, kind: int, data: bytes, start: int, end: int, frames: int) -> None:
        """The target's next message, or run of `frames` rows. Raises `TargetBrokeProtocol`, `MalformedMessage`."""
        head = self._expected[0] if self._expected else None
        if kind in _WITHIN:
            if head is None:
                raise TargetBrokeProtocol("data that answers nothing")
            if kind == backend.DATA_ROW:
                head.rows += frames
                if head.operation is not None:
                    head.operation.rows += frames
            elif kind == backend.COPY_IN and head.step is Step.EXECUTE:
                self._copying(head)
        elif kind in ASYNCHRONOUS:
            return
        elif kind == backend.READY_FOR_QUERY:
            self._ready(data, start, end)
        elif kind == backend.ERROR_RESPONSE:
            self._error(data, start, end)
        elif head is None:
            raise TargetBrokeProtocol(f"a message of type {chr(kind)!r} that answers nothing")
        elif kind in _ANSWERS:
            if head.step is not _ANSWERS[kind]:
                raise TargetBrokeProtocol(f"a message of type {chr(kind)!r} where another answer was due")
            self._done(succeeded=True)
        else:
            self._result(kind, head, data, start, end)

    def _result(self, kind: int, head: Expected, data: bytes, start: int, end: int) -> None:
        operation = head.operation
        if kind == backend.ROW_DESCRIPTION and head.step in (Step.QUERY, Step.DESCRIBE):
            if operation is not None and not operation.columns:
                operation.columns = backend.parse_columns(data, start, end)
            if head.step is Step.DESCRIBE:
                if head.on_described is not None:
                    head.on_described(data[start:end])
                self._done(succeeded=True)
        elif kind == backend.COMMAND_COMPLETE and head.step in (Step.QUERY, Step.EXECUTE):
            if operation is not None:
                tag = backend.parse_command_tag(data, start, end)
                operation.tags.append(tag)
                # The tag counts rows again that were shown ("SELECT 3"), or rows that were not ("UPDATE 3", "COPY 3").
                if head.rows == 0 and operation.status is OutcomeStatus.OK:
                    operation.rows += backend.rows_of_tag(tag)
                head.rows = 0
            if head.step is Step.EXECUTE:
                if head.is_copying:
                    self._ignored_syncs = 0
                self._done(succeeded=True)
        elif kind == backend.EMPTY_QUERY and head.step in (Step.QUERY, Step.EXECUTE):
            if head.step is Step.EXECUTE:
                self._done(succeeded=True)
        else:
            raise TargetBrokeProtocol(f"a message of type {chr(kind)!r} where another answer was due")

    def _ready(self, data: bytes, start: int, end: int) -> None:
        if end - start != 6:
            raise TargetBrokeProtocol("a ReadyForQuery of a wrong length")
        self.transaction_status = data[start + 5]
        if not self._expected and self._ignored_syncs:
            # A COPY that failed before it read anything: the Sync behind it was none of its data, after all.
            self._ignored_syncs -= 1
            self.is_skipping = False
            self.is_at_rest = True
            return
        if not self._expected or self._expected[0].step not in (Step.QUERY, Step.FUNCTION, Step.SYNC):
            raise TargetBrokeProtocol("a ReadyForQuery that nothing asked for")
        operation = self._expected[0].operation
        self._done(succeeded=operation is None or operation.status is OutcomeStatus.OK)
        self.is_at_rest = not self._expected

    def _error(self, data: bytes, start: int, end: int) -> None:
        error = backend.parse_error(data, start, end)
        if not self._expected:
            return
        head = self._expected[0]
        if head.operation is not None:
            head.operation.fail(error.code, error.message)
        if error.severity in ("FATAL", "PANIC") or head.step in (Step.QUERY, Step.FUNCTION, Step.SYNC):
            return
        self._done(succeeded=False)
        while self._expected and self._expected[0].step is not Step.SYNC:
            self._skip(self._expected.popleft())
        self.is_skipping = not self._expected

    def _skip(self, expected: Expected) -> None:
        if expected.operation is not None:
            expected.operation.fail("", NOT_EXECUTED)
        self._settle(expected, succeeded=False)

    def _done(self, succeeded: bool) -> None:
        self._settle(self._expected.popleft(), succeeded=succeeded)

    def _settle(self, expected: Expected, succeeded: bool) -> None:
        if expected.step is Step.REFUSAL:
            self.refusals -= 1
        operation = expected.operation
        if operation is not None:
            operation.outstanding -= 1
            # A Parse that is skipped at once ends its operation before the Bind that claims it ends it again.
            if operation.outstanding == 0 and self.finished[-1:] != [operation]:
                self.finished.append(operation)
        if expected.on_done is not None and not expected.is_settled:
            expected.on_done(succeeded)
        expected.is_settled = True
