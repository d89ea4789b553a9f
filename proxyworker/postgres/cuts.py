"""Cuts statements short that have come to a limit: by rows and bytes shown, or by how long they run.

The target is asked to cancel the statement; rows that still come are dropped, and its error is replaced by ours. A
statement that ends otherwise, because it was through before the cancel request, can't be told from the one behind it
that the request may still hit: then the session ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from proxyworker.gate.meter import Exhausted, Waiting
from proxyworker.postgres.errors import LIMIT_EXCEEDED, QUERY_CANCELED
from proxyworker.postgres.pipeline import Pipeline
from proxyworker.wire.postgres import backend

if TYPE_CHECKING:
    from proxyworker.gate.record import RecordedOperation

#: What shows the agent rows.
_ROWS: Final = frozenset({backend.DATA_ROW, backend.COPY_DATA})
#: What may still come of a statement that is being cancelled, and is dropped.
_DROPPED: Final = _ROWS | {backend.COPY_DONE}
#: It was through already.
_THROUGH: Final = frozenset(
    {backend.COMMAND_COMPLETE, backend.PORTAL_SUSPENDED, backend.EMPTY_QUERY, backend.FUNCTION_RESULT}
)
#: A target that doesn't heed a cancel request in this time: the session ends.
CUT_SECONDS: Final = 10.0
#: A statement's time counts from when it is the first in its pipeline, looked at this often.
_LOOK_SECONDS: Final = 0.5


@dataclass(slots=True)
class _Cut:
    """A statement on its way out. `error` replaces the target's.

    `unfinished_bytes`: of a row that the agent has begun to be shown.
    """

    code: str
    message: str
    error: bytes
    deadline: asyncio.TimerHandle
    unfinished_bytes: int
    is_said: bool = False


class Edited:
    """The target's bytes, with what we say between them and in place of some."""

    __slots__ = ("_copied", "_data", "_parts")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._parts: list[bytes] = []
        self._copied = 0

    def put(self, start: int, end: int, said: bytes) -> None:
        """Say this in place of the bytes from `start` to `end`, which come in order."""
        self._parts += (self._data[self._copied : start], said)
        self._copied = end

    def until(self, end: int) -> bytes:
        """All up to there."""
        return b"".join((*self._parts, self._data[self._copied : end]))


class Cuts:
    """The operations of one session that are under limits.

    `unfinished` says how much of the target's last row is still to come. `cancel` has the target cancel what runs.
    `on_known` hears of an operation whose budget is known again. `fail` ends the session, with an SQLSTATE and a
    message.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        *,
        unfinished: Callable[[], int],
        cancel: Callable[[], None],
        on_known: Callable[[RecordedOperation], None],
        fail: Callable[[str, str], None],
    ) -> None:
        self._pipeline = pipeline
        self._unfinished = unfinished
        self._cancel = cancel
        self._on_known = on_known
        self._fail = fail
        self._loop = asyncio.get_running_loop()
        self._open: dict[int, RecordedOperation] = {}
        self._cuts: dict[int, _Cut] = {}
        self._timers: dict[int, asyncio.TimerHandle] = {}

    def begin(self, operation: RecordedOperation) -> None:
        """The operation has a charge, and goes to the target."""
        self._open[operation.number] = operation
        if operation.charge is not None and operation.charge.statement_seconds:
            self._timers[operation.number] = self._loop.call_later(_LOOK_SECONDS, self._look, operation, None)

    def settle(self, operations: Iterable[RecordedOperation]) -> bool:
        """Charge what these were shown, and cut those that have come to a limit. True: read no more for now."""
        waits = False
        for operation in operations:
            charge = operation.charge
            if charge is None or operation.number not in self._open or operation.number in self._cuts:
                continue
            found = charge.settle()
            if isinstance(found, Exhausted):
                self._cut(operation, LIMIT_EXCEEDED, f"the statement was cut off: {found.message}", found.hint)
            elif isinstance(found, Waiting):
                waits = True
                found.then(lambda operation=operation: self._on_known(operation))  # type: ignore[misc]
        return waits

    def instead_of(
        self, operation: RecordedOperation, kind: int, data: bytes, start: int, end: int, *, count: int
    ) -> bytes | None:
        """What the agent is shown in place of this message of the target, or these rows; None: they themselves."""
        cut = self._cuts.get(operation.number)
        if cut is None:
            if kind in _ROWS and operation.charge is not None:
                operation.charge.rows += count
            return None
        if cut.is_said:
            return None
        if kind in _DROPPED:
            passing = min(cut.unfinished_bytes, end - start)
            cut.unfinished_bytes -= passing
            return data[start : start + passing]
        if kind in _THROUGH:
            self._fail(cut.code, cut.message)
            return b""
        if kind != backend.ERROR_RESPONSE or backend.parse_error(data, start, end).severity != "ERROR":
            return None
        cut.is_said = True
        cut.deadline.cancel()
        return cut.error

    def over(self, operation: RecordedOperation) -> None:
        """The operation has ended: it takes no more."""
        if self._open.pop(operation.number, None) is None:
            return
        timer, cut = self._timers.pop(operation.number, None), self._cuts.pop(operation.number, None)
        if timer is not None:
            timer.cancel()
        if cut is not None:
            cut.deadline.cancel()
        if operation.charge is not None:
            operation.charge.close()

    def close(self) -> None:
        """The session is over."""
        for operation in list(self._open.values()):
            self.over(operation)

    def _look(self, operation: RecordedOperation, began: float | None) -> None:
        charge = operation.charge
        if charge is None or operation.number in self._cuts:
            return
        now = self._loop.time()
        if began is None and self._pipeline.current is operation:
            began = now - _LOOK_SECONDS
        left = _LOOK_SECONDS if began is None else began + charge.statement_seconds - now
        if left > 0:
            later = self._loop.call_later(left, self._look, operation, began)
            self._timers[operation.number] = later
            return
        self._cut(
            operation,
            QUERY_CANCELED,
            f"the statement was cancelled: rule {charge.seconds_rule!r} lets one run for {charge.statement_seconds} s",
            "Ask for less at a time, or for an index.",
        )

    def _cut(self, operation: RecordedOperation, code: str, message: str, hint: str) -> None:
        error = backend.build_error(severity="ERROR", code=code, message=f"Narrowgate: {message}", hint=hint)
        operation.fail(code, message)
        deadline = self._loop.call_later(CUT_SECONDS, self._fail, code, message)
        self._cuts[operation.number] = _Cut(code, message, error, deadline, self._unfinished())
        self._cancel()
